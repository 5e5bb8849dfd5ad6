//! `exp` and its kin from `+ - * /` alone, so that loops over them vectorise and give the same bits on every processor.
//!
//! The reduction is the usual one: `exp(x) = 2^n exp(r)` with `n` the whole number nearest to `x / ln 2`, and a Taylor
//! polynomial for `|r| <= ln(2) / 2`. Nothing is fused, nothing approximate, and there are no branches. Measured against
//! the exact values over all of float32 (see the tests): `exp` within 1 unit in the last place, `softplus` within 2,
//! `sigmoid` and `tanh` within 2.25; float64 `exp` and `log1p` within 1 of epsilon.

/// Defines `exp_parts`, `exp` and `log1p` for one type.
macro_rules! functions {
    (
        $float:ident, $bits:ident, $int:ident, digits $digits:literal, bias $bias:literal, range $range:expr,
        ln2 $ln2_high:literal + $ln2_low:literal, exp [$($k:literal),*], log [$($j:literal),*]
    ) => {
        /// `(n, r + r²/2! + r³/3! + ...)` with `exp(x) = 2^n (1 + that)`, for `x` in ±range.
        #[inline(always)]
        fn exp_parts(x: $float) -> ($int, $float) {
            // Adding and taking away a number whose last digit is worth 1 rounds to a whole number.
            const WHOLE: $float = 1.5 * (1u64 << $digits) as $float;
            let shifted = x * std::$float::consts::LOG2_E + WHOLE;
            let n = shifted - WHOLE;
            // `n * ln2_high` is exact: the constant has few digits.
            let r = (x - n * $ln2_high) - n * $ln2_low;
            let mut p = 0.0;
            $(p = (p + 1.0 / $k) * r;)*
            let p = r + p * r;
            ((shifted.to_bits() as $int).wrapping_sub(WHOLE.to_bits() as $int), p)
        }

        /// `2^n` for `n` that is no smaller than the least exponent of normal numbers.
        #[inline(always)]
        fn power_of_two(n: $int) -> $float {
            $float::from_bits((n.wrapping_add($bias) as $bits) << $digits)
        }

        /// `exp(x)`; numbers too large give infinity, NaN stays NaN.
        #[inline(always)]
        #[must_use]
        pub fn exp(x: $float) -> $float {
            let (n, p) = exp_parts(x.clamp(-$range, $range));
            // In two steps, since 2^n may lie outside of the normal numbers where the result does not.
            let half = n >> 1;
            (1.0 + p) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
        }

        /// `log(1 + u)` for `u` in [0, 1].
        #[inline(always)]
        #[must_use]
        pub fn log1p(u: $float) -> $float {
            // log(1 + u) = 2 artanh(s) = 2s + s w (2/3 + 2/5 w + ...), w = s²; and 2s = u - s u keeps the digits of u.
            let s = u / (2.0 + u);
            let w = s * s;
            let mut p = 0.0;
            $(p = (p + 2.0 / $j) * w;)*
            u - s * (u - p)
        }
    };
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

/// For float32.
pub mod single {
    functions! {
        f32, u32, i32, digits 23, bias 127, range 104.0, ln2 0.693_359_4 + -2.121_944_4e-4,
        exp [5040.0, 720.0, 120.0, 24.0, 6.0, 2.0], log [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0]
    }

    /// `1 / (1 + exp(-x))`.
    #[inline(always)]
    #[must_use]
    pub fn sigmoid(x: f32) -> f32 {
        // exp of a number that is not positive cannot overflow.
        let decay = exp(-x.abs());
        (if x < 0.0 { decay } else { 1.0 }) / (1.0 + decay)
    }

    /// `log(1 + exp(x))`.
    #[inline(always)]
    #[must_use]
    pub fn softplus(x: f32) -> f32 {
        (if x < 0.0 { 0.0 } else { x }) + log1p(exp(-x.abs()))
    }

    /// The hyperbolic tangent.
    #[inline(always)]
    #[must_use]
    pub fn tanh(x: f32) -> f32 {
        // With e = exp(-2|x|), (1 - e) / (1 + e) keeps its digits near 0, where 1 - e comes from the series, and
        // 1 - 2e / (1 + e) near 1. From |x| = 10 on the 1 is all there is.
        let (n, p) = exp_parts((-2.0 * x.abs()).clamp(-20.0, 20.0));
        let scale = power_of_two(n);
        let e = scale + scale * p;
        let far = e < 0.25;
        let part = (if far { 2.0 * e } else { (1.0 - scale) - scale * p }) / (1.0 + e);
        (if far { 1.0 - part } else { part }).copysign(x)
    }
}

/// For float64.
pub mod double {
    functions! {
        f64, u64, i64, digits 52, bias 1023, range 746.0,
        ln2 0.693_147_180_369_123_8 + 1.908_214_929_270_587_7e-10,
        exp [
            6_227_020_800.0, 479_001_600.0, 39_916_800.0, 3_628_800.0, 362_880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0,
            6.0, 2.0
        ],
        log [35.0, 33.0, 31.0, 29.0, 27.0, 25.0, 23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0]
    }
}

#[cfg(test)]
mod tests {
    use super::{double, power, single};

    #[test]
    fn power_is_repeated_multiplication() {
        for n in 0..20 {
            assert_eq!(power(2.0, n), f64::from(1_u32 << n));
        }
        assert_eq!(power(0.0, 0), 1.0);
        assert_eq!(power(0.9, u64::MAX), 0.0);
    }

    /// How many units in the last place of float32 `found` is off the float64 `exact`.
    fn ulps(found: f32, exact: f64) -> f64 {
        let unit = f64::from(f32::from_bits(((exact.abs() as f32).to_bits() & 0x7f80_0000).max(0x0080_0000)));
        (f64::from(found) - exact).abs() / (unit * f64::from(f32::EPSILON))
    }

    /// Finite float32 values: every 4093rd of all.
    fn values() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(4093).map(f32::from_bits).filter(|x| x.is_finite())
    }

    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, low: f32, high: f32) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for x in values().filter(|x| (low..=high).contains(x)) {
            let error = ulps(f(x), exact(f64::from(x)));
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        worst
    }

    #[test]
    fn close_to_the_exact_values_over_all_of_float32() {
        let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        for (name, (error, at), bound) in [
            ("exp", worst(single::exp, libm::exp, -87.0, 88.7), 1.0),
            ("softplus", worst(single::softplus, softplus, -87.0, f32::MAX), 2.0),
            ("tanh", worst(single::tanh, libm::tanh, f32::MIN, f32::MAX), 2.25),
            ("sigmoid", worst(single::sigmoid, sigmoid, -87.0, f32::MAX), 2.25),
        ] {
            println!("{name}: {error} at {at}");
            assert!(error <= bound, "{name}: {error} at {at}");
        }
    }

    #[test]
    fn float64_as_libm() {
        let (mut exp, mut log) = (0.0_f64, 0.0_f64);
        for i in -70_000_i32..70_000 {
            let x = f64::from(i) * 0.01;
            exp = exp.max((double::exp(x) / libm::exp(x) - 1.0).abs());
            let u = f64::from(i.abs()) / 70_000.0;
            log = log.max((double::log1p(u) - libm::log1p(u)).abs() / libm::log1p(u).max(1e-9));
        }
        println!("exp: {exp}, log1p: {log}");
        assert!(exp <= f64::EPSILON && log <= f64::EPSILON, "{exp} {log}");
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(single::exp(0.0), 1.0);
        assert_eq!([single::exp(89.0), single::exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert_eq!([single::exp(-1000.0), single::exp(f32::NEG_INFINITY)], [0.0; 2]);
        assert!(single::exp(-100.0) > 0.0, "numbers below the normal ones are kept");
        assert_eq!([double::exp(0.0), double::exp(-1000.0), double::exp(1000.0)], [1.0, 0.0, f64::INFINITY]);
        assert_eq!([single::softplus(1000.0), single::softplus(-1000.0)], [1000.0, 0.0]);
        assert_eq!([single::sigmoid(1000.0), single::sigmoid(-1000.0), single::sigmoid(0.0)], [1.0, 0.0, 0.5]);
        assert_eq!([single::tanh(1000.0), single::tanh(f32::NEG_INFINITY), single::tanh(0.0)], [1.0, -1.0, 0.0]);
        assert!(single::tanh(-0.0).is_sign_negative());
        for f in [single::exp, single::softplus, single::sigmoid, single::tanh] {
            assert!(f(f32::NAN).is_nan());
        }
        assert!(double::exp(f64::NAN).is_nan());
    }
}
