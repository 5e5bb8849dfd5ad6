//! Where the workers of a pool find work, and where it is decided how many of them there are.
//!
//! Under one lock, a worker goes from one of four conditions to another:
//!
//! - *looking*: it is awake and will come to the lock within `LINGER`;
//! - *working* in a team;
//! - *sleeping* until it is woken;
//! - *woken*, and on its way to the lock.
//!
//! Only from working to looking it goes without the lock. It stops looking under the lock alone, when it has joined a team,
//! falls asleep or ends. So whoever holds the lock may rely on every worker that is counted as looking or woken to take the
//! lock after them, and to see what they have written.
//!
//! Whoever leaves something to do, a request or a surplus worker, calls [`Queue::wake`]: it wakes sleeping workers for what
//! is not covered by those that come anyhow. A worker that ends may have been counted on for a request, so it calls it too.
//! Therefore no worker sleeps while there is a request that no thread comes for.
//!
//! No team waits for workers to come. Its caller does the tasks itself that are not begun, withdraws its requests, and
//! waits for those workers alone that have joined.

use super::team::{Member, Team};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a worker without work stays awake.
pub const LINGER: Duration = Duration::from_micros(100);
/// How long whoever sets the number of threads waits for surplus workers to end.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long no thread is asked for after the system has refused one.
const PAUSE: Duration = Duration::from_secs(1);

/// The queue of requests for workers, and the workers that serve it.
pub struct Queue {
    /// How many threads share the work, the calling one among them.
    threads: &'static AtomicUsize,
    state: Mutex<State>,
    /// Signalled for each worker that is woken.
    wakeup: Condvar,
    /// How many requests there are, for threads that do not hold the lock.
    open: AtomicUsize,
    /// Workers that look for work.
    looking: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// A team for each worker that it asks for. All are alive: a team withdraws its requests before it goes.
    requests: Vec<NonNull<Team>>,
    /// Threads that have been asked for and have not ended.
    workers: usize,
    sleeping: usize,
    woken: usize,
    /// When the system last refused a thread.
    refused: Option<Instant>,
}

// SAFETY: any thread may use a team as long as it is alive.
unsafe impl Send for State {}

impl Queue {
    /// One whose number of workers follows `threads`.
    pub fn new(threads: &'static AtomicUsize) -> Self {
        let [open, looking] = [(); 2].map(|()| AtomicUsize::new(0));
        Self { threads, state: Mutex::default(), wakeup: Condvar::new(), open, looking }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many workers there may be.
    fn most(&self) -> usize {
        self.threads.load(Ordering::SeqCst).saturating_sub(1)
    }

    /// How many workers are too many.
    fn surplus(&self, state: &State) -> usize {
        state.workers.saturating_sub(self.most())
    }

    /// Wakes as many as are missing for what there is to do, beside those that come anyhow.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let needed = state.requests.len().max(self.surplus(&state));
        let coming = self.looking.load(Ordering::Relaxed) + state.woken;
        let woken = needed.saturating_sub(coming).min(state.sleeping);
        state.sleeping -= woken;
        state.woken += woken;
        drop(state);
        for _ in 0..woken {
            self.wakeup.notify_one();
        }
    }

