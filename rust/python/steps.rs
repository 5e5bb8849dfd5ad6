//! From checked parameters to the driver's plan, while their arrays are open.
//!
//! Whatever may still be refused, because a norm is not finite or there is no memory, comes before the plan runs: nothing that
//! the caller can see has been written by then, and nothing fails from then on.

use std::ops::Range;
use std::sync::Arc;

use bumpalo::Bump;
use smallvec::SmallVec;

use super::arena::{List, list_in};
use super::array::access::Pointers;
use super::array::{Layout, Place as Part, View};
use super::course::{Course, Courses, Rule, scalars, slots_of};
use super::leaf::{Inner, Leaf, Moments};
use crate::buffer::Buffer;
use crate::chain::Program;
use crate::drive::{Copy, Plan};
use crate::dtype::{Compute, DType};
use crate::job::{Job, Sink, Source, State, Tables};
use crate::measure::{Measure, Norms};
use crate::placement::Streams;
use crate::reserve::{OutOfMemory, Put, Reserve, listed};
use crate::rule::{Rounding, Scalars};
use crate::transfer::Transfer;

/// One parameter's step, as plain data.
pub struct Step<'a> {
    /// The parameter's first place.
    pub place: usize,
    /// Its leaf.
    pub leaf: &'a Leaf,
    /// What that holds.
    pub inner: &'a Inner,
    /// The program of this step, where the leaf's own has schedules.
    pub scheduled: Option<&'a Program>,
    /// The number of its array; that of its gradient is the next one.
    pub array: usize,
    /// The copy through which it is stepped, if it does not lie as the leaf says.
    pub through: Option<Box<Through<'a>>>,
    /// The gradient; `None` where there is no step.
    pub gradient: Option<Incoming<'a>>,
    /// What a rule in Python made of the parameter: the number of that array, and how it lies.
    pub made: Option<(usize, &'a View)>,
    /// Where the results go.
    pub target: Target<'a>,
    /// How many links of the rule the step has reached, once it is done; `None` where there was no step.
    pub reach: Option<usize>,
    /// Whether it has reached the parameter.
    pub steps: bool,
}

/// A gradient of an open step.
pub struct Incoming<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Where it is copied to first, if it is.
    pub copy: Option<&'a Part>,
}

/// A parameter that does not lie as its leaf says.
pub struct Through<'a> {
    /// How it lies.
    pub view: &'a View,
    /// Memory for it, in the leaf's order.
    pub copy: Buffer,
}

/// New memory for what becomes of a parameter and its state.
pub struct Fresh {
    /// For the parameter.
    pub x: Part,
    /// How that lies there: as the old one did.
    pub layout: Arc<Layout>,
    /// For the state arrays.
    pub slots: SmallVec<[Part; 2]>,
}

