//! The driver: all arrays of an update, each read once and written once.
//!
//! A [`Job`] is one array and the links that its gradient passes. A job of one link is one loop over the array. A job of
//! several is cut into tiles: a tile's gradient goes into a scratch tile in the first-level cache, each link turns it into
//! its `dx` and steps its own state, and the last `dx` is subtracted on the way out. 16-bit and foreign types are
//! converted at the edge of the tile. Jobs are cut into pieces of about equal bytes, and the pieces shared out to threads.
//!
//! Nothing here can fail: whoever makes a [`Plan`] has checked everything before.

use crate::dtype::{Compute, DType};
use crate::element::Element;
use crate::kernel::{Call, Mode, subtract};
use crate::pool;
use crate::reduce::{BLOCK, Norm};
use crate::rule::{Kernel, SLOTS, Scalars};
use crate::simd::{self, Level};
use num_complex::Complex;
use std::ptr;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements of a tile. From memory, 128 to 256 is best; larger tiles' bursts defeat the hardware's prefetching.
const TILE: usize = 256;
/// Below so many bytes of traffic no thread is woken: that costs more than it gains.
const PARALLEL_BYTES: usize = 8 << 20;
/// Bytes of traffic in a task of a thread.
const TASK_BYTES: usize = 2 << 20;

/// An array to read: its first element and type.
#[derive(Clone, Copy)]
pub struct Source {
    /// The first element.
    pub ptr: *const u8,
    /// The type of the elements.
    pub dtype: DType,
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

/// One array and the links that its gradient passes.
pub struct Job<'a> {
    /// The links.
    pub links: &'a [Box<dyn Kernel>],
    /// The scalars of each link.
    pub scalars: &'a [Scalars],
    /// The state arrays of the links, one after the other.
    pub states: &'a [State],
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

/// Bytes to copy unchanged.
#[derive(Clone, Copy)]
pub struct Copy {
    /// From here.
    pub from: *const u8,
    /// To here.
    pub to: *mut u8,
    /// So many.
    pub bytes: usize,
}

/// What is to be done, each part independent of the others.
#[derive(Default)]
pub struct Plan<'a> {
    /// Arrays to step.
    pub jobs: Vec<Job<'a>>,
    /// Arrays to copy.
    pub copies: Vec<Copy>,
}

// SAFETY: the pointers of a plan are to memory that its maker keeps alive and untouched until the plan has run, and no
// two parts of it write to the same place: that is what `Plan::run` asks for.
unsafe impl Sync for Plan<'_> {}
// SAFETY: as above.
unsafe impl Send for Plan<'_> {}

#[derive(Clone, Copy)]
enum Piece {
    Job { job: usize, start: usize, end: usize },
    Copy { copy: usize, start: usize, end: usize },
}

impl Plan<'_> {
    /// Does it all.
    ///
    /// # Safety
    /// The pointers are aligned and valid for their `n` elements (or bytes); nothing that is written is read or written
    /// by anyone else meanwhile; nothing written overlaps anything else in the plan, except that `y` may be `x`, a state's
    /// `to` its `from`, and `dx` the gradient, of the same job.
    pub unsafe fn run(&self) {
        let level = simd::level();
        let total = self.jobs.iter().map(|j| j.n * j.traffic()).sum::<usize>()
            + self.copies.iter().map(|c| 2 * c.bytes).sum::<usize>();
        let threads = if total < PARALLEL_BYTES { 1 } else { pool::threads() };
        if threads == 1 {
            for job in &self.jobs {
                // SAFETY: the caller's promise.
                unsafe { job.run(0, job.n, level) };
            }
            for copy in &self.copies {
                // SAFETY: the caller's promise.
                unsafe { ptr::copy_nonoverlapping(copy.from, copy.to, copy.bytes) };
            }
            return;
        }
        let pieces = self.pieces();
        let tasks = self.tasks(&pieces);
        pool::run(threads, tasks.len() - 1, &|i| {
            for &piece in &pieces[tasks[i]..tasks[i + 1]] {
                // SAFETY: the caller's promise; the pieces are disjoint parts of the plan.
                unsafe { self.piece(piece, level) };
            }
        });
    }

    /// The plan cut into pieces of at most [`TASK_BYTES`].
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (job, j) in self.jobs.iter().enumerate() {
            let step = (TASK_BYTES / j.traffic()).max(TILE) / TILE * TILE;
            for start in (0..j.n).step_by(step) {
                pieces.push(Piece::Job { job, start, end: j.n.min(start + step) });
            }
        }
        for (copy, c) in self.copies.iter().enumerate() {
            for start in (0..c.bytes).step_by(TASK_BYTES / 2) {
                pieces.push(Piece::Copy { copy, start, end: c.bytes.min(start + TASK_BYTES / 2) });
            }
        }
        pieces
    }

    /// Where in `pieces` each task starts, and the end: tasks of about [`TASK_BYTES`].
    fn tasks(&self, pieces: &[Piece]) -> Vec<usize> {
        let (mut starts, mut bytes) = (vec![0], 0);
        for (i, piece) in pieces.iter().enumerate() {
            if bytes >= TASK_BYTES {
                starts.push(i);
                bytes = 0;
            }
            bytes += match *piece {
                Piece::Job { job, start, end } => (end - start) * self.jobs[job].traffic(),
                Piece::Copy { start, end, .. } => 2 * (end - start),
            };
        }
        starts.push(pieces.len());
        starts
    }

    unsafe fn piece(&self, piece: Piece, level: Level) {
        // SAFETY: the caller's promise.
        unsafe {
            match piece {
                Piece::Job { job, start, end } => self.jobs[job].run(start, end, level),
                Piece::Copy { copy, start, end } => {
                    let c = self.copies[copy];
                    ptr::copy_nonoverlapping(c.from.add(start), c.to.add(start), end - start);
                }
            }
        }
    }
}

