//! `init` and `apply`: a rule on one array, outside of any tree.

use std::sync::Arc;

use bumpalo::Bump;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::parameter::{Gradient, Names, entries};
use super::schedules::schedule;
use super::{Call, Done, Targets, advance, hand_out, results};
use crate::loops::dtype::DType;
use crate::python::array::{Layout, View, array, descriptor, placed};
use crate::python::leaf::create::{held, make_leaves, restored};
use crate::python::memory::lists::Items;
use crate::python::tree::walk::TreePlace;
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

/// One step of a rule: its new state, and what is to be subtracted from `x`, or None.
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
    let leaf = Bound::new(py, restored(py, rule, dtype, layout.clone(), state)?)?;
    held(py, &leaf.get().reading()?.get().moments.program, dtype)?;
    let places = [TreePlace { leaf: leaf.clone(), array: x.clone(), gradient: Some(dx) }];
    let (names, arena) = (Names(leaf.as_any()), Bump::new());
    let (mut entries, _) = entries(&arena, py, &places, &names, false)?;
    let gradients = [entries[0].gradient(py, &names)?];
    schedule(py, &mut entries, &gradients, &names)?;
    let entry = &entries[0];
    let program = entry.guard.get().moments.program.clone();
    let compute = entry.working().compute().dtype();
    let place;
    let results = if program.master.is_some() { results(&arena, py, &entries, &gradients)? } else { Vec::new() };
    let to = if program.master.is_some() {
        Targets::Fresh(&results)
    } else {
        let streams = entry.guard.get().streams(entry.address, gradients[0].as_ref().map(Gradient::read_at));
        place = placed(py, layout.len * compute.size(), { streams }.choose(None))?;
        Targets::Direction(&place)
    };
    let Done { outcomes, counts, own, skipped, .. } =
        Call { entries: &entries, gradients: &gradients, to }.run(py, &arena, &names)?;
    let (outcome, after) = (outcomes[0], Some(&counts[..]).filter(|counts| !counts.is_empty()));
    let (state, result) = match to {
        Targets::Direction(place) => {
            drop(entries);
            if let Some(mut guard) = leaf.get().write()
                && let Some(inner) = guard.get_mut()
            {
                own.into_iter().for_each(|new| inner.moments.own[new.own] = new.state);
                advance(&program, &mut inner.moments.counts, outcome, after);
            }
            (leaf.getattr(intern!(py, "state"))?, array(py, place, &descriptor(py, compute)?, compute.size(), &layout)?)
        }
        _ => {
            let (leaf, new) = hand_out(py, entry, &results[0], own, (outcome, after))?;
            (leaf.getattr(intern!(py, "state"))?, new)
        }
    };
    let mut dx = outcome.steps.then_some(result);
    if let Some(new) = dx.take_if(|_| program.master.is_some() || program.lands()) {
        // What was made is where x lands.
        dx = Some(py.import(intern!(py, "optirs._rounding"))?.call_method1(intern!(py, "difference"), (x, new))?);
    }
    skipped.iter().for_each(|skipped| skipped.tell(py));
    Ok((state, dx))
}
