//! The driver: all arrays of an update, each read once and written once.
//!
//! The [`Job`]s of all arrays are cut into pieces of about equal bytes, and the pieces shared out to threads.
//!
//! Nothing here can fail: the code that makes a [`Plan`] has checked everything before, and where there is no memory for a
//! list of pieces, one thread does it all.

use super::job::{Job, LoopOptions, TILE, Tables};
use crate::loops::dtype::Compute;
use crate::loops::simd;
use crate::loops::stream::{fence, stream};
use crate::memory::placement::LINE;
use crate::memory::reserve::{OutOfMemory, Put};
use crate::threads::pool::{self, Border};
use num_complex::Complex;
use std::cell::Cell;
use std::ptr;

/// From this number of bytes of traffic on, more than one thread pays.
pub const PARALLEL_BYTES: Border = Border { awake: 512 << 10, asleep: 8 << 20 };
/// Bytes of traffic in a task of a thread: at least, where there is little to share, and at most.
const TASK_BYTES: (usize, usize) = (64 << 10, 2 << 20);
/// Tasks of a thread where there is little to share.
const TASKS: usize = 2;
/// From this number of bytes of traffic on, results that do not replace what was read go past the caches, and tiles are asked
/// for ahead: with less, the next step finds some of them there.
const FAR_BYTES: usize = 64 << 20;

/// Bytes to copy unchanged.
#[derive(Clone, Copy)]
pub struct Copy {
    /// From here.
    pub from: *const u8,
    /// To here.
    pub to: *mut u8,
    /// The number of bytes.
    pub bytes: usize,
}

/// What is to be done, each part independent of the others.
pub struct Plan<'a> {
    /// Arrays to step.
    pub jobs: &'a [Job<'a>],
    /// Their scalars and state arrays.
    pub tables: Tables<'a>,
    /// Arrays to copy.
    pub copies: &'a [Copy],
    /// What [`traffic`] says of it.
    pub traffic: usize,
}

