//! One step of many parameters: from checked arrays to the driver's plan, in phases.
//!
//! Most rules need one phase: all loops go into one [`drive::Plan`]. A rule that must know whole gradients (a norm, or
//! whether all is finite) ends a segment of the links. Then a phase is: what the rules of all parameters ask is measured
//! together, in one use of the threads; each rule decides; and the loops up to the next such rule run together. A rule that
//! asks about a group of parameters waits until all of the group have come so far.
//!
//! Whatever may still be refused comes before the last loops: nothing that others see has been written by then, and nothing
//! fails from then on.

pub mod drive;
mod group;
pub mod job;
pub mod norms;
pub mod planner;
mod scratch;
mod tiles;
pub mod transfer;
pub mod walker;

use crate::loops::dtype::DType;
use crate::memory::placement::Streams;
use crate::memory::reserve::OutOfMemory;
use crate::program::Program;
use crate::program::contract::Hyper;
use job::{Source, State};

/// Where the results of a parameter's step go.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The new parameter, in its own type.
    Parameter(*mut u8),
    /// The new parameter, in the type in which it is computed, to memory of that type.
    Landing(*mut u8),
    /// What is to be subtracted from the parameter, in the type in which it is computed.
    Direction(*mut u8),
}

/// One parameter and its state: where a step reads and writes.
pub trait Parameter<'a>: Copy {
    /// Its rule.
    fn program(&self) -> &'a Program;
    /// The hyper-parameters of its links at this step, where a function in Python has said what they are.
    fn given(&self) -> Option<&'a [Hyper]>;
    /// How far its state has come.
    fn counts(&self) -> &[u64];
    /// The type of its elements.
    fn dtype(&self) -> DType;
    /// How many there are.
    fn elements(&self) -> usize;
    /// Its gradient; `None` where there is no step.
    fn gradient(&self) -> Option<Source>;
    /// The old values.
    fn x(&self) -> *mut u8;
    /// Where the new ones go.
    fn goal(&self) -> Goal;
    /// State array `i`.
    fn slot(&self, i: usize) -> State;
    /// Where in a page a step reads and writes.
    fn streams(&self) -> Streams;

    /// The type in which it is stepped: the master's, if there is one.
    fn working(&self) -> DType {
        self.program().working(self.dtype())
    }

    /// The old values that a step starts from: the master copy's, if there is one.
    fn old(&self) -> Source {
        match self.program().master {
            Some(_) => Source { ptr: self.slot(0).from, dtype: self.working() },
            None => Source { ptr: self.x(), dtype: self.dtype() },
        }
    }
}

/// What a step was to a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many links of the rule it has reached; `None` where there was no step.
    pub reach: Option<u32>,
    /// Whether it has reached the parameter.
    pub steps: bool,
    /// The link that has skipped it.
    pub skipped: Option<u32>,
}

/// A step that a rule has skipped for all parameters of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Skip {
    /// The parameter whose gradient was not finite.
    pub parameter: usize,
    /// The first element that is not finite, in the order in which the gradient lies.
    pub element: usize,
    /// The rule: a parameter of the group, and a link of its program.
    pub rule: (usize, usize),
    /// How many steps the group has skipped by now, and how many in a row.
    pub counts: [u64; 2],
}

/// Why a step does not take place: because of this parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which parameter.
    pub parameter: usize,
    /// Why.
    pub reason: Reason,
}

/// Why a step does not take place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A norm is not finite.
    Norm(String),
    /// An element of the gradient is not finite: what is wrong with that, and the first one.
    Element(String, usize),
    /// A hyper-parameter has a value, by a schedule, that the step cannot use.
    Value(String),
    /// Another parameter has two rules about groups in the other order: that parameter, and the rules, of which this one has
    /// the first before the second.
    Order(usize, [String; 2]),
    /// There is no memory for what the step needs.
    OutOfMemory(OutOfMemory),
}

impl Refused {
    /// The refusal of a step by the rule of this parameter.
    fn by(parameter: usize, reason: Reason) -> Self {
        Self { parameter, reason }
    }
}

impl From<OutOfMemory> for Refused {
    fn from(none: OutOfMemory) -> Self {
        Self::by(0, Reason::OutOfMemory(none))
    }
}
