//! The contract of a rule.
//!
//! A rule's file holds its hyper-parameters, the scalars of a step, and the formula for one element. The loops over
//! arrays, the types, the instruction sets and the threads are elsewhere, once for all rules.

use crate::loops::dtype::{Compute, DType};
use crate::loops::element::{Element, Real, round_to_odd};
use crate::loops::kernel::{Call, Columns};
use crate::loops::norm::Norm;
use crate::loops::simd::Level;
use std::marker::PhantomData;

/// The numbers of a step that are the same for all elements, already rounded to the compute type.
pub const SCALARS: usize = 8;
/// See [`SCALARS`]. What a rule leaves unused is zero.
pub type Scalars = [f64; SCALARS];
/// The most state arrays a rule may have.
pub const SLOTS: usize = 3;
/// The most numbers a rule may have in its state beside its step count.
pub const NUMBERS: usize = 2;
/// The most numbers that the hyper-parameters of a rule may be.
pub const HYPERS: usize = 8;

/// One state array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name in `leaf.state`.
    pub name: &'static str,
    /// Real also where the parameter is complex.
    pub real: bool,
    /// Whether it starts as the parameter; else with the value that [`Elementwise::initial`] has for it.
    pub parameter: bool,
}

impl Slot {
    /// A state array of the type in which a step is computed.
    #[must_use]
    pub const fn like(name: &'static str) -> Self {
        Self { name, real: false, parameter: false }
    }

    /// A state array of real numbers.
    #[must_use]
    pub const fn real(name: &'static str) -> Self {
        Self { name, real: true, parameter: false }
    }

    /// A state array that starts as the parameter.
    #[must_use]
    pub const fn parameter(name: &'static str) -> Self {
        Self { name, real: false, parameter: true }
    }
}

/// One number of a state, beside the step count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// Its name in `leaf.state`; empty for one that is not shown.
    pub name: &'static str,
    /// The bits of a float64; else a whole number.
    pub float: bool,
}

impl Number {
    /// Which of a group's steps was the last one: the greatest in a group says which arrays took part in it.
    pub const STAMP: Self = Self { name: "", float: false };

    /// A whole number.
    #[must_use]
    pub const fn count(name: &'static str) -> Self {
        Self { name, float: false }
    }

    /// A float.
    #[must_use]
    pub const fn float(name: &'static str) -> Self {
        Self { name, float: true }
    }
}

/// How far the state of a rule has come: the number of the step that is about to be taken, from 1, and its other numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// The number of the step.
    pub t: u64,
    /// The numbers of [`Elementwise::NUMBERS`].
    pub numbers: [u64; NUMBERS],
}

/// What is known of an array, or of the arrays of a group, before a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// The norm that was asked for; where it was asked whether all is finite, it is finite if so.
    pub norm: f64,
    /// The greatest of each number in the states of the group.
    pub greatest: [u64; NUMBERS],
}

impl Facts {
    /// Nothing was asked.
    pub const NONE: Self = Self { norm: 0.0, greatest: [0; NUMBERS] };

    /// Whether all elements are finite, if that was asked.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.norm.is_finite()
    }
}

/// What a rule must know before it can step an element.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// A norm of the array's gradient.
    Norm(Norm),
    /// The 2-norm of all gradients of its group together.
    GroupNorm,
    /// Whether all elements of all gradients of its group are finite.
    GroupFinite,
    /// What becomes of the gradient: that is made elsewhere.
    Elsewhere,
}

impl Asks {
    /// Whether it is about a group of arrays.
    #[must_use]
    pub fn of_group(self) -> bool {
        matches!(self, Self::GroupNorm | Self::GroupFinite)
    }
}

/// What a rule makes of what it has asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// The step, with these scalars.
    Go(Scalars),
    /// No step.
    Skip,
    /// An error, which says why.
    Refuse(String),
}

/// How hyper-parameters are rounded: to the real numbers of the compute type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounding {
    single: bool,
    parameter: DType,
}

impl Rounding {
    /// The rounding of `compute`.
    #[must_use]
    pub const fn of(compute: Compute) -> Self {
        Self { single: matches!(compute, Compute::F32 | Compute::C64), parameter: compute.dtype() }
    }

