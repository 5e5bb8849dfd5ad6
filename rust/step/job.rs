//! One array and the links that its gradient passes.
//!
//! A job of one link is one loop over the array ([`Lone`]). A job of several is cut into tiles: a tile's gradient goes
//! into a scratch tile in the first-level cache, each link turns it into its `dx` and steps its own state, and the last `dx`
//! is subtracted on the way out ([`super::tiles`]). 16-bit and foreign types are converted at the edge of the tile.

use crate::loops::dtype::{Compute, DType};
use crate::loops::kernel::{Call, Mode};
use crate::loops::simd::Level;
use crate::loops::stream::ahead;
use crate::memory::placement::LINE;
use crate::program::Link;
use crate::program::contract::{Kernel, SLOTS, Scalars};
use num_complex::Complex;
use std::ops::Range;
use std::ptr;
use std::slice::from_raw_parts_mut;

/// Elements of a tile, at most. With fewer the calls show, with many more a tile's arrays crowd each other out.
pub const TILE: usize = 512;
/// Elements of a tile beyond the caches, where the next one is on its way meanwhile and needs room, too.
pub(super) const FAR_TILE: usize = 256;
const _: () = assert!(TILE.is_multiple_of(FAR_TILE), "a piece for a thread, cut by tiles, is of whole far ones");

/// An array to read: its first element and type.
#[derive(Clone, Copy)]
pub struct Source {
    /// The first element.
    pub ptr: *const u8,
    /// The type of the elements.
    pub dtype: DType,
}

impl Source {
    /// Asks for the far tile that starts at element `at`, which is about to be read.
    pub(super) fn ask(&self, at: usize) {
        ahead(self.ptr.wrapping_add(at * self.dtype.size()), FAR_TILE * self.dtype.size());
    }
}

/// An array to write: its first element and type.
#[derive(Clone, Copy)]
pub struct Sink {
    /// The first element.
    pub ptr: *mut u8,
    /// The type of the elements.
    pub dtype: DType,
}

/// A state array: where it is read and where its new values go. In place both are the same.
#[derive(Clone, Copy)]
pub struct State {
    /// The old values.
    pub from: *mut u8,
    /// The new values.
    pub to: *mut u8,
    /// Bytes of an element.
    pub size: usize,
}

/// The scalars and state arrays of all jobs of a plan.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// One set of scalars for each link.
    pub scalars: &'a [Scalars],
    /// One entry for each state array.
    pub states: &'a [State],
}

/// With fewer elements a loop is not worth a second one before it.
const HEAD: usize = 256;

/// How the loops of a plan run.
#[derive(Clone, Copy)]
pub struct LoopOptions {
    /// The instruction set.
    pub level: Level,
    /// Whether the arrays lie beyond the caches: results that do not replace what was read go past them, and of what a tile
    /// reads first, the next one is asked for.
    pub far: bool,
}

/// One array and the links that its gradient passes.
pub struct Job<'a> {
    /// The links.
    pub links: &'a [Link],
    /// How many of them, at the end, decide where the parameter lands.
    pub lands: usize,
    /// Where in [`Tables::scalars`] those of the links start.
    pub scalars: usize,
    /// Where in [`Tables::states`] the state arrays of the links stand, one after the other.
    pub states: Range<usize>,
    /// The number of elements.
    pub n: usize,
    /// The type in which the links compute.
    pub compute: Compute,
    /// The gradient.
    pub gradient: Source,
    /// The parameter, or its master copy.
    pub x: Source,
    /// Where `x - dx` goes; `None` where this step does not reach the parameter.
    pub y: Option<Sink>,
    /// Where `x - dx` goes besides, rounded: the parameter that has a master copy.
    pub rounded: Option<Sink>,
    /// Where `dx` goes, in the compute type. It may be the gradient.
    pub dx: Option<*mut u8>,
}

impl Job<'_> {
    /// Bytes read and written for an element.
    #[must_use]
    #[inline]
    pub fn traffic(&self, tables: Tables) -> usize {
        let sinks = self.y.map_or(0, |y| y.dtype.size()) + self.rounded.map_or(0, |r| r.dtype.size());
        let states: usize = tables.states[self.states.clone()].iter().map(|s| 2 * s.size).sum();
        let dx = self.dx.map_or(0, |_| self.compute.dtype().size());
        self.gradient.dtype.size() + self.x.dtype.size() + sinks + states + dx
    }

    /// Elements from `start` to the first place where a line of the cache starts in what is written; none if there is no such
    /// place. The other arrays, as far as they are ours or NumPy's, lie in their lines as that does
    /// ([`crate::memory::placement`]): from there on no vector of a whole line lies across two. In cache, those took a fifth
    /// to two fifths longer.
    #[inline]
    pub(super) fn head(&self, start: usize, end: usize) -> usize {
        let Some(y) = self.y.filter(|_| end - start >= HEAD) else { return 0 };
        let size = y.dtype.size();
        let first = (y.ptr as usize + start * size) % LINE;
        if first.is_multiple_of(size) { (LINE - first) % LINE / size } else { 0 }
    }
}

