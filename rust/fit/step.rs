//! The update of all parameters between two sets of arrays.
//!
//! A step reads one set and writes the other, so that the model and state before the last step are always there: a
//! training that fails hands them out. The arithmetic is that of `update`, by the same driver.

use crate::buffer::Buffer;
use crate::chain::Program;
use crate::drive::{Copy, Plan};
use crate::dtype::DType;
use crate::job::{Job, Sink, Source, State, Tables};
use crate::measure::{Measure, Norms};
use crate::rule::{Rounding, Scalars};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// One parameter, its rule and its state, in two sets.
pub struct Parameter<'a> {
    /// Its rule.
    pub program: &'a Program,
    /// The same with the hyper-parameters of the next step, where they follow schedules.
    pub now: Option<Arc<Program>>,
    /// The type of its elements.
    pub dtype: DType,
    /// How many there are.
    pub n: usize,
    /// Where it lies in each set.
    pub x: [*mut u8; 2],
    /// The types of its state arrays, and where they lie in each set.
    pub slots: Vec<(DType, [*mut u8; 2])>,
    /// The step counts of the links of its rule.
    pub counts: Vec<u64>,
    /// The same before the last step.
    pub before: Vec<u64>,
    /// Its gradient, `n` elements.
    pub gradient: *const f32,
}

impl Parameter<'_> {
    fn working(&self) -> DType {
        self.program.working(self.dtype)
    }

    /// The old values that a step from set `from` starts from: the master copy's, if there is one.
    fn old(&self, from: usize) -> Source {
        match self.program.master {
            Some(_) => Source { ptr: self.slots[0].1[from], dtype: self.working() },
            None => Source { ptr: self.x[from], dtype: self.dtype },
        }
    }

    /// The state arrays of `links`.
    fn slots_of(&self, links: &Range<usize>) -> Range<usize> {
        if links.is_empty() {
            return 0..0;
        }
        self.program.slots_of(links.start).start..self.program.slots_of(links.end - 1).end
    }

    /// The rule whose hyper-parameters are those of the next step. Its links compute as those of `program` do: they differ
    /// in their scalars.
    fn rule(&self) -> &Program {
        self.now.as_deref().unwrap_or(self.program)
    }

    /// Adds the scalars of `links` at their next step.
    fn scalars(&self, links: &Range<usize>, out: &mut Vec<Scalars>) {
        let (rule, rounding) = (self.rule(), Rounding::of(self.working().compute()));
        out.extend(links.clone().map(|i| rule.links[i].prepare(self.counts[i] + 1, rounding)));
    }

    fn states(&self, links: &Range<usize>, from: usize, out: &mut Vec<State>) {
        let slots = &self.slots[self.slots_of(links)];
        out.extend(slots.iter().map(|(d, at)| State { from: at[from], to: at[1 - from], size: d.size() }));
    }

    /// Whether the rule needs a gradient between two passes: a link behind the first one must know it as a whole.
    fn is_staged(&self) -> bool {
        self.program.links.iter().skip(1).any(|link| link.reduction().is_some())
    }
}

/// Why a step was not made: a rule refused the norm of this parameter's gradient.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which parameter.
    pub parameter: usize,
    /// Why.
    pub reason: String,
}

/// A job whose first link waits for a norm.
struct Pending {
    job: usize,
    parameter: usize,
    link: usize,
}

/// Steps parameters; its lists are kept between steps.
pub struct Stepper<'a> {
    /// What is stepped.
    pub parameters: Vec<Parameter<'a>>,
    jobs: Vec<Job<'a>>,
    scalars: Vec<Scalars>,
    states: Vec<State>,
    copies: Vec<Copy>,
    pending: Vec<Pending>,
    /// The norms that are waited for.
    measures: Vec<Measure>,
    norms: Norms,
    reached: Vec<usize>,
    /// The scalars and state arrays of a segment that is not the last one.
    staged: (Vec<Scalars>, Vec<State>),
    /// Room for the gradient of each parameter between two passes, where there are two.
    scratch: Vec<Option<Buffer>>,
}

