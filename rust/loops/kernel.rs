//! The loops over elements: one source for every rule, element type, instruction set and way of being called.
//!
//! A loop is a plain `for` over *separate* slice parameters into which the rule's formula is inlined: that is the form
//! that the compiler vectorises for every rule. In place and pure are two loops, since with one loop over pointers that
//! may be equal the compiler's overlap check fails in place and the loop runs one element at a time. Strides of the
//! state known only at run time, local blocks of lanes and constant trip counts were measured and lost.
//!
//! What a loop stores in a state is never subnormal: such numbers make some processors many times slower, and whether they
//! are kept depends on a mode of the processor. The comparison that makes them zero depends on nothing.
//!
//! Beyond the caches a pure loop is cut into parts of [`PART`] elements: before each it asks for all of it at once, and then its
//! results go past the caches from a strip in the first-level cache. In place, the processor's own fetching ahead is as good.

use super::element::Element;
use super::simd::{Level, per_level};
use super::stream::{ahead, stream};
use crate::memory::placement::Aligned;
use crate::program::contract::{Elementwise, SCALARS, SLOTS, Scalars, narrow};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Where a loop reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `x -= dx`; the state is replaced.
    InPlace,
    /// `y = x - dx`; the state is read from one place and written to another.
    Pure,
    /// `g` becomes `dx`, `x` is only read; the state is replaced.
    Link,
}

/// The arrays of one loop, all `n` elements long.
///
/// The pointers are aligned and valid for the loop's time; what [`Mode`] says is written is written by no other thread and
/// overlaps nothing, and what it says is only read is not written at all.
#[derive(Clone, Copy)]
pub struct Call {
    /// What to do.
    pub mode: Mode,
    /// The number of elements.
    pub n: usize,
    /// The parameter; written in place.
    pub x: *mut u8,
    /// The new parameter, when pure.
    pub y: *mut u8,
    /// The gradient; written as a link.
    pub g: *mut u8,
    /// The state; written unless pure.
    pub s: [*mut u8; SLOTS],
    /// The new state, when pure.
    pub o: [*mut u8; SLOTS],
    /// Whether the arrays lie beyond the caches: what is written when pure goes past them, but `y` if it is read `again`.
    pub far: bool,
    /// See [`Self::far`].
    pub reread_y: bool,
}

/// One element's state as a tuple, and the loops over arrays of it.
pub trait Columns<T: Element>: Copy {
    /// Runs the loop that `call` describes, with the scalars `k` of the step.
    ///
    /// # Safety
    /// `call` keeps what [`Call`] promises, and its pointers are to elements of `T` and of this tuple's types.
    unsafe fn run<R: Elementwise<State<T> = Self>>(level: Level, k: &Scalars, call: &Call);
}

/// Elements of a part: of Adam's four streams as many lines as a core can wait for at a time.
const PART: usize = 64;

