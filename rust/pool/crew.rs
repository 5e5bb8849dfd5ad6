//! The threads that share some tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// The threads that share some tasks.
pub struct Crew {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The next one that nobody has begun.
    next: AtomicUsize,
    /// Twice the number of helpers at work, and 1 more once nobody may join.
    inside: AtomicUsize,
    /// Whether a task has panicked on a helper.
    failed: AtomicBool,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Crew {
    /// One for `task(0)` to `task(tasks - 1)`.
    ///
    /// # Safety
    /// Before the crew or the task goes, it is closed and waited for.
    pub unsafe fn new(task: &(dyn Fn(usize) + Sync), tasks: usize) -> Self {
        // SAFETY: helpers call it only while they are inside, and the caller promises to wait for them.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        Self { task, tasks, next: AtomicUsize::new(0), inside: AtomicUsize::new(0), failed: AtomicBool::new(false) }
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        self.inside.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Waits until nobody is inside.
    pub fn wait(&self) {
        const SPINS: usize = 1000; // some microseconds
        let mut waited = 0;
        while self.inside.load(Ordering::Acquire) != CLOSED {
            if waited < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
            waited += 1;
        }
    }

    /// Passes the panic of a helper on.
    pub fn end(&self) {
        assert!(!self.failed.load(Ordering::Relaxed), "a task has panicked on another thread");
    }

    /// Does one task after the other that nobody has begun.
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

/// A helper at work in a crew, which does not end before it has left.
pub struct Inside(NonNull<Crew>);

// SAFETY: a crew is used by any thread that is inside.
unsafe impl Send for Inside {}

impl Inside {
    /// Joins a crew, unless it is closed.
    ///
    /// # Safety
    /// The crew is alive, and from now on waits before it goes.
    pub unsafe fn join(crew: NonNull<Crew>) -> Option<Self> {
        let join = |n| if n & CLOSED == 0 { Some(n + ONE) } else { None };
        // SAFETY: the caller's promise.
        let inside = unsafe { &crew.as_ref().inside };
        // Only then is there one: who is dropped leaves.
        inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, join).is_ok().then(|| Self(crew))
    }

    /// Works, and leaves.
    pub fn work(self) {
        // SAFETY: the crew does not end while we are inside.
        let crew = unsafe { self.0.as_ref() };
        if catch_unwind(AssertUnwindSafe(|| crew.work())).is_err() {
            crew.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // SAFETY: as above, up to this very subtraction.
        unsafe { self.0.as_ref() }.inside.fetch_sub(ONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_ends_when_those_inside_have_left_and_nobody_joins_it_then() {
        // SAFETY: nobody joins it before it is closed.
        let crew = unsafe { Crew::new(&|_| (), 4) };
        // SAFETY: the crew waits below.
        let join = || unsafe { Inside::join(NonNull::from(&crew)) };
        let [first, second] = [join(), join()];
        drop(first);
        crew.close();
        assert!(join().is_none());
        thread::scope(|scope| {
            scope.spawn(move || second.unwrap().work());
            crew.wait();
        });
        assert!(crew.next.load(Ordering::Relaxed) > crew.tasks);
        assert!(join().is_none());
        crew.wait();
        crew.end();
    }
}
