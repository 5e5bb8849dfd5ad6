//! From checked parameters to the driver's plan.
//!
//! Whatever may still be refused, because a norm is not finite, is computed while the plan is made: nothing that the
//! caller can see has been written by then.

use std::ops::Range;

use pyo3::prelude::*;

use super::arrays::{Place as Part, allocate};
use super::entry::{Entry, Gradient, Names};
use super::leaf::{Moments, Slot};
use super::update::{Output, refused};
use crate::chain::Program;
use crate::drive::{Copy, Plan};
use crate::dtype::{Compute, DType};
use crate::job::{Job, Sink, Source, State};
use crate::measure::{Measure, measure};
use crate::rule::{Rounding, Scalars};

/// A job whose scalars and states are still ranges of growing lists.
struct Draft<'a> {
    program: &'a Program,
    links: Range<usize>,
    scalars: Range<usize>,
    states: Range<usize>,
    n: usize,
    compute: Compute,
    gradient: Source,
    x: Source,
    y: Option<Sink>,
    rounded: Option<Sink>,
    dx: Option<*mut u8>,
}

/// A step whose first link waits for the norm of its gradient.
struct Pending {
    draft: usize,
    place: usize,
    measure: Measure,
}

/// The steps of all entries.
pub struct Steps<'a, 'py> {
    py: Python<'py>,
    names: &'a Names<'a, 'py>,
    in_place: bool,
    drafts: Vec<Draft<'a>>,
    scalars: Vec<Scalars>,
    states: Vec<State>,
    copies: Vec<Copy>,
    pending: Vec<Pending>,
    /// Memory that must live until the plan has run.
    kept: Vec<Part>,
    /// The last scalars that were made, with what they were made of.
    last: Option<(*const Program, Vec<u64>, DType, Range<usize>)>,
    /// How many links of each entry's rule the step reaches; `None` where there is no step.
    pub reached: Vec<Option<usize>>,
}

/// An entry's rule and state arrays.
struct Rule<'a> {
    program: &'a Program,
    slots: &'a [Slot],
    counts: &'a [u64],
}

impl<'a, 'py> Steps<'a, 'py> {
    /// No steps yet.
    pub fn new(py: Python<'py>, names: &'a Names<'a, 'py>, in_place: bool) -> Self {
        Self {
            py,
            names,
            in_place,
            drafts: Vec::new(),
            scalars: Vec::new(),
            states: Vec::new(),
            copies: Vec::new(),
            pending: Vec::new(),
            kept: Vec::new(),
            last: None,
            reached: Vec::new(),
        }
    }

    /// Adds the step of `entry`; without a gradient its values are carried over.
    pub fn add(
        &mut self,
        entry: &'a Entry<'_, 'py>,
        gradient: Option<&Gradient<'py>>,
        output: &Output<'py>,
    ) -> PyResult<()> {
        let Moments::Compiled { program, slots, counts } = &entry.guard.get().moments else {
            self.carry_x(entry, output);
            self.reached.push(None);
            return Ok(());
        };
        let program = entry.scheduled.as_deref().unwrap_or(program);
        let rule = Rule { program, slots, counts };
        let Some(gradient) = gradient else {
            self.carry_x(entry, output);
            self.carry_slots(&rule, 0..slots.len(), entry, output);
            self.reached.push(None);
            return Ok(());
        };
        let (reach, steps) = program.reach(counts);
        let first_skipped = if reach == program.links.len() { slots.len() } else { program.slots_of(reach).start };
        self.carry_slots(&rule, first_skipped..slots.len(), entry, output);
        if !steps {
            self.carry_x(entry, output);
            self.carry_slots(&rule, 0..usize::from(program.master.is_some()), entry, output);
        }
        let (mut source, mut links) = (gradient.source, program.segment(0, reach));
        if links.end < reach {
            let scratch = self.scratch(entry)?;
            while links.end < reach {
                source = self.staged(&rule, links.clone(), entry, output, source, scratch)?;
                links = program.segment(links.end, reach);
            }
        }
        self.last_segment(&rule, links, entry, output, source, steps)?;
        self.reached.push(Some(reach));
        Ok(())
    }

    /// When pure, copies a parameter that is not stepped.
    fn carry_x(&mut self, entry: &Entry, output: &Output) {
        if output.x.ptr.cast_const() != output.from.ptr {
            let bytes = entry.leaf.layout.len * entry.leaf.dtype.size();
            self.copies.push(Copy { from: output.from.ptr, to: output.x.ptr, bytes });
        }
    }

