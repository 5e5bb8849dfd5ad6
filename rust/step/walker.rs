//! What a plan keeps of a parameter on its way through the phases.

use super::drive::Copy;
use super::job::Source;

/// How far a plan has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All but its last phase has run.
    Ready,
    /// It waits for what is made elsewhere: see [`super::planner::Planner::calls`].
    Elsewhere,
}

/// What a plan waits for: a link whose work is done elsewhere.
#[derive(Clone, Copy)]
pub struct Elsewhere {
    /// The number of the parameter among those that are on their way.
    pub number: usize,
    /// The parameter.
    pub parameter: usize,
    /// The link.
    pub link: usize,
    /// What comes to it; `None` where that is the gradient itself.
    pub source: Option<Source>,
}

/// A parameter whose rule must know whole gradients, on its way through the links.
pub struct Walker {
    /// Its number.
    pub parameter: usize,
    /// The number of its [`super::group::StepGroup`].
    pub group: usize,
    /// The link at which it is.
    pub at: usize,
    /// What that link gets.
    pub source: Source,
    /// The 2-norm of it, once it is known.
    pub norm: Option<f64>,
    /// What is measured of it in this phase, by number.
    pub measure: Option<usize>,
    /// Whether it goes on in this phase.
    pub ready: bool,
    /// Whether what it waited for has been made elsewhere.
    pub answered: bool,
    /// Whether what the link gets was made elsewhere.
    pub is_made: bool,
    /// Memory for a gradient between two segments.
    pub scratch: Option<*mut u8>,
}

/// A new state array that is not yet where it belongs.
pub struct Staged {
    /// Whose it is.
    pub parameter: usize,
    /// Whether it stays where the step is skipped further on.
    pub collects: bool,
    /// What brings it there.
    pub copy: Copy,
}

/// Where a walker is that has gone all the way.
pub const DONE: usize = usize::MAX;
