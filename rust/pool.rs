//! Threads: one pool for everything, safe across `fork`.
//!
//! A pool that was used before a `fork` has no threads in the child and would wait for ever. Pools are therefore keyed by
//! process and number of threads, made once, and never taken down: a child makes its own, and the parent's is leaked
//! there. No lock is involved that a vanished thread could hold.
//!
//! To wake a sleeping thread takes longer than many a step. A helper that has finished therefore looks for more work for
//! a while ([`LINGER`]) before it goes to sleep, and small work is shared out only in calls that follow another one within
//! that time ([`threads_for`]): the first of a row pays for the waking. Each thread starts with a share of its own, the same one at
//! every call: what a step leaves in a core's cache, the next one finds there. Who is done takes from the others' shares.

use rayon_core::{ThreadPool, ThreadPoolBuilder};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a helper without work stays awake.
const LINGER: Duration = Duration::from_micros(100);

struct Entry {
    process: u32,
    workers: usize,
    pool: Option<ThreadPool>,
    board: Board,
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

/// The pool of `workers` threads beside the calling one.
fn entry(workers: usize) -> &'static Entry {
    let process = std::process::id();
    let mut at = POOLS.load(Ordering::Acquire);
    // SAFETY: entries are leaked boxes that are never changed once they stand in the list.
    while let Some(entry) = unsafe { at.as_ref() } {
        if entry.process == process && entry.workers == workers {
            return entry;
        }
        at = entry.next;
    }
    // None where the system refuses to make threads.
    let pool = ThreadPoolBuilder::new().num_threads(workers).thread_name(|i| format!("optirs-{i}")).build().ok();
    let entry = Box::leak(Box::new(Entry { process, workers, pool, board: Board::default(), next: ptr::null_mut() }));
    loop {
        // Two threads may both make a pool here; the older one then idles.
        entry.next = POOLS.load(Ordering::Acquire);
        if POOLS.compare_exchange(entry.next, entry, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return entry;
        }
    }
}

/// Calls `task(0)` to `task(tasks - 1)`, each once, on up to `threads` threads, the calling one among them.
///
/// Nobody waits for a helper that comes too late: on a busy machine it may take milliseconds to wake up.
pub fn run(threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(tasks).saturating_sub(1);
    let entry = if helpers == 0 { None } else { Some(entry(threads - 1)) };
    let Some((entry, pool)) = entry.and_then(|e| Some((e, e.pool.as_ref()?))) else {
        return (0..tasks).for_each(task);
    };
    // SAFETY: nobody calls it after `run` has returned: then the crew is closed and empty.
    let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
    let crew = Arc::new(Crew::new(task, tasks, helpers + 1));
    let board = &entry.board;
    for _ in 0..board.post(&crew, helpers, entry.workers) {
        pool.spawn(|| board.serve());
    }
    // Dropped at the end, also if a task panics.
    let _closing = Closing(&crew, board);
    crew.work(0);
}

/// Where crews that may be joined are posted.
#[derive(Default)]
struct Board {
    posted: Mutex<Vec<Arc<Crew>>>,
    /// How many those are.
    wanted: AtomicUsize,
    /// Helpers that look here.
    looking: AtomicUsize,
    /// Helpers that look here, are at work, or are being woken.
    awake: AtomicUsize,
}

impl Board {
    fn posted(&self) -> MutexGuard<'_, Vec<Arc<Crew>>> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `helpers`; how many of all `workers` are to be woken for that.
    fn post(&self, crew: &Arc<Crew>, helpers: usize, workers: usize) -> usize {
        let mut posted = self.posted();
        posted.extend(std::iter::repeat_n(crew, helpers).cloned());
        self.wanted.store(posted.len(), Ordering::SeqCst);
        // Whoever stops looking does so before a last look under this lock, and so finds what is posted now.
        let missing = posted.len().saturating_sub(self.looking.load(Ordering::SeqCst));
        let woken = missing.min(workers.saturating_sub(self.awake.load(Ordering::Relaxed)));
        self.awake.fetch_add(woken, Ordering::Relaxed);
        woken
    }

    /// A crew that wants a helper.
    fn take(&self) -> Option<Arc<Crew>> {
        if self.wanted.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut posted = self.posted();
        let crew = posted.pop();
        self.wanted.store(posted.len(), Ordering::SeqCst);
        crew
    }

