//! One array and the links that its gradient passes.
//!
//! A job of one link is one loop over the array. A job of several is cut into tiles: a tile's gradient goes into a scratch
//! tile in the first-level cache, each link turns it into its `dx` and steps its own state, and the last `dx` is
//! subtracted on the way out. 16-bit and foreign types are converted at the edge of the tile.

use crate::dtype::{Compute, DType};
use crate::element::Element;
use crate::kernel::{Call, Mode, subtract};
use crate::rule::{Kernel, SLOTS, Scalars};
use crate::simd::Level;
use crate::stream::stream;
use num_complex::Complex;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Elements of a tile. From memory, 128 to 256 is best; larger tiles' bursts defeat the hardware's prefetching.
pub const TILE: usize = 256;

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

/// The scalars and state arrays of all jobs of a plan.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// One set of scalars for each link.
    pub scalars: &'a [Scalars],
    /// One entry for each state array.
    pub states: &'a [State],
}

/// How the loops of a plan run.
#[derive(Clone, Copy)]
pub struct Way {
    /// The instruction set.
    pub level: Level,
    /// Whether results that do not replace what was read go past the caches.
    pub stream: bool,
}

/// One array and the links that its gradient passes.
pub struct Job<'a> {
    /// The links.
    pub links: &'a [Box<dyn Kernel>],
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
    pub fn traffic(&self, tables: Tables) -> usize {
        let sinks = self.y.map_or(0, |y| y.dtype.size()) + self.rounded.map_or(0, |r| r.dtype.size());
        let states: usize = tables.states[self.states.clone()].iter().map(|s| 2 * s.size).sum();
        let dx = self.dx.map_or(0, |_| self.compute.dtype().size());
        self.gradient.dtype.size() + self.x.dtype.size() + sinks + states + dx
    }

    /// Steps elements `start..end`.
    ///
    /// # Safety
    /// As for [`crate::drive::Plan::run`], for those elements.
    pub unsafe fn run(&self, tables: Tables, start: usize, end: usize, way: Way) {
        if start == end {
            return; // an empty array's pointer may be anything
        }
        // SAFETY: the caller's promise.
        unsafe {
            if self.is_lone() {
                return self.lone(tables, start, end, way);
            }
            match self.compute {
                Compute::F32 => self.tiles::<f32>(tables, start, end, way),
                Compute::F64 => self.tiles::<f64>(tables, start, end, way),
                Compute::C64 => self.tiles::<Complex<f32>>(tables, start, end, way),
                Compute::C128 => self.tiles::<Complex<f64>>(tables, start, end, way),
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

    unsafe fn lone(&self, tables: Tables, start: usize, end: usize, way: Way) {
        let Some(y) = self.y else { return };
        let at = start * self.compute.dtype().size();
        let (mut s, mut o) = ([ptr::null_mut(); SLOTS], [ptr::null_mut(); SLOTS]);
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let in_place = ptr::eq(self.x.ptr, y.ptr);
            for (i, state) in tables.states[self.states.clone()].iter().enumerate() {
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
                k: &tables.scalars[self.scalars],
                x: self.x.ptr.add(at).cast_mut(),
                y: y.ptr.add(at),
                g: self.gradient.ptr.add(at).cast_mut(),
                s,
                o,
            };
            if way.stream && !in_place {
                return self.streamed(tables, call, way.level);
            }
            self.links[0].run(self.compute, way.level, &call);
        }
    }

    /// As one call, but the results go past the caches, strip by strip.
    unsafe fn streamed(&self, tables: Tables, all: Call, level: Level) {
        let mut room = Strips::new();
        let strips = room.starts();
        let size = self.compute.dtype().size();
        let states = &tables.states[self.states.clone()];
        for at in (0..all.n).step_by(TILE) {
            let n = TILE.min(all.n - at);
            // SAFETY: the caller's promise; the strips overlap nothing and have room for a tile.
            unsafe {
                let mut call = Call { n, y: strips[SLOTS], ..all };
                (call.x, call.g) = (all.x.add(at * size), all.g.add(at * size));
                for (i, state) in states.iter().enumerate() {
                    call.s[i] = all.s[i].add(at * state.size);
                    call.o[i] = strips[i];
                }
                self.links[0].run(self.compute, level, &call);
                stream(level, call.y, all.y.add(at * size), n * size);
                for (i, state) in states.iter().enumerate() {
                    stream(level, call.o[i], all.o[i].add(at * state.size), n * state.size);
                }
            }
        }
    }

    unsafe fn tiles<T: Element>(&self, tables: Tables, start: usize, end: usize, way: Way) {
        let (mut d, mut x) = ([T::ZERO; TILE], [T::ZERO; TILE]);
        for at in (start..end).step_by(TILE) {
            let n = TILE.min(end - at);
            // SAFETY: the caller's promise; `at..at + n` lies within the arrays.
            unsafe { self.tile(tables, at, &mut d[..n], &mut x[..n], way) };
        }
    }

    /// Steps the elements from `at` on for which there is room in the scratch tiles `d` and `x`.
    unsafe fn tile<T: Element>(&self, tables: Tables, at: usize, d: &mut [T], x: &mut [T], way: Way) {
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
            self.links(tables, at, from, d, way);
            if let Some(dx) = self.dx {
                T::store(native, d, dx.add(at * native.size()));
            }
            let Some(y) = self.y else { return };
            let to = y.ptr.add(at * y.dtype.size());
            let direct = self.rounded.is_none() && y.dtype == native && self.x.dtype == native;
            if direct && way.stream && !ptr::eq(from, to.cast()) {
                subtract(way.level, from, d, x.as_mut_ptr());
                return stream(way.level, x.as_ptr().cast(), to, n * native.size());
            }
            if direct {
                return subtract(way.level, from, d, to.cast());
            }
            if self.x.dtype == native {
                x.copy_from_slice(from_raw_parts(from, n));
            }
            subtract(way.level, x.as_ptr(), d, x.as_mut_ptr());
            T::store(y.dtype, x, to);
            if let Some(r) = self.rounded {
                // What is rounded is the master as it was stored, which may be narrower than the compute type.
                T::load(y.dtype, to, x);
                T::store(r.dtype, x, r.ptr.add(at * r.dtype.size()));
            }
        }
    }

    /// Sends the gradient tile `d` of the elements from `at` on through the links.
    unsafe fn links<T: Element>(&self, tables: Tables, at: usize, x: *const T, d: &mut [T], way: Way) {
        let mut states = tables.states[self.states.clone()].iter();
        let mut room = Strips::new();
        let strips = room.starts();
        for (link, k) in self.links.iter().zip(&tables.scalars[self.scalars..]) {
            let own = states.as_slice();
            let own = &own[..link.slots().len()];
            states = states.as_slice()[own.len()..].iter();
            let streamed = |state: &State| way.stream && !ptr::eq(state.from, state.to);
            let mut s = [ptr::null_mut(); SLOTS];
            // SAFETY: the caller's promise; the strips overlap nothing and have room for a tile.
            unsafe {
                for (i, state) in own.iter().enumerate() {
                    s[i] = if streamed(state) { strips[i] } else { state.to.add(at * state.size) };
                    if !ptr::eq(state.from, state.to) {
                        ptr::copy_nonoverlapping(state.from.add(at * state.size), s[i], d.len() * state.size);
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
                link.run(T::COMPUTE, way.level, &call);
                for (i, state) in own.iter().enumerate().filter(|(_, state)| streamed(state)) {
                    stream(way.level, s[i], state.to.add(at * state.size), d.len() * state.size);
                }
            }
        }
    }
}

/// Room for a tile of each state array and of the parameter, in the first-level cache.
#[repr(align(64))]
struct Strips([MaybeUninit<u8>; (SLOTS + 1) * STRIP]);

/// Bytes of a tile of the largest type.
const STRIP: usize = TILE * 16;

impl Strips {
    fn new() -> Self {
        Self([MaybeUninit::uninit(); (SLOTS + 1) * STRIP])
    }

    /// Where each strip starts.
    fn starts(&mut self) -> [*mut u8; SLOTS + 1] {
        let first: *mut u8 = self.0.as_mut_ptr().cast();
        std::array::from_fn(|i| first.wrapping_add(i * STRIP))
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