    /// To be called when `threads` has been set: ends surplus workers, and asks the system for threads again if it refused.
    pub fn resize(&self) {
        let mut state = self.state();
        state.refused = None;
        self.wake(state);
        // So that whoever counts threads next finds them gone; not for long, as one may be in the middle of a task.
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.surplus(&self.state()) > 0 {
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Does the work of a team with up to `helpers` workers.
    pub fn run(&'static self, team: &Team, helpers: usize) {
        // Dropped at the end, also if a task panics.
        let _closing = Closing(team, self);
        self.request(team, helpers);
        team.work();
    }

    /// Asks for `helpers`, or for as many as there may be. Where there are fewer workers, threads are started.
    fn request(&'static self, team: &Team, helpers: usize) {
        let mut state = self.state();
        let mut helpers = helpers.min(self.most());
        if state.requests.try_reserve(helpers).is_err() {
            helpers = 0; // without memory for the requests the caller works alone
        }
        state.requests.extend(std::iter::repeat_n(NonNull::from(team), helpers));
        self.open.store(state.requests.len(), Ordering::Release);
        let mut missing = helpers.saturating_sub(state.workers);
        if missing > 0 && state.refused.is_some_and(|at| at.elapsed() < PAUSE) {
            missing = 0;
        }
        // Counted at once, so that no other caller starts them too. A new worker is looking.
        state.workers += missing;
        self.looking.fetch_add(missing, Ordering::Relaxed);
        self.wake(state);
        if missing > 0 {
            self.start(missing);
        }
    }

    /// Starts workers that are counted already. This takes the system a while, so it is done without the lock.
    #[cold]
    fn start(&'static self, workers: usize) {
        let start = |_: &usize| thread::Builder::new().name("optirs".into()).spawn(|| self.serve()).is_ok();
        let started = (0..workers).take_while(start).count();
        if started < workers {
            let mut state = self.state();
            state.workers -= workers - started;
            self.looking.fetch_sub(workers - started, Ordering::Relaxed);
            state.refused = Some(Instant::now());
            self.wake(state);
        }
    }

    /// Joins a team that asks for a worker.
    fn join(&self, state: &mut State) -> Option<Member> {
        let mut member = None;
        while member.is_none() && !state.requests.is_empty() {
            // SAFETY: teams in the list are alive, and withdraw under this lock before they wait for their members.
            member = state.requests.pop().and_then(|team| unsafe { Member::join(team) });
        }
        self.open.store(state.requests.len(), Ordering::Release);
        member
    }

    /// Withdraws all requests of `team`: from now on, no worker joins it.
    fn withdraw(&self, team: &Team) {
        // Where there are no requests, whoever took the last one of this team has joined it before.
        if self.open.load(Ordering::Acquire) > 0 {
            let mut state = self.state();
            state.requests.retain(|other| !ptr::eq(other.as_ptr(), team));
            self.open.store(state.requests.len(), Ordering::Release);
        }
    }

    /// What a worker does until it is one too many.
    fn serve(&self) {
        while let Some(member) = self.next() {
            member.work();
            self.looking.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks for a team to join, first awake, then asleep. `None` if this worker is to end, which is then counted no more.
    fn next(&self) -> Option<Member> {
        let mut start = Instant::now();
        loop {
            self.linger(start);
            let mut state = self.state();
            if state.requests.is_empty() && self.surplus(&state) == 0 && start.elapsed() >= LINGER {
                state = self.sleep(state);
                start = Instant::now();
            }
            if self.surplus(&state) > 0 {
                state.workers -= 1;
                self.looking.fetch_sub(1, Ordering::Relaxed);
                self.wake(state);
                return None;
            }
            if let Some(member) = self.join(&mut state) {
                self.looking.fetch_sub(1, Ordering::Relaxed);
                return Some(member);
            }
        }
    }

    /// Returns when there are requests, or `LINGER` after `start`.
    fn linger(&self, start: Instant) {
        const SPINS: usize = 32; // between looks at the clock
        while start.elapsed() < LINGER {
            for _ in 0..SPINS {
                if self.open.load(Ordering::Relaxed) > 0 {
                    return;
                }
                std::hint::spin_loop();
            }
            thread::yield_now(); // whoever has something to do goes first
        }
    }

    /// Sleeps until woken. What there was to do may be done by then.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.sleeping += 1;
        self.looking.fetch_sub(1, Ordering::Relaxed);
        // A worker that comes by before one that was notified may take its place; the other one then sleeps on.
        state = self.wakeup.wait_while(state, |state| state.woken == 0).unwrap_or_else(PoisonError::into_inner);
        state.woken -= 1;
        self.looking.fetch_add(1, Ordering::Relaxed);
        state
    }
}

/// Closes a team and waits for its members.
struct Closing<'a>(&'a Team, &'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(team, queue) = self;
        team.close();
        queue.withdraw(team);
        team.wait();
    }
}

/// Waits until this is so, but not for ever.
#[cfg(test)]
pub fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        // Once more: the whole process may have been stopped for that long.
        assert!(start.elapsed() < Duration::from_secs(60) || what());
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// A queue of its own, for `threads` threads at first.
    fn queue(threads: usize) -> &'static Queue {
        Box::leak(Box::new(Queue::new(Box::leak(Box::new(AtomicUsize::new(threads))))))
    }

    fn set(queue: &Queue, threads: usize) {
        queue.threads.store(threads, Ordering::SeqCst);
        queue.resize();
    }

    /// Shares out this number of tasks; each is done once.
    fn share(queue: &'static Queue, tasks: usize, helpers: usize) {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let task: &(dyn Fn(usize) + Sync) = &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        };
        // SAFETY: `run` closes it and waits.
        let team = unsafe { Team::new(task, tasks) };
        queue.run(&team, helpers);
        team.check();
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    /// Does two tasks for each of this number of threads that are there at the same time.
    fn meet(queue: &'static Queue, threads: usize) {
        let inside = AtomicUsize::new(0);
        let task: &(dyn Fn(usize) + Sync) = &|_| {
            inside.fetch_add(1, Ordering::Relaxed);
            wait_until(|| inside.load(Ordering::Relaxed) >= threads);
        };
        // SAFETY: `run` closes it and waits.
        let team = unsafe { Team::new(task, 2 * threads) };
        queue.run(&team, threads - 1);
        team.check();
    }

    /// Waits until there are this many workers, all of which sleep, and nothing is left to do.
    fn settled(queue: &Queue, workers: usize) {
        wait_until(|| {
            let state = queue.state();
            (state.workers, state.sleeping, state.woken) == (workers, workers, 0)
        });
        assert!(queue.state().requests.is_empty());
        assert_eq!([&queue.open, &queue.looking].map(|n| n.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn no_request_is_lost_whatever_a_worker_is_about_to_do() {
        let queue = queue(2);
        let helped = AtomicUsize::new(0);
        let task: &(dyn Fn(usize) + Sync) = &|_| {
            helped.fetch_add(1, Ordering::Relaxed);
        };
        for i in 0..1000 {
            if i % 100 == 50 {
                settled(queue, 1);
            }
            // Around the time for which it looks, where it is about to fall asleep.
            thread::sleep(LINGER.mul_f64(f64::from(i % 10) / 5.0));
            // SAFETY: `_closing` closes it and waits before it goes.
            let team = unsafe { Team::new(task, 2) };
            let _closing = Closing(&team, queue);
            queue.request(&team, 1);
            wait_until(|| helped.load(Ordering::Relaxed) == 2 * (i as usize + 1));
        }
        settled(queue, 1);
    }

    #[test]
    fn no_request_is_lost_to_a_worker_that_ends() {
        let queue = queue(2);
        for round in 0..500 {
            set(queue, 3);
            meet(queue, 3);
            if round % 2 == 0 {
                settled(queue, 2);
            }
            // One is woken to end, or looks and ends; the other one has to come.
            set(queue, 2);
            meet(queue, 2);
        }
        settled(queue, 1);
    }

    #[test]
    fn there_are_as_many_workers_as_have_been_needed_and_no_more_than_are_wanted() {
        let queue = queue(1);
        share(queue, 10, 9);
        settled(queue, 0);
        set(queue, usize::MAX);
        meet(queue, 3);
        settled(queue, 2);
        for round in 0..50 {
            for threads in [2, 5, 3, 1, 9, 2] {
                set(queue, threads);
                if threads > 1 {
                    meet(queue, threads);
                }
                if round % 3 == 0 {
                    settled(queue, threads - 1);
                }
            }
        }
        settled(queue, 1);
        set(queue, 1);
        settled(queue, 0);
    }

    #[test]
    fn callers_share_workers_whose_number_changes() {
        let queue = queue(4);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for n in 0..2000 {
                            share(queue, n % 7, n % 5);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for threads in [1, 6, 2, 4] {
                        set(queue, threads);
                        thread::sleep(LINGER);
                    }
                }
            });
            let done: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            assert!(done.iter().all(Result::is_ok));
        });
        set(queue, 2);
        meet(queue, 2);
        settled(queue, 1);
    }

    #[test]
    fn a_panic_of_a_worker_reaches_the_caller_and_the_worker_stays() {
        let queue = queue(2);
        for _ in 0..3 {
            let (caller, inside) = (thread::current().id(), AtomicUsize::new(0));
            let task: &(dyn Fn(usize) + Sync) = &|_| {
                inside.fetch_add(1, Ordering::Relaxed);
                wait_until(|| inside.load(Ordering::Relaxed) == 2);
                assert_eq!(thread::current().id(), caller);
            };
            // SAFETY: `run` closes it and waits.
            let team = unsafe { Team::new(task, 2) };
            queue.run(&team, 1);
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| team.check())).is_err());
        }
        settled(queue, 1);
    }
}
