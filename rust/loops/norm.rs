//! Norms in float64, added up in an order that depends on nothing but the length.
//!
//! An array is cut into blocks of [`BLOCK`] elements, a block into lanes; the lanes are added up in order, then the
//! blocks, without a loss of digits however many there are. Threads share out whole blocks, so that their number never
//! changes a bit, and the lanes are the same on every instruction set.
//!
//! A norm is first read [`Reading::Plain`]: the sum of the powers of the moduli as they are. Where that sum may have lost
//! digits, or is not finite, powers of some elements were beyond float64; then the array is read again, with the elements
//! brought near 1 by a [`Scale`].

use super::element::{Element, Real, power_of_two};
use super::math::power;
use super::simd::{Level, per_level};
use num_complex::Complex;

/// Elements of a block.
pub const BLOCK: usize = 4096;
const LANES: usize = 32;

/// Below so small an order, sums keep their errors beside them: an error of the sum is one `1/p` times as large of the norm.
const SMALL_ORDER: f64 = 0.1;
/// Sums of squares in this range have lost no digits: what was too small for float64 is 2^-60 of the sum at most, with up to
/// 2^54 elements.
const SURE_SQUARES: std::ops::RangeInclusive<f64> = power_of_two(-960)..=f64::MAX;
/// The same for sums of other powers, whose reciprocals may be too large as well.
const SURE_POWERS: std::ops::RangeInclusive<f64> = power_of_two(-900)..=power_of_two(1000);
/// For orders so near to 0, powers of all numbers are so near to 1 that up to this sum there is one: its norm is its modulus,
/// of which the power has lost digits.
const ONE_POWER: (f64, f64) = (4e-4, 1.4);

/// The norm `‖g‖_p` of a flattened array, as `numpy.linalg.norm` defines it for vectors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Norm {
    /// `p = 0`: how many are not zero.
    Count,
    /// `p = 1`.
    Sum,
    /// `p = 2`.
    Euclid,
    /// `p = inf`.
    Max,
    /// `p = -inf`.
    Min,
    /// A whole number: the same on every platform by repeated multiplication.
    Whole(i32),
    /// Any other.
    Power(f64),
    /// One below [`SMALL_ORDER`] in size.
    SmallPower(f64),
}

/// A number as an element of a norm.
pub trait Wide: Element {
    /// The sizes of its real and of its imaginary part.
    fn parts(self) -> [f64; 2];
    /// Its modulus in float64.
    fn modulus(self) -> f64;
}

macro_rules! wide {
    ($real:ty, |$z:ident| $modulus:expr) => {
        impl Wide for $real {
            fn parts(self) -> [f64; 2] {
                [f64::from(self.abs()), 0.0]
            }
            #[inline(always)]
            fn modulus(self) -> f64 {
                f64::from(self.abs())
            }
        }

        impl Wide for Complex<$real> {
            fn parts(self) -> [f64; 2] {
                [f64::from(self.re.abs()), f64::from(self.im.abs())]
            }
            #[inline(always)]
            fn modulus(self) -> f64 {
                let $z = self;
                $modulus
            }
        }
    };
}

// The squares of float32 parts are within float64.
wide!(f32, |z| z.wide_abs2().sqrt());
wide!(f64, |z| z.abs());

/// What brings the elements of an array near 1: an element `z` counts as `|z unit| / modulus`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale {
    /// A power of two.
    pub unit: f64,
    /// The greatest of the `|z unit|`, or the least one that is not 0 where the order is negative.
    pub modulus: f64,
}

/// What of an array is read.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reading {
    /// What its norm is made of.
    Plain,
    /// The greatest part of an element in size; where the order is negative, the least of the elements' greater parts.
    Part,
    /// The greatest modulus of the elements times this power of two; the least where the order is negative.
    Modulus(f64),
    /// What the norm of the scaled array is made of.
    Scaled(Scale),
}

