//! Room for the lists of one update, kept for the next one.
//!
//! The lists of a thousand leaves are larger than what the system's allocator keeps at hand: taken anew each time, their
//! pages alone cost as much as the walk.

use crate::memory::reserve::{OutOfMemory, Put, Reserve, check};
use bumpalo::Bump;
use std::cell::Cell;

/// A list in an arena.
pub type List<'b, T> = bumpalo::collections::Vec<'b, T>;

/// An empty list with room for `n` entries.
pub fn list_in<T>(n: usize, arena: &Bump) -> Result<List<'_, T>, OutOfMemory> {
    let mut list = List::new_in(arena);
    list.make_room(n)?;
    Ok(list)
}

impl<T> Reserve for List<'_, T> {
    #[inline]
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        if self.capacity() - self.len() >= more {
            return Ok(());
        }
        check::<T>(self.len().saturating_add(more))?;
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<T>(self.len().saturating_add(more)))
    }
}

impl<T> Put<T> for List<'_, T> {
    #[inline]
    fn put(&mut self, value: T) -> Result<(), OutOfMemory> {
        self.make_room(1)?;
        self.push(value);
        Ok(())
    }
}

/// The bytes that are kept for a thread's next update: enough for some ten thousand leaves.
const BOUND: usize = 8 << 20;

thread_local! {
    static KEPT: Cell<Option<Bump>> = const { Cell::new(None) };
}

/// Calls `f` with an empty arena. An update within an update gets one of its own.
pub fn with_arena<R>(f: impl FnOnce(&Bump) -> R) -> R {
    let kept = KEPT.try_with(Cell::take).ok().flatten();
    let mut arena = kept.unwrap_or_default();
    let result = f(&arena);
    arena.reset();
    if arena.allocated_bytes() <= BOUND {
        // A thread that is ending keeps nothing.
        let _ = KEPT.try_with(|slot| slot.set(Some(arena)));
    }
    result
}
