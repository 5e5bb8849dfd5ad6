//! Whether the arguments of an update stand in their order.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::node::{children, node};
use super::path::{Path, too_deep};
use crate::python::errors::asked;
use crate::python::leaf::Leaf;

const TAKES: &str = "update takes (state, model, gradient)";

/// optax has `grads, state, params`: arguments in another order deserve an error of their own.
pub fn check_order(state: &Bound<'_, PyAny>, model: &Bound<'_, PyAny>, gradient: &Bound<'_, PyAny>) -> PyResult<()> {
    if has_leaf(state)? {
        return match (has_leaf(model)?, has_leaf(gradient)?) {
            (true, _) => Err(PyTypeError::new_err(format!("{TAKES}, but the second argument is a state, too"))),
            (_, true) => Err(PyTypeError::new_err(format!("{TAKES}, but the third argument is a state, too"))),
            _ => Ok(()),
        };
    }
    let py = state.py();
    if state.is_instance(&py.import("optirs.rules")?.getattr("Rule")?)? {
        let text = "update takes (state, model, gradient); the first argument is a rule: make a state of it with setup";
        return Err(PyTypeError::new_err(text));
    }
    let other = if has_leaf(model)? {
        "second"
    } else if has_leaf(gradient)? {
        "third"
    } else {
        return Ok(());
    };
    Err(PyTypeError::new_err(format!(
        "update takes (state, model, gradient) in this order; the {other} argument is the state here"
    )))
}

/// The error of a Leaf where an array should be: at `place` of the `what`, which is the `nth` argument.
pub fn a_leaf(what: &str, place: &str, nth: &str) -> PyErr {
    PyTypeError::new_err(format!("{what} at {place} is a Leaf: {TAKES}, but the {nth} argument is a state"))
}

/// Whether a [`Leaf`] stands anywhere in `tree`; one that contains itself is not searched for ever.
pub fn has_leaf(tree: &Bound<'_, PyAny>) -> PyResult<bool> {
    search(tree, 0, &mut 1_000_000)
}

fn search(tree: &Bound<'_, PyAny>, depth: usize, left: &mut usize) -> PyResult<bool> {
    if tree.is_exact_instance_of::<Leaf>() {
        return Ok(true);
    }
    if *left == 0 || too_deep(depth) {
        return Ok(false);
    }
    *left -= 1;
    let py = tree.py();
    let Some(kind) = asked(py, node(tree))? else { return Ok(false) };
    let children = asked(py, children(tree, &kind, &Path::default()))?.flatten();
    for (_, child) in children.into_iter().flatten() {
        if search(&child, depth + 1, left)? {
            return Ok(true);
        }
    }
    Ok(false)
}
