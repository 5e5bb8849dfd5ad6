//! Stores past the caches, for results that are larger than they are.
//!
//! An ordinary store reads the line that it overwrites. A pure update of large arrays writes what nobody reads before the
//! next step, so it saves that read; in the caches the same stores would cost twice as much (see [`crate::drive`] for
//! where the border lies).

/// Copies `bytes` bytes past the caches. Wait with [`fence`] before another thread is told.
///
/// # Safety
/// Both are valid for `bytes` bytes and do not overlap.
#[cfg(target_arch = "x86_64")]
pub unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const WIDTH: usize = size_of::<__m128i>();
    if !(to as usize).is_multiple_of(WIDTH) {
        // SAFETY: the caller's promise.
        return unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
    }
    let whole = bytes / WIDTH * WIDTH;
    // SAFETY: the caller's promise; `to` is aligned, and the rest is less than one vector.
    unsafe {
        for at in (0..whole).step_by(WIDTH) {
            _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast()));
        }
        std::ptr::copy_nonoverlapping(from.add(whole), to.add(whole), bytes - whole);
    }
}

/// Waits until all that this thread has streamed can be seen by others.
#[cfg(target_arch = "x86_64")]
pub fn fence() {
    // SAFETY: every processor of the architecture has it.
    unsafe { std::arch::x86_64::_mm_sfence() }
}

/// Copies `bytes` bytes: an ordinary copy here.
///
/// # Safety
/// Both are valid for `bytes` bytes and do not overlap.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) }
}

/// Nothing to wait for here.
#[cfg(not(target_arch = "x86_64"))]
pub fn fence() {}
