//! The hyper-parameters of a step whose rules follow functions in Python.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use super::parameter::{Entry, Gradient, Names};
use crate::loops::dtype::DType;
use crate::program::Program;
use crate::program::contract::Hyper;
use crate::python::errors::{at, placeless};
use crate::python::leaf::program::compiled;
use crate::python::leaf::{Counts, Inner, Moments};

/// Gives each entry that is stepped, and whose rule follows a function in Python, the hyper-parameters of this step. Leaves of
/// one rule at one step share them, unless many others come between them.
pub fn schedule<'py>(
    py: Python<'py>,
    entries: &mut [Entry<'_, 'py>],
    gradients: &[Option<Gradient<'_, 'py>>],
    names: &Names,
) -> PyResult<()> {
    const KNOWN: usize = 4;
    type Known = (Py<PyAny>, Counts, DType, Arc<[Hyper]>);
    let mut known: SmallVec<[Known; KNOWN]> = SmallVec::new();
    for (entry, gradient) in entries.iter_mut().zip(gradients) {
        let Inner { rule, moments: Moments { program, counts, .. }, .. } = entry.guard.get();
        if !program.asks_python || gradient.is_none() {
            continue;
        }
        let dtype = entry.leaf().dtype;
        if let Some((.., given)) = known.iter().find(|(r, c, t, _)| r.is(rule) && c == counts && *t == dtype) {
            entry.given = Some(given.clone());
            continue;
        }
        let given = match given(py, rule.bind(py), program, counts, dtype) {
            Ok(given) => given,
            Err(error) => return Err(at(py, error, &names.of(entry.place)?)),
        };
        if known.len() == KNOWN {
            known.remove(0);
        }
        known.push((rule.clone_ref(py), counts.clone(), dtype, given.clone()));
        entry.given = Some(given);
    }
    Ok(())
}

/// The hyper-parameters of the next step of a parameter of type `dtype`.
fn given(
    py: Python<'_>,
    rule: &Bound<'_, PyAny>,
    own: &Program,
    counts: &[u64],
    dtype: DType,
) -> PyResult<Arc<[Hyper]>> {
    let rules = py.import(intern!(py, "optirs.rules"))?;
    let timers = PyTuple::new(py, own.timers(counts))?;
    let rule = rules.call_method1(intern!(py, "resolved"), (rule, timers))?;
    let names = |program: &Program| -> Vec<_> { program.links.iter().map(|link| link.entry.name).collect() };
    let made = compiled(py, &rule)?;
    if names(&made) != names(own) || made.is_scheduled() {
        return Err(PyValueError::new_err("a rule turned into another one"));
    }
    match made.refusal(dtype, None) {
        Some(reason) => Err(placeless(py, reason)),
        None => Ok(made.links.iter().map(|link| link.hyper).collect()),
    }
}
