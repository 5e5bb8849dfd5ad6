//! The plan of a step between the two sets of arrays. As long as the same links take part it stays the same but for the
//! scalars, so it is kept.

use super::room::Room;
use super::step::{Parameter, Reason, Refused};
use crate::drive::{Copy, Plan, traffic};
use crate::dtype::DType;
use crate::job::{Job, Lone, Sink, Source, State, Tables};
use crate::measure::{Measure, Norms};
use crate::reserve::list;
use crate::rule::Scalars;
use crate::simd;
use std::ops::Range;

/// Below so many bytes read and written, the loops of a step are called without a look at each.
const SMALL_BYTES: usize = 16 << 10;

/// A job whose first link waits for a norm.
struct Pending {
    job: usize,
    parameter: usize,
    link: usize,
}

/// The step from one set to the other.
pub(super) struct Step<'a> {
    jobs: Vec<Job<'a>>,
    scalars: Vec<Scalars>,
    states: Vec<State>,
    copies: Vec<Copy>,
    pending: Vec<Pending>,
    /// The norms that are waited for.
    measures: Vec<Measure>,
    /// Scalars that are others at every step: links of a parameter, and where in `scalars` they start.
    renewed: Vec<(usize, Range<usize>, usize)>,
    /// How many links of each parameter take part, and whether the step reaches the parameter.
    pub(super) reached: Vec<(usize, bool)>,
    /// Bytes read and written.
    traffic: usize,
    /// The jobs once more where each is a loop, and so short that what comes before it shows; else none.
    loops: Vec<Lone<'a>>,
    /// Whether steps differ: some rule counts them.
    pub(super) differ: bool,
}

