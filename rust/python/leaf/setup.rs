//! The state of a model in one call, where there is nothing to decide.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::create::make_leaves;
use crate::memory::reserve::{collected, list, listed};
use crate::python::array::View;
use crate::python::memory::lists::Items;
use crate::python::tree::node::{Found, flatten, unflatten};

/// The state of training `model` with one rule; None unless all arrays of the model are parameters and lie apart, so that
/// each is one of its own, and nothing else may hold tensors. Then, too, it is what `optirs.setup` would make.
#[pyfunction]
#[pyo3(signature = (rule, model, /))]
pub fn setup<'py>(rule: &Bound<'py, PyAny>, model: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = model.py();
    let leaves = flatten(model, false)?;
    let Some(trained) = parameters(py, &leaves)? else { return Ok(None) };
    let items = leaves.into_iter().zip(&trained).filter(|(_, trained)| **trained);
    let items = listed(items.map(|((path, x, _), _)| (rule.clone(), x, Some(path))))?;
    if items.is_empty() {
        return Ok(None);
    }
    let mut made = make_leaves(py, Items(items))?.0.into_iter();
    let value = |trained| match if trained { made.next() } else { None } {
        Some(leaf) => leaf.into_object(py).map(Bound::into_any),
        None => Ok(py.None().into_bound(py)),
    };
    unflatten(model, Items(collected(trained.into_iter().map(value))?), false, true).map(Some)
}

/// Whether each leaf is a parameter, else it is no array; `None` if some array is empty, not trained, of another type, or
/// shares memory with another one, or if something that is no array may hold tensors.
fn parameters(py: Python<'_>, leaves: &[Found<'_>]) -> PyResult<Option<Vec<bool>>> {
    static PLAIN: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let plain = PLAIN.import(py, "optirs._untrained", "PLAIN")?;
    let (mut spans, mut found) = (list(leaves.len())?, list(leaves.len())?);
    for (_, leaf, trained) in leaves {
        if !trained {
            return Ok(None); // there may be arrays in it
        }
        found.push(match View::of(leaf) {
            Some(view) if view.dtype.is_some() && view.len() > 0 => {
                spans.push(view.span());
                true
            }
            None if leaf.is_none() || leaf.is_instance(plain)? => false,
            _ => return Ok(None),
        });
    }
    spans.sort_unstable();
    Ok(spans.is_sorted_by(|a, b| a.1 <= b.0).then_some(found))
}