/// Bytes read and written by all of this.
#[must_use]
pub fn traffic(jobs: &[Job<'_>], tables: Tables<'_>, copies: &[Copy]) -> usize {
    let stepped: usize = jobs.iter().map(|j| j.n * j.traffic(tables)).sum();
    let copied: usize = copies.iter().map(|c| 2 * c.bytes).sum();
    stepped + copied
}

// SAFETY: the pointers of a plan are to memory that its maker keeps alive and untouched until the plan has run, and no
// two parts of it write to the same place: that is what `Plan::run` asks for.
unsafe impl Sync for Plan<'_> {}
// SAFETY: as above.
unsafe impl Send for Plan<'_> {}

#[derive(Clone, Copy)]
enum Piece {
    Job { job: usize, start: usize, end: usize },
    Copy { copy: usize, start: usize, end: usize },
}

thread_local! {
    /// The pieces of a plan that is shared out, and where in them its tasks start: lists that are kept for the next plan.
    static LISTS: Cell<(Vec<Piece>, Vec<usize>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

impl<'a> Plan<'a> {
    /// One for these jobs and copies.
    #[must_use]
    pub fn new(jobs: &'a [Job<'a>], tables: Tables<'a>, copies: &'a [Copy]) -> Self {
        Self { jobs, tables, copies, traffic: traffic(jobs, tables, copies) }
    }

    /// Does it all.
    ///
    /// # Safety
    /// The pointers are aligned and valid for their `n` elements (or bytes); nothing that is written is read or written
    /// by anyone else meanwhile; nothing written overlaps anything else in the plan, except that `y` may be `x`, a state's
    /// `to` its `from`, and `dx` the gradient, of the same job.
    pub unsafe fn run(&self) {
        let total = self.traffic;
        let threads = pool::threads_for(total, PARALLEL_BYTES);
        let options = LoopOptions { level: simd::level(), far: total >= FAR_BYTES };
        if threads == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.alone(options) };
        }
        let task = (total / (TASKS * threads)).clamp(TASK_BYTES.0, TASK_BYTES.1);
        let (mut pieces, mut tasks) = LISTS.take();
        if self.cut(task, &mut pieces).and_then(|()| self.group(&pieces, task, &mut tasks)).is_err() {
            // SAFETY: the caller's promise.
            return unsafe { self.alone(options) };
        }
        pool::run(threads, tasks.len() - 1, &|i| {
            for &piece in &pieces[tasks[i]..tasks[i + 1]] {
                // SAFETY: the caller's promise; the pieces are disjoint parts of the plan.
                unsafe { self.piece(piece, options) };
            }
            fence();
        });
        LISTS.set((pieces, tasks));
    }

    /// Does it all on this thread.
    ///
    /// # Safety
    /// As for [`Plan::run`].
    unsafe fn alone(&self, options: LoopOptions) {
        for job in self.jobs {
            // SAFETY: the caller's promise.
            unsafe { run(job, self.tables, 0, job.n, options) };
        }
        for copy in self.copies {
            // SAFETY: the caller's promise.
            unsafe { self.copy(copy, 0, copy.bytes, options) };
        }
        fence();
    }

    /// Cuts the plan into `pieces` of at most `bytes`.
    fn cut(&self, bytes: usize, pieces: &mut Vec<Piece>) -> Result<(), OutOfMemory> {
        pieces.clear();
        for (job, j) in self.jobs.iter().enumerate() {
            let step = (bytes / j.traffic(self.tables)).max(TILE) / TILE * TILE;
            for start in (0..j.n).step_by(step) {
                pieces.put(Piece::Job { job, start, end: j.n.min(start + step) })?;
            }
        }
        for (copy, c) in self.copies.iter().enumerate() {
            let step = (bytes / 2).next_multiple_of(64);
            for start in (0..c.bytes).step_by(step) {
                pieces.put(Piece::Copy { copy, start, end: c.bytes.min(start + step) })?;
            }
        }
        Ok(())
    }

    /// Writes to `starts` where in `pieces` each task starts, and the end: tasks of about `bytes`.
    fn group(&self, pieces: &[Piece], bytes: usize, starts: &mut Vec<usize>) -> Result<(), OutOfMemory> {
        starts.clear();
        starts.put(0)?;
        let mut sum = 0;
        for (i, piece) in pieces.iter().enumerate() {
            if sum >= bytes {
                starts.put(i)?;
                sum = 0;
            }
            sum += match *piece {
                Piece::Job { job, start, end } => (end - start) * self.jobs[job].traffic(self.tables),
                Piece::Copy { start, end, .. } => 2 * (end - start),
            };
        }
        starts.put(pieces.len())
    }

    unsafe fn piece(&self, piece: Piece, options: LoopOptions) {
        // SAFETY: the caller's promise.
        unsafe {
            match piece {
                Piece::Job { job, start, end } => run(&self.jobs[job], self.tables, start, end, options),
                Piece::Copy { copy, start, end } => self.copy(&self.copies[copy], start, end, options),
            }
        }
    }

    unsafe fn copy(&self, copy: &Copy, start: usize, end: usize, options: LoopOptions) {
        // SAFETY: the caller's promise.
        unsafe {
            let (from, to) = (copy.from.add(start), copy.to.add(start));
            if options.far {
                let head = to.align_offset(LINE).min(end - start);
                ptr::copy_nonoverlapping(from, to, head);
                stream(options.level, from.add(head), to.add(head), end - start - head)
            } else {
                ptr::copy_nonoverlapping(from, to, end - start)
            }
        }
    }
}

/// Steps elements `start..end` of a job.
///
/// # Safety
/// As for [`Plan::run`], for those elements.
unsafe fn run(job: &Job<'_>, tables: Tables<'_>, start: usize, end: usize, options: LoopOptions) {
    if start == end {
        return; // an empty array's pointer may be anything
    }
    // SAFETY: the caller's promise.
    unsafe {
        if job.is_lone(tables) {
            return job.lone(tables, start, end, options);
        }
        match job.compute {
            Compute::F32 => job.tiles::<f32>(tables, start, end, options),
            Compute::F64 => job.tiles::<f64>(tables, start, end, options),
            Compute::C64 => job.tiles::<Complex<f32>>(tables, start, end, options),
            Compute::C128 => job.tiles::<Complex<f64>>(tables, start, end, options),
        }
    }
}
