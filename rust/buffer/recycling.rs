//! Blocks of memory, and those that are kept for the next request of their size.
//!
//! Fresh pages from the system cost several times the step that fills them. In the steady state `state, model =
//! update(state, model, grad)` alternates between two sets of blocks. What is kept is bounded by what is in use, or [`FLOOR`]
//! if that is more: a program that drops its model gets its memory back. A loop whose steps take memory and drop all of it
//! asks for more ([`Recycling`]).

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// So much may be kept however little is in use.
const FLOOR: usize = 64 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static RECYCLINGS: AtomicUsize = AtomicUsize::new(0);
/// The most that was in use since the first of them began.
static MOST: AtomicUsize = AtomicUsize::new(0);
static KEPT: Mutex<Kept> = Mutex::new(Kept { blocks: VecDeque::new(), bytes: 0 });

struct Kept {
    /// Oldest first.
    blocks: VecDeque<Block>,
    bytes: usize,
}

/// An allocation of the system's.
pub(super) struct Block {
    /// Its first byte that is aligned as `layout` says.
    pub(super) start: NonNull<u8>,
    /// What there is from `start` on.
    layout: Layout,
    base: NonNull<u8>,
    /// What the system was asked for.
    asked: Layout,
}

// SAFETY: a block is owned by whoever holds it, and has no thread of its own.
unsafe impl Send for Block {}

impl Block {
    /// One that is not initialised.
    pub(super) fn new(layout: Layout) -> Option<Self> {
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc(layout) })?;
        Some(Self { start: base, layout, base, asked: layout })
    }

    /// One of zeros. Those of fresh pages are the system's, made when a page is first touched; the standard library would
    /// write them once more if it were asked for an alignment, too.
    fn zeroed(layout: Layout) -> Option<Self> {
        let asked = Layout::from_size_align(layout.size().checked_add(layout.align())?, 1).ok()?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(asked) })?;
        let address = base.addr().get();
        let gap = address.next_multiple_of(layout.align()) - address;
        // SAFETY: the gap is less than the alignment, and the allocation by that much longer than the layout.
        let start = unsafe { base.add(gap) };
        #[cfg(target_os = "linux")]
        if layout.align() == super::HUGE_PAGE {
            // SAFETY: the range was just allocated; the call is advice and its failure harmless.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Some(Self { start, layout, base, asked })
    }

    pub(super) fn free(self) {
        // SAFETY: this is what the system was asked for, and owned.
        unsafe { dealloc(self.base.as_ptr(), self.asked) }
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

/// The kept blocks, unless another thread has them just now: after a `fork` that thread may not exist, so nobody waits.
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
        None => Block::zeroed(layout)?,
    };
    let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
    if RECYCLINGS.load(Ordering::Relaxed) > 0 {
        MOST.fetch_max(in_use, Ordering::Relaxed);
    }
    Some(block)
}

/// Takes such a block back.
pub(super) fn give(block: Block) {
    let size = block.layout.size();
    let in_use = IN_USE.fetch_sub(size, Ordering::Relaxed) - size;
    let Some(mut kept) = kept() else {
        return block.free();
    };
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

/// How much may be kept while so much is in use.
fn bound(in_use: usize) -> usize {
    let most = if RECYCLINGS.load(Ordering::Relaxed) > 0 { MOST.load(Ordering::Relaxed) } else { 0 };
    in_use.max(FLOOR).max(most.saturating_sub(in_use))
}

/// As long as there is one, what has been in use at once may be kept, whatever is in use now: the process is then never
/// larger than it was. For a loop whose steps take much memory and drop all of it.
pub struct Recycling(());

impl Recycling {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        RECYCLINGS.fetch_add(1, Ordering::Relaxed);
        MOST.fetch_max(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Recycling {
    fn drop(&mut self) {
        if RECYCLINGS.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        MOST.store(0, Ordering::Relaxed);
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
