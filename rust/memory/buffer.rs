//! Aligned memory for moments and results, recycled.
//!
//! Large blocks that are given back are kept for the next request of their size ([`recycling`]).
//!
//! Where in a page a large one starts is chosen by whoever knows what else the loops over it read and write
//! ([`super::placement`]).

use super::placement::{LINE, PAGE};
use super::recycling::{self, Block};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From this size on blocks are recycled; below it the allocator does well by itself.
const LARGE: usize = 64 << 10;
/// From this size on blocks ask for huge pages.
const HUGE: usize = 4 << 20;
pub(super) const HUGE_PAGE: usize = 2 << 20;
/// How far the starts of blocks with huge pages, in their pages, are apart: they come from memory, and meet in the larger
/// caches' sets.
const HUGE_STAGGER: usize = 128 << 10;

/// How many buffers have been placed by their number.
static NEXT: AtomicUsize = AtomicUsize::new(0);

fn next() -> usize {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The layout of a block with room for `bytes` that start at `place` of a page.
fn layout(bytes: usize) -> Option<Layout> {
    let align = if bytes < HUGE { PAGE } else { HUGE_PAGE };
    Layout::from_size_align(bytes.checked_add(align)?, align).ok()
}

/// Some bytes, 64-byte aligned, with any content; not initialised unless [`Buffer::is_initialised`] says so.
///
/// Only initialised bytes are written to one: the next buffer of its block may be read before it is written.
pub struct Buffer {
    block: Option<Block>,
    offset: usize,
    bytes: usize,
}

// SAFETY: a buffer is plain memory; which thread may write to it is its users' affair, as they say where they do.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Room for `bytes` bytes; `None` where the system has none. A large one starts at another place of a page than the one
    /// before.
    #[must_use]
    pub fn new(bytes: usize) -> Option<Self> {
        if bytes < LARGE { Self::small(bytes) } else { Self::at(bytes, next() * 17 * LINE) }
    }

    fn small(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), LINE).ok()?;
        Some(Self { block: Some(Block::new(layout)?), offset: 0, bytes })
    }

    /// The same; from a page on, it starts at `place` of a page, which is a multiple of [`super::placement::ALIGN`].
    #[must_use]
    pub fn at(bytes: usize, place: usize) -> Option<Self> {
        if bytes < PAGE {
            return Self::small(bytes);
        }
        let (layout, mut offset) = (layout(bytes)?, place % PAGE);
        if bytes < LARGE {
            return Some(Self { block: Some(Block::new(layout)?), offset, bytes });
        }
        if bytes >= HUGE {
            offset += next() % (HUGE_PAGE / HUGE_STAGGER) * HUGE_STAGGER;
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
    fn buffers_start_where_they_are_placed() {
        for bytes in [PAGE, LARGE, HUGE] {
            for place in (0..PAGE).step_by(7 * LINE).chain([PAGE + LINE]) {
                let buffer = Buffer::at(bytes, place).unwrap(); // also in blocks that were used before
                assert_eq!(buffer.ptr() as usize % PAGE, place % PAGE);
                assert!(buffer.offset + bytes <= layout(bytes).unwrap().size());
            }
            let buffers: Vec<Buffer> = (0..3).map(|_| Buffer::at(bytes, 0).unwrap()).collect();
            let far = |a: &Buffer, b: &Buffer| a.offset.abs_diff(b.offset) >= HUGE_STAGGER;
            assert!(bytes < HUGE || buffers.windows(2).all(|pair| far(&pair[0], &pair[1])));
        }
    }

    #[test]
    fn empty_and_small() {
        assert!(Buffer::new(0).unwrap().is_empty());
        assert_eq!(Buffer::new(12).unwrap().ptr() as usize % LINE, 0);
    }
}