macro_rules! columns {
    ($($S:ident $s:ident $o:ident $i:tt),*) => {
        impl<T: Element, $($S: Element),*> Columns<T> for ($($S,)*) {
            unsafe fn run<R: Elementwise<State<T> = Self>>(level: Level, k: &Scalars, call: &Call) {
                #[inline(always)]
                #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
                fn replace<R: Elementwise<State<T> = ($($S,)*)>, T: Element, $($S: Element),*>(
                    k: [T::Real; SCALARS], x: &mut [T], g: &[T], $($s: &mut [$S]),*
                ) {
                    let n = x.len();
                    let g = &g[..n];
                    $(let $s = &mut $s[..n];)*
                    for i in 0..n {
                        let (dx, _s) = R::element::<T>(k, x[i], g[i], ($($s[i],)*));
                        x[i] = x[i] - dx;
                        $($s[i] = _s.$i.without_subnormal();)*
                    }
                }
                #[inline(always)]
                #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
                fn renew<R: Elementwise<State<T> = ($($S,)*)>, T: Element, $($S: Element),*>(
                    k: [T::Real; SCALARS], x: &[T], y: &mut [T], g: &[T], $($s: &[$S], $o: &mut [$S]),*
                ) {
                    let n = y.len();
                    let (x, g) = (&x[..n], &g[..n]);
                    $(let ($s, $o) = (&$s[..n], &mut $o[..n]);)*
                    for i in 0..n {
                        let (dx, _s) = R::element::<T>(k, x[i], g[i], ($($s[i],)*));
                        y[i] = x[i] - dx;
                        $($o[i] = _s.$i.without_subnormal();)*
                    }
                }
                #[inline(always)]
                fn pass_on<R: Elementwise<State<T> = ($($S,)*)>, T: Element, $($S: Element),*>(
                    k: [T::Real; SCALARS], x: &[T], g: &mut [T], $($s: &mut [$S]),*
                ) {
                    let n = g.len();
                    let x = &x[..n];
                    $(let $s = &mut $s[..n];)*
                    for i in 0..n {
                        let (dx, _s) = R::element::<T>(k, x[i], g[i], ($($s[i],)*));
                        g[i] = dx;
                        $($s[i] = _s.$i.without_subnormal();)*
                    }
                }
                per_level! {
                    fn in_place<R: Elementwise, T: Element, $($S: Element),*>(
                        k: &Scalars, x: &mut [T], g: &[T], $($s: &mut [$S]),*
                    ) where [R: Elementwise<State<T> = ($($S,)*)>] {
                        replace::<R, T, $($S),*>(narrow(k), x, g, $($s),*);
                    }
                }
                per_level! {
                    fn pure<R: Elementwise, T: Element, $($S: Element),*>(
                        k: &Scalars, x: &[T], y: &mut [T], g: &[T], $($s: &[$S], $o: &mut [$S]),*
                    ) where [R: Elementwise<State<T> = ($($S,)*)>] {
                        renew::<R, T, $($S),*>(narrow(k), x, y, g, $($s, $o),*);
                    }
                }
                per_level! {
                    fn pure_far<R: Elementwise, T: Element, $($S: Element),*>(
                        stores: Level, reread_y: bool, k: &Scalars, x: &[T], y: &mut [T], g: &[T],
                        $($s: &[$S], $o: &mut [$S]),*
                    ) where [R: Elementwise<State<T> = ($($S,)*)>] {
                        let (k, mut new) = (narrow(k), Aligned([T::ZERO; PART]));
                        let mut _new: ($(Aligned<[$S; PART]>,)*) = ($(Aligned([$S::ZERO; PART]),)*);
                        for i in (0..y.len()).step_by(PART) {
                            let (x, g) = (&x[i..i + PART], &g[i..i + PART]);
                            $(let $s = &$s[i..i + PART];)*
                            ask(x);
                            ask(g);
                            $(ask($s);)*
                            renew::<R, T, $($S),*>(k, x, &mut new.0, g, $($s, &mut _new.$i.0),*);
                            if reread_y {
                                y[i..i + PART].copy_from_slice(&new.0);
                            } else {
                                past(stores, &new.0, &mut y[i..i + PART]);
                            }
                            $(past(stores, &_new.$i.0, &mut $o[i..i + PART]);)*
                        }
                    }
                }
                per_level! {
                    fn link<R: Elementwise, T: Element, $($S: Element),*>(
                        k: &Scalars, x: &[T], g: &mut [T], $($s: &mut [$S]),*
                    ) where [R: Elementwise<State<T> = ($($S,)*)>] {
                        pass_on::<R, T, $($S),*>(narrow(k), x, g, $($s),*);
                    }
                }
                let &Call { mode, n, x, y, g, s: _s, o: _o, far, reread_y } = call;
                let (x, y, g) = (x.cast::<T>(), y.cast::<T>(), g.cast::<T>());
                let whole = if far { n / PART * PART } else { 0 };
                let rest = n - whole;
                // SAFETY: the caller keeps what `Call` promises: the slices are valid, and the mutable ones overlap
                // nothing.
                unsafe {
                    match mode {
                        Mode::InPlace => in_place::<R, T, $($S),*>(
                            level, k, from_raw_parts_mut(x, n), from_raw_parts(g, n),
                            $(from_raw_parts_mut(_s[$i].cast(), n)),*
                        ),
                        Mode::Pure => {
                            if whole > 0 {
                                pure_far::<R, T, $($S),*>(
                                    level, level, reread_y, k, from_raw_parts(x, whole), from_raw_parts_mut(y, whole),
                                    from_raw_parts(g, whole),
                                    $(from_raw_parts(_s[$i].cast(), whole), from_raw_parts_mut(_o[$i].cast(), whole)),*
                                );
                            }
                            pure::<R, T, $($S),*>(
                                level, k, from_raw_parts(x.add(whole), rest), from_raw_parts_mut(y.add(whole), rest),
                                from_raw_parts(g.add(whole), rest),
                                $(
                                    from_raw_parts(_s[$i].cast::<$S>().add(whole), rest),
                                    from_raw_parts_mut(_o[$i].cast::<$S>().add(whole), rest)
                                ),*
                            );
                        }
                        Mode::Link => link::<R, T, $($S),*>(
                            level, k, from_raw_parts(x, n), from_raw_parts_mut(g, n),
                            $(from_raw_parts_mut(_s[$i].cast(), n)),*
                        ),
                    }
                }
            }
        }
    };
}

/// Asks for all lines of a part at once.
#[inline(always)]
fn ask<T>(part: &[T]) {
    ahead(part.as_ptr().cast(), size_of_val(part));
}

/// Writes `from` to `to`, past the caches.
#[inline(always)]
fn past<T>(level: Level, from: &[T; PART], to: &mut [T]) {
    assert_eq!(to.len(), PART);
    // SAFETY: two slices of the same length, one of them borrowed exclusively.
    unsafe { stream(level, from.as_ptr().cast(), to.as_mut_ptr().cast(), size_of_val(from)) };
}

columns!();
columns!(A a a2 0);
columns!(A a a2 0, B b b2 1);
columns!(A a a2 0, B b b2 1, C c c2 2);