impl Job<'_> {
    /// Whether one loop over the arrays as they are does it all.
    pub(super) fn is_lone(&self, tables: Tables) -> bool {
        let dtype = self.compute.dtype();
        // A pure loop whose state stays where it is would meet its own input.
        let apart = || tables.states[self.states.clone()].iter().all(|s| !ptr::eq(s.from, s.to));
        self.links.len() == 1
            && self.lands == 0
            && self.y.is_some_and(|y| ptr::eq(y.ptr, self.x.ptr) || apart())
            && self.rounded.is_none()
            && self.dx.is_none()
            && self.x.dtype == dtype
            && self.gradient.dtype == dtype
    }

    /// Steps elements `start..end` of a lone job.
    ///
    /// # Safety
    /// As for [`super::drive::Plan::run`].
    pub(super) unsafe fn lone(&self, tables: Tables, start: usize, end: usize, options: LoopOptions) {
        let Some(y) = self.y else { return };
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let whole = start + self.head(start, end);
            if whole > start {
                self.lone_part(tables, y, start, whole, LoopOptions { far: false, ..options });
            }
            self.lone_part(tables, y, whole, end, options);
        }
    }

    unsafe fn lone_part(&self, tables: Tables, y: Sink, start: usize, end: usize, options: LoopOptions) {
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let mut call = self.call(tables, y, start, end);
            if call.mode == Mode::InPlace {
                for (i, state) in tables.states[self.states.clone()].iter().enumerate() {
                    if call.s[i] != call.o[i] {
                        // A pure step of an array that goes through a copy: the state goes to a new place all the same.
                        ptr::copy_nonoverlapping(call.s[i], call.o[i], call.n * state.size);
                        call.s[i] = call.o[i];
                    }
                }
            }
            call.far = options.far;
            self.links[0].kernel.run(self.compute, options.level, &tables.scalars[self.scalars], &call);
        }
    }

    /// The loop over elements `start..end`, near.
    #[inline(always)]
    unsafe fn call(&self, tables: Tables, y: Sink, start: usize, end: usize) -> Call {
        let at = start * self.compute.dtype().size();
        let (mut s, mut o) = ([ptr::null_mut(); SLOTS], [ptr::null_mut(); SLOTS]);
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            for (i, state) in tables.states[self.states.clone()].iter().enumerate() {
                (s[i], o[i]) = (state.from.add(start * state.size), state.to.add(start * state.size));
            }
            Call {
                mode: if ptr::eq(self.x.ptr, y.ptr) { Mode::InPlace } else { Mode::Pure },
                n: end - start,
                x: self.x.ptr.add(at).cast_mut(),
                y: y.ptr.add(at),
                g: self.gradient.ptr.add(at).cast_mut(),
                s,
                o,
                far: false,
                reread_y: false,
            }
        }
    }
}

/// A small pure job of this kind that is done again and again: what to call, found once.
pub struct Lone {
    link: &'static dyn Kernel,
    compute: Compute,
    /// Where in [`Tables::scalars`] those of the link stand.
    scalars: usize,
    call: Call,
}

impl Lone {
    /// The loop of `job`, if it is a lone one.
    ///
    /// # Safety
    /// The pointers of the job are valid for its `n` elements.
    pub unsafe fn new(job: &Job<'_>, tables: Tables) -> Option<Self> {
        // An empty array's pointer may be anything.
        let y = job.y.filter(|y| job.n > 0 && !ptr::eq(y.ptr, job.x.ptr) && job.is_lone(tables))?;
        // SAFETY: the caller's promise.
        let call = unsafe { job.call(tables, y, 0, job.n) };
        Some(Self { link: job.links[0].kernel, compute: job.compute, scalars: job.scalars, call })
    }

    /// Does it.
    ///
    /// # Safety
    /// As for [`crate::step::drive::Plan::run`].
    pub unsafe fn run(&self, scalars: &[Scalars], level: Level) {
        // SAFETY: the caller's promise.
        unsafe { self.link.run(self.compute, level, &scalars[self.scalars], &self.call) };
    }
}

/// Fills `n` elements of type `dtype` at `to` with `value`, rounded.
///
/// # Safety
/// `to` is aligned, valid for that many elements, and used by nothing else.
pub unsafe fn fill(to: *mut u8, dtype: DType, n: usize, value: f64) {
    // SAFETY: the caller's promise.
    unsafe {
        if value == 0.0 {
            return ptr::write_bytes(to, 0, n * dtype.size());
        }
        match dtype {
            DType::F32 => from_raw_parts_mut(to.cast::<f32>(), n).fill(value as f32),
            DType::F64 => from_raw_parts_mut(to.cast::<f64>(), n).fill(value),
            DType::C64 => from_raw_parts_mut(to.cast(), n).fill(Complex::new(value as f32, 0.0)),
            DType::C128 => from_raw_parts_mut(to.cast(), n).fill(Complex::new(value, 0.0)),
            DType::F16 | DType::BF16 => debug_assert!(false, "moments are never of 16 bits"),
        }
    }
}
