//! What the steps from both sets use in turn, and the segments of a rule that run before its last one.

use super::plan::refused;
use super::step::{Parameter, Reason, Refused};
use crate::buffer::Buffer;
use crate::drive::Plan;
use crate::job::{Job, Source, State, Tables};
use crate::measure::{Measure, Norms};
use crate::reserve::list;
use crate::rule::Scalars;
use std::ops::Range;

/// What the steps from both sets use in turn.
pub(super) struct Room {
    /// Of gradients.
    pub(super) norms: Norms,
    /// The scalars and state arrays of a segment that is not the last one.
    staged: (Vec<Scalars>, Vec<State>),
    /// Room for the gradient of each parameter between two passes, where there are two.
    scratch: Vec<Option<Buffer>>,
    /// Whether some gradient takes two passes: the first one is then made while planning.
    pub(super) is_staged: bool,
}

impl Room {
    /// That for `parameters`; `None` where the system has no memory.
    pub(super) fn new(parameters: &[Parameter<'_>]) -> Option<Self> {
        let mut scratch = list(parameters.len()).ok()?;
        for p in parameters {
            let bytes = p.n * p.working().compute().dtype().size();
            scratch.push(if p.is_staged() { Some(Buffer::at(bytes, p.streams().choose(None))?) } else { None });
        }
        let most = |of: fn(&Parameter<'_>) -> usize| parameters.iter().map(of).max().unwrap_or(0);
        let staged = (list(most(|p| p.program.links.len())).ok()?, list(most(|p| p.slots.len())).ok()?);
        let is_staged = scratch.iter().any(Option::is_some);
        Some(Self { norms: Norms::default(), staged, scratch, is_staged })
    }

    /// Runs a segment of parameter `p`, number `i`, that is not the last one: its `dx` goes to the scratch.
    ///
    /// # Safety
    /// As for [`super::step::Stepper::step`].
    pub(super) unsafe fn staged(
        &mut self,
        p: &Parameter<'_>,
        i: usize,
        from: usize,
        links: Range<usize>,
        gradient: Source,
    ) -> Result<Source, Refused> {
        let compute = p.working().compute();
        let (scalars, states) = &mut self.staged;
        scalars.clear();
        states.clear();
        p.states(&links, from, states);
        for link in links.clone() {
            scalars.push(p.scalars(link).map_err(refused(i))?);
        }
        if let Some(norm) = p.norm(&links).map_err(refused(i))? {
            // SAFETY: the caller's promise.
            let norm = unsafe { self.norms.measure(&[Measure { norm, of: gradient, n: p.n, compute }]) };
            let norm = norm.map_err(|none| refused(i)(Reason::OutOfMemory(none)))?[0];
            scalars[0] = p.scalars_of_norm(links.start, norm).map_err(refused(i))?;
        }
        let scratch = self.scratch[i].as_ref().map_or(std::ptr::null_mut(), Buffer::ptr);
        let tables = Tables { scalars, states };
        let jobs = [Job {
            links: &p.program.links[links],
            scalars: 0,
            states: 0..states.len(),
            n: p.n,
            compute,
            gradient,
            x: p.old(from),
            y: None,
            rounded: None,
            dx: Some(scratch),
        }];
        let plan = Plan::new(&jobs, tables, &[]);
        // SAFETY: the caller's promise.
        unsafe { plan.run() };
        Ok(Source { ptr: scratch, dtype: compute.dtype() })
    }
}
