//! Jobs of several links, or of types that are converted at the edge: they run a tile at a time.

use super::job::{FAR_TILE, Job, LoopOptions, State, TILE, Tables};
use crate::loops::dtype::Compute;
use crate::loops::element::Element;
use crate::loops::kernel::{Call, Mode};
use crate::loops::simd::{Level, per_level};
use crate::loops::stream::{ahead, stream};
use crate::program::contract::{Kernel, SCALARS, SLOTS, Scalars, narrow};
use std::mem::MaybeUninit;
use std::ptr;
use std::slice::{from_raw_parts, from_raw_parts_mut};

impl Job<'_> {
    /// Steps elements `start..end`, a tile at a time.
    ///
    /// # Safety
    /// As for [`super::drive::Plan::run`].
    // Apart from the one loop of `lone`, which needs no room for tiles on the stack.
    #[inline(never)]
    pub(super) unsafe fn tiles<T: Element>(&self, tables: Tables, start: usize, end: usize, options: LoopOptions) {
        let mut scratch = Scratch::<T>::new();
        let tile = if options.far { FAR_TILE } else { TILE };
        let (mut at, mut n) = (start, self.head(start, end));
        while at < end {
            if n > 0 {
                // SAFETY: the caller's promise; `at..at + n` lies within the arrays.
                unsafe { self.tile(tables, at, n, &mut scratch, options) };
            }
            (at, n) = (at + n, tile.min(end - at - n));
        }
    }

    /// Steps `n` elements from `at` on, for which there is room in a tile.
    unsafe fn tile<T: Element>(
        &self,
        tables: Tables,
        at: usize,
        n: usize,
        scratch: &mut Scratch<T>,
        options: LoopOptions,
    ) {
        let native = T::COMPUTE.dtype();
        let strips = scratch.strips();
        let (d, x) = (&mut scratch.d[..n], &mut scratch.x[..n]);
        // SAFETY: the caller's promise; the scratch tiles overlap nothing.
        unsafe {
            let gradient = self.gradient.ptr.add(at * self.gradient.dtype.size());
            if self.is_scaled::<T>() {
                // While it is loaded, which saves a pass over the tile.
                let k = narrow(&tables.scalars[self.scalars]);
                scale(options.level, k, from_raw_parts(gradient.cast(), n), d);
            } else {
                T::load(self.gradient.dtype, gradient, d);
            }
            if options.far {
                self.gradient.ask(at + FAR_TILE);
            }
            let mut from = self.x.ptr.add(at * self.x.dtype.size()).cast::<T>();
            if self.x.dtype != native {
                if options.far {
                    self.x.ask(at + FAR_TILE);
                }
                T::load(self.x.dtype, from.cast(), x);
                from = x.as_ptr();
            }
            let y = self.y.filter(|_| self.dx.is_none());
            let to = y.map_or(ptr::null_mut(), |y| y.ptr.add(at * y.dtype.size()));
            let land: *mut T = match y {
                None => ptr::null_mut(),
                Some(y) if y.dtype != native => x.as_mut_ptr(),
                Some(_) => to.cast(),
            };
            self.links(tables, at, from, d, land, strips, options);
            if let Some(dx) = self.dx {
                T::store(native, d, dx.add(at * native.size()));
            }
            let Some(y) = y else { return };
            if y.dtype != native {
                T::store(y.dtype, from_raw_parts(land, n), to);
            }
            if let Some(r) = self.rounded {
                // What is rounded is the master as it was stored, which may be narrower than the compute type.
                T::load(y.dtype, to, x);
                T::store(r.dtype, x, r.ptr.add(at * r.dtype.size()));
            }
        }
    }

    /// Whether the first link does nothing but to scale a gradient that need not be converted.
    fn is_scaled<T: Element>(&self) -> bool {
        self.gradient.dtype == T::COMPUTE.dtype() && self.links.first().is_some_and(|link| link.scales)
    }

    /// Sends the gradient tile `d` of the elements from `at` on through the links. The last one subtracts its `dx` from `x`
    /// on the way to `land`, unless that is null: then `d` becomes `dx`. What is at `land` then goes through the links that
    /// decide where the parameter lands.
    #[expect(clippy::too_many_arguments, reason = "where a tile lies")]
    unsafe fn links<T: Element>(
        &self,
        tables: Tables,
        at: usize,
        x: *const T,
        d: &mut [T],
        land: *mut T,
        strips: [*mut u8; SLOTS],
        options: LoopOptions,
    ) {
        let ordinary = self.links.len() - self.lands;
        if ordinary == usize::from(self.is_scaled::<T>()) && !land.is_null() {
            // SAFETY: the caller's promise.
            unsafe { subtract(options.level, x, d, land) };
        }
        let mut states = &tables.states[self.states.clone()];
        let links = self.links.iter().zip(&tables.scalars[self.scalars..]).enumerate();
        for (i, (link, k)) in links.skip(usize::from(self.is_scaled::<T>())) {
            let (own, rest) = states.split_at(link.slots.len());
            states = rest;
            let last = i + 1 == ordinary && !land.is_null();
            let mode = if !last {
                Mode::Link
            } else if ptr::eq(x, land) {
                Mode::InPlace
            } else {
                Mode::Pure
            };
            let [s, o] = [[ptr::null_mut(); SLOTS]; 2];
            let (x, y, mut g) = (x.cast_mut().cast(), land.cast(), d.as_mut_ptr().cast());
            let mut x: *mut u8 = x;
            if i >= ordinary {
                (x, g) = (g, y);
            }
            // y is read back at once, so it stays in cache.
            let is_converted = self.y.is_some_and(|y| y.dtype != T::COMPUTE.dtype());
            let reread_y = self.lands > 0 || self.rounded.is_some() || is_converted;
            let call = Call { mode, n: d.len(), x, y, g, s, o, far: options.far, reread_y };
            // SAFETY: the caller's promise.
            unsafe { link_tile(link.kernel, T::COMPUTE, k, own, at, call, strips, options) };
        }
    }
}

