//! Stores past the caches, for results that are larger than they are.
//!
//! An ordinary store reads the line that it overwrites. A pure update of large arrays writes what is not read before the
//! next step, so it saves that read; in the caches the same stores would cost twice as much (see [`crate::step::drive`] for
//! where the border lies).

use super::simd::Level;

/// Copies `bytes` bytes past the caches. Wait with [`fence`] before another thread is told.
///
/// # Safety
/// Both are valid for `bytes` bytes and do not overlap.
#[inline(always)]
pub unsafe fn stream(level: Level, from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; `level` never exceeds what the processor has, and `to` is aligned as is asked for.
    unsafe {
        let whole = match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 if (to as usize).is_multiple_of(32) => avx(from, to, bytes),
            #[cfg(target_arch = "x86_64")]
            _ if (to as usize).is_multiple_of(16) => sse2(from, to, bytes),
            _ => 0,
        };
        std::ptr::copy_nonoverlapping(from.add(whole), to.add(whole), bytes - whole);
    }
}

/// Streams whole vectors, and says how many bytes that was.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn avx(from: *const u8, to: *mut u8, bytes: usize) -> usize {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256};
    let whole = bytes / 32 * 32;
    for at in (0..whole).step_by(32) {
        // SAFETY: the caller's promise; `to` is aligned to 32 bytes.
        unsafe { _mm256_stream_si256(to.add(at).cast(), _mm256_loadu_si256(from.add(at).cast())) };
    }
    whole
}

/// As [`avx`]. From memory such narrow stores gain little over ordinary ones, and lose nothing.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn sse2(from: *const u8, to: *mut u8, bytes: usize) -> usize {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    let whole = bytes / 16 * 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: the caller's promise; `to` is aligned to 16 bytes.
        unsafe { _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast())) };
    }
    whole
}

/// Asks for `bytes` bytes from `at` on, which are about to be read.
#[inline(always)]
pub fn ahead(at: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, bytes);
}

/// Waits until all that this thread has streamed can be seen by others.
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of the architecture has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