/// Where the results of a step go.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// To the parameter and the state.
    Place,
    /// To new memory.
    Fresh(&'a Fresh),
    /// `dx` to new memory, in the compute type; the state to its place.
    Direction(&'a Part),
}

/// Why a step does not take place.
pub enum Refusal {
    /// A norm: at which place, and what is wrong.
    Norm(usize, String),
    /// There is no memory for so many bytes.
    Memory(usize),
}

impl From<OutOfMemory> for Refusal {
    fn from(none: OutOfMemory) -> Self {
        Self::Memory(none.bytes)
    }
}

impl Step<'_> {
    fn len(&self) -> usize {
        self.leaf.layout.len
    }

    /// The type in which the parameter is stepped: the master's, if there is one.
    fn working(&self) -> DType {
        match &self.inner.moments {
            Moments::Compiled { program, .. } => program.working(self.leaf.dtype),
            Moments::Own(_) => self.leaf.dtype,
        }
    }

    /// The parameter's old values, in the leaf's order.
    fn from(&self, arrays: Pointers<'_>) -> *mut u8 {
        self.through.as_ref().map_or_else(|| arrays.of(self.array), |through| through.copy.ptr())
    }

    /// Where its new values go, in the leaf's order.
    fn to(&self, arrays: Pointers<'_>) -> *mut u8 {
        match &self.target {
            Target::Fresh(fresh) if self.lands_as_it_is(&fresh.layout) => fresh.x.ptr,
            _ => self.from(arrays),
        }
    }

    /// Whether new memory with this layout has the elements as the step makes them.
    fn lands_as_it_is(&self, layout: &Layout) -> bool {
        self.through.as_ref().is_none_or(|through| !through.view.swapped && *layout == *self.leaf.layout)
    }

    /// The distances in bytes between neighbours of the parameter's array.
    fn strides(&self) -> Strides {
        match &self.through {
            Some(through) => through.view.strides[..].into(),
            None => self.in_bytes(&self.leaf.layout),
        }
    }

    fn in_bytes(&self, layout: &Layout) -> Strides {
        layout.strides.iter().map(|s| s.wrapping_mul(self.leaf.dtype.size() as isize)).collect()
    }

    /// Copies elements of the parameter's type; `swaps` if one side has the other byte order.
    ///
    /// # Safety
    /// As for [`Transfer::run`].
    unsafe fn transfer(&self, from: (*const u8, &[isize]), to: (*mut u8, &[isize]), swaps: bool) {
        let (size, parts) = (self.leaf.dtype.size(), if self.leaf.dtype.is_complex() { 2 } else { 1 });
        let swap = swaps.then_some(size / parts);
        // SAFETY: the caller's promise.
        unsafe { Transfer { shape: &self.leaf.layout.shape, from: from.1, to: to.1, size, swap }.run(from.0, to.0) }
    }

    /// Copies what the step reads and somebody else may have a hand on.
    ///
    /// # Safety
    /// The arrays are open, and nothing has been written.
    unsafe fn gather(&self, arrays: Pointers<'_>) {
        if let Some(through) = &self.through {
            let (view, own) = (through.view, self.in_bytes(&self.leaf.layout));
            let from = (arrays.of(self.array).cast_const(), &view.strides[..]);
            // SAFETY: the caller's promise; the copy is ours, and has room for the leaf's elements.
            unsafe { self.transfer(from, (through.copy.ptr(), &own), view.swapped) };
        }
        if let Some(Incoming { dtype, copy: Some(copy) }) = &self.gradient {
            // SAFETY: a gradient is gapless and of this size; the copy is new.
            unsafe { std::ptr::copy_nonoverlapping(arrays.of(self.array + 1), copy.ptr, self.len() * dtype.size()) };
        }
    }

    /// Copies what does not lie yet where it belongs.
    ///
    /// # Safety
    /// The arrays are open, and the step is done.
    unsafe fn land(&self, arrays: Pointers<'_>) {
        if self.through.is_none() && self.made.is_none() {
            return;
        }
        let (to, strides, swapped) = match &self.target {
            Target::Place => {
                let swapped = self.through.as_ref().is_some_and(|through| through.view.swapped);
                (arrays.of(self.array), self.strides(), swapped)
            }
            Target::Fresh(fresh) => {
                let swapped = self.through.as_ref().is_some_and(|through| through.view.swapped);
                (fresh.x.ptr, self.in_bytes(&fresh.layout), swapped)
            }
            Target::Direction(_) => return,
        };
        if let Some((made, view)) = self.made {
            let from = (arrays.of(made).cast_const(), &view.strides[..]);
            // SAFETY: the caller's promise; the rule's result was seen to have the parameter's shape and type.
            return unsafe { self.transfer(from, (to, &strides), view.swapped != swapped) };
        }
        let Some(through) = &self.through else { return };
        let lies = match &self.target {
            Target::Fresh(fresh) => self.lands_as_it_is(&fresh.layout),
            _ => !self.steps,
        };
        if !lies {
            let own = self.in_bytes(&self.leaf.layout);
            // SAFETY: as above; the copy has the leaf's order and this machine's byte order.
            unsafe { self.transfer((through.copy.ptr().cast_const(), &own), (to, &strides), swapped) };
        }
    }
}

/// Distances in bytes.
type Strides = SmallVec<[isize; 4]>;

