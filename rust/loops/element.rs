//! Element types: what a formula may do with one number, and how 16-bit and foreign types are read and written.
//!
//! A rule is written once over [`Element`]. Real numbers are their own [`Element::Real`]; a complex number's is the type
//! of its parts, which second moments have. Only operations that IEEE 754 defines to the last bit are offered, so that
//! every instruction set gives the same result.

use super::dtype::{Compute, DType};
use crate::memory::placement::Aligned;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use num_complex::Complex;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// A number that rules compute with.
pub trait Element:
    Copy
    + Send
    + Sync
    + PartialEq
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Neg<Output = Self>
    + Mul<Self::Real, Output = Self>
    + Div<Self::Real, Output = Self>
{
    /// The type of the modulus, and of hyper-parameters.
    type Real: Real;
    /// This type's name at run time.
    const COMPUTE: Compute;
    /// Zero.
    const ZERO: Self;
    /// `x` as an element.
    fn from_real(x: Self::Real) -> Self;
    /// The real part: the number itself where it is real.
    fn re(self) -> Self::Real;
    /// `|z|²`.
    fn abs2(self) -> Self::Real;
    /// `|z|²` in float64, which float32 cannot overflow.
    fn wide_abs2(self) -> f64;
    /// `|z|`, without overflow on the way.
    fn abs(self) -> Self::Real;
    /// `z/|z|`, and 0 at 0; NaN stays NaN.
    fn sign(self) -> Self;
    /// The same value, shortened to `bound` in size where it is finite and greater; infinities and NaN become NaN. The size
    /// of a complex number is that of its greater part, and its direction stays.
    fn bounded_by(self, bound: Self::Real) -> Self;
    /// The same value, 0 where it is nearer to 0 than the smallest normal number; each part of a complex one for itself.
    fn without_subnormal(self) -> Self;
    /// Reads `out.len()` elements of type `from` at `at`, converted.
    ///
    /// # Safety
    /// `at` is valid for reads of that many aligned elements of `from`.
    unsafe fn load(from: DType, at: *const u8, out: &mut [Self]);
    /// Writes `values`, converted and rounded once, as elements of type `to` at `at`.
    ///
    /// # Safety
    /// `at` is valid for writes of that many aligned elements of `to`, and does not overlap `values`.
    unsafe fn store(to: DType, values: &[Self], at: *mut u8);

    /// A gradient whose moments are squared: [`Element::bounded_by`] what can be squared.
    #[inline(always)]
    fn bounded(self) -> Self {
        self.bounded_by(Self::Real::SQUARABLE)
    }

    /// The average `beta self + (1 - beta) next`, of which `share` knows what [`crate::program::contract::share`] makes of
    /// `beta`. It moves
    /// `self` by the share `1 - beta` of the way to `next`, or for small beta `next` by the share `beta` back, so that no
    /// digits are lost at either end. Where beta is 0 it is `next` to the last bit.
    #[inline(always)]
    fn average(self, next: Self, share: Self::Real) -> Self {
        let from = if share <= Self::Real::ZERO { next } else { self };
        from + (next - self) * share
    }
}

/// A real number that rules compute with.
pub trait Real: Element<Real = Self> + PartialOrd + Mul<Self, Output = Self> + Div<Self, Output = Self> {
    /// One.
    const ONE: Self;
    /// The greatest finite number.
    const GREATEST: Self;
    /// A power of 2 that is not beyond a quarter of [`Real::GREATEST`]: differences and moduli of such numbers are finite.
    const QUARTER: Self;
    /// A power of 2 so small that the squared modulus of a difference of two such complex numbers is finite.
    const SQUARABLE: Self;
    /// The nearest value.
    fn from_f64(x: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
    /// The square root.
    fn sqrt(self) -> Self;

    /// The same value, `bound` if it is less, NaN if it is NaN: one comparison, as `bound` is a number.
    #[inline(always)]
    fn at_least(self, bound: Self) -> Self {
        if self <= bound { bound } else { self }
    }

    /// The same value, `bound` if it is greater, NaN if it is NaN.
    #[inline(always)]
    fn at_most(self, bound: Self) -> Self {
        if self >= bound { bound } else { self }
    }

    /// The greater one; NaN if either is.
    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        if self > other || is_nan(self) { self } else { other }
    }

    /// The lesser one; NaN if either is.
    #[inline(always)]
    fn minimum(self, other: Self) -> Self {
        if self < other || is_nan(self) { self } else { other }
    }
}

#[allow(clippy::eq_op, reason = "the definition of NaN; `is_nan` is not in the trait")]
#[inline(always)]
fn is_nan<R: Real>(x: R) -> bool {
    x != x
}

