//! From checked parameters to the driver's plan.
//!
//! Whatever may still be refused, because a norm is not finite, is computed while the plan is made: nothing that the
//! caller can see has been written by then.

use std::ops::Range;

use bumpalo::Bump;
use pyo3::prelude::*;

use super::arena::{List, list_in};
use super::course::{Course, Courses, Rule, scalars, slots_of};
use super::entry::{Entry, Names};
use super::gradient::Gradient;
use super::leaf::Moments;
use super::memory::too_large;
use super::update::{Output, refused};
use crate::buffer::Buffer;
use crate::chain::Program;
use crate::drive::{Copy, Plan};
use crate::dtype::{Compute, DType};
use crate::job::{Job, Sink, Source, State, Tables};
use crate::measure::{Measure, Norms};
use crate::reserve::{Put, Reserve, listed};
use crate::rule::{Rounding, Scalars};

/// A step whose first link waits for the norm of its gradient.
struct Pending<'a> {
    job: usize,
    program: &'a Program,
    link: usize,
    place: usize,
    measure: Measure,
}

/// The steps of all entries.
pub struct Steps<'b, 'a, 'py> {
    py: Python<'py>,
    names: &'a Names<'a, 'py>,
    in_place: bool,
    jobs: List<'b, Job<'a>>,
    scalars: List<'b, Scalars>,
    states: List<'b, State>,
    copies: List<'b, Copy>,
    pending: List<'b, Pending<'a>>,
    /// Memory that must live until the plan has run.
    kept: Vec<Buffer>,
    /// What steps were like before.
    courses: Courses,
}

impl<'b, 'a, 'py> Steps<'b, 'a, 'py> {
    /// No steps yet; room for those of `n` entries.
    pub fn new(
        arena: &'b Bump,
        py: Python<'py>,
        names: &'a Names<'a, 'py>,
        in_place: bool,
        n: usize,
    ) -> PyResult<Self> {
        Ok(Self {
            py,
            names,
            in_place,
            jobs: list_in(n, arena)?,
            scalars: List::new_in(arena),
            states: list_in(2 * n, arena)?,
            copies: List::new_in(arena),
            pending: List::new_in(arena),
            kept: Vec::new(),
            courses: Courses::default(),
        })
    }

    /// Adds the step of `entry`; without a gradient its values are carried over.
    ///
    /// How many links of its rule the step reaches; `None` where there is no step.
    pub fn add(
        &mut self,
        entry: &'a Entry<'_, 'py>,
        gradient: Option<&Gradient>,
        output: &Output,
    ) -> PyResult<Option<usize>> {
        self.make_room(entry)?;
        let Moments::Compiled { program, slots, counts } = &entry.guard.get().moments else {
            self.carry_x(entry, output);
            return Ok(None);
        };
        let program = entry.scheduled.as_deref().unwrap_or(program);
        let rule = Rule { program, slots, counts };
        let Some(gradient) = gradient else {
            self.carry_x(entry, output);
            self.carry_slots(&rule, 0..slots.len(), entry, output);
            return Ok(None);
        };
        let course = self.course(&rule, program.working(entry.leaf().dtype));
        self.carry_slots(&rule, course.slots.1..slots.len(), entry, output);
        if !course.steps {
            self.carry_x(entry, output);
            self.carry_slots(&rule, 0..course.slots.0, entry, output);
        }
        let (mut source, mut links) = (gradient.source, 0..course.first);
        if links.end < course.reach {
            let scratch = self.scratch(entry)?;
            while links.end < course.reach {
                source = self.staged(&rule, links.clone(), entry, output, source, scratch)?;
                links = program.segment(links.end, course.reach);
            }
        }
        self.last_segment(&rule, course, links, entry, output, source);
        Ok(Some(course.reach))
    }

