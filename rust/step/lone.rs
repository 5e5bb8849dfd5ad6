//! Jobs of one link on arrays of the type it computes in: one loop over the arrays as they are.

use super::job::{Job, LoopOptions, Sink, Tables};
use crate::loops::dtype::Compute;
use crate::loops::kernel::{Call, Mode};
use crate::loops::simd::Level;
use crate::program::contract::{Kernel, SLOTS, Scalars};
use std::ptr;

impl Job<'_> {
    /// Whether one loop over the arrays as they are does it all.
    pub(super) fn is_lone(&self, tables: Tables) -> bool {
        let dtype = self.compute.dtype();
        // A pure loop whose state stays where it is would meet its own input.
        let apart = || tables.states[self.states.clone()].iter().all(|s| !ptr::eq(s.from, s.to));
        self.links.len() == 1
            && self.lands == 0
            && self.y.is_some_and(|y| ptr::eq(y.ptr, self.x.ptr) || apart())
            && self.rounded.is_none()
            && self.dx.is_none()
            && self.x.dtype == dtype
            && self.gradient.dtype == dtype
    }

    /// Steps elements `start..end` of a lone job.
    ///
    /// # Safety
    /// As for [`super::drive::Plan::run`].
    pub(super) unsafe fn lone(&self, tables: Tables, start: usize, end: usize, options: LoopOptions) {
        let Some(y) = self.y else { return };
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let whole = start + self.head(start, end);
            if whole > start {
                self.lone_part(tables, y, start, whole, LoopOptions { far: false, ..options });
            }
            self.lone_part(tables, y, whole, end, options);
        }
    }

    unsafe fn lone_part(&self, tables: Tables, y: Sink, start: usize, end: usize, options: LoopOptions) {
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            let mut call = self.call(tables, y, start, end);
            if call.mode == Mode::InPlace {
                for (i, state) in tables.states[self.states.clone()].iter().enumerate() {
                    if call.s[i] != call.o[i] {
                        // A pure step of an array that goes through a copy: the state goes to a new place all the same.
                        ptr::copy_nonoverlapping(call.s[i], call.o[i], call.n * state.size);
                        call.s[i] = call.o[i];
                    }
                }
            }
            call.far = options.far;
            self.links[0].kernel.run(self.compute, options.level, &tables.scalars[self.scalars], &call);
        }
    }

    /// The loop over elements `start..end`, near.
    #[inline(always)]
    unsafe fn call(&self, tables: Tables, y: Sink, start: usize, end: usize) -> Call {
        let at = start * self.compute.dtype().size();
        let (mut s, mut o) = ([ptr::null_mut(); SLOTS], [ptr::null_mut(); SLOTS]);
        // SAFETY: the caller's promise; `start..end` lies within the arrays.
        unsafe {
            for (i, state) in tables.states[self.states.clone()].iter().enumerate() {
                (s[i], o[i]) = (state.from.add(start * state.size), state.to.add(start * state.size));
            }
            Call {
                mode: if ptr::eq(self.x.ptr, y.ptr) { Mode::InPlace } else { Mode::Pure },
                n: end - start,
                x: self.x.ptr.add(at).cast_mut(),
                y: y.ptr.add(at),
                g: self.gradient.ptr.add(at).cast_mut(),
                s,
                o,
                far: false,
                reread_y: false,
            }
        }
    }
}

/// A small pure job of this kind that is done again and again: what to call, found once.
pub struct Lone {
    link: &'static dyn Kernel,
    compute: Compute,
    /// Where in [`Tables::scalars`] those of the link stand.
    scalars: usize,
    call: Call,
}

impl Lone {
    /// The loop of `job`, if it is a lone one.
    ///
    /// # Safety
    /// The pointers of the job are valid for its `n` elements.
    pub unsafe fn new(job: &Job<'_>, tables: Tables) -> Option<Self> {
        // An empty array's pointer may be anything.
        let y = job.y.filter(|y| job.n > 0 && !ptr::eq(y.ptr, job.x.ptr) && job.is_lone(tables))?;
        // SAFETY: the caller's promise.
        let call = unsafe { job.call(tables, y, 0, job.n) };
        Some(Self { link: job.links[0].kernel, compute: job.compute, scalars: job.scalars, call })
    }

    /// Does it.
    ///
    /// # Safety
    /// As for [`crate::step::drive::Plan::run`].
    pub unsafe fn run(&self, scalars: &[Scalars], level: Level) {
        // SAFETY: the caller's promise.
        unsafe { self.link.run(self.compute, level, &scalars[self.scalars], &self.call) };
    }
}
