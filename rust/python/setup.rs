//! The state of a model in one call, where there is nothing to decide.

use pyo3::prelude::*;

use super::arrays::{View, span};
use super::make::make_leaves;
use super::tree::{Found, flatten, unflatten};

/// The state of training `model` with one rule; None unless all leaves of the model are parameters and lie apart, so that
/// each is one of its own. Then, too, it is what `optirs.setup` would make.
#[pyfunction]
#[pyo3(signature = (rule, model, /))]
pub fn setup<'py>(rule: &Bound<'py, PyAny>, model: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = model.py();
    let leaves = flatten(model, false)?;
    if leaves.is_empty() || !are_apart(&leaves) {
        return Ok(None);
    }
    let items = leaves.into_iter().map(|(path, x, _)| (rule.clone(), x, path)).collect();
    let made = make_leaves(py, items)?.into_iter().map(|leaf| Ok(Bound::new(py, leaf)?.into_any()));
    unflatten(model, made.collect::<PyResult<_>>()?, false, true).map(Some)
}

/// Whether all of these are parameters, none of them shares memory with another one, and none is empty.
fn are_apart(leaves: &[Found<'_>]) -> bool {
    let mut spans = Vec::with_capacity(leaves.len());
    for (_, leaf, trained) in leaves {
        match span(leaf) {
            Some((low, high)) if *trained && low < high && View::of(leaf).is_some_and(|v| v.dtype.is_some()) => {
                spans.push((low, high));
            }
            _ => return false,
        }
    }
    spans.sort_unstable();
    spans.is_sorted_by(|a, b| a.1 <= b.0)
}
