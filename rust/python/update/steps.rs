//! The parameters of an update as the planner sees them, while their arrays are open.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::loops::dtype::DType;
use crate::memory::buffer::Buffer;
use crate::memory::placement::Streams;
use crate::memory::reserve::Reserve;
use crate::program::Program;
use crate::program::contract::Hyper;
use crate::python::array::access::Pointers;
use crate::python::array::{Layout, MemoryPart, View};
use crate::python::leaf::{Inner, Leaf, Moments};
use crate::step::job::{Source, State};
use crate::step::planner::Planner;
use crate::step::transfer::Transfer;
use crate::step::walker::{Elsewhere, Progress};
use crate::step::{Goal, Outcome, Parameter, Refused};

/// One parameter's step, as plain data.
pub struct Step<'a> {
    /// The parameter's leaf.
    pub leaf: &'a Leaf,
    /// What that holds.
    pub inner: &'a Inner,
    /// The hyper-parameters of its links at this step, where a function in Python has said what they are.
    pub given: Option<&'a [Hyper]>,
    /// The number of its array; its gradient's is the next one.
    pub array: usize,
    /// The copy through which it is stepped, if it does not lie as the leaf says.
    pub through: Option<Box<Through<'a>>>,
    /// The gradient; `None` where there is no step.
    pub gradient: Option<Incoming<'a>>,
    /// Where the results go.
    pub target: Target<'a>,
    /// What the step was, once it is done.
    pub outcome: Outcome,
}

/// A gradient of an open step.
pub struct Incoming<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Where it is copied to first, if it is.
    pub copy: Option<&'a MemoryPart>,
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
    pub x: MemoryPart,
    /// How that lies there: as the old one did.
    pub layout: Arc<Layout>,
    /// For the state arrays.
    pub slots: SmallVec<[MemoryPart; 2]>,
}

/// Where the results of a step go.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// To the parameter and the state.
    Place,
    /// To new memory.
    Fresh(&'a Fresh),
    /// `dx` to new memory, in the compute type; the state to its place.
    Direction(&'a MemoryPart),
}

impl Step<'_> {
    fn len(&self) -> usize {
        self.leaf.layout.len
    }

    /// The parameter's old values, in the leaf's order.
    fn from(&self, arrays: Pointers<'_>) -> *mut u8 {
        self.through.as_ref().map_or_else(|| arrays.of(self.array), |through| through.copy.ptr())
    }

    /// Where its gradient is read.
    #[inline]
    fn gradient_at(&self, arrays: Pointers<'_>) -> Option<*mut u8> {
        self.gradient.as_ref().map(|g| g.copy.map_or_else(|| arrays.of(self.array + 1), |copy| copy.ptr))
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

    /// Copies what the step reads and other threads might change.
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
        let Some(through) = &self.through else { return };
        let (to, strides): (_, Strides) = match &self.target {
            Target::Place => (arrays.of(self.array), through.view.strides[..].into()),
            Target::Fresh(fresh) => (fresh.x.ptr, self.in_bytes(&fresh.layout)),
            Target::Direction(_) => return,
        };
        let lies = match &self.target {
            Target::Fresh(fresh) => self.lands_as_it_is(&fresh.layout),
            _ => !self.outcome.steps,
        };
        if !lies {
            let own = self.in_bytes(&self.leaf.layout);
            // SAFETY: as above; the copy has the leaf's order and this machine's byte order.
            unsafe { self.transfer((through.copy.ptr().cast_const(), &own), (to, &strides), through.view.swapped) };
        }
    }
}

/// Distances in bytes.
type Strides = SmallVec<[isize; 4]>;

/// A step of a compiled rule while its arrays are open.
#[derive(Clone, Copy)]
struct Opened<'s, 'a> {
    step: &'s Step<'a>,
    arrays: Pointers<'s>,
    moments: &'a Moments,
}