    /// The same for a parameter of this type.
    #[must_use]
    pub const fn storing(self, parameter: DType) -> Self {
        Self { parameter, ..self }
    }

    /// `x` rounded as an element of the parameter is.
    #[must_use]
    pub fn stored(self, x: f64) -> f64 {
        match self.parameter {
            // By way of a number that is no tie of the narrower type, as what is stored.
            DType::F16 => half::f16::from_f32(round_to_odd(x)).to_f64(),
            DType::BF16 => half::bf16::from_f32(round_to_odd(x)).to_f64(),
            _ => self.round(x),
        }
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

/// How [`Element::average`] is told of a decay rate: `1 - beta`, or where beta is less than a half `-beta`. Whichever is the
/// smaller keeps its digits when it is rounded.
#[must_use]
pub fn share(beta: f64) -> f64 {
    if beta < 0.5 { -beta } else { 1.0 - beta }
}

/// The same of a step from one number towards another: `1 - beta` is the part of the way.
#[must_use]
pub fn toward(part: f64) -> f64 {
    if part > 0.5 { part - 1.0 } else { part }
}

/// A rule that sees one element at a time.
pub trait Elementwise: Fields {
    /// The names and kinds of the state arrays, in the order of `State`.
    const SLOTS: &'static [Slot];
    /// The name under which the step count stands in `leaf.state`. Without one, all steps are alike.
    const COUNTER: Option<&'static str> = None;
    /// The other numbers of the state, behind the step count.
    const NUMBERS: &'static [Number] = &[];
    /// Whether complex parameters make sense.
    const COMPLEX: bool = true;
    /// Whether it decides where the parameter lands: what it gets is not a gradient but the new parameter, and what it returns
    /// is the parameter then. Instead of the parameter it gets numbers that mean nothing.
    const LANDS: bool = false;
    /// Whether its numbers are rounded to the type of the parameter, which must hold them.
    const STORES: bool = false;
    /// Whether it collects gradients: a step that is skipped behind it empties it all the same.
    const COLLECTS: bool = false;
    /// Whether it passes every gradient on as it is, so that there is nothing to run. Such a rule has no state arrays.
    const PASSES: bool = false;
    /// Whether it multiplies every gradient by its first two scalars, one after the other, and does nothing else.
    const SCALES: bool = false;
    /// One element's state: a tuple of `T` and `T::Real`.
    type State<T: Element>: Columns<T>;

    /// What the state arrays hold before the first step, but for those that start as the parameter.
    fn initial(&self) -> [f64; SLOTS] {
        [0.0; SLOTS]
    }

    /// The scalars of a step.
    fn prepare(&self, at: At, rounding: Rounding) -> Scalars;

    /// `(dx, new state)` of one element: parameter `x`, incoming gradient `g`. Mark it `#[inline(always)]`.
    fn element<T: Element>(k: [T::Real; SCALARS], x: T, g: T, state: Self::State<T>) -> (T, Self::State<T>);

    /// How far the state has come after the step at which it was `at`; `t` then is how many steps there were.
    fn advance(&self, at: At, _facts: &Facts) -> At {
        at
    }

    /// Whether step `t` reaches the rules behind this one.
    fn emits(&self, _t: u64) -> bool {
        true
    }

    /// What must be known of whole gradients before any element can be stepped.
    fn asks(&self) -> Asks {
        Asks::Nothing
    }

    /// What the step is, once that is known.
    fn decide(&self, _facts: &Facts, rounding: Rounding) -> Verdict {
        Verdict::Go(self.prepare(At { t: 1, numbers: [0; NUMBERS] }, rounding))
    }
}

/// What is the same for a rule whatever its hyper-parameters are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// See [`Elementwise::SLOTS`].
    pub slots: &'static [Slot],
    /// See [`Elementwise::COUNTER`].
    pub counter: Option<&'static str>,
    /// See [`Elementwise::NUMBERS`].
    pub numbers: &'static [Number],
    /// See [`Elementwise::COMPLEX`].
    pub complex: bool,
    /// See [`Elementwise::LANDS`].
    pub lands: bool,
    /// See [`Elementwise::STORES`].
    pub stores: bool,
    /// See [`Elementwise::COLLECTS`].
    pub collects: bool,
    /// See [`Elementwise::PASSES`].
    pub passes: bool,
    /// See [`Elementwise::SCALES`].
    pub scales: bool,
}

/// An [`Elementwise`] rule whose type is not known. It holds nothing: its hyper-parameters are lent to it.
pub trait Kernel: Sync {
    /// See [`Shape`].
    fn shape(&self) -> &'static Shape;
    /// See [`Elementwise::initial`].
    fn initial(&self, hyper: &Hyper) -> [f64; SLOTS];
    /// See [`Elementwise::prepare`].
    fn prepare(&self, hyper: &Hyper, at: At, rounding: Rounding) -> Scalars;
    /// See [`Elementwise::advance`].
    fn advance(&self, hyper: &Hyper, at: At, facts: &Facts) -> At;
    /// See [`Elementwise::emits`].
    fn emits(&self, hyper: &Hyper, t: u64) -> bool;
    /// See [`Elementwise::asks`].
    fn asks(&self, hyper: &Hyper) -> Asks;
    /// See [`Elementwise::decide`].
    fn decide(&self, hyper: &Hyper, facts: &Facts, rounding: Rounding) -> Verdict;
    /// Steps `call.n` elements of type `compute`.
    ///
    /// # Safety
    /// As [`Call`] says.
    unsafe fn run(&self, compute: Compute, level: Level, k: &Scalars, call: &Call);
}

/// The [`Kernel`] of a rule.
struct Of<R>(PhantomData<fn() -> R>);

/// The [`Kernel`] of `R`.
#[must_use]
pub fn kernel_of<R: Elementwise>() -> &'static dyn Kernel {
    &Of::<R>(PhantomData)
}