    /// When pure, copies state arrays that are not stepped.
    fn carry_slots(&mut self, rule: &Rule, range: Range<usize>, entry: &Entry, output: &Output) {
        if self.in_place {
            return;
        }
        for i in range {
            let slot = &rule.slots[i];
            let bytes = entry.leaf.layout.len * slot.dtype.size();
            self.copies.push(Copy { from: slot.place.ptr, to: output.slots[i].ptr, bytes });
        }
    }

    /// Room for a gradient between segments.
    fn scratch(&mut self, entry: &Entry) -> PyResult<*mut u8> {
        self.keep(entry.leaf.layout.len * entry.working().compute().dtype().size())
    }

    fn keep(&mut self, bytes: usize) -> PyResult<*mut u8> {
        let part = allocate(self.py, &[(0, bytes)])?.remove(0);
        let ptr = part.ptr;
        self.kept.push(part);
        Ok(ptr)
    }

    /// Runs a segment that is not the last one: its `dx` goes to `scratch`, its new state where nobody sees it yet.
    fn staged(
        &mut self,
        rule: &Rule<'a>,
        links: Range<usize>,
        entry: &Entry,
        output: &Output,
        gradient: Source,
        scratch: *mut u8,
    ) -> PyResult<Source> {
        let (n, working) = (entry.leaf.layout.len, entry.working());
        let compute = working.compute();
        let norm = self.norm(rule, &links, entry, gradient)?;
        let scalars = scalars(rule, &links, compute, norm);
        let mut states = Vec::new();
        for i in slots_of(rule.program, &links) {
            let (from, size) = (rule.slots[i].place.ptr, rule.slots[i].dtype.size());
            let to = if self.in_place { self.keep(n * size)? } else { output.slots[i].ptr };
            if self.in_place {
                self.copies.push(Copy { from: to, to: from, bytes: n * size });
            }
            states.push(State { from, to, size });
        }
        let job = Job {
            links: &rule.program.links[links],
            scalars: &scalars,
            states: &states,
            n,
            compute,
            gradient,
            x: old_x(rule, output, working),
            y: None,
            rounded: None,
            dx: Some(scratch),
        };
        let plan = Plan { jobs: vec![job], copies: Vec::new() };
        // SAFETY: `scratch` and the staged states are fresh; everything read is held by the entry, whose guard keeps
        // other updates out.
        self.py.detach(|| unsafe { plan.run() });
        Ok(Source { ptr: scratch, dtype: compute.dtype() })
    }