impl Job<'_> {
    /// Bytes read and written for an element.
    fn traffic(&self) -> usize {
        let sinks = self.y.map_or(0, |y| y.dtype.size()) + self.rounded.map_or(0, |r| r.dtype.size());
        let states: usize = self.states.iter().map(|s| 2 * s.size).sum();
        let dx = self.dx.map_or(0, |_| self.compute.dtype().size());
        self.gradient.dtype.size() + self.x.dtype.size() + sinks + states + dx
    }

    /// Steps elements `start..end`.
    unsafe fn run(&self, start: usize, end: usize, level: Level) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.is_lone() {
                return self.lone(start, end, level);
            }
            match self.compute {
                Compute::F32 => self.tiles::<f32>(start, end, level),
                Compute::F64 => self.tiles::<f64>(start, end, level),
                Compute::C64 => self.tiles::<Complex<f32>>(start, end, level),
                Compute::C128 => self.tiles::<Complex<f64>>(start, end, level),
            }
        }
    }

    /// Whether one loop over the arrays as they are does it all.
    fn is_lone(&self) -> bool {
        let dtype = self.compute.dtype();
        self.links.len() == 1
            && self.y.is_some()
            && self.rounded.is_none()
            && self.dx.is_none()
            && self.x.dtype == dtype
            && self.gradient.dtype == dtype
    }

    unsafe fn lone(&self, start: usize, end: usize, level: Level) {
        let Some(y) = self.y else { return };
        let at = start * self.compute.dtype().size();
        let (mut s, mut o) = ([ptr::null_mut(); SLOTS], [ptr::null_mut(); SLOTS]);
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let in_place = ptr::eq(self.x.ptr, y.ptr);
            for (i, state) in self.states.iter().enumerate() {
                s[i] = state.from.add(start * state.size);
                o[i] = state.to.add(start * state.size);
                if in_place && s[i] != o[i] {
                    // A pure step of an array that goes through a copy: the state goes to a new place all the same.
                    ptr::copy_nonoverlapping(s[i], o[i], (end - start) * state.size);
                    s[i] = o[i];
                }
            }
            let call = Call {
                mode: if in_place { Mode::InPlace } else { Mode::Pure },
                n: end - start,
                k: &self.scalars[0],
                x: self.x.ptr.add(at).cast_mut(),
                y: y.ptr.add(at),
                g: self.gradient.ptr.add(at).cast_mut(),
                s,
                o,
            };
            self.links[0].run(self.compute, level, &call);
        }
    }

    unsafe fn tiles<T: Element>(&self, start: usize, end: usize, level: Level) {
        let (mut d, mut x) = ([T::ZERO; TILE], [T::ZERO; TILE]);
        for at in (start..end).step_by(TILE) {
            let n = TILE.min(end - at);
            // SAFETY: the caller's promise; `at..at + n` lies within the arrays.
            unsafe { self.tile(at, &mut d[..n], &mut x[..n], level) };
        }
    }

    /// Steps the elements from `at` on for which there is room in the scratch tiles `d` and `x`.
    unsafe fn tile<T: Element>(&self, at: usize, d: &mut [T], x: &mut [T], level: Level) {
        let native = T::COMPUTE.dtype();
        let n = d.len();
        // SAFETY: the caller's promise; the scratch tiles overlap nothing.
        unsafe {
            T::load(self.gradient.dtype, self.gradient.ptr.add(at * self.gradient.dtype.size()), d);
            let mut from = self.x.ptr.add(at * self.x.dtype.size()).cast::<T>();
            if self.x.dtype != native {
                T::load(self.x.dtype, from.cast(), x);
                from = x.as_ptr();
            }
            self.links(at, from, d, level);
            if let Some(dx) = self.dx {
                T::store(native, d, dx.add(at * native.size()));
            }
            let Some(y) = self.y else { return };
            let to = y.ptr.add(at * y.dtype.size());
            let direct = self.rounded.is_none() && y.dtype == native && self.x.dtype == native;
            if direct {
                return subtract(level, from, d, to.cast());
            }
            if self.x.dtype == native {
                x.copy_from_slice(from_raw_parts(from, n));
            }
            subtract(level, x.as_ptr(), d, x.as_mut_ptr());
            T::store(y.dtype, x, to);
            if let Some(r) = self.rounded {
                // What is rounded is the master as it was stored, which may be narrower than the compute type.
                T::load(y.dtype, to, x);
                T::store(r.dtype, x, r.ptr.add(at * r.dtype.size()));
            }
        }
    }

    /// Sends the gradient tile `d` of the elements from `at` on through the links.
    unsafe fn links<T: Element>(&self, at: usize, x: *const T, d: &mut [T], level: Level) {
        let mut states = self.states.iter();
        for (link, k) in self.links.iter().zip(self.scalars) {
            let mut s = [ptr::null_mut(); SLOTS];
            // SAFETY: the caller's promise.
            unsafe {
                for (s, state) in s.iter_mut().zip(states.by_ref().take(link.slots().len())) {
                    *s = state.to.add(at * state.size);
                    if !ptr::eq(state.from, state.to) {
                        ptr::copy_nonoverlapping(state.from.add(at * state.size), *s, d.len() * state.size);
                    }
                }
                let call = Call {
                    mode: Mode::Link,
                    n: d.len(),
                    k,
                    x: x.cast_mut().cast(),
                    y: ptr::null_mut(),
                    g: d.as_mut_ptr().cast(),
                    s,
                    o: [ptr::null_mut(); SLOTS],
                };
                link.run(T::COMPUTE, level, &call);
            }
        }
    }
}

