//! What memory is kept for the next buffer, and for how long.
//!
//! It belongs to the process, so this is one of its own, and one test has it at a time.

use optirs::buffer::{Buffer, Recycling, release};
use std::sync::{Mutex, MutexGuard};

/// So much may be kept however little is in use.
const FLOOR: usize = 64 << 20;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap()
}

fn buffer(bytes: usize) -> Buffer {
    Buffer::of_stream(bytes, 3).unwrap()
}

/// Whether it is memory that was marked before; fresh memory is zeros.
fn is_marked(buffer: &Buffer) -> bool {
    assert!(buffer.is_initialised());
    // SAFETY: it is not empty, and initialised.
    unsafe { *buffer.ptr() != 0 }
}

fn mark(buffer: &Buffer) {
    // SAFETY: it is not empty.
    unsafe { *buffer.ptr() = 1 };
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
        release();
        let buffer = buffer(bytes);
        // SAFETY: it is so long, and initialised.
        let found = unsafe { std::slice::from_raw_parts(buffer.ptr(), bytes) };
        assert!(buffer.is_initialised() && found.iter().all(|&byte| byte == 0));
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
fn no_more_is_kept_while_recycling_than_was_in_use_at_once() {
    let _turn = turn();
    release();
    let _recycling = Recycling::begin();
    for bytes in (1..=4).map(|i| 2 * FLOOR + i * 4096) {
        mark(&buffer(bytes));
    }
    assert!(release() <= 2 * FLOOR + (4 << 20));
}