impl<'a> Parameter<'a> for Opened<'_, 'a> {
    fn program(&self) -> &'a Program {
        &self.moments.program
    }

    fn given(&self) -> Option<&'a [Hyper]> {
        self.step.given
    }

    #[inline]
    fn counts(&self) -> &[u64] {
        &self.moments.counts
    }

    fn dtype(&self) -> DType {
        self.step.leaf.dtype
    }

    fn elements(&self) -> usize {
        self.step.len()
    }

    #[inline]
    fn gradient(&self) -> Option<Source> {
        let dtype = self.step.gradient.as_ref()?.dtype;
        self.step.gradient_at(self.arrays).map(|ptr| Source { ptr: ptr.cast_const(), dtype })
    }

    fn x(&self) -> *mut u8 {
        self.step.from(self.arrays)
    }

    #[inline]
    fn goal(&self) -> Goal {
        match self.step.target {
            Target::Direction(part) if self.moments.program.lands() => Goal::Landing(part.ptr),
            Target::Direction(part) => Goal::Direction(part.ptr),
            _ => Goal::Parameter(self.step.to(self.arrays)),
        }
    }

    #[inline]
    fn slot(&self, i: usize) -> State {
        let slot = &self.moments.slots[i];
        let to = if let Target::Fresh(fresh) = self.step.target { fresh.slots[i].ptr } else { slot.place.ptr };
        State { from: slot.place.ptr, to, size: slot.dtype.size() }
    }

    fn streams(&self) -> Streams {
        let gradient = self.step.gradient_at(self.arrays).map(|at| at as usize);
        let mut streams = self.step.inner.streams(self.x() as usize, gradient);
        if let Target::Fresh(fresh) = self.step.target {
            let slots = fresh.slots.iter().zip(self.moments.program.loops());
            slots.for_each(|(slot, link)| streams.add(slot.ptr as usize, link));
        }
        streams
    }
}

impl<'a> Step<'a> {
    /// As the planner sees it.
    #[inline]
    fn opened<'s>(&'s self, arrays: Pointers<'s>) -> Opened<'s, 'a> {
        Opened { step: self, arrays, moments: &self.inner.moments }
    }
}

/// Begins to take `steps`, or goes on with that where `planner` has come to rules of the user's own, if there are `answers` of
/// theirs. Once the plan is ready, all steps are taken, as [`finish`] does, unless there is something to be said of them first:
/// `waits`, or steps that were skipped.
///
/// # Safety
/// `arrays` are those that the steps name, and open; the guards that the steps come from are held, as writers' where results
/// go to their place; the memory of the targets, copies and answers is used by nothing else.
pub unsafe fn go_on<'a>(
    steps: &mut [Step<'a>],
    answers: &mut Vec<(Elsewhere, Option<Source>)>,
    arrays: Pointers<'_>,
    planner: &mut Planner<'a>,
    counts: &mut Vec<u64>,
    waits: bool,
) -> Result<Progress, Refused> {
    let all = &*steps;
    let open = |i: usize| all[i].opened(arrays);
    // SAFETY: all arrays are open: aligned, gapless, of these lengths, writable, disjoint, and kept alive by whoever has
    // opened them, whose guards keep other updates out. Gradients that shared memory with them were copied.
    let progress = unsafe {
        if answers.is_empty() {
            all.iter().for_each(|step| step.gather(arrays));
            planner.plan(all.len(), open)?
        } else {
            for (call, answer) in answers.drain(..) {
                planner.answer(&call, &open(call.parameter), answer)?;
            }
            planner.go_on(open)?
        }
    };
    if progress == Progress::Ready && !waits && planner.skips.is_empty() {
        // SAFETY: the caller's promise.
        unsafe { finish(steps, arrays, planner, counts)? };
    }
    Ok(progress)
}

/// Takes all steps of a plan that is ready. `counts` gets those of all steps after them, one after the other, where they do
/// not follow from the outcomes.
///
/// # Safety
/// As for [`go_on`].
pub unsafe fn finish<'a>(
    steps: &mut [Step<'a>],
    arrays: Pointers<'_>,
    planner: &mut Planner<'a>,
    counts: &mut Vec<u64>,
) -> Result<(), Refused> {
    if planner.has_asked() {
        // What is written by now is not seen outside.
        counts.make_room(steps.iter().map(|step| step.inner.moments.counts.len()).sum())?;
    }
    // SAFETY: the caller's promise.
    unsafe { planner.run() };
    let mut moves = false;
    for (step, &outcome) in steps.iter_mut().zip(&planner.outcomes) {
        if step.through.is_some() {
            (moves, step.outcome) = (true, outcome);
        }
    }
    if planner.has_asked() {
        let mut known = 0;
        for (i, step) in steps.iter().enumerate() {
            let (opened, start) = (step.opened(arrays), counts.len());
            counts.extend_from_slice(opened.counts());
            planner.advance(i, &opened, &mut counts[start..], &mut known);
        }
    }
    if moves {
        // SAFETY: the caller's promise.
        steps.iter().for_each(|step| unsafe { step.land(arrays) });
    }
    Ok(())
}