impl<'a> Stepper<'a> {
    /// A stepper of these parameters; `None` where the system has no memory.
    #[must_use]
    pub fn new(parameters: Vec<Parameter<'a>>) -> Option<Self> {
        let mut scratch = Vec::with_capacity(parameters.len());
        for p in &parameters {
            let bytes = p.n * p.working().compute().dtype().size();
            scratch.push(if p.is_staged() { Some(Buffer::new(bytes)?) } else { None });
        }
        Some(Self {
            parameters,
            jobs: Vec::new(),
            scalars: Vec::new(),
            states: Vec::new(),
            copies: Vec::new(),
            pending: Vec::new(),
            measures: Vec::new(),
            norms: Norms::default(),
            reached: Vec::new(),
            staged: (Vec::new(), Vec::new()),
            scratch,
        })
    }

    /// One step of all parameters from set `from` to the other one. If it is refused, the counts are as they were.
    ///
    /// # Safety
    /// The pointers of the parameters are aligned and valid for their `n` elements, no two of what is written overlap or
    /// overlap a gradient, and nobody else uses any of it meanwhile.
    pub unsafe fn step(&mut self, from: usize) -> Result<(), Refused> {
        self.jobs.clear();
        self.scalars.clear();
        self.states.clear();
        self.copies.clear();
        self.pending.clear();
        self.measures.clear();
        self.reached.clear();
        for i in 0..self.parameters.len() {
            self.schedule(i)?;
            // SAFETY: the caller's promise.
            unsafe { self.add(i, from)? };
        }
        // SAFETY: the caller's promise; the norms are of gradients and scratch, which nothing writes now.
        unsafe { self.measure()? };
        let tables = Tables { scalars: &self.scalars, states: &self.states };
        let plan = Plan { jobs: &self.jobs, tables, copies: &self.copies };
        // SAFETY: the caller's promise.
        unsafe { plan.run() };
        for (p, &reach) in self.parameters.iter_mut().zip(&self.reached) {
            p.before.copy_from_slice(&p.counts);
            p.program.advance(&mut p.counts, reach);
        }
        Ok(())
    }

    /// Gives parameter `i` the rule of its next step, if it is scheduled: that of the one before, if both are at one step.
    fn schedule(&mut self, i: usize) -> Result<(), Refused> {
        let (before, rest) = self.parameters.split_at_mut(i);
        let p = &mut rest[0];
        if !p.program.is_scheduled() {
            return Ok(());
        }
        p.now = match before.last() {
            Some(q) if ptr::eq(p.program, q.program) && p.counts == q.counts => q.now.clone(),
            _ => Some(Arc::new(p.program.at(&p.counts).map_err(|reason| Refused { parameter: i, reason })?)),
        };
        Ok(())
    }

    /// Adds the step of parameter `i`.
    unsafe fn add(&mut self, i: usize, from: usize) -> Result<(), Refused> {
        let p = &self.parameters[i];
        let program = p.program;
        let (reach, steps) = program.reach(&p.counts);
        let skipped = if reach == program.links.len() { p.slots.len() } else { program.slots_of(reach).start };
        let skipped = skipped..p.slots.len();
        self.carry(i, from, skipped);
        if !steps {
            let bytes = self.parameters[i].n * self.parameters[i].dtype.size();
            let [a, b] = [from, 1 - from].map(|side| self.parameters[i].x[side]);
            self.copies.push(Copy { from: a, to: b, bytes });
            self.carry(i, from, 0..usize::from(program.master.is_some()));
        }
        let mut source = Source { ptr: self.parameters[i].gradient.cast(), dtype: DType::F32 };
        let mut links = program.segment(0, reach);
        while links.end < reach {
            // SAFETY: the caller's promise.
            source = unsafe { self.staged(i, from, links.clone(), source)? };
            links = program.segment(links.end, reach);
        }
        self.last_segment(i, from, links, source, steps);
        self.reached.push(reach);
        Ok(())
    }

    /// Copies state arrays that are not stepped.
    fn carry(&mut self, i: usize, from: usize, range: Range<usize>) {
        let p = &self.parameters[i];
        for (dtype, at) in &p.slots[range] {
            self.copies.push(Copy { from: at[from], to: at[1 - from], bytes: p.n * dtype.size() });
        }
    }

