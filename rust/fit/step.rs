//! The update of all parameters between two sets of arrays.
//!
//! A step reads one set and writes the other, so that the model and state before the last step are always there: a
//! training that fails hands them out. The arithmetic is that of `update`, by the same driver.

use super::plan::{Room, Step};
use crate::chain::Program;
use crate::dtype::DType;
use crate::job::{Source, State};
use crate::rule::{Rounding, Scalars};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// One parameter, its rule and its state, in two sets.
pub struct Parameter<'a> {
    /// Its rule.
    pub program: &'a Program,
    /// The same with the hyper-parameters of the next step, where they follow schedules.
    pub now: Option<Arc<Program>>,
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

    /// The rule whose hyper-parameters are those of the next step. Its links compute as those of `program` do: they differ
    /// in their scalars.
    pub(super) fn rule(&self) -> &Program {
        self.now.as_deref().unwrap_or(self.program)
    }

    /// The scalars of `links` at their next step.
    pub(super) fn scalars(&self, links: &Range<usize>) -> impl Iterator<Item = Scalars> {
        let (rule, rounding) = (self.rule(), Rounding::of(self.working().compute()));
        links.clone().map(move |i| rule.links[i].prepare(self.counts[i] + 1, rounding))
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

/// Why a step was not made: a rule refused the norm of this parameter's gradient.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which parameter.
    pub parameter: usize,
    /// Why.
    pub reason: String,
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
        let (steps, room) = ([Step::new(&parameters), Step::new(&parameters)], Room::new(&parameters)?);
        Some(Self { parameters, steps, room })
    }

    /// One step of all parameters from set `from` to the other one. If it is refused, the counts are as they were.
    ///
    /// # Safety
    /// The pointers of the parameters are aligned and valid for their `n` elements, no two of what is written overlap or
    /// overlap a gradient, and nobody else uses any of it meanwhile.
    pub unsafe fn step(&mut self, from: usize) -> Result<(), Refused> {
        for i in 0..self.parameters.len() {
            self.schedule(i)?;
        }
        let step = &mut self.steps[from];
        // SAFETY: the caller's promise.
        unsafe {
            step.prepare(&self.parameters, &mut self.room, from)?;
            step.run();
        }
        for (p, &(reach, _)) in self.parameters.iter_mut().zip(&step.reached) {
            p.before.copy_from_slice(&p.counts);
            p.program.advance(&mut p.counts, reach);
        }
        Ok(())
    }
    /// Gives parameter `i` the rule of its next step, if it is scheduled: that of the one before, if both are at one step.
    fn schedule(&mut self, i: usize) -> Result<(), Refused> {
        let (before, rest) = self.parameters.split_at_mut(i);
        let p = &mut rest[0];
        if !p.program.is_scheduled() {
            return Ok(());
        }
        p.now = match before.last() {
            Some(q) if ptr::eq(p.program, q.program) && p.counts == q.counts => q.now.clone(),
            _ => Some(Arc::new(p.program.at(&p.counts).map_err(|reason| Refused { parameter: i, reason })?)),
        };
        Ok(())
    }
}