/// A norm to compute.
#[derive(Clone, Copy)]
pub struct Measure {
    /// Which.
    pub norm: Norm,
    /// Of this array,
    pub of: Source,
    /// which has so many elements.
    pub n: usize,
    /// The type in which moduli are taken.
    pub compute: Compute,
}

// SAFETY: the pointer is only read, from memory that the maker keeps alive and unwritten: `measure` asks for that.
unsafe impl Sync for Measure {}
// SAFETY: as above.
unsafe impl Send for Measure {}

/// The norms of all arrays.
///
/// # Safety
/// The pointers are aligned, valid for their `n` elements, and nothing writes to them meanwhile.
#[must_use]
pub unsafe fn measure(measures: &[Measure]) -> Vec<f64> {
    const BLOCKS: usize = 64; // of a task: 256 Ki elements
    let level = simd::level();
    let mut tasks = Vec::new();
    let mut total = 0;
    for (i, m) in measures.iter().enumerate() {
        let blocks = m.n.div_ceil(BLOCK);
        tasks.extend((0..blocks).step_by(BLOCKS).map(|b| (i, b..blocks.min(b + BLOCKS), total)));
        total += blocks;
    }
    let partial: Vec<AtomicU64> = (0..total).map(|_| AtomicU64::new(0)).collect();
    let bytes: usize = measures.iter().map(|m| m.n * m.of.dtype.size()).sum();
    let threads = if bytes < PARALLEL_BYTES { 1 } else { pool::threads() };
    pool::run(threads, tasks.len(), &|t| {
        let (i, blocks, first) = &tasks[t];
        for b in blocks.clone() {
            // SAFETY: the caller's promise; the block lies within the array.
            let value = unsafe { measures[*i].block(b, level) };
            partial[first + b].store(value.to_bits(), Ordering::Relaxed);
        }
    });
    let partial: Vec<f64> = partial.into_iter().map(|p| f64::from_bits(p.into_inner())).collect();
    let mut rest = &partial[..];
    let norms = measures.iter().map(|m| {
        let (blocks, tail) = rest.split_at(m.n.div_ceil(BLOCK));
        rest = tail;
        m.norm.finish(blocks)
    });
    norms.collect()
}

impl Measure {
    unsafe fn block(&self, b: usize, level: Level) -> f64 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.compute {
                Compute::F32 => self.typed::<f32>(b, level),
                Compute::F64 => self.typed::<f64>(b, level),
                Compute::C64 => self.typed::<Complex<f32>>(b, level),
                Compute::C128 => self.typed::<Complex<f64>>(b, level),
            }
        }
    }

    unsafe fn typed<T: Element>(&self, b: usize, level: Level) -> f64 {
        let n = BLOCK.min(self.n - b * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.of.ptr.add(b * BLOCK * self.of.dtype.size());
            if self.of.dtype == T::COMPUTE.dtype() {
                return self.norm.block(level, from_raw_parts(at.cast::<T>(), n));
            }
            let mut scratch = [T::ZERO; BLOCK];
            T::load(self.of.dtype, at, &mut scratch[..n]);
            self.norm.block(level, &scratch[..n])
        }
    }
}

/// Fills `n` elements of type `dtype` at `to` with `value`, rounded.
///
/// # Safety
/// `to` is aligned, valid for that many elements, and nobody else's.
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