    /// Makes room for whatever the step of `entry` adds to the lists.
    fn make_room(&mut self, entry: &Entry) -> PyResult<()> {
        let (slots, links) = match &entry.guard.get().moments {
            Moments::Compiled { program, slots, .. } => (slots.len(), program.links.len()),
            Moments::Own(_) => (0, 0),
        };
        self.jobs.make_room(1)?;
        self.scalars.make_room(links)?;
        self.states.make_room(slots)?;
        self.copies.make_room(slots + 1)?;
        Ok(self.pending.make_room(1)?)
    }

    /// The course of a step in the type `working`: that of an entry before, if it has the same rule and counts.
    fn course(&mut self, rule: &Rule, working: DType) -> Course {
        self.courses.find(rule, working).unwrap_or_else(|| self.new_course(rule, working))
    }

    #[cold]
    fn new_course(&mut self, rule: &Rule, working: DType) -> Course {
        let mut course = Course::new(rule, working);
        if !rule.program.links.iter().any(|l| l.reduction().is_some()) {
            course.scalars = Some(self.add_scalars(rule, 0..course.reach, course.compute));
        }
        self.courses.add(rule, working, course);
        course
    }

    /// Where the scalars of `links`, which are added, start.
    fn add_scalars(&mut self, rule: &Rule, links: Range<usize>, compute: Compute) -> usize {
        let start = self.scalars.len();
        self.scalars.extend(scalars(rule, &links, compute, None));
        start
    }

    /// When pure, copies a parameter that is not stepped.
    fn carry_x(&mut self, entry: &Entry, output: &Output) {
        if output.x != output.from {
            let bytes = entry.leaf().layout.len * entry.leaf().dtype.size();
            self.copies.push(Copy { from: output.from, to: output.x, bytes });
        }
    }

    /// When pure, copies state arrays that are not stepped.
    #[inline]
    fn carry_slots(&mut self, rule: &Rule, range: Range<usize>, entry: &Entry, output: &Output) {
        if self.in_place {
            return;
        }
        for i in range {
            let slot = &rule.slots[i];
            let bytes = entry.leaf().layout.len * slot.dtype.size();
            self.copies.push(Copy { from: slot.place.ptr, to: output.slots[i].ptr, bytes });
        }
    }

    /// Room for a gradient between segments.
    fn scratch(&mut self, entry: &Entry) -> PyResult<*mut u8> {
        self.keep(entry.leaf().layout.len * entry.working().compute().dtype().size())
    }

    fn keep(&mut self, bytes: usize) -> PyResult<*mut u8> {
        // No Python object: making one may run the collector, and with it anybody's code.
        let buffer = Buffer::new(bytes).ok_or_else(|| too_large(bytes))?;
        let ptr = buffer.ptr();
        self.kept.put(buffer)?;
        Ok(ptr)
    }

    /// Runs a segment that is not the last one: its `dx` goes to `scratch`, its new state where nobody sees it yet.
    #[cold]
    fn staged(
        &mut self,
        rule: &Rule<'a>,
        links: Range<usize>,
        entry: &Entry,
        output: &Output,
        gradient: Source,
        scratch: *mut u8,
    ) -> PyResult<Source> {
        let (n, compute) = (entry.leaf().layout.len, entry.working().compute());
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
        let tables = Tables { scalars: &scalars, states: &states };
        let jobs = [Job {
            links: &rule.program.links[links],
            scalars: 0,
            states: 0..states.len(),
            n,
            compute,
            gradient,
            x: old_x(rule, entry, output),
            y: None,
            rounded: None,
            dx: Some(scratch),
        }];
        let plan = Plan::new(&jobs, tables, &[]);
        // SAFETY: `scratch` and the staged states are fresh; everything read is held by the entry, whose guard keeps
        // other updates out.
        self.py.detach(|| unsafe { plan.run() });
        Ok(Source { ptr: scratch, dtype: compute.dtype() })
    }

