//! Losses that look at one prediction and its target at a time.
//!
//! Elements are float32, the arithmetic is float64, and a block's values are added up in fixed lanes.

use crate::kernel::per_level;
use crate::math::double::{exp, log1p};
use crate::simd::{self, Level};

/// Partial sums, so that adding up does not wait for the addition before.
const LANES: usize = 8;

/// The formulas of one loss.
trait Formula {
    /// The loss of one element.
    fn value(yhat: f64, y: f64) -> f64;
    /// Its derivative by the prediction.
    fn slope(yhat: f64, y: f64) -> f64;
}

/// `(ŷ - y)²`.
struct Mse;

impl Formula for Mse {
    #[inline(always)]
    fn value(yhat: f64, y: f64) -> f64 {
        (yhat - y) * (yhat - y)
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64) -> f64 {
        2.0 * (yhat - y)
    }
}

/// `|ŷ - y|`.
struct Mae;

impl Formula for Mae {
    #[inline(always)]
    fn value(yhat: f64, y: f64) -> f64 {
        (yhat - y).abs()
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64) -> f64 {
        let difference = yhat - y;
        if difference == 0.0 { 0.0 } else { difference.signum() }
    }
}

/// `(ŷ - y)²/2` where `|ŷ - y| <= 1`, else `|ŷ - y| - 1/2`.
struct Huber;

impl Formula for Huber {
    #[inline(always)]
    fn value(yhat: f64, y: f64) -> f64 {
        let distance = (yhat - y).abs();
        if distance <= 1.0 { 0.5 * distance * distance } else { distance - 0.5 }
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64) -> f64 {
        (yhat - y).clamp(-1.0, 1.0)
    }
}

/// `-y log σ(ŷ) - (1 - y) log(1 - σ(ŷ))`, `σ(ŷ) = 1/(1 + exp(-ŷ))`.
struct BinaryCrossentropy;

impl Formula for BinaryCrossentropy {
    #[inline(always)]
    fn value(yhat: f64, y: f64) -> f64 {
        // The same as the definition, without the logarithm of a sigmoid that has become 0.
        (if yhat < 0.0 { 0.0 } else { yhat }) - yhat * y + log1p(exp(-yhat.abs()))
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64) -> f64 {
        let decay = exp(-yhat.abs());
        (if yhat < 0.0 { decay } else { 1.0 }) / (1.0 + decay) - y
    }
}

per_level! {
    fn values<F: Formula>(yhat: &[f32], y: &[f32], lanes: &mut [f64; LANES]) where [] {
        let (yhats, ys) = (yhat.chunks_exact(LANES), y.chunks_exact(LANES));
        for ((&yhat, &y), lane) in yhats.remainder().iter().zip(ys.remainder()).zip(&mut *lanes) {
            *lane = F::value(f64::from(yhat), f64::from(y));
        }
        for (yhat, y) in yhats.zip(ys) {
            for i in 0..LANES {
                lanes[i] += F::value(f64::from(yhat[i]), f64::from(y[i]));
            }
        }
    }
}

per_level! {
    fn slopes<F: Formula>(yhat: &[f32], y: &[f32], weight: f64, out: &mut [f32]) where [] {
        for ((out, &yhat), &y) in out.iter_mut().zip(yhat).zip(y) {
            *out = (weight * F::slope(f64::from(yhat), f64::from(y))) as f32;
        }
    }
}

/// Defines the enum of these losses: the only list of them.
macro_rules! losses {
    ($($Name:ident $name:literal),* $(,)?) => {
        /// A loss that looks at one prediction and its target at a time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Pointwise {
            $(#[doc = concat!("`", $name, "`")] $Name),*
        }

        impl Pointwise {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$Name),*];

            /// Its name in Python.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$Name => $name),* }
            }

            /// The sum of the losses of a block of elements.
            pub(super) fn total(self, yhat: &[f32], y: &[f32]) -> f64 {
                let mut lanes = [0.0; LANES];
                match self { $(Self::$Name => values::<$Name>(simd::level(), yhat, y, &mut lanes)),* }
                lanes.iter().sum()
            }

            /// Writes `weight` times the derivatives of a block of elements.
            pub(super) fn gradient(self, yhat: &[f32], y: &[f32], weight: f64, out: &mut [f32]) {
                match self { $(Self::$Name => slopes::<$Name>(simd::level(), yhat, y, weight, out)),* }
            }
        }
    };
}

losses! {
    Mse "mse",
    Mae "mae",
    Huber "huber",
    BinaryCrossentropy "binary_crossentropy",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_derivatives() {
        for &loss in Pointwise::ALL {
            for yhat in [-3.0_f32, -0.7, 0.2, 0.9, 2.5] {
                let (y, h) = ([0.4_f32], 1e-2);
                let mut slope = [0.0];
                loss.gradient(&[yhat], &y, 1.0, &mut slope);
                let finite = (loss.total(&[yhat + h], &y) - loss.total(&[yhat - h], &y)) / (2.0 * f64::from(h));
                assert!((f64::from(slope[0]) - finite).abs() < 1e-4, "{loss:?} at {yhat}");
            }
        }
    }
}
