//! What steps of one rule at one count have in common: worked out once for all of a model's leaves that are at it.

use std::ops::Range;

use smallvec::SmallVec;

use super::leaf::{Counts, Slot};
use crate::chain::Program;
use crate::dtype::{Compute, DType};
use crate::rule::{Rounding, Scalars};

/// An entry's rule and state arrays.
pub struct Rule<'a> {
    /// The rule.
    pub program: &'a Program,
    /// Its state arrays.
    pub slots: &'a [Slot],
    /// The step counts of its links.
    pub counts: &'a [u64],
}

/// What the steps of all entries with one rule at one count have in common.
#[derive(Clone, Copy)]
pub struct Course {
    /// How many links the step reaches.
    pub reach: usize,
    /// Whether it reaches the parameter.
    pub steps: bool,
    /// The end of the first segment.
    pub first: usize,
    /// Where the state arrays of the first link start, and where those of the links that are not reached do.
    pub slots: (usize, usize),
    /// Where the scalars of the links start; `None` if each entry has its own, since a link waits for a norm.
    pub scalars: Option<usize>,
    /// The type in which the links compute.
    pub compute: Compute,
}

impl Course {
    /// The course of a step in the type `working`, without scalars.
    pub fn new(rule: &Rule, working: DType) -> Self {
        let program = rule.program;
        let (reach, steps) = program.reach(rule.counts);
        let skipped = if reach == program.links.len() { rule.slots.len() } else { program.slots_of(reach).start };
        Self {
            reach,
            steps,
            first: program.segment(0, reach).end,
            slots: (usize::from(program.master.is_some()), skipped),
            scalars: None,
            compute: working.compute(),
        }
    }
}

/// The courses that were met last, and what they are those of: a model has few rules, which may take turns.
#[derive(Default)]
pub struct Courses(SmallVec<[(*const Program, Counts, DType, Course); Courses::MOST]>);

impl Courses {
    const MOST: usize = 4;

    /// That of a rule that was met before, at the same counts.
    #[inline]
    pub fn find(&self, rule: &Rule, working: DType) -> Option<Course> {
        let same = |program: *const Program, counts: &Counts, dtype: DType| {
            std::ptr::eq(program, rule.program) && counts.iter().eq(rule.counts) && dtype == working
        };
        self.0.iter().find(|(program, counts, dtype, _)| same(*program, counts, *dtype)).map(|known| known.3)
    }

    /// Remembers one, and forgets the oldest where there are many.
    pub fn add(&mut self, rule: &Rule, working: DType, course: Course) {
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((std::ptr::from_ref(rule.program), rule.counts.into(), working, course));
    }
}

/// The state arrays of `links`.
pub fn slots_of(program: &Program, links: &Range<usize>) -> Range<usize> {
    if links.is_empty() {
        return 0..0;
    }
    program.slots_of(links.start).start..program.slots_of(links.end - 1).end
}

/// The scalars of `links` at their next step; the first one's come from `norm` if it is given.
pub fn scalars(rule: &Rule, links: &Range<usize>, compute: Compute, norm: Option<f64>) -> Vec<Scalars> {
    let rounding = Rounding::of(compute);
    let mut scalars: Vec<Scalars> =
        links.clone().map(|i| rule.program.links[i].prepare(rule.counts[i] + 1, rounding)).collect();
    if let (Some(norm), Some(reduction)) = (norm, rule.program.links.get(links.start).and_then(|l| l.reduction())) {
        scalars[0] = reduction.scalars(norm, rounding);
    }
    scalars
}
