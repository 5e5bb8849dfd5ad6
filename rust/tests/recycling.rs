//! What memory is kept for the next buffer, and for how long.
//!
//! It belongs to the process, so this is one of its own, and one test has it at a time.

use optirs::memory::buffer::Buffer;
use optirs::memory::recycling::{Recycling, release};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So much may be kept however little is in use.
const FLOOR: usize = 64 << 20;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn buffer(bytes: usize) -> Buffer {
    Buffer::at(bytes, 128).unwrap()
}

/// A byte that every buffer in the same block has, wherever it starts.
fn spot(buffer: &Buffer) -> *mut u8 {
    const HUGE_PAGE: usize = 2 << 20;
    let behind = if buffer.len() > 2 * HUGE_PAGE { HUGE_PAGE - buffer.ptr() as usize % HUGE_PAGE } else { 0 };
    buffer.ptr().wrapping_add(behind)
}

/// Whether it is memory that was marked before; fresh memory is zeros.
fn is_marked(buffer: &Buffer) -> bool {
    assert!(buffer.is_initialised());
    // SAFETY: it lies within the buffer, which is initialised.
    unsafe { *spot(buffer) != 0 }
}

fn mark(buffer: &Buffer) {
    // SAFETY: it lies within the buffer.
    unsafe { *spot(buffer) = 1 };
}

#[test]
fn large_blocks_are_recycled_aligned_and_released() {
    let _turn = turn();
    for bytes in [(64 << 10) + 64, (5 << 20) + 64] {
        let first = buffer(bytes);
        assert_eq!(first.ptr() as usize % 64, 0);
        assert!(!is_marked(&first));
        mark(&first);
        drop(first);
        assert!(is_marked(&buffer(bytes)));
        assert!(release() >= bytes);
        assert!(!is_marked(&buffer(bytes)));
    }
}

#[test]
fn fresh_memory_is_zeros() {
    let _turn = turn();
    for bytes in [64 << 10, 1 << 20, 5 << 20] {
        // What was given back may come again.
        let used = buffer(bytes);
        // SAFETY: it is so long.
        unsafe { used.ptr().write_bytes(1, bytes) };
        drop(used);
        release();
        let fresh = buffer(bytes);
        // SAFETY: it is so long, and initialised.
        let found = unsafe { std::slice::from_raw_parts(fresh.ptr(), bytes) };
        assert!(fresh.is_initialised() && found.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_block_larger_than_the_floor_is_kept_while_as_much_is_in_use() {
    let _turn = turn();
    let (old, new) = (buffer(FLOOR + 4096), buffer(FLOOR + 4096));
    mark(&old);
    drop(old);
    assert!(is_marked(&buffer(FLOOR + 4096)));
    drop(new);
    assert!(!is_marked(&buffer(FLOOR + 4096)));
}

#[test]
fn what_was_in_use_at_once_is_kept_while_recycling() {
    let _turn = turn();
    let pair = || [(); 2].map(|()| buffer(FLOOR + 8192));
    let (outer, inner) = (Recycling::begin(), Recycling::begin());
    pair().iter().for_each(mark);
    assert!(pair().iter().all(is_marked));
    drop(inner);
    assert!(pair().iter().all(is_marked));
    drop(outer);
    assert!(release() <= FLOOR);
    assert!(!pair().iter().any(is_marked));
}

#[test]
fn what_is_in_use_and_kept_while_recycling_was_in_use_at_once() {
    let _turn = turn();
    release();
    let _recycling = Recycling::begin();
    let bytes = 3 * FLOOR;
    for more in (1..=4).map(|i| i * 4096) {
        let other = buffer(bytes + more); // of another layout each time, so that nothing is taken again
        assert!(release() <= FLOOR);
        drop(other);
        drop(buffer(bytes));
    }
    drop((buffer(bytes), buffer(bytes)));
    let one = buffer(bytes);
    let kept = release();
    assert!((bytes..bytes + (4 << 20)).contains(&kept), "{kept}");
    drop(one);
}

#[test]
fn each_recycling_counts_from_what_is_in_use_when_it_begins() {
    let _turn = turn();
    let before = Recycling::begin();
    drop(buffer(8 * FLOOR));
    drop(before);
    let held = [(); 2].map(|()| buffer(2 * FLOOR));
    let _recycling = Recycling::begin();
    drop(held);
    assert!(release() >= 4 * FLOOR);
    drop(buffer(4 * FLOOR));
    let _other = buffer(4 * FLOOR + 4096);
    assert!(release() <= FLOOR);
}
