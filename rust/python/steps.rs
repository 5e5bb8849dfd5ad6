//! The parameters of an update as the planner sees them, while their arrays are open.

use std::sync::Arc;

use smallvec::SmallVec;

use super::array::access::Pointers;
use super::array::{Layout, Place as Part, View};
use super::leaf::{Counts, Inner, Leaf, Moments, Slot};
use crate::buffer::Buffer;
use crate::dtype::DType;
use crate::job::{Source, State};
use crate::placement::Streams;
use crate::program::Program;
use crate::rule::Hyper;
use crate::step::{Goal, Outcome, Parameter, Planner, Refused, Skip};
use crate::transfer::Transfer;

/// One parameter's step, as plain data.
pub struct Step<'a> {
    /// The parameter's leaf.
    pub leaf: &'a Leaf,
    /// What that holds.
    pub inner: &'a Inner,
    /// The hyper-parameters of its links at this step, where a function in Python has said what they are.
    pub given: Option<&'a [Hyper]>,
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
    /// What the step was, once it is done.
    pub outcome: Outcome,
    /// The counts after it, where some rule of the update has asked about gradients: else they follow from the outcome.
    pub counts: Option<Counts>,
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
            _ => !self.outcome.steps,
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

/// A step of a compiled rule while its arrays are open.
#[derive(Clone, Copy)]
struct Opened<'s, 'a> {
    step: &'s Step<'a>,
    arrays: Pointers<'s>,
    program: &'a Program,
    slots: &'a [Slot],
    counts: &'a [u64],
}

impl<'a> Parameter<'a> for Opened<'_, 'a> {
    fn program(&self) -> &'a Program {
        self.program
    }

    fn given(&self) -> Option<&'a [Hyper]> {
        self.step.given
    }

    #[inline]
    fn counts(&self) -> &[u64] {
        self.counts
    }

    fn dtype(&self) -> DType {
        self.step.leaf.dtype
    }

    fn len(&self) -> usize {
        self.step.len()
    }

    #[inline]
    fn gradient(&self) -> Option<Source> {
        let dtype = self.step.gradient.as_ref()?.dtype;
        // A rule in Python has made its step already.
        let is_ours = matches!(self.step.inner.moments, Moments::Compiled { .. });
        self.step.gradient_at(self.arrays).filter(|_| is_ours).map(|ptr| Source { ptr: ptr.cast_const(), dtype })
    }

    fn x(&self) -> *mut u8 {
        self.step.from(self.arrays)
    }

    #[inline]
    fn goal(&self) -> Goal {
        match self.step.target {
            Target::Direction(part) if self.program.lands() => Goal::Landing(part.ptr),
            Target::Direction(part) => Goal::Direction(part.ptr),
            _ if self.step.made.is_some() => Goal::Parameter(self.x()), // it is copied from there later
            _ => Goal::Parameter(self.step.to(self.arrays)),
        }
    }

    #[inline]
    fn slot(&self, i: usize) -> State {
        let slot = &self.slots[i];
        let to = if let Target::Fresh(fresh) = self.step.target { fresh.slots[i].ptr } else { slot.place.ptr };
        State { from: slot.place.ptr, to, size: slot.dtype.size() }
    }

    fn streams(&self) -> Streams {
        let gradient = self.step.gradient_at(self.arrays).map(|at| at as usize);
        let mut streams = self.step.inner.streams(self.x() as usize, gradient);
        if let Target::Fresh(fresh) = self.step.target {
            let slots = fresh.slots.iter().zip(self.program.loops());
            slots.for_each(|(slot, link)| streams.add(slot.ptr as usize, link));
        }
        streams
    }
}

/// The rule of a parameter that a rule in Python steps.
static NONE: Program = Program::empty();

impl<'a> Step<'a> {
    /// As the planner sees it.
    #[inline]
    fn opened<'s>(&'s self, arrays: Pointers<'s>) -> Opened<'s, 'a> {
        match &self.inner.moments {
            Moments::Compiled { program, slots, counts } => Opened { step: self, arrays, program, slots, counts },
            Moments::Own(_) => Opened { step: self, arrays, program: &NONE, slots: &[], counts: &[] },
        }
    }
}

/// Takes all of `steps`, or none; what rules have skipped.
///
/// # Safety
/// `arrays` are those that the steps name, and open; the guards that the steps come from are held, as writers' where results
/// go to their place; the memory of the targets and copies is nobody else's.
pub unsafe fn run(steps: &mut [Step<'_>], arrays: Pointers<'_>) -> Result<Vec<Skip>, Refused> {
    let mut moves = false;
    for step in &*steps {
        moves |= step.through.is_some() || step.made.is_some();
        // SAFETY: the caller's promise.
        unsafe { step.gather(arrays) };
    }
    let mut planner = Planner::default();
    let all = &*steps;
    // SAFETY: all arrays are open: aligned, gapless, of these lengths, writable, disjoint, and kept alive by whoever has
    // opened them, whose guards keep other updates out. Gradients that shared memory with them were copied.
    unsafe {
        planner.plan(all.len(), |i| all[i].opened(arrays))?;
        planner.run();
    }
    let asked = planner.has_asked();
    for (i, step) in steps.iter_mut().enumerate() {
        step.outcome = planner.outcomes[i];
        if asked {
            let opened = step.opened(arrays);
            let mut counts = Counts::from_slice(opened.counts);
            planner.advance(i, &opened, &mut counts);
            step.counts = Some(counts);
        }
    }
    if moves {
        // SAFETY: the caller's promise.
        steps.iter().for_each(|step| unsafe { step.land(arrays) });
    }
    Ok(std::mem::take(&mut planner.skips))
}
