//! Threads: one pool for everything, safe across `fork`.
//!
//! A pool that was used before a `fork` has no threads in the child, and its lock may be held there for ever. So a pool
//! knows the process that made it. A child makes its own in its place and leaks the parent's, whose lock it never touches.
//!
//! There are as many workers as calls have needed at once ([`super::queue`]), up to the number of threads that is set. When that
//! falls, those that are too many end at once, or when they have finished what they do.
//!
//! To share out work asks for no memory, but for the first calls. To wake a sleeping thread takes longer than many a step. A
//! worker that has finished therefore looks for more work for a while ([`LINGER`]) before it goes to sleep, and small work
//! is shared out only in calls that follow another one within that time ([`threads_for`]): the first of a row pays for the
//! waking.

use super::queue::{LINGER, Queue};
use super::team::Team;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Pool {
    process: u32,
    queue: Queue,
}

/// The pool of the process that used one last: this one, or one from which it was forked. It is never taken down.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
/// 0 until it is set or asked for.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads share the work: what was set, else the CPUs that this process may use.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let n = thread::available_parallelism().map_or(1, Into::into);
            // Unless it has been set meanwhile.
            THREADS.compare_exchange(0, n, Ordering::SeqCst, Ordering::Relaxed).map_or_else(|set| set, |_| n)
        }
        n => n,
    }
}

/// Sets how many threads share the work. Workers that are too many then end, without waiting for a next call.
pub fn set_threads(n: usize) {
    // Either this finds the pool, or its maker sees the new number: both write the one and then read the other, in one
    // order for all threads.
    THREADS.store(n.max(1), Ordering::SeqCst);
    if let Some(pool) = made(POOL.load(Ordering::SeqCst)) {
        pool.queue.resize();
    }
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

/// The pool that was found, if this process has made it.
fn made(pool: *mut Pool) -> Option<&'static Pool> {
    // SAFETY: what is stored in `POOL` is a leaked box, to which there are shared references only.
    unsafe { pool.as_ref() }.filter(|pool| pool.process == process::id())
}

/// The pool of this process.
fn pool() -> &'static Pool {
    let mut found = POOL.load(Ordering::Acquire);
    loop {
        if let Some(pool) = made(found) {
            return pool;
        }
        threads(); // is known from here on, also if it was not asked for
        let new = Box::into_raw(Box::new(Pool { process: process::id(), queue: Queue::new(&THREADS) }));
        match POOL.compare_exchange(found, new, Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => found = new,
            Err(other) => {
                // Another thread was faster.
                // SAFETY: it was made above, and nothing else has it.
                drop(unsafe { Box::from_raw(new) });
                found = other;
            }
        }
    }
}

/// Calls `task(0)` to `task(tasks - 1)`, each once, on up to `threads` threads, the calling one among them, and on no more
/// than are set.
///
/// No caller waits for a worker that comes too late: on a busy machine it may take milliseconds to wake up.
///
/// # Panics
/// If a task does.
pub fn run(threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(tasks).saturating_sub(1);
    if helpers == 0 {
        return (0..tasks).for_each(task);
    }
    // SAFETY: `Queue::run` closes it and waits.
    let team = unsafe { Team::new(task, tasks) };
    pool().queue.run(&team, helpers);
    team.check();
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

    /// Children of a process whose pool grows and shrinks meanwhile make pools of their own, and end.
    #[cfg(unix)]
    #[test]
    fn children_have_pools_of_their_own_whatever_the_parent_is_doing() {
        use std::sync::atomic::AtomicBool;
        let before = threads();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for threads in [5, 2, 9, 1] {
                        set_threads(threads);
                        run(threads, 20, &|_| thread::yield_now());
                    }
                }
            });
            let failed = (0..100).filter(|_| !child_succeeds()).count();
            over.store(true, Ordering::Relaxed);
            assert_eq!(failed, 0);
        });
        set_threads(before);
    }

    /// Forks a child that shares out work. Whether workers come in time is not asked here: in a Rust program a thread starts
    /// and ends under a lock of the standard library, which may be held in the child for ever. Its caller needs none.
    #[cfg(unix)]
    fn child_succeeds() -> bool {
        // SAFETY: the child calls nothing but what is tested, and the C library.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: it ends the child, should that hang.
                unsafe { libc::alarm(60) };
                let counts = [(); 20].map(|()| AtomicUsize::new(0));
                for threads in [3, 1, 5, 2] {
                    set_threads(threads);
                    run(threads, counts.len(), &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                    });
                }
                let right = counts.iter().all(|n| n.load(Ordering::Relaxed) == 4);
                // SAFETY: it ends the child, whose other threads need no cleaning up.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            child => {
                let mut status = -1;
                // SAFETY: `status` may be written.
                child > 0 && unsafe { libc::waitpid(child, &raw mut status, 0) } == child && status == 0
            }
        }
    }
}
