//! Numbers of twice the digits of float64, for scalars of a step whose digits cancel.

use std::ops::{Add, Mul, Sub};

/// The sum of a float64 and of what its rounding left, which is at most half a unit in its last place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DoubleDouble {
    high: f64,
    low: f64,
}

impl DoubleDouble {
    /// The nearest float64.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.high
    }

    /// `high + low`, brought into the form of this type; `high` is the greater one, or 0.
    fn renormalised(high: f64, low: f64) -> Self {
        let sum = high + low;
        Self { high: sum, low: low - (sum - high) }
    }
}

impl From<f64> for DoubleDouble {
    fn from(x: f64) -> Self {
        Self { high: x, low: 0.0 }
    }
}

/// Knuth's exact sum of the high parts; the low parts' rounding is that of this type.
impl Add for DoubleDouble {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let sum = self.high + other.high;
        let shifted = sum - self.high;
        let error = (self.high - (sum - shifted)) + (other.high - shifted);
        Self::renormalised(sum, error + (self.low + other.low))
    }
}

impl Sub for DoubleDouble {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + Self { high: -other.high, low: -other.low }
    }
}

/// The exact product of the high parts by a fused multiply-add, which IEEE 754 defines to the last bit.
impl Mul for DoubleDouble {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let product = self.high * other.high;
        let error = self.high.mul_add(other.high, -product);
        Self::renormalised(product, error + (self.high * other.low + self.low * other.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_float64_rounds_away_is_kept() {
        let [one, tiny] = [1.0, 2_f64.powi(-70)].map(DoubleDouble::from);
        assert_eq!((one + tiny - one).to_f64(), 2_f64.powi(-70));
        let square = (one + tiny) * (one + tiny);
        assert_eq!((square - one - tiny).to_f64(), 2_f64.powi(-70));
        let x = DoubleDouble::from(1.0 + f64::EPSILON);
        assert_eq!((x * x - x - x + one).to_f64(), f64::EPSILON * f64::EPSILON);
    }
}