    /// Wants no more helpers for `crew`.
    fn withdraw(&self, crew: &Arc<Crew>) {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            let mut posted = self.posted();
            posted.retain(|other| !Arc::ptr_eq(other, crew));
            self.wanted.store(posted.len(), Ordering::SeqCst);
        }
    }

    /// What a helper does while it is awake.
    fn serve(&self) {
        let me = rayon_core::current_thread_index().map_or(0, |i| i + 1);
        loop {
            self.looking.fetch_add(1, Ordering::SeqCst);
            let crew = self.wait();
            self.looking.fetch_sub(1, Ordering::SeqCst);
            let Some(crew) = crew.or_else(|| self.leave()) else { return };
            if let Some(_inside) = crew.enter() {
                crew.work(me);
            }
        }
    }

    /// The last look of a helper: a crew, or it is no longer awake.
    fn leave(&self) -> Option<Arc<Crew>> {
        let mut posted = self.posted();
        let crew = posted.pop();
        self.wanted.store(posted.len(), Ordering::SeqCst);
        if crew.is_none() {
            self.awake.fetch_sub(1, Ordering::Relaxed);
        }
        crew
    }

    /// Waits for a crew, but not long.
    fn wait(&self) -> Option<Arc<Crew>> {
        const SPINS: usize = 32; // between looks at the clock
        let start = Instant::now();
        while start.elapsed() < LINGER {
            for _ in 0..SPINS {
                if let Some(crew) = self.take() {
                    return Some(crew);
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now(); // whoever has something to do goes first
        }
        None
    }
}

/// The threads that share some tasks.
struct Crew {
    task: &'static (dyn Fn(usize) + Sync),
    shares: Box<[Tasks]>,
    /// Twice the number of helpers at work, and 1 more once nobody may join.
    inside: AtomicUsize,
}

/// The tasks of a share: the next one, and the end. Each on a cache line of its own, as each is mostly one thread's.
#[repr(align(64))]
struct Tasks {
    next: AtomicUsize,
    end: usize,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Crew {
    fn new(task: &'static (dyn Fn(usize) + Sync), tasks: usize, shares: usize) -> Self {
        let share = |i| Tasks { next: AtomicUsize::new(tasks * i / shares), end: tasks * (i + 1) / shares };
        Self { task, shares: (0..shares).map(share).collect(), inside: AtomicUsize::new(0) }
    }

    /// Joins, unless it is closed.
    fn enter(&self) -> Option<Inside<'_>> {
        let join = |n| if n & CLOSED == 0 { Some(n + ONE) } else { None };
        self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, join).ok()?;
        Some(Inside(self))
    }

    /// Does the share of thread `me`, then what the others have left.
    fn work(&self, me: usize) {
        for i in 0..self.shares.len() {
            let share = &self.shares[(me + i) % self.shares.len()];
            loop {
                let task = share.next.fetch_add(1, Ordering::Relaxed);
                if task >= share.end {
                    break;
                }
                (self.task)(task);
            }
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
struct Closing<'a>(&'a Arc<Crew>, &'a Board);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        const SPINS: usize = 1000; // some microseconds
        let Self(crew, board) = self;
        crew.inside.fetch_or(CLOSED, Ordering::Relaxed);
        board.withdraw(crew);
        let mut waited = 0;
        while crew.inside.load(Ordering::Acquire) != CLOSED {
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

    #[test]
    fn tasks_run_once_for_callers_that_share_the_helpers() {
        std::thread::scope(|scope| {
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

    /// A crew of two shares whose tasks say who did them.
    fn crew(task: &'static (dyn Fn(usize) + Sync)) -> Arc<Crew> {
        Arc::new(Crew::new(task, 2, 2))
    }

    #[test]
    fn a_helper_that_is_awake_joins_the_next_crew_and_then_sleeps() {
        static HELPED: AtomicUsize = AtomicUsize::new(0);
        let board: &Board = Box::leak(Box::default());
        let task: &(dyn Fn(usize) + Sync) = &|_| {
            HELPED.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(board.post(&crew(task), 1, 1), 1, "nobody is awake");
        let helper = std::thread::spawn(|| board.serve());
        while HELPED.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        while board.awake.load(Ordering::Relaxed) == 1 && board.looking.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        // It looks or, on a busy machine, has gone to sleep: then it is woken again.
        let woken = board.post(&crew(task), 1, 1);
        let other = std::thread::spawn(move || (0..woken).for_each(|_| board.serve()));
        helper.join().unwrap();
        other.join().unwrap();
        assert_eq!(HELPED.load(Ordering::Relaxed), 4);
        assert_eq!(board.awake.load(Ordering::Relaxed), 0);
        assert_eq!(board.wanted.load(Ordering::Relaxed), 0);
    }
}