/// Takes all of `steps`, or none.
///
/// # Safety
/// `arrays` are those that the steps name, and open; the guards that the steps come from are held, as writers' where results
/// go to their place; the memory of the targets and copies is nobody else's.
pub unsafe fn run(steps: &mut [Step<'_>], arrays: Pointers<'_>, arena: &Bump) -> Result<(), Refusal> {
    let n = steps.len();
    let mut moves = false;
    for step in &*steps {
        moves |= step.through.is_some() || step.made.is_some();
        // SAFETY: the caller's promise.
        unsafe { step.gather(arrays) };
    }
    let mut plan = Drafted::new(arena, n, arrays)?;
    for step in &mut *steps {
        let reached = plan.add(step)?;
        (step.reach, step.steps) = reached.map_or((None, false), |(reach, steps)| (Some(reach), steps));
    }
    plan.run()?;
    if moves {
        // SAFETY: the caller's promise.
        steps.iter().for_each(|step| unsafe { step.land(arrays) });
    }
    Ok(())
}

/// A step whose first link waits for the norm of its gradient.
struct Pending<'a> {
    job: usize,
    program: &'a Program,
    link: usize,
    place: usize,
    measure: Measure,
}

/// The plan of all steps, drafted.
struct Drafted<'b, 'a> {
    arrays: Pointers<'a>,
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

impl<'b, 'a> Drafted<'b, 'a> {
    /// No steps yet; room for `n`.
    fn new(arena: &'b Bump, n: usize, arrays: Pointers<'a>) -> Result<Self, OutOfMemory> {
        Ok(Self {
            arrays,
            jobs: list_in(n, arena)?,
            scalars: List::new_in(arena),
            states: list_in(2 * n, arena)?,
            copies: List::new_in(arena),
            pending: List::new_in(arena),
            kept: Vec::new(),
            courses: Courses::default(),
        })
    }

    /// Adds a step; without a gradient its values are carried over.
    ///
    /// How many links of its rule it reaches, and whether it reaches the parameter; `None` where there is no step.
    fn add(&mut self, step: &Step<'a>) -> Result<Option<(usize, bool)>, Refusal> {
        let Moments::Compiled { program, slots, counts } = &step.inner.moments else {
            if step.made.is_none() {
                self.carry_x(step)?;
            }
            return Ok(None);
        };
        let program = step.scheduled.unwrap_or(program);
        let rule = Rule { program, slots, counts };
        let Some(gradient) = &step.gradient else {
            self.carry_x(step)?;
            self.carry_slots(&rule, 0..slots.len(), step)?;
            return Ok(None);
        };
        let course = self.course(&rule, program.working(step.leaf.dtype))?;
        self.carry_slots(&rule, course.slots.1..slots.len(), step)?;
        if !course.steps {
            self.carry_x(step)?;
            self.carry_slots(&rule, 0..course.slots.0, step)?;
        }
        let ptr = gradient.copy.map_or_else(|| self.arrays.of(step.array + 1), |copy| copy.ptr).cast_const();
        let (mut source, mut links) = (Source { ptr, dtype: gradient.dtype }, 0..course.first);
        if links.end < course.reach {
            let mut streams = self.streams(step);
            // Room for the gradient between two segments.
            let bytes = step.len() * step.working().compute().dtype().size();
            let scratch = self.keep(bytes, streams.choose(None))?;
            while links.end < course.reach {
                source = self.staged(&rule, links.clone(), step, source, scratch, &mut streams)?;
                links = program.segment(links.end, course.reach);
            }
        }
        self.last_segment(&rule, course, links, step, source)?;
        Ok(Some((course.reach, course.steps)))
    }

    /// The course of a step in the type `working`: that of an entry before, if it has the same rule and counts.
    fn course(&mut self, rule: &Rule, working: DType) -> Result<Course, OutOfMemory> {
        self.courses.find(rule, working).map_or_else(|| self.new_course(rule, working), Ok)
    }

    #[cold]
    fn new_course(&mut self, rule: &Rule, working: DType) -> Result<Course, OutOfMemory> {
        let mut course = Course::new(rule, working);
        if !rule.program.links.iter().any(|l| l.reduction().is_some()) {
            course.scalars = Some(self.add_scalars(rule, 0..course.reach, course.compute)?);
        }
        self.courses.add(rule, working, course);
        Ok(course)
    }