/// Runs one link on a tile that starts at `at`; `call` lacks the states.
///
/// # Safety
/// As for [`crate::step::drive::Plan::run`], for the elements of the tile.
#[expect(clippy::too_many_arguments, reason = "where a tile lies")]
unsafe fn link_tile(
    link: &dyn Kernel,
    compute: Compute,
    k: &Scalars,
    states: &[State],
    at: usize,
    mut call: Call,
    strips: [*mut u8; SLOTS],
    options: LoopOptions,
) {
    if states.is_empty() {
        // SAFETY: the caller's promise.
        return unsafe { link.run(compute, options.level, k, &call) };
    }
    let moves = |state: &State| !ptr::eq(state.from, state.to);
    // SAFETY: the caller's promise; the strips overlap nothing and have room for a tile.
    unsafe {
        for (i, state) in states.iter().enumerate() {
            let (from, to) = (state.from.add(at * state.size), state.to.add(at * state.size));
            // A strip in between where a loop changes what is to go past the caches, and where a pure one would meet its own
            // input.
            let pure = call.mode == Mode::Pure;
            let new = if pure && !moves(state) || !pure && options.far && moves(state) { strips[i] } else { to };
            (call.s[i], call.o[i]) = (if pure { from } else { new }, new);
            if !pure && moves(state) {
                if options.far {
                    ahead(from.wrapping_add(FAR_TILE * state.size), call.n * state.size);
                }
                ptr::copy_nonoverlapping(from, new, call.n * state.size);
            }
        }
        link.run(compute, options.level, k, &call);
        leave_strips(states, at, &call, options);
    }
}