impl Norm {
    /// The norm of order `p`.
    #[must_use]
    pub fn of(p: f64) -> Self {
        match p {
            0.0 => Self::Count,
            1.0 => Self::Sum,
            2.0 => Self::Euclid,
            f64::INFINITY => Self::Max,
            f64::NEG_INFINITY => Self::Min,
            p if p == p.trunc() && p.abs() < 1e6 => Self::Whole(p as i32),
            p if p.abs() < SMALL_ORDER => Self::SmallPower(p),
            p => Self::Power(p),
        }
    }

    /// The order.
    fn order(self) -> f64 {
        match self {
            Self::Count => 0.0,
            Self::Sum => 1.0,
            Self::Euclid => 2.0,
            Self::Max => f64::INFINITY,
            Self::Min => f64::NEG_INFINITY,
            Self::Whole(p) => f64::from(p),
            Self::Power(p) | Self::SmallPower(p) => p,
        }
    }

    /// What a block of at most [`BLOCK`] elements contributes to a reading.
    #[must_use]
    pub fn block<T: Wide>(self, reading: Reading, level: Level, g: &[T]) -> f64 {
        match reading {
            Reading::Plain if self == Self::Euclid => fold(level, g, 0.0, T::wide_abs2, add),
            Reading::Plain => self.of_moduli(level, g, T::modulus),
            Reading::Part => self.extreme(level, g, |g| larger(g.parts())),
            Reading::Modulus(unit) => self.extreme(level, g, |g| scaled(g, unit)),
            Reading::Scaled(Scale { unit, modulus }) => self.of_moduli(level, g, |g| scaled(g, unit) / modulus),
        }
    }

    #[inline(always)]
    fn of_moduli<T: Wide>(self, level: Level, g: &[T], modulus: impl Fn(T) -> f64) -> f64 {
        match self {
            Self::Count => fold(level, g, 0.0, |g| if g == T::ZERO { 0.0 } else { 1.0 }, add),
            Self::Sum => fold(level, g, 0.0, modulus, add),
            Self::Euclid => fold(level, g, 0.0, |g| whole_power(modulus(g), 2), add),
            Self::Max => fold(level, g, 0.0, modulus, Real::maximum),
            Self::Min => fold(level, g, f64::INFINITY, modulus, Real::minimum),
            Self::Whole(p) => fold(level, g, 0.0, |g| whole_power(modulus(g), p), add),
            Self::Power(p) => fold(level, g, 0.0, |g| libm::pow(modulus(g), p), add),
            Self::SmallPower(p) => exact_sum(g.iter().map(|&g| libm::pow(modulus(g), p))),
        }
    }

    #[inline(always)]
    fn extreme<T: Wide>(self, level: Level, g: &[T], size: impl Fn(T) -> f64) -> f64 {
        if self.order() > 0.0 {
            fold(level, g, 0.0, size, Real::maximum)
        } else {
            fold(level, g, f64::INFINITY, size, Real::minimum)
        }
    }

    /// What the blocks of an array, in order, contribute together.
    #[must_use]
    pub fn total(self, reading: Reading, blocks: &[f64]) -> f64 {
        let all = |start, join: fn(f64, f64) -> f64| blocks.iter().fold(start, |a, &b| join(a, b));
        let extreme = matches!(reading, Reading::Part | Reading::Modulus(_));
        match self {
            _ if extreme && self.order() > 0.0 => all(0.0, Real::maximum),
            _ if extreme => all(f64::INFINITY, Real::minimum),
            Self::Max => all(0.0, Real::maximum),
            Self::Min => all(f64::INFINITY, Real::minimum),
            _ => exact_sum(blocks.iter().copied()),
        }
    }

    /// The norm of an array whose plain reading is `total`.
    #[must_use]
    pub fn of_total(self, total: f64) -> f64 {
        match self {
            Self::Count | Self::Sum | Self::Max | Self::Min => total,
            Self::Euclid => total.sqrt(),
            Self::Whole(p) => libm::pow(total, 1.0 / f64::from(p)),
            Self::Power(p) => libm::pow(total, 1.0 / p),
            Self::SmallPower(p) => root(total, p),
        }
    }

