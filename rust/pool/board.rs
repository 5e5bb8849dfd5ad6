//! Where the threads of a pool find each other.

use super::crew::{Crew, Inside};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper without work stays awake.
pub const LINGER: Duration = Duration::from_micros(100);

/// Where crews that may be joined are posted.
#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
    /// Wakes helpers that are called.
    bell: Condvar,
    /// How many helpers are asked for.
    wanted: AtomicUsize,
    /// Helpers that look here.
    looking: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// A crew for each helper that it asks for. All are alive: a crew is withdrawn before it ends.
    posted: Vec<NonNull<Crew>>,
    /// Helpers that sleep and are not called.
    asleep: usize,
    /// Helpers that are called and have not woken up yet.
    called: usize,
}

// SAFETY: the pointers are to crews, which any thread may use as long as they are alive.
unsafe impl Send for State {}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work of a crew with up to `helpers` helpers.
    pub fn lead(&self, crew: &Crew, helpers: usize) {
        // Dropped at the end, also if a task panics.
        let _closing = Closing(crew, self);
        for _ in 0..self.post(crew, helpers) {
            self.bell.notify_one();
        }
        crew.work();
    }

    /// Asks for `helpers`, and calls those that sleep and are missing: so many.
    fn post(&self, crew: &Crew, helpers: usize) -> usize {
        let mut state = self.state();
        state.posted.extend(std::iter::repeat_n(NonNull::from(crew), helpers));
        self.wanted.store(state.posted.len(), Ordering::SeqCst);
        // Whoever stops looking does so before a last look under this lock, and so finds what is posted now.
        let coming = self.looking.load(Ordering::SeqCst) + state.called;
        let called = state.posted.len().saturating_sub(coming).min(state.asleep);
        state.asleep -= called;
        state.called += called;
        called
    }

    /// Joins a crew that asks for a helper.
    fn join(&self, state: &mut State) -> Option<Inside> {
        let mut inside = None;
        while inside.is_none() && !state.posted.is_empty() {
            // SAFETY: what is posted is alive, and whoever leads it withdraws it under this lock before waiting.
            inside = state.posted.pop().and_then(|crew| unsafe { Inside::join(crew) });
        }
        self.wanted.store(state.posted.len(), Ordering::SeqCst);
        inside
    }

    /// Asks for no more helpers for `crew`: from now on, none joins it.
    fn withdraw(&self, crew: &Crew) {
        // Who took the last crew from the board has joined it before.
        if self.wanted.load(Ordering::SeqCst) > 0 {
            let mut state = self.state();
            state.posted.retain(|other| !ptr::eq(other.as_ptr(), crew));
            self.wanted.store(state.posted.len(), Ordering::SeqCst);
        }
    }

    /// What a helper does, for ever.
    pub fn serve(&self) {
        loop {
            self.looking.fetch_add(1, Ordering::SeqCst);
            let inside = self.look();
            self.looking.fetch_sub(1, Ordering::SeqCst);
            if let Some(inside) = inside.or_else(|| self.sleep()) {
                inside.work();
            }
        }
    }

    /// Looks for a crew, but not long.
    fn look(&self) -> Option<Inside> {
        const SPINS: usize = 32; // between looks at the clock
        let start = Instant::now();
        while start.elapsed() < LINGER {
            for _ in 0..SPINS {
                if self.wanted.load(Ordering::SeqCst) > 0
                    && let Some(inside) = self.join(&mut self.state())
                {
                    return Some(inside);
                }
                std::hint::spin_loop();
            }
            thread::yield_now(); // whoever has something to do goes first
        }
        None
    }

    /// A last look, then sleep until called. The crew that called may be gone by now.
    fn sleep(&self) -> Option<Inside> {
        let mut state = self.state();
        if let Some(inside) = self.join(&mut state) {
            return Some(inside);
        }
        state.asleep += 1;
        state = self.bell.wait_while(state, |state| state.called == 0).unwrap_or_else(PoisonError::into_inner);
        state.called -= 1;
        self.join(&mut state)
    }
}

/// Closes a crew and waits for those inside.
struct Closing<'a>(&'a Crew, &'a Board);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(crew, board) = self;
        crew.close();
        board.withdraw(crew);
        crew.wait();
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

    #[test]
    fn no_call_is_lost_whatever_a_helper_is_about_to_do() {
        let board: &Board = Box::leak(Box::default());
        thread::spawn(|| board.serve());
        let helped = AtomicUsize::new(0);
        let task: &(dyn Fn(usize) + Sync) = &|_| {
            helped.fetch_add(1, Ordering::Relaxed);
        };
        for i in 0..1000 {
            if i % 100 == 0 {
                wait_until(|| board.state().asleep == 1);
            }
            // Around the time for which it looks, where it is about to fall asleep.
            thread::sleep(LINGER.mul_f64(f64::from(i % 10) / 5.0));
            // SAFETY: `_closing` closes it and waits before it goes.
            let crew = unsafe { Crew::new(task, 2) };
            let _closing = Closing(&crew, board);
            for _ in 0..board.post(&crew, 1) {
                board.bell.notify_one();
            }
            wait_until(|| helped.load(Ordering::Relaxed) == 2 * (i as usize + 1));
        }
        wait_until(|| board.state().asleep == 1);
        assert_eq!((board.wanted.load(Ordering::Relaxed), board.state().called), (0, 0));
    }
}
