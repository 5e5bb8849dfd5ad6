//! The update of all parameters between two sets of arrays.
//!
//! A step reads one set and writes the other, so that the model and state before the last step are always there: a
//! training that fails hands them out. The arithmetic is that of `update`, by the same planner and driver.

use crate::loops::dtype::DType;
use crate::loops::simd;
use crate::memory::placement::Streams;
use crate::memory::reserve::{OutOfMemory, Put, Reserve};
use crate::program::Program;
use crate::program::contract::Hyper;
use crate::step::job::{Lone, Source, State};
use crate::step::planner::Planner;
use crate::step::walker::Progress;
use crate::step::{Goal, Refused, Skip};

/// Below this number of bytes read and written, the loops of a step are called without a look at each.
const SMALL_BYTES: usize = 16 << 10;

/// One parameter, its rule and its state, in two sets.
pub struct Parameter<'a> {
    /// Its rule.
    pub program: &'a Program,
    /// The type of its elements.
    pub dtype: DType,
    /// How many there are.
    pub n: usize,
    /// Where it lies in each set.
    pub x: [*mut u8; 2],
    /// The types of its state arrays, and where they lie in each set.
    pub slots: Vec<(DType, [*mut u8; 2])>,
    /// How far its state has come.
    pub counts: Vec<u64>,
    /// The same before the last step.
    pub before: Vec<u64>,
    /// Its gradient, `n` elements.
    pub gradient: *const f32,
}

/// A parameter whose step reads set `from` and writes the other one.
#[derive(Clone, Copy)]
struct Between<'p, 'a> {
    parameter: &'p Parameter<'a>,
    from: usize,
}

impl<'a> crate::step::Parameter<'a> for Between<'_, 'a> {
    fn program(&self) -> &'a Program {
        self.parameter.program
    }

    fn given(&self) -> Option<&'a [Hyper]> {
        None
    }

    fn counts(&self) -> &[u64] {
        &self.parameter.counts
    }

    fn dtype(&self) -> DType {
        self.parameter.dtype
    }

    fn elements(&self) -> usize {
        self.parameter.n
    }

    fn gradient(&self) -> Option<Source> {
        Some(Source { ptr: self.parameter.gradient.cast(), dtype: DType::F32 })
    }

    fn x(&self) -> *mut u8 {
        self.parameter.x[self.from]
    }

    fn goal(&self) -> Goal {
        Goal::Parameter(self.parameter.x[1 - self.from])
    }

    fn slot(&self, i: usize) -> State {
        let (dtype, at) = self.parameter.slots[i];
        State { from: at[self.from], to: at[1 - self.from], size: dtype.size() }
    }

    fn streams(&self) -> Streams {
        let p = self.parameter;
        let mut streams = Streams::of(p.x[0] as usize);
        streams.add(p.x[1] as usize, None);
        streams.add(p.gradient as usize, None);
        for ((_, sets), link) in p.slots.iter().zip(p.program.loops()) {
            sets.iter().for_each(|slot| streams.add(*slot as usize, link));
        }
        streams
    }
}

/// Steps parameters.
pub struct Stepper<'a> {
    /// What is stepped.
    pub parameters: Vec<Parameter<'a>>,
    /// The steps that were skipped.
    pub skips: Vec<Skip>,
    /// The step from each set, as it was the last time.
    planners: [Planner<'a>; 2],
    /// The loops of each once more where each is short, so that what comes before it shows; else none.
    loops: [Vec<Lone>; 2],
    /// Whether there is a plan of each: none after an error.
    is_planned: [bool; 2],
    /// Whether steps differ: some rule counts them, or asks about gradients.
    differ: bool,
}

impl<'a> Stepper<'a> {
    /// A stepper of these parameters.
    #[must_use]
    pub fn new(parameters: Vec<Parameter<'a>>) -> Self {
        let differ = parameters.iter().any(|p| p.program.has_steps() || p.program.asks());
        let (planners, loops) = Default::default();
        Self { parameters, skips: Vec::new(), planners, loops, is_planned: [false; 2], differ }
    }

    /// One step of all parameters from set `from` to the other one. If it is refused, the counts are as they were.
    ///
    /// # Safety
    /// The pointers of the parameters are aligned and valid for their `n` elements, no two of what is written overlap or
    /// overlap a gradient, and nothing else uses any of it meanwhile.
    pub unsafe fn step(&mut self, from: usize) -> Result<(), Refused> {
        let Self { parameters, planners, loops, .. } = self;
        let (planner, loops) = (&mut planners[from], &mut loops[from]);
        let between = |i: usize| Between { parameter: &parameters[i], from };
        // Where steps do not differ, the plan of the last one from this set is that of this one.
        let is_new = !std::mem::replace(&mut self.is_planned[from], false);
        if is_new || self.differ && !planner.renew(between)? {
            // SAFETY: the caller's promise.
            unsafe {
                // What is made elsewhere has no place in this loop: `plain` in `python/nn/fit_parameters.rs` sees to that.
                let progress = planner.plan(parameters.len(), between)?;
                debug_assert_eq!(progress, Progress::Ready);
                find_loops(planner, loops)?;
            }
        }
        self.skips.make_room(planner.skips.len())?; // before anything is written
        self.is_planned[from] = true;
        // SAFETY: the caller's promise.
        unsafe {
            if loops.is_empty() {
                planner.run();
            } else {
                let level = simd::level();
                loops.iter().for_each(|l| l.run(planner.scalars(), level));
            }
        }
        self.skips.append(&mut planner.skips);
        if self.differ {
            let mut known = 0;
            for (i, p) in self.parameters.iter_mut().enumerate() {
                p.before.copy_from_slice(&p.counts);
                let mut counts = std::mem::take(&mut p.counts);
                planner.advance(i, &Between { parameter: p, from }, &mut counts, &mut known);
                p.counts = counts;
            }
        }
        Ok(())
    }
}

/// Finds the loops of a plan where each is short.
///
/// # Safety
/// As for [`Stepper::step`].
unsafe fn find_loops(planner: &Planner<'_>, loops: &mut Vec<Lone>) -> Result<(), OutOfMemory> {
    loops.clear();
    let Some((jobs, tables)) = planner.loops(SMALL_BYTES) else { return Ok(()) };
    for job in jobs {
        // SAFETY: the caller's promise.
        match unsafe { Lone::new(job, tables) } {
            Some(l) => loops.put(l)?,
            None => {
                loops.clear();
                break;
            }
        }
    }
    Ok(())
}
