//! Norms in float64, added up in an order that depends on nothing but the length.
//!
//! An array is cut into blocks of [`BLOCK`] elements, a block into lanes; the lanes are added up in order, then the
//! blocks. Threads share out whole blocks, so that their number never changes a bit, and the lanes are the same on every
//! instruction set.

use crate::element::{Element, Real};
use crate::kernel::per_level;
use crate::rule::power;
use crate::simd::Level;

/// Elements of a block.
pub const BLOCK: usize = 4096;
const LANES: usize = 32;

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
            p => Self::Power(p),
        }
    }

    /// What a block of at most [`BLOCK`] elements contributes.
    #[must_use]
    pub fn block<T: Element>(self, level: Level, g: &[T]) -> f64 {
        match self {
            Self::Count => fold(level, g, 0.0, |g| if g == T::ZERO { 0.0 } else { 1.0 }, add),
            Self::Sum => fold(level, g, 0.0, |g| g.abs().to_f64(), add),
            Self::Euclid => fold(level, g, 0.0, T::wide_abs2, add),
            Self::Max => fold(level, g, 0.0, |g| g.abs().to_f64(), Real::maximum),
            Self::Min => fold(level, g, f64::INFINITY, |g| g.abs().to_f64(), Real::minimum),
            Self::Whole(p) => fold(level, g, 0.0, |g| whole_power(g.abs().to_f64(), p), add),
            Self::Power(p) => fold(level, g, 0.0, |g| libm::pow(g.abs().to_f64(), p), add),
        }
    }

    /// The norm of an array whose blocks contribute `blocks`, in order; 0 for an empty one.
    #[must_use]
    pub fn finish(self, blocks: &[f64]) -> f64 {
        if blocks.is_empty() {
            return 0.0;
        }
        let total = |start, join: fn(f64, f64) -> f64| blocks.iter().fold(start, |a, &b| join(a, b));
        match self {
            Self::Count | Self::Sum => total(0.0, add),
            Self::Euclid => total(0.0, add).sqrt(),
            Self::Max => total(0.0, Real::maximum),
            Self::Min => total(f64::INFINITY, Real::minimum),
            Self::Whole(p) => libm::pow(total(0.0, add), 1.0 / f64::from(p)),
            Self::Power(p) => libm::pow(total(0.0, add), 1.0 / p),
        }
    }
}

fn add(a: f64, b: f64) -> f64 {
    a + b
}

fn whole_power(x: f64, p: i32) -> f64 {
    let positive = power(x, u64::from(p.unsigned_abs()));
    if p < 0 { 1.0 / positive } else { positive }
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