impl<'a> Step<'a> {
    /// None yet; the lists have room for any step of these parameters, so that none asks for memory. `None` where the system
    /// has no memory.
    pub(super) fn new(parameters: &[Parameter<'a>]) -> Option<Self> {
        let (n, states) = (parameters.len(), parameters.iter().map(|p| p.slots.len()).sum::<usize>());
        Some(Self {
            jobs: list(n).ok()?,
            scalars: list(parameters.iter().map(|p| p.program.links.len()).sum()).ok()?,
            states: list(states).ok()?,
            copies: list(2 * n + states).ok()?,
            pending: list(n).ok()?,
            measures: list(n).ok()?,
            renewed: list(n).ok()?,
            reached: list(n).ok()?,
            traffic: 0,
            loops: list(n).ok()?,
            differ: parameters.iter().any(Parameter::has_steps),
        })
    }

    /// Plans the step of all parameters from set `from`, or renews the scalars of the plan that there is, if that is the
    /// same.
    ///
    /// # Safety
    /// As for [`super::step::Stepper::step`].
    pub(super) unsafe fn prepare(
        &mut self,
        parameters: &[Parameter<'a>],
        room: &mut Room,
        from: usize,
    ) -> Result<(), Refused> {
        if self.is_kept(parameters) && !room.is_staged {
            self.renew(parameters)?;
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.plan(parameters, room, from)? };
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise; the norms are of gradients and scratch, which nothing writes now.
        unsafe { self.measure(parameters, &mut room.norms) }
    }

    /// Plans the step anew.
    // Apart from what each step takes.
    #[inline(never)]
    unsafe fn plan(&mut self, parameters: &[Parameter<'a>], room: &mut Room, from: usize) -> Result<(), Refused> {
        self.clear();
        for i in 0..parameters.len() {
            // SAFETY: the caller's promise.
            unsafe { self.add(parameters, i, room, from)? };
        }
        self.traffic = traffic(&self.jobs, self.tables(), &self.copies);
        if self.traffic < SMALL_BYTES && self.copies.is_empty() {
            let tables = Tables { scalars: &self.scalars, states: &self.states };
            // SAFETY: the caller's promise.
            self.loops.extend(self.jobs.iter().map_while(|job| unsafe { Lone::new(job, tables) }));
            if self.loops.len() < self.jobs.len() {
                self.loops.clear();
            }
        }
        Ok(())
    }

    /// Gives the plan the scalars of the next step.
    fn renew(&mut self, parameters: &[Parameter<'a>]) -> Result<(), Refused> {
        for (i, links, start) in &self.renewed {
            for (link, to) in links.clone().zip(&mut self.scalars[*start..]) {
                *to = parameters[*i].scalars(link).map_err(refused(*i))?;
            }
        }
        for (&Pending { parameter: i, link, .. }, measure) in self.pending.iter().zip(&mut self.measures) {
            let norm = parameters[i].norm(&(link..link + 1)).map_err(refused(i))?;
            measure.norm = norm.unwrap_or(measure.norm);
        }
        Ok(())
    }

    /// Does it.
    ///
    /// # Safety
    /// As for [`super::step::Stepper::step`].
    #[inline(always)]
    pub(super) unsafe fn run(&self) {
        if !self.loops.is_empty() {
            let level = simd::level();
            // SAFETY: the caller's promise.
            return self.loops.iter().for_each(|l| unsafe { l.run(&self.scalars, level) });
        }
        let (jobs, tables, copies) = (&self.jobs[..], self.tables(), &self.copies[..]);
        debug_assert_eq!(self.traffic, traffic(jobs, tables, copies));
        let plan = Plan { jobs, tables, copies, traffic: self.traffic };
        // SAFETY: the caller's promise.
        unsafe { plan.run() };
    }

    fn tables(&self) -> Tables<'_> {
        Tables { scalars: &self.scalars, states: &self.states }
    }

    /// Empties the lists, whose memory is used again.
    fn clear(&mut self) {
        self.jobs.clear();
        self.loops.clear();
        self.scalars.clear();
        self.states.clear();
        self.copies.clear();
        self.pending.clear();
        self.measures.clear();
        self.renewed.clear();
        self.reached.clear();
    }

    /// Whether the plan is that of the next step but for the scalars.
    fn is_kept(&self, parameters: &[Parameter<'a>]) -> bool {
        let same = |(p, &reached): (&Parameter<'a>, &(usize, bool))| p.program.reach(&p.counts) == reached;
        self.reached.len() == parameters.len() && (!self.differ || parameters.iter().zip(&self.reached).all(same))
    }

    /// Adds the step of parameter `i`.
    unsafe fn add(
        &mut self,
        parameters: &[Parameter<'a>],
        i: usize,
        room: &mut Room,
        from: usize,
    ) -> Result<(), Refused> {
        let p = &parameters[i];
        let program = p.program;
        let (reach, steps) = program.reach(&p.counts);
        let skipped = if reach == program.links.len() { p.slots.len() } else { program.slots_of(reach).start };
        self.carry(p, from, skipped..p.slots.len());
        if !steps {
            let bytes = p.n * p.dtype.size();
            self.copies.push(Copy { from: p.x[from], to: p.x[1 - from], bytes });
            self.carry(p, from, 0..usize::from(program.master.is_some()));
        }
        let mut source = Source { ptr: p.gradient.cast(), dtype: DType::F32 };
        let mut links = program.segment(0, reach);
        while links.end < reach {
            // SAFETY: the caller's promise; the scratch is ours, and there is some, since the rule has a segment before its
            // last.
            source = unsafe { room.staged(p, i, from, links.clone(), source)? };
            links = program.segment(links.end, reach);
        }
        self.last_segment(parameters, i, from, links, source, steps)?;
        self.reached.push((reach, steps));
        Ok(())
    }

    /// Copies state arrays that are not stepped.
    fn carry(&mut self, p: &Parameter<'a>, from: usize, range: Range<usize>) {
        for (dtype, at) in &p.slots[range] {
            self.copies.push(Copy { from: at[from], to: at[1 - from], bytes: p.n * dtype.size() });
        }
    }

    /// Adds the segment that reaches the parameter (unless the step ends in an accumulator).
    fn last_segment(
        &mut self,
        parameters: &[Parameter<'a>],
        i: usize,
        from: usize,
        links: Range<usize>,
        gradient: Source,
        steps: bool,
    ) -> Result<(), Refused> {
        let p = &parameters[i];
        let (working, program) = (p.working(), p.program);
        let compute = working.compute();
        let scalars = self.scalars_of(parameters, i, &links)?;
        let first = self.states.len();
        p.states(&links, from, &mut self.states);
        if let Some(norm) = p.norm(&links).map_err(refused(i))? {
            self.pending.push(Pending { job: self.jobs.len(), parameter: i, link: links.start });
            self.measures.push(Measure { norm, of: gradient, n: p.n, compute });
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
        Ok(())
    }

    /// Where the scalars of `links` of parameter `i` start: those of the one before, if it has the same rule and counts and
    /// waits for no norm. Equal counts stay equal while the plan is kept.
    fn scalars_of(&mut self, parameters: &[Parameter<'a>], i: usize, links: &Range<usize>) -> Result<usize, Refused> {
        let p = &parameters[i];
        if let (Some(q), Some(job)) = (i.checked_sub(1).map(|j| &parameters[j]), self.jobs.last())
            && std::ptr::eq(p.program, q.program)
            && p.counts == q.counts
            && p.working() == q.working()
            && p.program.links.iter().all(|l| l.reduction().is_none())
        {
            return Ok(job.scalars);
        }
        let start = self.scalars.len();
        for link in links.clone() {
            self.scalars.push(p.scalars(link).map_err(refused(i))?);
        }
        if p.has_steps() {
            self.renewed.push((i, links.clone(), start));
        }
        Ok(start)
    }

    /// Computes the norms that jobs wait for.
    #[inline(never)]
    unsafe fn measure(&mut self, parameters: &[Parameter<'a>], norms: &mut Norms) -> Result<(), Refused> {
        // SAFETY: the caller's promise.
        let norms = unsafe { norms.measure(&self.measures) }.map_err(|none| refused(0)(Reason::OutOfMemory(none)))?;
        for (pending, &norm) in self.pending.iter().zip(norms) {
            let scalars = parameters[pending.parameter].scalars_of_norm(pending.link, norm);
            self.scalars[self.jobs[pending.job].scalars] = scalars.map_err(refused(pending.parameter))?;
        }
        Ok(())
    }
}

/// The refusal of a step by this parameter's rule.
pub(super) fn refused(parameter: usize) -> impl FnOnce(Reason) -> Refused {
    move |reason| Refused { parameter, reason }
}
