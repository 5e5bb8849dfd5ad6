//! The vectors of AVX2 and AVX-512.

use super::{Square, Vector};
use std::arch::x86_64::*;
use std::mem::transmute;

/// Eight lanes of ones and eight of zeros: a mask of the first `n` starts at `8 - n`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: `n` is at most 8, so eight numbers follow.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
}

// SAFETY of the bodies: the caller promises that the processor has AVX2 and FMA and that the pointers are valid.
impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: as above; a masked load touches no lane whose mask is 0.
        unsafe { _mm256_maskload_ps(from, mask(n)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: as above. In pieces of 8, 4, 2 and 1: masked stores are slow on AMD's processors.
        unsafe {
            if n == 8 {
                return _mm256_storeu_ps(to, self);
            }
            let (mut rest, mut to) = (_mm256_castps256_ps128(self), to);
            if n & 4 != 0 {
                _mm_storeu_ps(to, rest);
                (rest, to) = (_mm256_extractf128_ps::<1>(self), to.add(4));
            }
            if n & 2 != 0 {
                _mm_store_sd(to.cast(), _mm_castps_pd(rest));
                (rest, to) = (_mm_movehl_ps(rest, rest), to.add(2));
            }
            if n & 1 != 0 {
                _mm_store_ss(to, rest);
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add_fours(self) -> [f32; 4] {
        // SAFETY: as above; four numbers are four numbers.
        unsafe { transmute(_mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self))) }
    }

    #[inline(always)]
    unsafe fn pick(self, at: &[i32; 16]) -> Self {
        // SAFETY: as above; there are sixteen places.
        unsafe { _mm256_permutevar8x32_ps(self, _mm256_loadu_si256(at.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn pick_or_one(self, at: &[i32; 16]) -> Self {
        // SAFETY: as above. The sign of a place chooses the one; of the place itself only three bits are read.
        unsafe {
            let signs = _mm256_castsi256_ps(_mm256_loadu_si256(at.as_ptr().cast()));
            _mm256_blendv_ps(self.pick(at), Self::splat(1.0), signs)
        }
    }

    #[inline(always)]
    unsafe fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Square for __m256 {
    #[inline(always)]
    unsafe fn columns(rows: &[*const f32; 8], k: usize) -> [Self; 8] {
        // SAFETY: as above. Rows i and i + 4 share a vector, then pairs of rows are interleaved, then fours.
        unsafe {
            let mut out = [_mm256_setzero_ps(); 8];
            for half in [0, 4] {
                let mut v = [_mm256_setzero_ps(); 4];
                for i in 0..4 {
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(rows[i].add(k + half)));
                    v[i] = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(rows[i + 4].add(k + half)));
                }
                let (low, high) = (_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpacklo_ps(v[2], v[3]));
                out[half] = _mm256_shuffle_ps::<0x44>(low, high);
                out[half + 1] = _mm256_shuffle_ps::<0xee>(low, high);
                let (low, high) = (_mm256_unpackhi_ps(v[0], v[1]), _mm256_unpackhi_ps(v[2], v[3]));
                out[half + 2] = _mm256_shuffle_ps::<0x44>(low, high);
                out[half + 3] = _mm256_shuffle_ps::<0xee>(low, high);
            }
            out
        }
    }
}

// SAFETY of the bodies: the caller promises that the processor has AVX-512F and that the pointers are valid.
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: as above; a masked load touches no lane whose bit is 0.
        unsafe { _mm512_maskz_loadu_ps(((1_u32 << n) - 1) as u16, from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: as above; a masked store touches no lane whose bit is 0.
        unsafe { _mm512_mask_storeu_ps(to, ((1_u32 << n) - 1) as u16, self) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add_fours(self) -> [f32; 4] {
        // SAFETY: as above.
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self)));
            _mm256_add_ps(_mm512_castps512_ps256(self), high).add_fours()
        }
    }

    #[inline(always)]
    unsafe fn pick(self, at: &[i32; 16]) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(at.as_ptr().cast()), self) }
    }

    #[inline(always)]
    unsafe fn pick_or_one(self, at: &[i32; 16]) -> Self {
        // SAFETY: as above.
        unsafe {
            let places = _mm512_loadu_si512(at.as_ptr().cast());
            let from_self = _mm512_cmpge_epi32_mask(places, _mm512_setzero_si512());
            _mm512_mask_permutexvar_ps(Self::splat(1.0), from_self, places, self)
        }
    }

    #[inline(always)]
    unsafe fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}
