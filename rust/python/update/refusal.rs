//! What is said of steps that were refused or skipped.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

use super::parameter::{Entry, Names};
use crate::memory::reserve::collected;
use crate::python::array::{Layout, shape_text, too_large};
use crate::python::errors::{refused, unusable};
use crate::python::leaf::Leaf;
use crate::step::{Reason, Refused, Skip};

/// The error of a step that does not take place; `of` says where a parameter stands, and its leaf.
pub fn refusal<'l>(
    py: Python<'_>,
    why: Refused,
    of: impl Fn(usize) -> PyResult<(String, &'l Leaf)>,
) -> PyResult<PyErr> {
    let place = || Ok::<_, PyErr>(of(why.parameter)?.0);
    Ok(match why.reason {
        Reason::Norm(reason) => refused(&place()?, &reason),
        Reason::Element(reason, element) => {
            let (place, leaf) = of(why.parameter)?;
            let index = index_text(py, &leaf.layout, element);
            refused(&place, &format!("{reason}: element {index} of the gradient is not finite"))
        }
        Reason::Value(reason) => unusable(&place()?, &reason),
        Reason::Order(other, [a, _]) if other == why.parameter => PyValueError::new_err(format!(
            "the rule at {} has {a} twice at this step, and each looks at the whole step: give one of them another name",
            place()?
        )),
        Reason::Order(other, [a, b]) => PyValueError::new_err(format!(
            "{a} at {} waits for the parameter at {}, where {b} comes first: give all parameters these rules in one order, \
             or names that tell groups apart",
            place()?,
            of(other)?.0
        )),
        Reason::OutOfMemory(none) => too_large(none.bytes),
    })
}

/// The index of the element that stands at `element` in an array with this layout.
fn index_text(py: Python<'_>, layout: &Layout, element: usize) -> String {
    let mut axes: Vec<usize> = (0..layout.shape.len()).filter(|&axis| layout.shape[axis] > 1).collect();
    axes.sort_by_key(|&axis| std::cmp::Reverse(layout.strides[axis]));
    let (mut rest, mut index) = (element, vec![0_isize; layout.shape.len()]);
    for axis in axes {
        let stride = layout.strides[axis] as usize;
        (index[axis], rest) = ((rest / stride) as isize, rest % stride);
    }
    shape_text(py, &index)
}

/// What is to be said of a skipped step.
pub struct Skipped {
    rule: String,
    place: String,
    index: String,
    counts: [u64; 2],
}

impl Skipped {
    /// What is to be said of `skips`, whose parameters are among `entries`.
    pub fn all(py: Python<'_>, entries: &[Entry], skips: &[Skip], names: &Names) -> PyResult<Vec<Self>> {
        let rule = |(i, link): (usize, usize)| entries[i].guard.get().moments.program.links[link].name();
        collected(skips.iter().map(|skip| {
            let entry = &entries[skip.parameter];
            Self::of(py, rule(skip.rule), names.of(entry.place)?, entry.leaf(), skip)
        }))
    }

    /// The same of a parameter at `place`.
    pub fn of(py: Python<'_>, rule: String, place: String, leaf: &Leaf, skip: &Skip) -> PyResult<Self> {
        Ok(Self { rule, place, index: index_text(py, &leaf.layout, skip.element), counts: skip.counts })
    }

    /// Says it, now that the step is over. An error of whoever listens is no error of the step, which stands.
    pub fn tell(&self, py: Python<'_>) {
        let (Self { rule, place, index, .. }, [all, row]) = (self, self.counts);
        let log = py.import(intern!(py, "optirs._skipped")).and_then(|module| module.getattr(intern!(py, "tell")));
        if let Err(error) = log.and_then(|tell| tell.call1((rule, place, index, all, row))) {
            error.write_unraisable(py, None);
        }
    }
}
