//! `init` and `apply`: a rule on one array, outside of any tree.

use std::sync::Arc;

use bumpalo::Bump;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::array::{Layout, View, array, descriptor, placed};
use super::entry::{Names, entries};
use super::gradient::Gradient;
use super::leaf::Moments;
use super::lists::Items;
use super::make::{check_held, make_leaves, restored};
use super::schedules::schedule;
use super::update::{Call, Skipped, Targets, advance};
use super::walk::Place;
use crate::dtype::DType;
use crate::rules::RULES;

/// The registry: every rule's name and the names of its hyper-parameters.
#[pyfunction]
pub fn rules(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for entry in RULES {
        dict.set_item(entry.name, PyTuple::new(py, entry.fields.iter().map(|(name, _)| name))?)?;
    }
    Ok(dict)
}

/// The state of a built-in rule for the array `x`.
#[pyfunction]
pub fn init<'py>(py: Python<'py>, rule: Bound<'py, PyAny>, x: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let leaf = make_leaves(py, Items(vec![(rule, x, None)]))?.0.remove(0);
    Bound::new(py, leaf)?.getattr(intern!(py, "state"))
}

/// One step of a built-in rule without master copies: its new state, and what is to be subtracted from `x`, or None.
///
/// The arguments are left alone. What is returned is in the compute type, float32 for 16-bit arrays.
#[pyfunction]
pub fn apply<'py>(
    py: Python<'py>,
    rule: Py<PyAny>,
    state: &Bound<'py, PyAny>,
    x: Bound<'py, PyAny>,
    dx: Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    let (dtype, layout) = match View::of(&x) {
        Some(view) if view.dtype.is_some() => (view.dtype, Arc::new(Layout::of(&view))),
        _ => return Err(PyTypeError::new_err(format!("x is no trainable array, but {}", x.get_type().name()?))),
    };
    let dtype = dtype.unwrap_or(DType::F32);
    check_held(py, rule.bind(py), dtype.name())?;
    let leaf = Bound::new(py, restored(py, rule, dtype, layout.clone(), state)?)?;
    let places = [Place { leaf: leaf.clone(), array: x, gradient: Some(dx) }];
    let names = Names(leaf.as_any());
    let arena = Bump::new();
    let (mut entries, _) = entries(&arena, py, &places, &names, false)?;
    let gradient = entries[0].gradient(py, &names)?;
    schedule(py, &mut entries, std::slice::from_ref(&gradient), &names)?;
    let entry = &entries[0];
    let compute = entry.working().compute().dtype();
    let streams = || entry.guard.get().streams(entry.address, gradient.as_ref().map(Gradient::read_at));
    let place = placed(py, layout.len * compute.size(), streams().choose(None))?;
    let to = Targets::Direction(&place);
    let gradients = std::slice::from_ref(&gradient);
    let (mut reached, skips) = Call { entries: &entries, gradients, made: &[], to }.run(py, &arena, &names)?;
    let reached = reached.remove(0);
    let (stepped, skipped) = (reached.0.steps, Skipped::all(py, &entries, &skips, &names)?);
    let x = entry.array.clone();
    drop(entries);
    let mut lands = false;
    if let Some(mut guard) = leaf.get().write()
        && let Some(Moments::Compiled { program, counts, .. }) = guard.get_mut().map(|i| &mut i.moments)
    {
        lands = program.lands();
        advance(program, counts, reached);
    }
    let mut dx = None;
    if stepped {
        let result = array(py, &place, &descriptor(py, compute)?, compute.size(), &layout)?;
        // Where the rule decides where x lands, that is what it has made.
        dx = Some(if lands {
            py.import(intern!(py, "optirs._rounding"))?.call_method1(intern!(py, "difference"), (x, result))?
        } else {
            result
        });
    }
    skipped.iter().try_for_each(|skipped| skipped.tell(py))?;
    Ok((leaf.getattr(intern!(py, "state"))?, dx))
}
