//! How much of the thread's stack is left: some threads have little, and a walk that overflows it ends the process.

use std::cell::RefCell;
use std::ops::Range;

/// The bytes that are left for what a walk calls on its way; a quarter, where stacks are small.
const RESERVE: usize = 128 << 10;

thread_local! {
    /// The last stretch of the stack. Asked for once: for the main thread it takes reading a file.
    static RESERVED: RefCell<Option<Range<usize>>> = const { RefCell::new(None) };
}

/// Whether a walk should go no deeper. Stacks grow downwards wherever CPython runs; one that is not the thread's own, as
/// some coroutines have, is not watched.
pub fn exhausted() -> bool {
    let local = 0_u8;
    let here = std::hint::black_box(&raw const local).addr();
    let last = |(low, size): (usize, usize)| low..low + RESERVE.min(size / 4);
    RESERVED.with_borrow_mut(|known| known.get_or_insert_with(|| bounds().map_or(0..0, last)).contains(&here))
}

/// The lowest address of this thread's stack, and its size.
#[cfg(target_os = "linux")]
fn bounds() -> Option<(usize, usize)> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the call initialises the attributes of the running thread, unless it fails; they are read, then destroyed.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let failed = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        (failed == 0).then_some((low.addr(), size))
    }
}

/// The lowest address of this thread's stack, and its size.
#[cfg(target_os = "macos")]
fn bounds() -> Option<(usize, usize)> {
    // SAFETY: both calls only read what the running thread was made with.
    let (high, size) = unsafe {
        let thread = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(thread).addr(), libc::pthread_get_stacksize_np(thread))
    };
    Some((high.checked_sub(size)?, size))
}

/// The lowest address of this thread's stack, and its size.
#[cfg(windows)]
fn bounds() -> Option<(usize, usize)> {
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetCurrentThreadStackLimits(low: *mut usize, high: *mut usize);
    }
    let (mut low, mut high) = (0, 0);
    // SAFETY: the call writes two addresses to two places.
    unsafe { GetCurrentThreadStackLimits(&raw mut low, &raw mut high) };
    Some((low, high.checked_sub(low)?))
}

/// Not known here: the depth alone is bounded.
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
fn bounds() -> Option<(usize, usize)> {
    None
}