    /// Where the scalars of `links`, which are added, start.
    fn add_scalars(&mut self, rule: &Rule, links: Range<usize>, compute: Compute) -> Result<usize, OutOfMemory> {
        let start = self.scalars.len();
        self.scalars.make_room(links.len())?;
        self.scalars.extend(scalars(rule, &links, compute, None));
        Ok(start)
    }

    /// When pure, copies a parameter that is not stepped.
    fn carry_x(&mut self, step: &Step) -> Result<(), OutOfMemory> {
        let (from, to) = (step.from(self.arrays), step.to(self.arrays));
        if from != to {
            self.copies.put(Copy { from, to, bytes: step.len() * step.leaf.dtype.size() })?;
        }
        Ok(())
    }

    /// When pure, copies state arrays that are not stepped.
    #[inline]
    fn carry_slots(&mut self, rule: &Rule, range: Range<usize>, step: &Step) -> Result<(), OutOfMemory> {
        let Target::Fresh(Fresh { slots: fresh, .. }) = step.target else { return Ok(()) };
        for i in range {
            let slot = &rule.slots[i];
            let bytes = step.len() * slot.dtype.size();
            self.copies.put(Copy { from: slot.place.ptr, to: fresh[i].ptr, bytes })?;
        }
        Ok(())
    }

    /// Where in a page a step reads and writes.
    fn streams(&self, step: &Step) -> Streams {
        let at = step.gradient.as_ref().map(|g| g.copy.map_or_else(|| self.arrays.of(step.array + 1), |copy| copy.ptr));
        let mut streams = step.inner.streams(step.from(self.arrays) as usize, at.map(|at| at as usize));
        if let (Target::Fresh(fresh), Moments::Compiled { program, .. }) = (step.target, &step.inner.moments) {
            let slots = fresh.slots.iter().zip(program.loops());
            slots.for_each(|(slot, link)| streams.add(slot.ptr as usize, link));
        }
        streams
    }

    fn keep(&mut self, bytes: usize, place: usize) -> Result<*mut u8, Refusal> {
        let buffer = Buffer::at(bytes, place).ok_or(Refusal::Memory(bytes))?;
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
        step: &Step,
        gradient: Source,
        scratch: *mut u8,
        streams: &mut Streams,
    ) -> Result<Source, Refusal> {
        let (n, compute) = (step.len(), step.working().compute());
        let norm = self.norm(rule, &links, step, gradient)?;
        let scalars = scalars(rule, &links, compute, norm);
        let mut states = Vec::new();
        for i in slots_of(rule.program, &links) {
            let (from, size) = (rule.slots[i].place.ptr, rule.slots[i].dtype.size());
            let to = match step.target {
                Target::Fresh(fresh) => fresh.slots[i].ptr,
                _ => {
                    let to = self.keep(n * size, streams.choose(None))?;
                    self.copies.put(Copy { from: to, to: from, bytes: n * size })?;
                    to
                }
            };
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
            x: self.old_x(rule, step),
            y: None,
            rounded: None,
            dx: Some(scratch),
        }];
        let plan = Plan::new(&jobs, tables, &[]);
        // SAFETY: `scratch` and the staged states are new; what is read is open, or the leaf's, whose guard keeps other
        // updates out.
        unsafe { plan.run() };
        Ok(Source { ptr: scratch, dtype: compute.dtype() })
    }

