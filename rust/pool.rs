//! Threads: one pool for everything, safe across `fork`.
//!
//! A pool that was used before a `fork` has no threads in the child and would wait for ever. Pools are therefore keyed by
//! process and number of threads, made once, and never taken down: a child makes its own, and the parent's is leaked
//! there. No lock is involved that a vanished thread could hold.

use rayon_core::{ThreadPool, ThreadPoolBuilder};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

struct Entry {
    process: u32,
    workers: usize,
    pool: Option<ThreadPool>,
    next: *mut Entry,
}

/// A list that only grows, at its head.
static POOLS: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
/// 0 until it is set or asked for.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads share the work: what was set, else the CPUs that this process may use.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let n = std::thread::available_parallelism().map_or(1, Into::into);
            THREADS.store(n, Ordering::Relaxed);
            n
        }
        n => n,
    }
}

/// Sets how many threads share the work.
pub fn set_threads(n: usize) {
    THREADS.store(n.max(1), Ordering::Relaxed);
}

/// The pool of `workers` threads beside the calling one; `None` where the system refuses to make threads.
fn pool(workers: usize) -> Option<&'static ThreadPool> {
    let process = std::process::id();
    let mut at = POOLS.load(Ordering::Acquire);
    // SAFETY: entries are leaked boxes that are never changed once they stand in the list.
    while let Some(entry) = unsafe { at.as_ref() } {
        if entry.process == process && entry.workers == workers {
            return entry.pool.as_ref();
        }
        at = entry.next;
    }
    let pool = ThreadPoolBuilder::new().num_threads(workers).thread_name(|i| format!("optirs-{i}")).build().ok();
    let entry = Box::leak(Box::new(Entry { process, workers, pool, next: ptr::null_mut() }));
    loop {
        // Two threads may both make a pool here; the older one then idles.
        entry.next = POOLS.load(Ordering::Acquire);
        if POOLS.compare_exchange(entry.next, entry, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return entry.pool.as_ref();
        }
    }
}

/// Calls `task(0)` to `task(tasks - 1)`, each once, on up to `threads` threads, the calling one among them.
///
/// Nobody waits for a helper that comes too late: on a busy machine it may take milliseconds to wake up.
pub fn run(threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(tasks).saturating_sub(1);
    let Some(pool) = (if helpers == 0 { None } else { pool(threads - 1) }) else {
        return (0..tasks).for_each(task);
    };
    // SAFETY: nobody calls it after `run` has returned: then the crew is closed and empty.
    let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
    let crew = Arc::new(Crew { task, tasks, next: AtomicUsize::new(0), inside: AtomicUsize::new(0) });
    for _ in 0..helpers {
        let crew = crew.clone();
        pool.spawn(move || {
            if let Some(_inside) = crew.enter() {
                crew.work();
            }
        });
    }
    // Dropped at the end, also if a task panics.
    let _closing = Closing(&crew);
    crew.work();
}

/// The threads that share some tasks.
struct Crew {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    /// Twice the number of helpers at work, and 1 more once nobody may join.
    inside: AtomicUsize,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Crew {
    /// Joins, unless it is closed.
    fn enter(&self) -> Option<Inside<'_>> {
        let join = |n| if n & CLOSED == 0 { Some(n + ONE) } else { None };
        self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, join).ok()?;
        Some(Inside(self))
    }

    fn work(&self) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.tasks {
                return;
            }
            (self.task)(i);
        }
    }
}

/// A helper at work.
struct Inside<'a>(&'a Crew);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(ONE, Ordering::Release);
    }
}

/// Closes a crew and waits for those inside.
struct Closing<'a>(&'a Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        const SPINS: usize = 1000; // some microseconds
        self.0.inside.fetch_or(CLOSED, Ordering::Relaxed);
        let mut waited = 0;
        while self.0.inside.load(Ordering::Acquire) != CLOSED {
            if waited < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            waited += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 7] {
            let counts: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            run(threads, counts.len(), &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}
