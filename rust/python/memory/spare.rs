//! The allocator of the module: the system's, and some spare memory for small requests that the system refuses.
//!
//! Collections that grow with the user's data can be refused room ([`crate::memory::reserve`]). Small requests stand between
//! them, and cannot be: a shape, a key path, the words of an error. They are met from the spare memory where the system has
//! none; from then on no collection grows, so that the call ends, with `MemoryError`, long before the spare memory does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::reserve::LOW;

/// Bytes of a unit, and what it is aligned to.
const UNIT: usize = 64;
/// Units of a group: one bit each of a word.
const GROUP: usize = u64::BITS as usize;
/// How many groups there are.
const GROUPS: usize = 64;

/// The spare memory, of which the system makes pages only when it is used.
#[repr(align(64))]
struct Room(UnsafeCell<[[u8; UNIT * GROUP]; GROUPS]>);

// SAFETY: plain memory; whose a unit is says `TAKEN`.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([[0; UNIT * GROUP]; GROUPS]));
/// Which units are in use, by group.
static TAKEN: [AtomicU64; GROUPS] = [const { AtomicU64::new(0) }; GROUPS];

/// `n` bits that are set, from bit `first` on.
fn bits(n: usize, first: usize) -> u64 {
    (u64::MAX >> (GROUP - n)) << first
}

fn units(layout: Layout) -> usize {
    layout.size().div_ceil(UNIT).max(1)
}

/// Spare memory of this layout; null if there is none, or it is no small request.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    let n = units(layout);
    if n > GROUP || layout.align() > UNIT {
        return ptr::null_mut();
    }
    LOW.store(true, Ordering::Relaxed);
    for (group, taken) in TAKEN.iter().enumerate() {
        for first in 0..=GROUP - n {
            let wanted = bits(n, first);
            let free = |taken: u64| if taken & wanted == 0 { Some(taken | wanted) } else { None };
            if taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, free).is_ok() {
                return ROOM.0.get().cast::<u8>().wrapping_add((group * GROUP + first) * UNIT);
            }
        }
    }
    ptr::null_mut()
}

/// Where in the spare memory `at` lies, if it does.
fn place(at: *mut u8) -> Option<usize> {
    let offset = at.addr().wrapping_sub(ROOM.0.get().addr());
    (offset < UNIT * GROUP * GROUPS).then_some(offset)
}

/// Gives spare memory back.
#[cold]
fn give(offset: usize, layout: Layout) {
    let unit = offset / UNIT;
    TAKEN[unit / GROUP].fetch_and(!bits(units(layout), unit % GROUP), Ordering::Release);
}

/// See the module.
pub struct Spare;

// SAFETY: memory is the system's, or units that `take` has given to nothing else; none of it unwinds.
unsafe impl GlobalAlloc for Spare {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let found = unsafe { System.alloc(layout) };
        if found.is_null() { take(layout) } else { found }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let found = unsafe { System.alloc_zeroed(layout) };
        if !found.is_null() {
            return found;
        }
        let spare = take(layout);
        if !spare.is_null() {
            // SAFETY: just taken with this layout.
            unsafe { spare.write_bytes(0, layout.size()) };
        }
        spare
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match place(at) {
            Some(offset) => give(offset, layout),
            // SAFETY: the system's; the rest is the caller's promise.
            None => unsafe { System.dealloc(at, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: a layout of this size is a valid one, and this many bytes can be copied.
        unsafe {
            let spare = place(at).is_some();
            let found = if spare { ptr::null_mut() } else { System.realloc(at, layout, size) };
            if !found.is_null() {
                return found;
            }
            let new = Layout::from_size_align_unchecked(size, layout.align());
            let moved = if spare { self.alloc(new) } else { take(new) };
            if !moved.is_null() {
                ptr::copy_nonoverlapping(at, moved, layout.size().min(size));
                self.dealloc(at, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_memory_is_given_once_and_comes_back() {
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let sizes = [1, 64, 65, 4096, 1000, 0];
        let mut taken: Vec<_> = sizes.iter().map(|&size| (take(layout(size)), size)).collect();
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].0.addr() + pair[0].1 <= pair[1].0.addr()));
        assert!(take(layout(4097)).is_null() && take(Layout::from_size_align(8, 128).unwrap()).is_null());
        let rest = std::iter::repeat_with(|| take(layout(4096))).take_while(|at| !at.is_null());
        let rest: Vec<_> = rest.collect();
        assert!(rest.len() >= GROUPS - 3);
        let all = taken.into_iter().chain(rest.into_iter().map(|at| (at, 4096)));
        all.for_each(|(at, size)| give(place(at).unwrap(), layout(size)));
        assert!(TAKEN.iter().all(|taken| taken.load(Ordering::Relaxed) == 0));
        LOW.store(false, Ordering::Relaxed);
    }
}