    /// The norm that the first of `links` waits for, if it does.
    fn norm(&self, rule: &Rule, links: &Range<usize>, entry: &Entry, gradient: Source) -> PyResult<Option<f64>> {
        let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) else { return Ok(None) };
        let compute = entry.working().compute();
        let wanted = Measure { norm: reduction.norm(), of: gradient, n: entry.leaf.layout.len, compute };
        // SAFETY: the gradient is kept alive by its array or in `kept`, and nothing writes to it before the plan runs.
        let norm = self.py.detach(|| unsafe { measure(&[wanted]) })[0];
        self.check(rule.program, links.start, norm, entry.place)?;
        Ok(Some(norm))
    }

    fn check(&self, program: &Program, link: usize, norm: f64, place: usize) -> PyResult<()> {
        let refusal = program.links[link].reduction().and_then(|r| r.refuse(norm));
        refusal.map_or(Ok(()), |reason| Err(refused(&self.names.of(place), &reason)))
    }

    /// Drafts the segment that reaches the parameter (unless the step ends in an accumulator).
    fn last_segment(
        &mut self,
        rule: &Rule<'a>,
        links: Range<usize>,
        entry: &Entry,
        output: &Output,
        gradient: Source,
        steps: bool,
    ) -> PyResult<()> {
        let working = entry.working();
        let compute = working.compute();
        let first = self.states.len();
        for i in slots_of(rule.program, &links) {
            let slot = &rule.slots[i];
            let to = if self.in_place { slot.place.ptr } else { output.slots[i].ptr };
            self.states.push(State { from: slot.place.ptr, to, size: slot.dtype.size() });
        }
        let master = rule.program.master.is_some().then(|| {
            let to = if self.in_place { rule.slots[0].place.ptr } else { output.slots[0].ptr };
            Sink { ptr: to, dtype: working }
        });
        let scalars = self.scalars(rule, &links, working);
        let n = entry.leaf.layout.len;
        let writes = steps && output.dx.is_none();
        if let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) {
            let measure = Measure { norm: reduction.norm(), of: gradient, n, compute };
            self.pending.push(Pending { draft: self.drafts.len(), place: entry.place, measure });
        }
        self.drafts.push(Draft {
            program: rule.program,
            links,
            scalars,
            states: first..self.states.len(),
            n,
            compute,
            gradient,
            x: old_x(rule, output, working),
            y: writes.then_some(master.unwrap_or(output.x)),
            rounded: master.filter(|_| writes).map(|_| output.x),
            dx: output.dx.filter(|_| steps),
        });
        Ok(())
    }

    /// The scalars of `links`: those of the entry before, if it has the same rule and counts and waits for no norm.
    fn scalars(&mut self, rule: &Rule, links: &Range<usize>, working: DType) -> Range<usize> {
        if let Some((program, counts, dtype, range)) = &self.last
            && std::ptr::eq(*program, rule.program)
            && counts == rule.counts
            && *dtype == working
        {
            return range.clone();
        }
        let start = self.scalars.len();
        self.scalars.extend(scalars(rule, links, working.compute(), None));
        let range = start..self.scalars.len();
        let waits = rule.program.links.iter().any(|l| l.reduction().is_some());
        self.last = (!waits).then(|| (std::ptr::from_ref(rule.program), rule.counts.to_vec(), working, range.clone()));
        range
    }

    /// Whether the last entry's step reaches its parameter.
    pub fn steps_last(&self) -> bool {
        self.drafts.last().is_some_and(|d| d.y.is_some() || d.dx.is_some())
    }

    /// Computes the norms, then runs the plan, which nothing can stop.
    pub fn run(&mut self) -> PyResult<()> {
        let measures: Vec<Measure> = self.pending.iter().map(|p| p.measure).collect();
        // SAFETY: the gradients are kept alive by their arrays or in `kept`; nothing has been written yet.
        let norms = self.py.detach(|| unsafe { measure(&measures) });
        for (pending, norm) in self.pending.iter().zip(norms) {
            let draft = &self.drafts[pending.draft];
            self.check(draft.program, draft.links.start, norm, pending.place)?;
            if let Some(reduction) = draft.program.links[draft.links.start].reduction() {
                self.scalars[draft.scalars.start] = reduction.scalars(norm, Rounding::of(draft.compute));
            }
        }
        let jobs = self.drafts.iter().map(|d| Job {
            links: &d.program.links[d.links.clone()],
            scalars: &self.scalars[d.scalars.clone()],
            states: &self.states[d.states.clone()],
            n: d.n,
            compute: d.compute,
            gradient: d.gradient,
            x: d.x,
            y: d.y,
            rounded: d.rounded,
            dx: d.dx,
        });
        let plan = Plan { jobs: jobs.collect(), copies: std::mem::take(&mut self.copies) };
        // SAFETY: all arrays were checked: aligned, gapless, of these lengths, writable, disjoint, and kept alive by the
        // entries, whose guards keep other updates out. Gradients that shared memory with them were copied.
        self.py.detach(|| unsafe { plan.run() });
        Ok(())
    }
}

/// The old values that a step starts from: the master copy's, if there is one.
fn old_x(rule: &Rule, output: &Output, working: DType) -> Source {
    match rule.program.master {
        Some(_) => Source { ptr: rule.slots[0].place.ptr, dtype: working },
        None => output.from,
    }
}

/// The state arrays of `links`.
fn slots_of(program: &Program, links: &Range<usize>) -> Range<usize> {
    if links.is_empty() {
        return 0..0;
    }
    program.slots_of(links.start).start..program.slots_of(links.end - 1).end
}

/// The scalars of `links` at their next step; the first one's come from `norm` if it is given.
fn scalars(rule: &Rule, links: &Range<usize>, compute: Compute, norm: Option<f64>) -> Vec<Scalars> {
    let rounding = Rounding::of(compute);
    let mut scalars: Vec<Scalars> =
        links.clone().map(|i| rule.program.links[i].prepare(rule.counts[i] + 1, rounding)).collect();
    if let (Some(norm), Some(reduction)) = (norm, rule.program.links.get(links.start).and_then(|l| l.reduction())) {
        scalars[0] = reduction.scalars(norm, rounding);
    }
    scalars
}
