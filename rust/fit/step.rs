//! The update of all parameters between two sets of arrays.
//!
//! A step reads one set and writes the other, so that the model and state before the last step are always there: a
//! training that fails hands them out. The arithmetic is that of `update`, by the same driver.

use super::plan::Step;
use super::room::Room;
use crate::chain::Program;
use crate::dtype::DType;
use crate::job::{Source, State};
use crate::placement::Streams;
use crate::reduce::Norm;
use crate::reserve::OutOfMemory;
use crate::rule::{Borrower, Rounding, SCALARS, Scalars};
use std::ops::Range;

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
    /// The step counts of the links of its rule.
    pub counts: Vec<u64>,
    /// The same before the last step.
    pub before: Vec<u64>,
    /// Its gradient, `n` elements.
    pub gradient: *const f32,
}

impl Parameter<'_> {
    /// Where in a page the steps between the sets read and write.
    pub(super) fn streams(&self) -> Streams {
        let mut streams = Streams::of(self.x[0] as usize);
        streams.add(self.x[1] as usize, None);
        streams.add(self.gradient as usize, None);
        for ((_, sets), link) in self.slots.iter().zip(self.program.loops()) {
            sets.iter().for_each(|slot| streams.add(*slot as usize, link));
        }
        streams
    }

    pub(super) fn working(&self) -> DType {
        self.program.working(self.dtype)
    }

    /// The old values that a step from set `from` starts from: the master copy's, if there is one.
    pub(super) fn old(&self, from: usize) -> Source {
        match self.program.master {
            Some(_) => Source { ptr: self.slots[0].1[from], dtype: self.working() },
            None => Source { ptr: self.x[from], dtype: self.dtype },
        }
    }

    /// The state arrays of `links`.
    fn slots_of(&self, links: &Range<usize>) -> Range<usize> {
        if links.is_empty() {
            return 0..0;
        }
        self.program.slots_of(links.start).start..self.program.slots_of(links.end - 1).end
    }

    fn rounding(&self) -> Rounding {
        Rounding::of(self.working().compute())
    }

    /// Lends a link as it is at the next step.
    fn link(&self, link: usize, to: &mut Borrower) -> Result<(), Reason> {
        self.program.link(link, &self.counts, self.working().compute(), to).map_err(Reason::Value)
    }

    /// Whether its scalars are others at every step: what counts none has the same.
    pub(super) fn has_steps(&self) -> bool {
        self.program.is_scheduled() || self.program.links.iter().any(|link| link.counter().is_some())
    }

    /// The scalars of a link at its next step.
    pub(super) fn scalars(&self, link: usize) -> Result<Scalars, Reason> {
        let mut scalars = [0.0; SCALARS];
        let t = self.counts[link] + 1;
        self.link(link, &mut |link| scalars = link.prepare(t, self.rounding()))?;
        Ok(scalars)
    }

    /// The norm that the first of `links` waits for, if it does.
    pub(super) fn norm(&self, links: &Range<usize>) -> Result<Option<Norm>, Reason> {
        let mut norm = None;
        if !links.is_empty() {
            self.link(links.start, &mut |link| norm = link.reduction().map(|r| r.norm()))?;
        }
        Ok(norm)
    }

    /// The scalars of a link that has waited for this `norm`; `Err` if it refuses it.
    pub(super) fn scalars_of_norm(&self, link: usize, norm: f64) -> Result<Scalars, Reason> {
        let mut scalars = Ok([0.0; SCALARS]);
        self.link(link, &mut |link| {
            if let Some(reduction) = link.reduction() {
                scalars = reduction.refuse(norm).map_or_else(|| Ok(reduction.scalars(norm, self.rounding())), Err);
            }
        })?;
        scalars.map_err(Reason::Norm)
    }

    pub(super) fn states(&self, links: &Range<usize>, from: usize, out: &mut Vec<State>) {
        let slots = &self.slots[self.slots_of(links)];
        out.extend(slots.iter().map(|(d, at)| State { from: at[from], to: at[1 - from], size: d.size() }));
    }

    /// Whether the rule needs a gradient between two passes: a link behind the first one must know it as a whole.
    pub(super) fn is_staged(&self) -> bool {
        self.program.links.iter().skip(1).any(|link| link.reduction().is_some())
    }
}

/// Why a step was not made: the rule of this parameter refused it.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which parameter.
    pub parameter: usize,
    /// Why.
    pub reason: Reason,
}

/// Why a rule refuses a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Reason {
    /// A norm is not finite.
    Norm(String),
    /// A hyper-parameter has a value, by a schedule, that the step cannot use.
    Value(String),
    /// There is no memory for what the step needs.
    OutOfMemory(OutOfMemory),
}

/// Steps parameters.
pub struct Stepper<'a> {
    /// What is stepped.
    pub parameters: Vec<Parameter<'a>>,
    /// The step from each set, as it was the last time.
    steps: [Step<'a>; 2],
    room: Room,
}

impl<'a> Stepper<'a> {
    /// A stepper of these parameters; `None` where the system has no memory.
    #[must_use]
    pub fn new(parameters: Vec<Parameter<'a>>) -> Option<Self> {
        let (steps, room) = ([Step::new(&parameters)?, Step::new(&parameters)?], Room::new(&parameters)?);
        Some(Self { parameters, steps, room })
    }

    /// One step of all parameters from set `from` to the other one. If it is refused, the counts are as they were.
    ///
    /// # Safety
    /// The pointers of the parameters are aligned and valid for their `n` elements, no two of what is written overlap or
    /// overlap a gradient, and nobody else uses any of it meanwhile.
    pub unsafe fn step(&mut self, from: usize) -> Result<(), Refused> {
        let step = &mut self.steps[from];
        // SAFETY: the caller's promise.
        unsafe {
            step.prepare(&self.parameters, &mut self.room, from)?;
            step.run();
        }
        if step.differ {
            for (p, &(reach, _)) in self.parameters.iter_mut().zip(&step.reached) {
                p.before.copy_from_slice(&p.counts);
                p.program.advance(&mut p.counts, reach);
            }
        }
        Ok(())
    }
}