impl<R: Elementwise> Kernel for Of<R> {
    fn shape(&self) -> &'static Shape {
        const {
            &Shape {
                slots: R::SLOTS,
                counter: R::COUNTER,
                numbers: R::NUMBERS,
                complex: R::COMPLEX,
                lands: R::LANDS,
                stores: R::STORES,
                collects: R::COLLECTS,
                passes: R::PASSES,
                scales: R::SCALES,
            }
        }
    }
    fn initial(&self, hyper: &Hyper) -> [f64; SLOTS] {
        R::of(hyper).initial()
    }
    fn prepare(&self, hyper: &Hyper, at: At, rounding: Rounding) -> Scalars {
        R::of(hyper).prepare(at, rounding)
    }
    fn advance(&self, hyper: &Hyper, at: At, facts: &Facts) -> At {
        R::of(hyper).advance(at, facts)
    }
    fn emits(&self, hyper: &Hyper, t: u64) -> bool {
        R::of(hyper).emits(t)
    }
    fn asks(&self, hyper: &Hyper) -> Asks {
        R::of(hyper).asks()
    }
    fn decide(&self, hyper: &Hyper, facts: &Facts, rounding: Rounding) -> Verdict {
        R::of(hyper).decide(facts, rounding)
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

/// What a hyper-parameter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// See [`Value::Float`].
    Float,
    /// See [`Value::Pair`].
    Pair,
    /// See [`Value::Flag`].
    Flag,
    /// See [`Value::Count`].
    Count,
}

/// The hyper-parameters of a rule in the order of its fields: the bits of float64s, switches and whole numbers.
pub type Hyper = [u64; HYPERS];

/// A type that a field of a rule may have.
pub trait Field: Sized {
    /// Its kind.
    const KIND: Kind;
    /// How many numbers it is.
    const SIZE: usize;
    /// The value that stands from number `at` on.
    fn get(hyper: &Hyper, at: usize) -> Self;
}

impl Field for f64 {
    const KIND: Kind = Kind::Float;
    const SIZE: usize = 1;
    fn get(hyper: &Hyper, at: usize) -> Self {
        f64::from_bits(hyper[at])
    }
}

impl Field for [f64; 2] {
    const KIND: Kind = Kind::Pair;
    const SIZE: usize = 2;
    fn get(hyper: &Hyper, at: usize) -> Self {
        [f64::from_bits(hyper[at]), f64::from_bits(hyper[at + 1])]
    }
}

