//! Aligned memory for moments and results, recycled.
//!
//! Large blocks that are given back are kept for the next request of their size ([`recycling`]).
//!
//! Streams that start at the same place of a page share cache sets and slow each other down. Who has several asks for
//! consecutive numbers ([`streams`]); buffers of different numbers start at different places ([`Stagger`]), also in blocks
//! that were used before.

mod recycling;

use recycling::Block;
pub use recycling::{Recycling, release};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From this size on blocks are recycled; below it the allocator does well by itself.
const LARGE: usize = 64 << 10;
/// From this size on blocks ask for huge pages.
const HUGE: usize = 4 << 20;
const HUGE_PAGE: usize = 2 << 20;
/// A page of the system's.
pub const PAGE: usize = 4 << 10;
/// Where consecutive streams start in their blocks: `distance` apart, an odd number of cache lines, and from the beginning
/// again behind `room`, a number of pages. So 64 in a row start at 64 places of a page.
#[derive(Clone, Copy)]
pub struct Stagger {
    /// From one to the next.
    pub distance: usize,
    room: usize,
}

/// That of small blocks.
pub const SMALL_STAGGER: Stagger = Stagger { distance: 320, room: PAGE };
/// That of blocks that are recycled.
const STAGGER: Stagger = Stagger { distance: 1088, room: 8 * PAGE };
/// That of blocks with huge pages, whose streams come from memory and meet in more of the caches' sets.
const HUGE_STAGGER: Stagger = Stagger { distance: (128 << 10) + 4160, room: 2 << 20 };

impl Stagger {
    /// Where stream number `stream` starts.
    fn start(self, stream: usize) -> usize {
        stream.wrapping_mul(self.distance) % self.room
    }
}

const ALIGN: usize = 64;

static NEXT_STREAM: AtomicUsize = AtomicUsize::new(0);

/// The numbers of `n` streams: this one and the next.
pub fn streams(n: usize) -> usize {
    NEXT_STREAM.fetch_add(n, Ordering::Relaxed)
}

/// The layout of a block with room for `bytes`, and where in it stream number `stream` starts.
fn layout(bytes: usize, stream: usize) -> Option<(Layout, usize)> {
    let (align, stagger) = match bytes {
        ..LARGE => (PAGE, SMALL_STAGGER),
        LARGE..HUGE => (PAGE, STAGGER),
        HUGE.. => (HUGE_PAGE, HUGE_STAGGER),
    };
    let size = bytes.checked_add(stagger.room)?;
    Some((Layout::from_size_align(size, align).ok()?, stagger.start(stream)))
}

/// Some bytes, 64-byte aligned, with any content; not initialised unless [`Buffer::is_initialised`] says so.
///
/// Who writes to one writes initialised bytes only: the next buffer of its block may be read before it is written.
pub struct Buffer {
    block: Option<Block>,
    offset: usize,
    bytes: usize,
}

// SAFETY: a buffer is plain memory; who may write to it when is its users' affair, which they say where they do.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Room for `bytes` bytes; `None` where the system has none.
    #[must_use]
    pub fn new(bytes: usize) -> Option<Self> {
        if bytes < LARGE { Self::small(bytes) } else { Self::of_stream(bytes, streams(1)) }
    }

    fn small(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).ok()?;
        Some(Self { block: Some(Block::new(layout)?), offset: 0, bytes })
    }

    /// The same; from a page on, it starts where no buffer of a number near `stream` does within a page.
    #[must_use]
    pub fn of_stream(bytes: usize, stream: usize) -> Option<Self> {
        if bytes < PAGE {
            return Self::small(bytes);
        }
        let (layout, offset) = layout(bytes, stream)?;
        if bytes < LARGE {
            return Some(Self { block: Some(Block::new(layout)?), offset, bytes });
        }
        Some(Self { block: Some(recycling::take(layout)?), offset, bytes })
    }

    /// Whether all bytes are initialised: zeros, or what a buffer before this one has left.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.bytes >= LARGE
    }

    /// The first byte.
    #[must_use]
    pub fn ptr(&self) -> *mut u8 {
        match &self.block {
            // SAFETY: the offset lies within the block.
            Some(block) => unsafe { block.start.as_ptr().add(self.offset) },
            None => NonNull::dangling().as_ptr(),
        }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else {
            return;
        };
        if self.bytes < LARGE { block.free() } else { recycling::give(block) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_start_at_different_places_of_a_page() {
        for bytes in [PAGE, LARGE, HUGE] {
            let first = streams(64);
            let mut places: Vec<_> = (0..64).map(|i| layout(bytes, first + i).unwrap().1 % PAGE).collect();
            places.sort_unstable();
            assert!(places.iter().copied().eq((0..PAGE).step_by(ALIGN)), "{bytes}: {places:?}");
            // Also in blocks that were used before.
            let (old, first) = (streams(4), streams(4));
            drop((0..4).map(|i| Buffer::of_stream(bytes, old + i).unwrap()).collect::<Vec<_>>());
            let buffers: Vec<Buffer> = (0..4).map(|i| Buffer::of_stream(bytes, first + i).unwrap()).collect();
            for (i, buffer) in buffers.iter().enumerate() {
                let (layout, start) = layout(bytes, first + i).unwrap();
                assert!(buffer.ptr() as usize % PAGE == start % PAGE && start + bytes <= layout.size());
            }
        }
    }

    #[test]
    fn empty_and_small() {
        assert!(Buffer::new(0).unwrap().is_empty());
        assert_eq!(Buffer::new(12).unwrap().ptr() as usize % ALIGN, 0);
    }
}
