//! The contract of a rule.
//!
//! A rule's file holds its hyper-parameters, the scalars of a step, and the formula for one element. The loops over
//! arrays, the types, the instruction sets and the threads are elsewhere, once for all rules.

use crate::dtype::Compute;
use crate::element::{Element, Real};
use crate::kernel::{Call, Columns};
use crate::simd::Level;

/// The numbers of a step that are the same for all elements, already rounded to the compute type.
pub const SCALARS: usize = 8;
/// See [`SCALARS`]. What a rule leaves unused is zero.
pub type Scalars = [f64; SCALARS];
/// At most so many state arrays has a rule.
pub const SLOTS: usize = 3;

/// One state array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name in `leaf.state`.
    pub name: &'static str,
    /// Real also where the parameter is complex.
    pub real: bool,
}

impl Slot {
    /// A state array of the parameter's own type.
    #[must_use]
    pub const fn like(name: &'static str) -> Self {
        Self { name, real: false }
    }

    /// A state array of real numbers.
    #[must_use]
    pub const fn real(name: &'static str) -> Self {
        Self { name, real: true }
    }
}

/// How hyper-parameters are rounded: to the real numbers of the compute type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounding {
    single: bool,
}

impl Rounding {
    /// The rounding of `compute`.
    #[must_use]
    pub const fn of(compute: Compute) -> Self {
        Self { single: matches!(compute, Compute::F32 | Compute::C64) }
    }

    /// `x` rounded.
    #[must_use]
    pub fn round(self, x: f64) -> f64 {
        if self.single { f64::from(x as f32) } else { x }
    }

    /// The exponent of the smallest power of two with which all digits are kept.
    #[must_use]
    pub fn least_exponent(self) -> i32 {
        if self.single { f32::MIN_EXP - 1 } else { f64::MIN_EXP - 1 }
    }

    /// All of `values` rounded, and zeros after them.
    #[must_use]
    pub fn scalars<const N: usize>(self, values: [f64; N]) -> Scalars {
        let mut scalars = [0.0; SCALARS];
        for (s, v) in scalars.iter_mut().zip(values) {
            *s = self.round(v);
        }
        scalars
    }
}

/// `x` to the power `n` by repeated squaring: the same bits on every platform, which `powi` does not promise.
#[must_use]
pub fn power(x: f64, n: u64) -> f64 {
    let (mut result, mut square, mut n) = (1.0, x, n);
    while n > 0 {
        if n & 1 == 1 {
            result *= square;
        }
        square *= square;
        n >>= 1;
    }
    result
}

/// How [`Element::average`] is told of a decay rate: `1 - beta`, or where beta is less than a half `-beta`. Whichever is the
/// smaller keeps its digits when it is rounded.
#[must_use]
pub fn share(beta: f64) -> f64 {
    if beta < 0.5 { -beta } else { 1.0 - beta }
}

/// A rule that sees one element at a time.
pub trait Elementwise: Send + Sync + 'static {
    /// The names and kinds of the state arrays, in the order of `State`.
    const SLOTS: &'static [Slot];
    /// The name under which the step count stands in `leaf.state`. Without one, all steps are alike.
    const COUNTER: Option<&'static str> = None;
    /// Whether complex parameters make sense.
    const COMPLEX: bool = true;
    /// One element's state: a tuple of `T` and `T::Real`.
    type State<T: Element>: Columns<T>;

    /// What the state arrays hold before the first step.
    fn initial(&self) -> [f64; SLOTS] {
        [0.0; SLOTS]
    }

    /// The scalars of step `t`, which counts from 1.
    fn prepare(&self, t: u64, rounding: Rounding) -> Scalars;

    /// `(dx, new state)` of one element: parameter `x`, incoming gradient `g`. Mark it `#[inline(always)]`.
    fn element<T: Element>(k: [T::Real; SCALARS], x: T, g: T, state: Self::State<T>) -> (T, Self::State<T>);

    /// The count after a step at which it was `t - 1`.
    fn advance(&self, t: u64) -> u64 {
        t
    }

    /// Whether step `t` reaches the rules behind this one.
    fn emits(&self, _t: u64) -> bool {
        true
    }

    /// The number that must be known of the whole gradient before any element can be stepped.
    fn reduction(&self) -> Option<&dyn Reduction> {
        None
    }
}

/// A number computed from a whole gradient, in float64.
pub trait Reduction: Send + Sync {
    /// Which norm.
    fn norm(&self) -> crate::reduce::Norm;
    /// Why a step with this `norm` is refused, if it is.
    fn refuse(&self, norm: f64) -> Option<String>;
    /// The scalars of a step with this `norm`.
    fn scalars(&self, norm: f64, rounding: Rounding) -> Scalars;
}

/// An [`Elementwise`] rule whose type is not known.
pub trait Kernel: Send + Sync {
    /// See [`Elementwise::SLOTS`].
    fn slots(&self) -> &'static [Slot];
    /// See [`Elementwise::COUNTER`].
    fn counter(&self) -> Option<&'static str>;
    /// See [`Elementwise::COMPLEX`].
    fn complex(&self) -> bool;
    /// See [`Elementwise::initial`].
    fn initial(&self) -> [f64; SLOTS];
    /// See [`Elementwise::prepare`].
    fn prepare(&self, t: u64, rounding: Rounding) -> Scalars;
    /// See [`Elementwise::advance`].
    fn advance(&self, t: u64) -> u64;
    /// See [`Elementwise::emits`].
    fn emits(&self, t: u64) -> bool;
    /// See [`Elementwise::reduction`].
    fn reduction(&self) -> Option<&dyn Reduction>;
    /// Steps `call.n` elements of type `compute`.
    ///
    /// # Safety
    /// As [`Call`] says.
    unsafe fn run(&self, compute: Compute, level: Level, k: &Scalars, call: &Call);
}