macro_rules! real {
    ($t:ident, $variant:ident, $from_half:ident, $to_half:path, $squarable:literal) => {
        impl Element for $t {
            type Real = $t;
            const COMPUTE: Compute = Compute::$variant;
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn from_real(x: $t) -> Self {
                x
            }
            #[inline(always)]
            fn re(self) -> $t {
                self
            }
            #[inline(always)]
            fn abs2(self) -> $t {
                self * self
            }
            #[inline(always)]
            fn wide_abs2(self) -> f64 {
                f64::from(self) * f64::from(self)
            }
            #[inline(always)]
            fn abs(self) -> $t {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                // NaN is neither, and 0 keeps itself: the value passes through.
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else {
                    self
                }
            }
            #[inline(always)]
            fn bounded_by(self, bound: $t) -> Self {
                self.at_least(-bound).at_most(bound) + (self - self) // the difference is 0 or NaN
            }
            #[inline(always)]
            fn without_subnormal(self) -> Self {
                if self.abs() < $t::MIN_POSITIVE { 0.0 } else { self }
            }
            unsafe fn load(from: DType, at: *const u8, out: &mut [Self]) {
                let n = out.len();
                // SAFETY: the caller vouches for `at`.
                unsafe {
                    match from {
                        DType::F16 => from_raw_parts(at.cast::<f16>(), n).$from_half(out),
                        DType::BF16 => from_raw_parts(at.cast::<bf16>(), n).$from_half(out),
                        DType::F32 => cast(from_raw_parts(at.cast::<f32>(), n), out, |x| x as $t),
                        DType::F64 => cast(from_raw_parts(at.cast::<f64>(), n), out, |x| x as $t),
                        DType::C64 | DType::C128 => {
                            debug_assert!(false, "complex numbers are never read as real ones")
                        }
                    }
                }
            }
            unsafe fn store(to: DType, values: &[Self], at: *mut u8) {
                let n = values.len();
                // SAFETY: the caller vouches for `at`.
                unsafe {
                    match to {
                        DType::F16 => $to_half(values, from_raw_parts_mut(at.cast::<f16>(), n)),
                        DType::BF16 => $to_half(values, from_raw_parts_mut(at.cast::<bf16>(), n)),
                        DType::F32 => cast(values, from_raw_parts_mut(at.cast::<f32>(), n), |x| x as f32),
                        DType::F64 => cast(values, from_raw_parts_mut(at.cast::<f64>(), n), |x| f64::from(x)),
                        DType::C64 | DType::C128 => {
                            debug_assert!(false, "real numbers are never written as complex ones")
                        }
                    }
                }
            }
        }

        impl Real for $t {
            const ONE: Self = 1.0;
            const GREATEST: Self = $t::MAX;
            const QUARTER: Self = power_of_two($t::MAX_EXP - 2) as $t;
            const SQUARABLE: Self = power_of_two($squarable) as $t;
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
        }
    };
}

real!(f32, F32, convert_to_f32_slice, halves_of_f32, 62);
real!(f64, F64, convert_to_f64_slice, halves_of_f64, 510);

/// Rounds to 16 bits.
fn halves_of_f32<H>(values: &[f32], out: &mut [H])
where
    [H]: HalfFloatSliceExt,
{
    out.convert_from_f32_slice(values);
}

/// The same, once: where the processor converts from float32 alone, `half` rounds float64 twice, and elsewhere it looks at
/// its upper 32 bits alone.
fn halves_of_f64<H>(values: &[f64], out: &mut [H])
where
    [H]: HalfFloatSliceExt,
{
    let mut strip = Aligned([0.0; 64]);
    for (values, out) in values.chunks(strip.0.len()).zip(out.chunks_mut(strip.0.len())) {
        let strip = &mut strip.0[..values.len()];
        cast(values, strip, round_to_odd);
        out.convert_from_f32_slice(strip);
    }
}

/// As float32; a number between two of those becomes the one with an odd last bit, which is no tie of a narrower type.
pub fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let towards_zero = near.to_bits() - u32::from(back.abs() > x.abs());
    f32::from_bits(towards_zero | u32::from(back != x))
}