    /// The norm that the first of `links` waits for, if it does.
    fn norm(&self, rule: &Rule, links: &Range<usize>, entry: &Entry, gradient: Source) -> PyResult<Option<f64>> {
        let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) else { return Ok(None) };
        let compute = entry.working().compute();
        let wanted = Measure { norm: reduction.norm(), of: gradient, n: entry.leaf().layout.len, compute };
        // SAFETY: the gradient is kept alive by its array or in `kept`, and nothing writes to it before the plan runs.
        let norm = self.py.detach(|| unsafe { Norms::default().measure(&[wanted]).map(|norms| norms[0]) })?;
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
        course: Course,
        links: Range<usize>,
        entry: &Entry,
        output: &Output,
        gradient: Source,
    ) {
        let (n, compute) = (entry.leaf().layout.len, course.compute);
        let slots = if links.start == 0 { course.slots.0..course.slots.1 } else { slots_of(rule.program, &links) };
        let first = self.states.len();
        for i in slots {
            let slot = &rule.slots[i];
            let to = if self.in_place { slot.place.ptr } else { output.slots[i].ptr };
            self.states.push(State { from: slot.place.ptr, to, size: slot.dtype.size() });
        }
        let x = Sink { ptr: output.x, dtype: entry.leaf().dtype };
        let master = rule.program.master.is_some().then(|| {
            let to = if self.in_place { rule.slots[0].place.ptr } else { output.slots[0].ptr };
            Sink { ptr: to, dtype: entry.working() }
        });
        let writes = course.steps && output.dx.is_none();
        let scalars = match course.scalars {
            Some(scalars) => scalars,
            None => {
                if let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) {
                    let measure = Measure { norm: reduction.norm(), of: gradient, n, compute };
                    let (job, link) = (self.jobs.len(), links.start);
                    self.pending.push(Pending { job, program: rule.program, link, place: entry.place, measure });
                }
                self.add_scalars(rule, links.clone(), compute)
            }
        };
        self.jobs.push(Job {
            links: &rule.program.links[links],
            scalars,
            states: first..self.states.len(),
            n,
            compute,
            gradient,
            x: old_x(rule, entry, output),
            y: writes.then_some(master.unwrap_or(x)),
            rounded: master.filter(|_| writes).map(|_| x),
            dx: output.dx.filter(|_| course.steps),
        });
    }

    /// Whether the last entry's step reaches its parameter.
    pub fn steps_last(&self) -> bool {
        self.jobs.last().is_some_and(|j| j.y.is_some() || j.dx.is_some())
    }

    /// Computes the norms, then runs the plan, which nothing can stop.
    pub fn run(&mut self) -> PyResult<()> {
        if !self.pending.is_empty() {
            self.measure()?;
        }
        let tables = Tables { scalars: &self.scalars, states: &self.states };
        let plan = Plan::new(&self.jobs, tables, &self.copies);
        // SAFETY: all arrays were checked: aligned, gapless, of these lengths, writable, disjoint, and kept alive by the
        // entries, whose guards keep other updates out. Gradients that shared memory with them were copied.
        self.py.detach(|| unsafe { plan.run() });
        Ok(())
    }

    fn measure(&mut self) -> PyResult<()> {
        let (measures, mut norms): (Vec<Measure>, _) =
            (listed(self.pending.iter().map(|p| p.measure))?, Norms::default());
        // SAFETY: the gradients are kept alive by their arrays or in `kept`; nothing has been written yet.
        let norms = self.py.detach(|| unsafe { norms.measure(&measures) })?;
        for (pending, &norm) in self.pending.iter().zip(norms) {
            self.check(pending.program, pending.link, norm, pending.place)?;
            if let Some(reduction) = pending.program.links[pending.link].reduction() {
                let job = &self.jobs[pending.job];
                self.scalars[job.scalars] = reduction.scalars(norm, Rounding::of(job.compute));
            }
        }
        Ok(())
    }
}

/// The old values that a step starts from: the master copy's, if there is one.
fn old_x(rule: &Rule, entry: &Entry, output: &Output) -> Source {
    match rule.program.master {
        Some(_) => Source { ptr: rule.slots[0].place.ptr, dtype: entry.working() },
        None => Source { ptr: output.from, dtype: entry.leaf().dtype },
    }
}