/// Brings states that a link has left in strips to where they belong.
///
/// # Safety
/// As for [`link_tile`].
unsafe fn leave_strips(states: &[State], at: usize, call: &Call, options: LoopOptions) {
    for (state, &from) in states.iter().zip(&call.o) {
        // SAFETY: the caller's promise; a strip overlaps nothing.
        unsafe {
            let (to, bytes) = (state.to.add(at * state.size), call.n * state.size);
            if ptr::eq(from, to) {
                continue;
            }
            if ptr::eq(state.from, state.to) {
                ptr::copy_nonoverlapping(from, to, bytes);
            } else {
                stream(options.level, from, to, bytes);
            }
        }
    }
}

/// Room for a tile of the gradient, of the parameter and of each state array, in the first-level cache. Modulo a page they start
/// far from each other, since one loop reads and writes them.
#[repr(C, align(64))]
struct Scratch<T: Copy> {
    d: [T; TILE],
    _behind_d: Gap,
    x: [T; TILE],
    strips: [Strip<T>; SLOTS],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Strip<T: Copy> {
    _before: Gap,
    tile: [MaybeUninit<T>; TILE],
}

/// With tiles of 2, 4 or 8 KiB all five then start 448 bytes or more from each other, modulo a page.
type Gap = [MaybeUninit<u8>; 832];

impl<T: Element> Scratch<T> {
    fn new() -> Self {
        let (gap, tile) = ([MaybeUninit::uninit(); size_of::<Gap>()], [MaybeUninit::uninit(); TILE]);
        let strips = [Strip { _before: gap, tile }; SLOTS];
        Self { d: [T::ZERO; TILE], _behind_d: gap, x: [T::ZERO; TILE], strips }
    }

    /// Where each strip starts.
    fn strips(&mut self) -> [*mut u8; SLOTS] {
        self.strips.each_mut().map(|strip| strip.tile.as_mut_ptr().cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::placement::{LINE, distance};
    use num_complex::Complex;

    fn starts<T: Element>() -> Vec<usize> {
        let mut scratch = Scratch::<T>::new();
        let strips = scratch.strips();
        [scratch.d.as_ptr() as usize, scratch.x.as_ptr() as usize]
            .into_iter()
            .chain(strips.map(|s| s as usize))
            .collect()
    }

    #[test]
    fn tiles_start_at_lines_far_from_each_other() {
        for starts in [starts::<f32>(), starts::<f64>(), starts::<Complex<f32>>(), starts::<Complex<f64>>()] {
            for (i, &a) in starts.iter().enumerate() {
                assert!(a.is_multiple_of(LINE));
                assert!(starts[..i].iter().all(|&b| distance(a, b) >= 448), "{starts:?}");
            }
        }
    }
}

per_level! {
    fn scale<T: Element>(k: [T::Real; SCALARS], g: &[T], d: &mut [T]) where [] {
        let [factor, rest, ..] = k;
        for (d, &g) in d.iter_mut().zip(g) {
            *d = g * factor * rest;
        }
    }
}

per_level! {
    fn subtract_in_place<T: Element>(x: &mut [T], d: &[T]) where [] {
        for (x, &d) in x.iter_mut().zip(d) {
            *x = *x - d;
        }
    }
}

per_level! {
    fn subtract_pure<T: Element>(x: &[T], d: &[T], y: &mut [T]) where [] {
        for ((y, &x), &d) in y.iter_mut().zip(x).zip(d) {
            *y = x - d;
        }
    }
}

/// `y = x - d`, where `y` may be `x`.
///
/// # Safety
/// Both are valid for `d.len()` aligned elements; they are equal or do not overlap, and neither overlaps `d`.
unsafe fn subtract<T: Element>(level: Level, x: *const T, d: &[T], y: *mut T) {
    let n = d.len();
    // SAFETY: the caller's promise.
    unsafe {
        if x == y {
            subtract_in_place(level, from_raw_parts_mut(y, n), d);
        } else {
            subtract_pure(level, from_raw_parts(x, n), d, from_raw_parts_mut(y, n));
        }
    }
}
