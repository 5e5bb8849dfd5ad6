//! Losses that look at one prediction and its target at a time.
//!
//! Elements are float32 or float64, the arithmetic is float64, and a block's values are added up in fixed lanes, then the
//! halves of the lanes.

use super::values::is_single;
use crate::loops::element::Real;
use crate::loops::math::{double::exp, double::log1p};
use crate::loops::simd::{self, Level, per_level};

/// Partial sums: each takes the elements that lie this number apart, so that adding up does not wait for the addition before.
const LANES: usize = 16;

/// The number of float64 elements that are added up by themselves: few enough that a lane's sum keeps its digits.
const STRETCH: usize = 64 * LANES;

/// The formulas of one loss. `single`: both numbers are float32, so that float64 holds their products exactly.
trait Formula {
    /// By what [`Self::slope`] is multiplied: a power of two, so that nothing is rounded.
    const SCALE: f64 = 1.0;
    /// The loss of one element.
    fn value(yhat: f64, y: f64, single: bool) -> f64;
    /// Its derivative by the prediction, divided by [`Self::SCALE`].
    fn slope(yhat: f64, y: f64, single: bool) -> f64;
}

/// `(ŷ - y)²`.
struct Mse;

impl Formula for Mse {
    const SCALE: f64 = 2.0;
    #[inline(always)]
    fn value(yhat: f64, y: f64, _: bool) -> f64 {
        (yhat - y) * (yhat - y)
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64, _: bool) -> f64 {
        yhat - y
    }
}

/// `|ŷ - y|`.
struct Mae;

impl Formula for Mae {
    #[inline(always)]
    fn value(yhat: f64, y: f64, _: bool) -> f64 {
        (yhat - y).abs()
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64, _: bool) -> f64 {
        let difference = yhat - y;
        if difference == 0.0 { 0.0 } else { difference.signum() }
    }
}

/// `(ŷ - y)²/2` where `|ŷ - y| <= 1`, else `|ŷ - y| - 1/2`.
struct Huber;

impl Formula for Huber {
    #[inline(always)]
    fn value(yhat: f64, y: f64, _: bool) -> f64 {
        let distance = (yhat - y).abs();
        if distance <= 1.0 { 0.5 * distance * distance } else { distance - 0.5 }
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64, _: bool) -> f64 {
        (yhat - y).clamp(-1.0, 1.0)
    }
}

/// `-y log σ(ŷ) - (1 - y) log(1 - σ(ŷ))`, `σ(ŷ) = 1/(1 + exp(-ŷ))`.
struct BinaryCrossentropy;

impl Formula for BinaryCrossentropy {
    #[inline(always)]
    fn value(yhat: f64, y: f64, single: bool) -> f64 {
        // The same as the definition, without the logarithm of a sigmoid that has become 0.
        let linear = if single {
            (if yhat < 0.0 { 0.0 } else { yhat }) - yhat * y
        } else {
            // Nothing cancels: a rounded product would leave no digits of ŷ - ŷ y where y is nearly 1.
            yhat.abs() * (if yhat < 0.0 { y } else { 1.0 - y })
        };
        linear + log1p(exp(-yhat.abs()))
    }
    #[inline(always)]
    fn slope(yhat: f64, y: f64, single: bool) -> f64 {
        let decay = exp(-yhat.abs());
        if single {
            return (if yhat < 0.0 { decay } else { 1.0 }) / (1.0 + decay) - y;
        }
        // The smaller one of σ and 1 - σ, which has its digits also where the other one is rounded to 1.
        let rest = decay / (1.0 + decay);
        if yhat < 0.0 { rest - y } else { (1.0 - y) - rest }
    }
}

