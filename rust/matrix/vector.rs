//! Vectors of float32 with a fused multiply-add: the one operation that the products consist of.
//!
//! A fused multiply-add is rounded once, by IEEE 754, so it gives the same bits in AVX2, AVX-512 and NEON. Where the
//! instruction set has none, [`fused`] computes it from float64 operations.

/// Some float32 numbers side by side.
///
/// # Safety
/// For every method: the processor has the instruction set of the type, and pointers are valid for the lanes they are
/// used for. Nothing need be aligned.
pub trait Vector: Copy {
    /// How many numbers.
    const LANES: usize;
    /// All zero.
    unsafe fn zero() -> Self;
    /// The same number in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// From memory.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `n` lanes from memory, the others 0; no memory beyond them is touched.
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    /// To memory.
    unsafe fn store(self, to: *mut f32);
    /// The first `n` lanes to memory; no memory beyond them is touched.
    unsafe fn store_part(self, to: *mut f32, n: usize);
    /// Asks for the memory at `at` to be brought to the first-level cache, where the processor can be asked.
    unsafe fn prefetch(at: *const f32);
    /// The same to the second-level cache.
    unsafe fn prefetch_far(at: *const f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `a * b + self`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sums of every fourth lane: the one half is added to the other until four are left.
    unsafe fn add_fours(self) -> [f32; 4];
    /// Lane `i` of the result is lane `at[i]`, which is less than [`Self::LANES`].
    unsafe fn pick(self, at: &[i32; 16]) -> Self;
    /// The same, and 1 in the lanes for which `at` is -1.
    unsafe fn pick_or_one(self, at: &[i32; 16]) -> Self;
    /// `a * b + c` of single numbers, rounded once.
    unsafe fn fused(a: f32, b: f32, c: f32) -> f32;
}

/// A vector of eight lanes, so that eight of them are a square block of a matrix.
///
/// # Safety
/// As for [`Vector`].
pub trait Square: Vector {
    /// Columns `k` to `k + 7` of eight rows that start at these places.
    unsafe fn columns(rows: &[*const f32; 8], k: usize) -> [Self; 8];
}

/// `a * b + c`, rounded once, without an instruction for it.
///
/// In float64 the product of two float32 is exact. The sum is rounded to odd: where it is not exact, its last bit is made
/// 1, by which rounding to float32 later sees on which side of a tie it lies. Only the payload of a NaN may differ from
/// what an instruction gives.
#[inline(always)]
#[must_use]
pub fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    // What the addition rounded away, exactly; NaN where the sum is not finite.
    let part = sum - p;
    let lost = (p - (sum - part)) + (c - part);
    let bits = sum.to_bits();
    let away = (lost > 0.0) == (sum > 0.0);
    let neighbour = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = (lost > 0.0) | (lost < 0.0);
    f64::from_bits(if inexact & (bits & 1 == 0) { neighbour } else { bits }) as f32
}

/// Eight numbers without instructions of their own: SSE2, NEON and everything else, as the compiler sees fit.
#[derive(Clone, Copy)]
pub struct Plain([f32; 8]);

/// `a * b + c`, rounded once.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    // On x86-64 without FMA `mul_add` is a call for every number.
    if cfg!(all(target_arch = "x86_64", not(target_feature = "fma"))) { fused(a, b, c) } else { a.mul_add(b, c) }
}

impl Vector for Plain {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: the caller's promise: only the first `n` are read.
        Self(std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        for (i, &value) in self.0.iter().enumerate().take(n) {
            // SAFETY: the caller's promise: only the first `n` are written.
            unsafe { *to.add(i) = value }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}

    #[inline(always)]
    unsafe fn prefetch_far(_: *const f32) {}

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| mul_add(a.0[i], b.0[i], self.0[i])))
    }

    #[inline(always)]
    unsafe fn add_fours(self) -> [f32; 4] {
        std::array::from_fn(|i| self.0[i] + self.0[i + 4])
    }

    #[inline(always)]
    unsafe fn pick(self, at: &[i32; 16]) -> Self {
        Self(std::array::from_fn(|i| self.0[at[i] as usize]))
    }

    #[inline(always)]
    unsafe fn pick_or_one(self, at: &[i32; 16]) -> Self {
        Self(std::array::from_fn(|i| if at[i] < 0 { 1.0 } else { self.0[at[i] as usize] }))
    }

    #[inline(always)]
    unsafe fn fused(a: f32, b: f32, c: f32) -> f32 {
        mul_add(a, b, c)
    }
}

impl Square for Plain {
    #[inline(always)]
    unsafe fn columns(rows: &[*const f32; 8], k: usize) -> [Self; 8] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|j| Self(std::array::from_fn(|i| unsafe { *rows[i].add(k + j) })))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;