macro_rules! complex {
    ($t:ident, $variant:ident, |$z:ident| $modulus:expr) => {
        impl Element for Complex<$t> {
            type Real = $t;
            const COMPUTE: Compute = Compute::$variant;
            const ZERO: Self = Complex { re: 0.0, im: 0.0 };
            #[inline(always)]
            fn from_real(x: $t) -> Self {
                Complex { re: x, im: 0.0 }
            }
            #[inline(always)]
            fn re(self) -> $t {
                self.re
            }
            #[inline(always)]
            fn abs2(self) -> $t {
                self.re * self.re + self.im * self.im
            }
            #[inline(always)]
            fn wide_abs2(self) -> f64 {
                f64::from(self.re) * f64::from(self.re) + f64::from(self.im) * f64::from(self.im)
            }
            #[inline(always)]
            fn abs(self) -> $t {
                let $z = self;
                $modulus
            }
            #[inline(always)]
            fn sign(self) -> Self {
                let modulus = self.abs();
                if modulus == 0.0 { self } else { self / modulus }
            }
            #[inline(always)]
            fn bounded_by(self, bound: $t) -> Self {
                let size = Real::maximum(self.re.abs(), self.im.abs());
                // One NaN for all: which of two a product keeps depends on the order of its factors, which compilers change.
                if size <= $t::MAX {
                    self * (bound / size.at_least(bound))
                } else {
                    Complex { re: $t::NAN, im: $t::NAN }
                }
            }
            #[inline(always)]
            fn without_subnormal(self) -> Self {
                Complex { re: self.re.without_subnormal(), im: self.im.without_subnormal() }
            }
            unsafe fn load(from: DType, at: *const u8, out: &mut [Self]) {
                let n = out.len();
                // SAFETY: the caller vouches for `at`.
                unsafe {
                    match from {
                        DType::C64 => cast(from_raw_parts(at.cast(), n), out, |z: Complex<f32>| {
                            Complex::new(z.re as $t, z.im as $t)
                        }),
                        DType::C128 => cast(from_raw_parts(at.cast(), n), out, |z: Complex<f64>| {
                            Complex::new(z.re as $t, z.im as $t)
                        }),
                        _ => {
                            debug_assert!(false, "real numbers are converted before they come here")
                        }
                    }
                }
            }
            unsafe fn store(to: DType, values: &[Self], at: *mut u8) {
                let n = values.len();
                // SAFETY: the caller vouches for `at`.
                unsafe {
                    match to {
                        DType::C64 => {
                            cast(values, from_raw_parts_mut(at.cast(), n), |z| Complex::new(z.re as f32, z.im as f32))
                        }
                        DType::C128 => cast(values, from_raw_parts_mut(at.cast(), n), |z| {
                            Complex::new(f64::from(z.re), f64::from(z.im))
                        }),
                        _ => debug_assert!(false, "complex numbers are never written as real ones"),
                    }
                }
            }
        }
    };
}

// float32 parts cannot overflow in float64; float64 parts are scaled by the greater one.
complex!(f32, C64, |z| z.wide_abs2().sqrt() as f32);
complex!(f64, C128, |z| {
    let (a, b) = (z.re.abs(), z.im.abs());
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    let ratio = small / large;
    if large == 0.0 || large == f64::INFINITY { large + small * 0.0 } else { large * (1.0 + ratio * ratio).sqrt() }
});

/// 2 to the power `n`, the exponent of a normal number.
pub(crate) const fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + f64::MAX_EXP - 1) as u64) << (f64::MANTISSA_DIGITS - 1))
}

fn cast<A: Copy, B>(from: &[A], to: &mut [B], f: impl Fn(A) -> B) {
    for (b, &a) in to.iter_mut().zip(from) {
        *b = f(a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores `x` as a number of type `H`, whose bits are `bits`.
    fn stored<H: Copy>(to: DType, x: f64, bits: fn(H) -> u16, zero: H) -> u16 {
        let mut out = [zero];
        // SAFETY: one element, aligned, of the type that `to` names.
        unsafe { f64::store(to, &[x], out.as_mut_ptr().cast()) };
        bits(out[0])
    }

    #[test]
    fn float64_is_rounded_to_16_bits_once() {
        let to_f16 = |x| stored(DType::F16, x, f16::to_bits, f16::ZERO);
        let to_bf16 = |x| stored(DType::BF16, x, bf16::to_bits, bf16::ZERO);
        // From 0 up to infinity: between neighbours lies a tie, and on either side of it a number that float32 rounds to it.
        for bits in 0..0x7C00_u16 {
            let (a, b) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
            let tie = if b.is_finite() { a + (b - a) / 2.0 } else { 65520.0 };
            let even = bits + bits % 2;
            let found = [tie.next_down(), tie, tie.next_up()].map(to_f16);
            assert_eq!(found, [bits, even, bits + 1], "{tie}");
            assert_eq!(to_f16(-tie.next_up()), 0x8000 | (bits + 1));
        }
        for bits in 0..0x7F80_u16 {
            let (a, b) = (bf16::from_bits(bits).to_f64(), bf16::from_bits(bits + 1).to_f64());
            let tie = if b.is_finite() { a + (b - a) / 2.0 } else { a + 2.0_f64.powi(119) };
            let found = [tie.next_down(), tie, tie.next_up()].map(to_bf16);
            assert_eq!(found, [bits, bits + bits % 2, bits + 1], "{tie}");
            assert_eq!(to_bf16(-tie.next_down()), 0x8000 | bits);
        }
        assert_eq!((to_f16(f64::INFINITY), to_bf16(f64::NEG_INFINITY)), (0x7C00, 0xFF80));
        assert_eq!((to_f16(1e300), to_bf16(-1e300)), (0x7C00, 0xFF80));
        assert!(f16::from_bits(to_f16(f64::NAN)).is_nan() && bf16::from_bits(to_bf16(f64::NAN)).is_nan());
    }
}