per_level! {
    fn values<F: Formula, P: Real, T: Real>(yhat: &[P], y: &[T], lanes: &mut [f64; LANES]) where [] {
        let ((yhats, last_yhat), (ys, last_y)) = (yhat.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        let mut sums = [0.0; LANES];
        for (yhat, y) in yhats.iter().zip(ys) {
            for i in 0..LANES {
                sums[i] += F::value(yhat[i].to_f64(), y[i].to_f64(), is_single::<P, T>());
            }
        }
        for ((&yhat, &y), sum) in last_yhat.iter().zip(last_y).zip(&mut sums) {
            *sum += F::value(yhat.to_f64(), y.to_f64(), is_single::<P, T>());
        }
        *lanes = sums;
    }
}

per_level! {
    fn values_and_slopes<F: Formula, P: Real, T: Real, D: Real>(
        yhat: &[P], y: &[T], weight: f64, out: &mut [D], lanes: &mut [f64; LANES],
    ) where [] {
        let single = is_single::<P, T>();
        let ((yhats, last_yhat), (ys, last_y)) = (yhat.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        let (outs, last_out) = out.as_chunks_mut::<LANES>();
        let (mut sums, weight) = ([0.0; LANES], F::SCALE * weight);
        for ((yhat, y), out) in yhats.iter().zip(ys).zip(outs) {
            for i in 0..LANES {
                let (yhat, y) = (yhat[i].to_f64(), y[i].to_f64());
                sums[i] += F::value(yhat, y, single);
                out[i] = D::from_f64(weight * F::slope(yhat, y, single));
            }
        }
        for (((&yhat, &y), out), sum) in last_yhat.iter().zip(last_y).zip(last_out).zip(&mut sums) {
            let (yhat, y) = (yhat.to_f64(), y.to_f64());
            *sum += F::value(yhat, y, single);
            *out = D::from_f64(weight * F::slope(yhat, y, single));
        }
        *lanes = sums;
    }
}

/// The sum of the lanes: the one half is added to the other, until one is left.
fn total(mut lanes: [f64; LANES]) -> f64 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
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

            /// The sum of the losses of elements.
            fn values<P: Real, T: Real>(self, yhat: &[P], y: &[T]) -> f64 {
                let mut lanes = [0.0; LANES];
                match self { $(Self::$Name => values::<$Name, P, T>(simd::level(), yhat, y, &mut lanes)),* }
                total(lanes)
            }

            /// The same; `weight` times the derivatives are written to `out`.
            fn values_and_slopes<P: Real, T: Real, D: Real>(
                self, yhat: &[P], y: &[T], weight: f64, out: &mut [D],
            ) -> f64 {
                let (mut lanes, level) = ([0.0; LANES], simd::level());
                match self {
                    $(Self::$Name => {
                        values_and_slopes::<$Name, P, T, D>(level, yhat, y, weight, out, &mut lanes);
                    })*
                }
                total(lanes)
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

impl Pointwise {
    /// The sum of the losses of a block of elements; with `out`, a weight and where the derivatives times it are written.
    #[inline(always)]
    pub(super) fn total<P: Real, T: Real, D: Real>(self, yhat: &[P], y: &[T], out: Option<(f64, &mut [D])>) -> f64 {
        let step = if is_single::<P, T>() { yhat.len().max(1) } else { STRETCH };
        if yhat.len() <= step {
            return match out {
                Some((weight, out)) => self.values_and_slopes(yhat, y, weight, out),
                None => self.values(yhat, y),
            };
        }
        let stretches = yhat.chunks(step).zip(y.chunks(step));
        match out {
            Some((weight, out)) => {
                let one = |((yhat, y), out)| self.values_and_slopes(yhat, y, weight, out);
                stretches.zip(out.chunks_mut(step)).map(one).sum()
            }
            None => stretches.map(|(yhat, y)| self.values(yhat, y)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_derivatives() {
        for &loss in Pointwise::ALL {
            for yhat in [-3.0_f32, -0.7, 0.2, 0.9, 2.5] {
                let (y, h) = ([0.4_f32], 1e-2);
                let mut slope = [0.0_f32];
                loss.values_and_slopes(&[yhat], &y, 1.0, &mut slope);
                let finite = (loss.values(&[yhat + h], &y) - loss.values(&[yhat - h], &y)) / (2.0 * f64::from(h));
                assert!((f64::from(slope[0]) - finite).abs() < 1e-4, "{loss:?} at {yhat}");
                let mut wide = [0.0];
                loss.values_and_slopes(&[f64::from(yhat)], &[f64::from(y[0])], 1.0, &mut wide);
                assert!((wide[0] - f64::from(slope[0])).abs() < 1e-6, "{loss:?} at {yhat}");
            }
        }
    }
}