    /// Runs a segment that is not the last one: its `dx` goes to the scratch.
    unsafe fn staged(
        &mut self,
        i: usize,
        from: usize,
        links: Range<usize>,
        gradient: Source,
    ) -> Result<Source, Refused> {
        let p = &self.parameters[i];
        let compute = p.working().compute();
        let (scalars, states) = &mut self.staged;
        scalars.clear();
        states.clear();
        p.scalars(&links, scalars);
        p.states(&links, from, states);
        if let Some(reduction) = p.rule().links.get(links.start).and_then(|l| l.reduction()) {
            let wanted = Measure { norm: reduction.norm(), of: gradient, n: p.n, compute };
            // SAFETY: the caller's promise.
            let norm = unsafe { self.norms.measure(&[wanted]) }[0];
            check(p.rule(), links.start, norm, i)?;
            scalars[0] = reduction.scalars(norm, Rounding::of(compute));
        }
        let scratch = self.scratch[i].as_ref().map_or(ptr::null_mut(), Buffer::ptr);
        let tables = Tables { scalars, states };
        let job = Job {
            links: &p.program.links[links],
            scalars: 0,
            states: 0..states.len(),
            n: p.n,
            compute,
            gradient,
            x: p.old(from),
            y: None,
            rounded: None,
            dx: Some(scratch),
        };
        let plan = Plan { jobs: &[job], tables, copies: &[] };
        // SAFETY: the caller's promise; the scratch is ours, and there is some, since the rule has a segment before its last.
        unsafe { plan.run() };
        Ok(Source { ptr: scratch, dtype: compute.dtype() })
    }

    /// Adds the segment that reaches the parameter (unless the step ends in an accumulator).
    fn last_segment(&mut self, i: usize, from: usize, links: Range<usize>, gradient: Source, steps: bool) {
        let p = &self.parameters[i];
        let (working, program) = (p.working(), p.program);
        let compute = working.compute();
        let scalars = self.scalars_of(i, &links);
        let p = &self.parameters[i];
        let first = self.states.len();
        p.states(&links, from, &mut self.states);
        if let Some(reduction) = p.rule().links.get(links.start).and_then(|l| l.reduction()) {
            let measure = Measure { norm: reduction.norm(), of: gradient, n: p.n, compute };
            self.pending.push(Pending { job: self.jobs.len(), parameter: i, link: links.start });
            self.measures.push(measure);
        }
        let x = Sink { ptr: p.x[1 - from], dtype: p.dtype };
        let master = program.master.map(|_| Sink { ptr: p.slots[0].1[1 - from], dtype: working });
        self.jobs.push(Job {
            links: &program.links[links],
            scalars,
            states: first..self.states.len(),
            n: p.n,
            compute,
            gradient,
            x: p.old(from),
            y: steps.then_some(master.unwrap_or(x)),
            rounded: master.filter(|_| steps).map(|_| x),
            dx: None,
        });
    }

    /// Where the scalars of `links` of parameter `i` start: those of the one before, if it has the same rule and counts and
    /// waits for no norm.
    fn scalars_of(&mut self, i: usize, links: &Range<usize>) -> usize {
        let p = &self.parameters[i];
        if let (Some(q), Some(job)) = (i.checked_sub(1).map(|j| &self.parameters[j]), self.jobs.last())
            && ptr::eq(p.program, q.program)
            && p.counts == q.counts
            && p.working() == q.working()
            && p.program.links.iter().all(|l| l.reduction().is_none())
        {
            return job.scalars;
        }
        let start = self.scalars.len();
        p.scalars(links, &mut self.scalars);
        start
    }

    /// Computes the norms that jobs wait for.
    unsafe fn measure(&mut self) -> Result<(), Refused> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let norms = unsafe { self.norms.measure(&self.measures) };
        for (pending, &norm) in self.pending.iter().zip(norms) {
            let rule = self.parameters[pending.parameter].rule();
            check(rule, pending.link, norm, pending.parameter)?;
            if let Some(reduction) = rule.links[pending.link].reduction() {
                let job = &self.jobs[pending.job];
                self.scalars[job.scalars] = reduction.scalars(norm, Rounding::of(job.compute));
            }
        }
        Ok(())
    }
}

fn check(rule: &Program, link: usize, norm: f64, parameter: usize) -> Result<(), Refused> {
    let refusal = rule.links[link].reduction().and_then(|r| r.refuse(norm));
    refusal.map_or(Ok(()), |reason| Err(Refused { parameter, reason }))
}