    /// The norm that the first of `links` waits for, if it does.
    fn norm(&self, rule: &Rule, links: &Range<usize>, step: &Step, gradient: Source) -> Result<Option<f64>, Refusal> {
        let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) else { return Ok(None) };
        let compute = step.working().compute();
        let wanted = Measure { norm: reduction.norm(), of: gradient, n: step.len(), compute };
        // SAFETY: the gradient is open or in `kept`, and nothing writes to it before the plan runs.
        let norm = unsafe { Norms::default().measure(&[wanted])?[0] };
        check(rule.program, links.start, norm, step.place)?;
        Ok(Some(norm))
    }

    /// Drafts the segment that reaches the parameter (unless the step ends in an accumulator).
    fn last_segment(
        &mut self,
        rule: &Rule<'a>,
        course: Course,
        links: Range<usize>,
        step: &Step,
        gradient: Source,
    ) -> Result<(), OutOfMemory> {
        let (n, compute) = (step.len(), course.compute);
        let fresh = if let Target::Fresh(fresh) = step.target { Some(&fresh.slots) } else { None };
        let slots = if links.start == 0 { course.slots.0..course.slots.1 } else { slots_of(rule.program, &links) };
        let first = self.states.len();
        for i in slots {
            let slot = &rule.slots[i];
            let to = fresh.map_or(slot.place.ptr, |fresh| fresh[i].ptr);
            self.states.put(State { from: slot.place.ptr, to, size: slot.dtype.size() })?;
        }
        let x = Sink { ptr: step.to(self.arrays), dtype: step.leaf.dtype };
        let master = rule.program.master.is_some().then(|| {
            let to = fresh.map_or(rule.slots[0].place.ptr, |fresh| fresh[0].ptr);
            Sink { ptr: to, dtype: step.working() }
        });
        let dx = if let Target::Direction(part) = step.target { Some(part.ptr) } else { None };
        let writes = course.steps && dx.is_none();
        let scalars = match course.scalars {
            Some(scalars) => scalars,
            None => {
                if let Some(reduction) = rule.program.links.get(links.start).and_then(|l| l.reduction()) {
                    let measure = Measure { norm: reduction.norm(), of: gradient, n, compute };
                    let (job, link) = (self.jobs.len(), links.start);
                    self.pending.put(Pending { job, program: rule.program, link, place: step.place, measure })?;
                }
                self.add_scalars(rule, links.clone(), compute)?
            }
        };
        self.jobs.put(Job {
            links: &rule.program.links[links],
            scalars,
            states: first..self.states.len(),
            n,
            compute,
            gradient,
            x: self.old_x(rule, step),
            y: writes.then_some(master.unwrap_or(x)),
            rounded: master.filter(|_| writes).map(|_| x),
            dx: dx.filter(|_| course.steps),
        })
    }

    /// Computes the norms, then runs the plan, which nothing can stop.
    fn run(&mut self) -> Result<(), Refusal> {
        if !self.pending.is_empty() {
            self.measure()?;
        }
        let tables = Tables { scalars: &self.scalars, states: &self.states };
        let plan = Plan::new(&self.jobs, tables, &self.copies);
        // SAFETY: all arrays are open: aligned, gapless, of these lengths, writable, disjoint, and kept alive by whoever has
        // opened them, whose guards keep other updates out. Gradients that shared memory with them were copied.
        unsafe { plan.run() };
        Ok(())
    }

    fn measure(&mut self) -> Result<(), Refusal> {
        let (measures, mut norms): (Vec<Measure>, _) =
            (listed(self.pending.iter().map(|p| p.measure))?, Norms::default());
        // SAFETY: the gradients are open or in `kept`; nothing has been written yet.
        let norms = unsafe { norms.measure(&measures)? };
        for (pending, &norm) in self.pending.iter().zip(norms) {
            check(pending.program, pending.link, norm, pending.place)?;
            if let Some(reduction) = pending.program.links[pending.link].reduction() {
                let job = &self.jobs[pending.job];
                self.scalars[job.scalars] = reduction.scalars(norm, Rounding::of(job.compute));
            }
        }
        Ok(())
    }

    /// The old values that a step starts from: the master copy's, if there is one.
    fn old_x(&self, rule: &Rule, step: &Step) -> Source {
        match rule.program.master {
            Some(_) => Source { ptr: rule.slots[0].place.ptr, dtype: step.working() },
            None => Source { ptr: step.from(self.arrays), dtype: step.leaf.dtype },
        }
    }
}

fn check(program: &Program, link: usize, norm: f64, place: usize) -> Result<(), Refusal> {
    let reason = program.links[link].reduction().and_then(|r| r.refuse(norm));
    reason.map_or(Ok(()), |reason| Err(Refusal::Norm(place, reason)))
}