    /// Whether the norm of a plain reading has all its digits; `narrow`: the elements are within the range of float32.
    #[must_use]
    pub fn is_sure(self, total: f64, narrow: bool) -> bool {
        match self {
            Self::Count | Self::Sum | Self::Max | Self::Min => true,
            Self::Euclid => narrow || SURE_SQUARES.contains(&total),
            Self::Whole(_) | Self::Power(_) => SURE_POWERS.contains(&total) && self.of_total(total).is_normal(),
            Self::SmallPower(p) => p.abs() > ONE_POWER.0 || total == 0.0 || total > ONE_POWER.1,
        }
    }

    /// The power of two that brings the extreme part of a [`Reading::Part`] near 1; `None` where it is 0 or not finite, so
    /// that there is nothing to scale.
    #[must_use]
    pub fn unit(part: f64) -> Option<f64> {
        let exponent = ((part.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        (part > 0.0 && part.is_finite()).then(|| power_of_two(-exponent.clamp(-1022, 1022)))
    }

    /// The norm of an array whose scaled reading is `total`.
    #[must_use]
    pub fn of_scaled(self, total: f64, Scale { unit, modulus }: Scale) -> f64 {
        modulus * self.of_total(total) / unit
    }

    /// The norm that an array has, too, where the plain reading of this one is not sure: that of the one element there is.
    #[must_use]
    pub fn of_one(self) -> Option<Self> {
        matches!(self, Self::SmallPower(_)).then_some(Self::Max)
    }
}

fn add(a: f64, b: f64) -> f64 {
    a + b
}

fn whole_power(x: f64, p: i32) -> f64 {
    let positive = power(x, u64::from(p.unsigned_abs()));
    if p < 0 { 1.0 / positive } else { positive }
}

/// `x^(1/p)`, to the last digits also where `1/p` has none to spare.
fn root(x: f64, p: f64) -> f64 {
    let inverse = 1.0 / p;
    let near = libm::pow(x, inverse);
    // What was rounded off 1/p, and what that makes of the result.
    let rest = libm::fma(-p, inverse, 1.0) / p;
    let correction = near * (rest * libm::log(x));
    if correction.is_finite() { near + correction } else { near }
}

fn larger([a, b]: [f64; 2]) -> f64 {
    Real::maximum(a, b)
}

/// `|g unit|` where `unit` is a power of two; infinite where a part times `unit` is.
fn scaled<T: Wide>(g: T, unit: f64) -> f64 {
    let [a, b] = g.parts().map(|part| part * unit);
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    let ratio = small / large;
    if large == 0.0 || large == f64::INFINITY { large } else { large * (1.0 + ratio * ratio).sqrt() }
}

/// The sum of numbers that are not negative, rounded once or twice.
fn exact_sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for term in terms {
        let next = sum + term;
        let (large, small) = if sum > term { (sum, term) } else { (term, sum) };
        lost += (large - next) + small;
        sum = next;
    }
    if sum.is_finite() { sum + lost } else { sum }
}

per_level! {
    fn lanes<T: Element, F: Fn(T) -> f64, J: Fn(f64, f64) -> f64>(
        g: &[T], acc: &mut [f64; LANES], f: &F, join: &J,
    ) where [] {
        let mut chunks = g.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (a, &g) in acc.iter_mut().zip(chunk) {
                *a = join(*a, f(g));
            }
        }
        for (a, &g) in acc.iter_mut().zip(chunks.remainder()) {
            *a = join(*a, f(g));
        }
    }
}

#[inline(always)]
fn fold<T: Element>(level: Level, g: &[T], start: f64, f: impl Fn(T) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let mut acc = [start; LANES];
    lanes(level, g, &mut acc, &f, &join);
    acc.into_iter().fold(start, join)
}