impl<R: Elementwise> Kernel for R {
    fn slots(&self) -> &'static [Slot] {
        R::SLOTS
    }
    fn counter(&self) -> Option<&'static str> {
        R::COUNTER
    }
    fn complex(&self) -> bool {
        R::COMPLEX
    }
    fn initial(&self) -> [f64; SLOTS] {
        Elementwise::initial(self)
    }
    fn prepare(&self, t: u64, rounding: Rounding) -> Scalars {
        Elementwise::prepare(self, t, rounding)
    }
    fn advance(&self, t: u64) -> u64 {
        Elementwise::advance(self, t)
    }
    fn emits(&self, t: u64) -> bool {
        Elementwise::emits(self, t)
    }
    fn reduction(&self) -> Option<&dyn Reduction> {
        Elementwise::reduction(self)
    }
    unsafe fn run(&self, compute: Compute, level: Level, k: &Scalars, call: &Call) {
        type C32 = num_complex::Complex<f32>;
        type C64 = num_complex::Complex<f64>;
        // SAFETY: passed on to the caller; `compute` says which type the pointers have.
        unsafe {
            match compute {
                Compute::F32 => <R::State<f32> as Columns<f32>>::run::<R>(level, k, call),
                Compute::F64 => <R::State<f64> as Columns<f64>>::run::<R>(level, k, call),
                Compute::C64 => <R::State<C32> as Columns<C32>>::run::<R>(level, k, call),
                Compute::C128 => <R::State<C64> as Columns<C64>>::run::<R>(level, k, call),
            }
        }
    }
}

/// The scalars as the compute type's real numbers.
#[inline(always)]
pub fn narrow<R: Real>(k: &Scalars) -> [R; SCALARS] {
    k.map(R::from_f64)
}

/// A hyper-parameter's value, as it comes from Python.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A number.
    Float(f64),
    /// Two numbers.
    Pair([f64; 2]),
    /// A switch.
    Flag(bool),
    /// A whole number.
    Count(u64),
}

/// A type that a field of a rule may have.
pub trait Field: Sized {
    /// The value, if it is of this type.
    fn read(value: Value) -> Option<Self>;
}

macro_rules! field {
    ($t:ty, $variant:ident) => {
        impl Field for $t {
            fn read(value: Value) -> Option<Self> {
                if let Value::$variant(x) = value { Some(x) } else { None }
            }
        }
    };
}
field!(f64, Float);
field!([f64; 2], Pair);
field!(bool, Flag);
field!(u64, Count);

/// Looks a field's value up by name.
pub type Fields<'a> = dyn Fn(&'static str) -> Option<Value> + 'a;

/// What a rule is lent to.
pub type Borrower<'a> = dyn FnMut(&dyn Kernel) + 'a;

/// A rule as the registry knows it.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name of the rule, in Rust and in Python.
    pub name: &'static str,
    /// The names of its hyper-parameters.
    pub fields: &'static [&'static str],
    /// Makes the rule of its hyper-parameters; `Err` names the one that is missing or of another type.
    pub build: fn(&Fields) -> Result<Box<dyn Kernel>, &'static str>,
    /// The same, lent for a moment and without asking for memory.
    pub lend: fn(&Fields, &mut Borrower) -> Result<(), &'static str>,
}

/// Defines a rule's struct and how it is read from named values.
macro_rules! rule {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(pub(crate) $field: $t),*
        }

        impl $name {
            pub(crate) const ENTRY: crate::rule::Entry = crate::rule::Entry {
                name: stringify!($name),
                fields: &[$(stringify!($field)),*],
                build: |fields| Ok(Self::read(fields)?.boxed()),
                lend: |fields, to| {
                    Self::read(fields)?.lent(to);
                    Ok(())
                },
            };

            fn read(fields: &crate::rule::Fields) -> Result<Self, &'static str> {
                $(let $field = fields(stringify!($field))
                    .and_then(<$t as crate::rule::Field>::read)
                    .ok_or(stringify!($field))?;)*
                Ok(Self { $($field),* })
            }
        }
    };
}
pub(crate) use rule;

/// How a rule becomes a [`Kernel`]: itself, unless a hyper-parameter selects another formula.
pub trait Boxed: Sized {
    /// See [`Boxed`].
    fn boxed(self) -> Box<dyn Kernel>;
    /// The same, lent.
    fn lent(self, to: &mut Borrower);
}

impl<R: Elementwise> Boxed for R {
    fn boxed(self) -> Box<dyn Kernel> {
        Box::new(self)
    }
    fn lent(self, to: &mut Borrower) {
        to(&self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_repeated_multiplication() {
        for n in 0..20 {
            assert_eq!(power(2.0, n), f64::from(1_u32 << n));
        }
        assert_eq!(power(0.0, 0), 1.0);
        assert_eq!(power(0.9, u64::MAX), 0.0);
    }
}
