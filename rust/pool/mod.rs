//! Threads: one pool for everything, safe across `fork`.
//!
//! A pool that was used before a `fork` has no threads in the child, and its locks may be held there for ever. Pools are
//! therefore keyed by process and number of threads, made once, and never taken down: a child makes its own, and the
//! parent's is leaked there. No lock is involved that a vanished thread could hold.
//!
//! To share out work asks for no memory, but for the first calls. To wake a sleeping thread takes longer than many a step. A
//! helper that has finished therefore looks for more work for a while ([`LINGER`]) before it goes to sleep, and small work
//! is shared out only in calls that follow another one within that time ([`threads_for`]): the first of a row pays for the
//! waking.

mod board;
mod crew;
pub mod parts;

use board::{Board, LINGER};
use crew::Crew;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Entry {
    process: u32,
    workers: usize,
    board: &'static Board,
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
            let n = thread::available_parallelism().map_or(1, Into::into);
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

/// From how much work on more than one thread pays, in whatever the work is counted in.
#[derive(Clone, Copy, Debug)]
pub struct Border {
    /// Where the helpers are awake.
    pub awake: usize,
    /// Where they have to be woken.
    pub asleep: usize,
}

/// How many threads should share `work`.
pub fn threads_for(work: usize, border: Border) -> usize {
    let n = threads();
    if n == 1 || work < border.awake {
        return 1;
    }
    // The last call may have taken as long as this one will: what needs no helper to be awake, a millisecond at most.
    let own = Duration::from_millis(1).mul_f64((work as f64 / border.asleep as f64).min(1.0));
    if since_last() < LINGER + own || work >= border.asleep { n } else { 1 }
}

/// The time since the last call that asked, by the time of day: where that is set, a call is shared out that need not be.
/// Clocks that start somewhere would take a lock, on which a child could wait for ever.
fn since_last() -> Duration {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    Duration::from_nanos(now.wrapping_sub(LAST.swap(now, Ordering::Relaxed)))
}

/// The board of the pool of `workers` threads beside the calling one.
fn board(workers: usize) -> &'static Board {
    let process = std::process::id();
    let mut at = POOLS.load(Ordering::Acquire);
    // SAFETY: entries are leaked boxes that are never changed once they stand in the list.
    while let Some(entry) = unsafe { at.as_ref() } {
        if entry.process == process && entry.workers == workers {
            return entry.board;
        }
        at = entry.next;
    }
    let board: &Board = Box::leak(Box::default());
    for i in 0..workers {
        let helper = thread::Builder::new().name(format!("optirs-{i}"));
        if helper.spawn(|| board.serve()).is_err() {
            break; // the system refuses to make more
        }
    }
    let entry = Box::leak(Box::new(Entry { process, workers, board, next: ptr::null_mut() }));
    loop {
        // Two threads may both make a pool here; the older one then idles.
        entry.next = POOLS.load(Ordering::Acquire);
        if POOLS.compare_exchange(entry.next, entry, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return board;
        }
    }
}

/// Calls `task(0)` to `task(tasks - 1)`, each once, on up to `threads` threads, the calling one among them.
///
/// Nobody waits for a helper that comes too late: on a busy machine it may take milliseconds to wake up.
///
/// # Panics
/// If a task does.
pub fn run(threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(tasks).saturating_sub(1);
    if helpers == 0 {
        return (0..tasks).for_each(task);
    }
    // SAFETY: `lead` closes it and waits.
    let crew = unsafe { Crew::new(task, tasks) };
    board(threads - 1).lead(&crew, helpers);
    crew.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use board::wait_until;
    use std::panic::{AssertUnwindSafe, catch_unwind};

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

    #[test]
    fn tasks_run_once_for_callers_that_share_the_helpers() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..200 {
                        let counts: Vec<_> = (0..n % 7).map(|_| AtomicUsize::new(0)).collect();
                        run(3, counts.len(), &|i| {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_of_a_helper_reaches_the_caller_and_the_helper_stays() {
        for _ in 0..3 {
            let (caller, inside) = (thread::current().id(), AtomicUsize::new(0));
            let failed = catch_unwind(AssertUnwindSafe(|| {
                run(2, 2, &|_| {
                    inside.fetch_add(1, Ordering::Relaxed);
                    wait_until(|| inside.load(Ordering::Relaxed) == 2);
                    assert_eq!(thread::current().id(), caller);
                });
            }));
            assert!(failed.is_err());
        }
    }
}
