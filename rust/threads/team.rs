//! The threads that share some tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// The tasks that one call shares out. It lies on the stack of the caller, which works too; workers of the pool join it.
pub struct Team {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The next task that is not begun.
    next: AtomicUsize,
    /// `MEMBER` for each worker that has joined and not left, and `CLOSED` once none may join.
    members: AtomicUsize,
    /// Whether a task has panicked on a worker.
    failed: AtomicBool,
}

const CLOSED: usize = 1;
const MEMBER: usize = 2;

impl Team {
    /// One for `task(0)` to `task(tasks - 1)`.
    ///
    /// # Safety
    /// Before the team or the task goes, the team is closed and waited for.
    pub unsafe fn new(task: &(dyn Fn(usize) + Sync), tasks: usize) -> Self {
        // SAFETY: workers call it only while they are members, and the caller promises to wait for those.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        Self { task, tasks, next: AtomicUsize::new(0), members: AtomicUsize::new(0), failed: AtomicBool::new(false) }
    }

    /// From now on no worker can join.
    pub fn close(&self) {
        self.members.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Waits until all members have left a team that is closed.
    pub fn wait(&self) {
        const SPINS: usize = 1000; // some microseconds
        let mut waited = 0;
        while self.members.load(Ordering::Acquire) != CLOSED {
            if waited < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
            waited += 1;
        }
    }

    /// Passes on the panic of a worker.
    ///
    /// # Panics
    /// If a task has panicked on a worker.
    pub fn check(&self) {
        assert!(!self.failed.load(Ordering::Relaxed), "a task has panicked on another thread");
    }

    /// Does tasks that are not begun, one after the other, until none is left.
    pub fn work(&self) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                break;
            }
            (self.task)(task);
        }
    }
}

/// A worker's place in a team, which waits until the place is dropped.
pub struct Member(NonNull<Team>);

// SAFETY: any thread may use a team as long as it is alive, and it is while it has a member.
unsafe impl Send for Member {}

impl Member {
    /// Joins a team, unless it is closed.
    ///
    /// # Safety
    /// The team is alive, and from now on waits before it goes.
    pub unsafe fn join(team: NonNull<Team>) -> Option<Self> {
        let join = |n| if n & CLOSED == 0 { Some(n + MEMBER) } else { None };
        // SAFETY: the caller's promise.
        let members = unsafe { &team.as_ref().members };
        // Built on success only, since `drop` counts down.
        members.fetch_update(Ordering::Acquire, Ordering::Relaxed, join).is_ok().then(|| Self(team))
    }

    /// Works, and leaves.
    pub fn work(self) {
        // SAFETY: the team does not go while it has a member.
        let team = unsafe { self.0.as_ref() };
        if catch_unwind(AssertUnwindSafe(|| team.work())).is_err() {
            team.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: as above, up to this very subtraction.
        unsafe { self.0.as_ref() }.members.fetch_sub(MEMBER, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_waits_for_its_members_and_takes_none_once_it_is_closed() {
        // SAFETY: it is closed and waited for below.
        let team = unsafe { Team::new(&|_| (), 4) };
        // SAFETY: the team waits below.
        let join = || unsafe { Member::join(NonNull::from(&team)) };
        let [first, second] = [join(), join()];
        drop(first);
        team.close();
        assert!(join().is_none());
        thread::scope(|scope| {
            scope.spawn(move || second.unwrap().work());
            team.wait();
        });
        assert!(team.next.load(Ordering::Relaxed) > team.tasks);
        assert!(join().is_none());
        team.wait();
        team.check();
    }
}
