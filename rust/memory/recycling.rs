//! Blocks of memory, and those that are kept for the next request of their size.
//!
//! Fresh pages from the system cost several times the step that fills them. In the steady state `state, model =
//! update(state, model, grad)` alternates between two sets of blocks. What is kept is bounded by what is in use, or [`FLOOR`]
//! if that is more: a program that drops its model gets its memory back. A loop whose steps take memory and drop all of it
//! has another bound ([`Recycling`]).

use super::reserve::Reserve;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::VecDeque;
use std::process;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// The bytes that may be kept however little is in use.
const FLOOR: usize = 64 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
/// How many [`Recycling`]s there are, in the lower half; in the upper one the number of their process, as a child made by
/// `fork` never sees them end.
static RECYCLINGS: AtomicU64 = AtomicU64::new(0);
/// The most that was in use at once since the first of them began.
static MOST: AtomicUsize = AtomicUsize::new(0);
static KEPT: Mutex<Kept> = Mutex::new(Kept { blocks: VecDeque::new(), bytes: 0 });

struct Kept {
    /// Oldest first.
    blocks: VecDeque<Block>,
    bytes: usize,
}

/// Memory of the allocator's or, where it is mapped, of the system's own.
pub(super) struct Block {
    pub(super) start: NonNull<u8>,
    /// What there is from `start` on.
    layout: Layout,
    /// Where the pages begin that are mapped for it, and how many bytes they have.
    #[cfg(unix)]
    mapped: Option<(NonNull<u8>, usize)>,
}

// SAFETY: a block is owned by whoever holds it, and has no thread of its own.
unsafe impl Send for Block {}

impl Block {
    /// One of the allocator's, not initialised.
    pub(super) fn new(layout: Layout) -> Option<Self> {
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        Some(Self {
            start,
            layout,
            #[cfg(unix)]
            mapped: None,
        })
    }

    /// One of zeros. Not the allocator's, in whose heap it might stay when it is given back, and which writes zeros where the
    /// system has them ready.
    #[cfg(unix)]
    fn zeroed(layout: Layout) -> Option<Self> {
        let bytes = layout.size().checked_add(layout.align())?;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: new pages, wherever the system likes; they are zeros.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = NonNull::new(base.cast::<u8>())?;
        let gap = base.addr().get().next_multiple_of(layout.align()) - base.addr().get();
        // SAFETY: the gap is less than the alignment, by which there is more than the layout asks for.
        let start = unsafe { base.add(gap) };
        #[cfg(target_os = "linux")]
        if layout.align() == super::buffer::HUGE_PAGE {
            // SAFETY: the range was just mapped; the call is advice and its failure harmless.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Some(Self { start, layout, mapped: Some((base, bytes)) })
    }

    /// One of zeros.
    #[cfg(not(unix))]
    fn zeroed(layout: Layout) -> Option<Self> {
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    pub(super) fn free(self) {
        #[cfg(unix)]
        if let Some((base, bytes)) = self.mapped {
            // SAFETY: mapped in `zeroed`, and owned.
            unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
            return;
        }
        // SAFETY: allocated with this layout, and owned.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Kept {
    fn trim(&mut self, bound: usize) {
        while self.bytes > bound {
            let Some(block) = self.blocks.pop_front() else {
                return;
            };
            self.bytes -= block.layout.size();
            block.free();
        }
    }
}

/// The kept blocks, unless another thread has them just now: after a `fork` that thread may not exist, so no thread waits.
fn kept() -> Option<MutexGuard<'static, Kept>> {
    match KEPT.try_lock() {
        Ok(kept) => Some(kept),
        Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A block of this layout, initialised; `None` where the system has none.
pub(super) fn take(layout: Layout) -> Option<Block> {
    let block = match recycled(layout) {
        Some(block) => block,
        None => fresh(layout)?,
    };
    let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
    MOST.fetch_max(in_use, Ordering::Relaxed);
    Some(block)
}

/// Takes such a block back.
pub(super) fn give(block: Block) {
    let size = block.layout.size();
    let in_use = IN_USE.fetch_sub(size, Ordering::Relaxed) - size;
    let Some(mut kept) = kept() else {
        return block.free();
    };
    if kept.blocks.make_room(1).is_err() {
        return block.free();
    }
    kept.bytes += size;
    kept.blocks.push_back(block);
    kept.trim(bound(in_use));
}

fn recycled(layout: Layout) -> Option<Block> {
    let mut kept = kept()?;
    let i = kept.blocks.iter().rposition(|b| b.layout == layout)?;
    let block = kept.blocks.remove(i)?;
    kept.bytes -= layout.size();
    Some(block)
}

fn fresh(layout: Layout) -> Option<Block> {
    if is_recycling()
        && let Some(mut kept) = kept()
    {
        kept.trim(bound(IN_USE.load(Ordering::Relaxed) + layout.size()));
    }
    Block::zeroed(layout)
}

/// How much may be kept while `in_use` bytes are in use.
fn bound(in_use: usize) -> usize {
    let other = if is_recycling() { MOST.load(Ordering::Relaxed).saturating_sub(in_use) } else { in_use };
    other.max(FLOOR)
}

/// Whether there is a [`Recycling`] in this process.
fn is_recycling() -> bool {
    let now = RECYCLINGS.load(Ordering::Relaxed);
    now as u32 > 0 && now >> 32 == u64::from(process::id())
}

/// As long as there is one, the bound is the most that has been in use at once, less what is in use now: for a loop whose
/// steps take much memory and drop all of it. The process is larger for it by [`FLOOR`] at most.
pub struct Recycling {
    process: u32,
}

impl Recycling {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        let process = process::id();
        let first = (u64::from(process) << 32) + 1;
        let one_more = |now: u64| Some(if now >> 32 == first >> 32 { now + 1 } else { first });
        let (Ok(before) | Err(before)) = RECYCLINGS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if one_more(before) == Some(first) {
            MOST.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Self { process }
    }
}

impl Drop for Recycling {
    fn drop(&mut self) {
        if self.process != process::id() {
            return; // it counts in the process that this one was forked from
        }
        RECYCLINGS.fetch_sub(1, Ordering::Relaxed);
        // Where another thread has the blocks just now, the next one that gives some back does this.
        if let Some(mut kept) = kept() {
            kept.trim(bound(IN_USE.load(Ordering::Relaxed)));
        }
    }
}

/// Gives everything that is kept back to the system, and says how many bytes that was.
pub fn release() -> usize {
    let Some(mut kept) = kept() else { return 0 };
    let bytes = kept.bytes;
    kept.trim(0);
    bytes
}