impl Field for bool {
    const KIND: Kind = Kind::Flag;
    const SIZE: usize = 1;
    fn get(hyper: &Hyper, at: usize) -> Self {
        hyper[at] != 0
    }
}

impl Field for u64 {
    const KIND: Kind = Kind::Count;
    const SIZE: usize = 1;
    fn get(hyper: &Hyper, at: usize) -> Self {
        hyper[at]
    }
}

/// What is made of hyper-parameters.
pub trait Fields: Send + Sync + Sized + 'static {
    /// The rule with these.
    fn of(hyper: &Hyper) -> Self;
}

/// Which formula a rule has: its own, unless a hyper-parameter selects another one.
pub trait Formula {
    /// Its kernel.
    fn kernel(&self) -> &'static dyn Kernel;
}

impl<R: Elementwise> Formula for R {
    fn kernel(&self) -> &'static dyn Kernel {
        kernel_of::<R>()
    }
}

/// A rule as the registry knows it.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name of the rule, in Rust and in Python.
    pub name: &'static str,
    /// The names and kinds of its hyper-parameters.
    pub fields: &'static [(&'static str, Kind)],
    /// What runs it.
    pub kernel: fn(&Hyper) -> &'static dyn Kernel,
}

impl Entry {
    /// Where in its hyper-parameters a field stands, and what it is.
    #[must_use]
    pub fn place(&self, field: &str) -> Option<(usize, Kind)> {
        let size = |kind| if kind == Kind::Pair { 2 } else { 1 };
        let i = self.fields.iter().position(|(name, _)| *name == field)?;
        Some((self.fields[..i].iter().map(|&(_, kind)| size(kind)).sum(), self.fields[i].1))
    }

    /// The hyper-parameters with these values; `Err` names the one that is missing or of another kind.
    pub fn hyper(&self, value: impl Fn(&'static str, Kind) -> Option<Value>) -> Result<Hyper, &'static str> {
        let mut hyper = [0; HYPERS];
        for &(name, kind) in self.fields {
            let (at, _) = self.place(name).ok_or(name)?;
            match (kind, value(name, kind)) {
                (Kind::Float, Some(Value::Float(x))) => hyper[at] = x.to_bits(),
                (Kind::Pair, Some(Value::Pair(pair))) => hyper[at..at + 2].copy_from_slice(&pair.map(f64::to_bits)),
                (Kind::Flag, Some(Value::Flag(flag))) => hyper[at] = u64::from(flag),
                (Kind::Count, Some(Value::Count(n))) => hyper[at] = n,
                _ => return Err(name),
            }
        }
        Ok(hyper)
    }

    /// The value of a field.
    #[must_use]
    pub fn value(&self, hyper: &Hyper, field: &str) -> Option<Value> {
        let (at, kind) = self.place(field)?;
        Some(match kind {
            Kind::Float => Value::Float(f64::get(hyper, at)),
            Kind::Pair => Value::Pair(<[f64; 2]>::get(hyper, at)),
            Kind::Flag => Value::Flag(bool::get(hyper, at)),
            Kind::Count => Value::Count(u64::get(hyper, at)),
        })
    }
}

/// Defines a rule's struct and how it is read from its hyper-parameters.
macro_rules! rule {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(pub(crate) $field: $t),*
        }

        impl $name {
            pub(crate) const ENTRY: crate::program::contract::Entry = crate::program::contract::Entry {
                name: stringify!($name),
                fields: &[$((stringify!($field), <$t as crate::program::contract::Field>::KIND)),*],
                kernel: |hyper| <Self as crate::program::contract::Formula>::kernel(&<Self as crate::program::contract::Fields>::of(hyper)),
            };
        }

        impl crate::program::contract::Fields for $name {
            #[allow(unused_assignments, reason = "behind the last field nothing is read")]
            fn of(hyper: &crate::program::contract::Hyper) -> Self {
                let mut at = 0;
                $(
                    let $field = <$t as crate::program::contract::Field>::get(hyper, at);
                    at += <$t as crate::program::contract::Field>::SIZE;
                )*
                Self { $($field),* }
            }
        }
    };
}
pub(crate) use rule;
