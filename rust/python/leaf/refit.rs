//! The rule of a leaf replaced by another one, for which its state is fit.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::create::{placed, possible, restored, suitable};
use super::{Inner, Leaf, Moments, watch, writing};
use crate::memory::reserve::list;
use crate::program::Program;
use crate::python::memory::lists::Items;

/// Replaces the rule of each leaf by one for which its state is fit: all of them or, if one is not or is in use, none. Errors
/// name the paths.
#[pyfunction]
#[pyo3(signature = (leaves, rules, paths=None))]
pub fn set_rules<'py>(
    py: Python<'py>,
    leaves: Items<Bound<'py, Leaf>>,
    rules: Items<Py<PyAny>>,
    paths: Option<Items<Bound<'py, PyTuple>>>,
) -> PyResult<()> {
    let (Items(leaves), Items(rules)) = (leaves, rules);
    let path = |i: usize| paths.as_ref().and_then(|paths| paths.0.get(i));
    if leaves.len() != rules.len() {
        return Err(PyValueError::new_err(format!("{} rules for {} leaves", rules.len(), leaves.len())));
    }
    let mut compiled = list(rules.len())?;
    for (i, (leaf, rule)) in leaves.iter().zip(&rules).enumerate() {
        compiled.push(suitable(py, rule.bind(py), leaf.get().dtype, path(i))?);
    }
    let mut guards = writing(&leaves)?;
    let mut changes = list(rules.len())?;
    let mut old = list(guards.len())?;
    for (i, (guard, (rule, program))) in guards.iter().zip(rules.into_iter().zip(compiled)).enumerate() {
        let change = Change::of(py, guard.leaf(), guard.get(), &rule, program);
        changes.push((rule, change.map_err(|error| placed(py, error, path(i)))?));
    }
    // From here on nothing fails and no Python code runs until all leaves are changed.
    for ((guard, leaf), (rule, change)) in guards.iter_mut().zip(&leaves).zip(changes) {
        if let Some(inner) = guard.get_mut() {
            old.push((std::mem::replace(&mut inner.rule, rule), change.make(&mut inner.moments)));
            watch(leaf, inner);
        }
    }
    drop((guards, old)); // the guards first: dropping a rule may run Python code
    Ok(())
}

/// What another rule makes of the moments of a leaf.
enum Change {
    /// They lie as they did, for this rule.
    Program(Arc<Program>),
    /// A copy in another form.
    Moments(Moments),
}

impl Change {
    fn of(py: Python<'_>, leaf: &Leaf, old: &Inner, rule: &Py<PyAny>, program: Arc<Program>) -> PyResult<Self> {
        if old.moments.program.lies_like(&program) {
            (0..program.links.len()).try_for_each(|i| possible(&program, i, &old.moments.counts))?;
            return Ok(Self::Program(program));
        }
        let state = leaf.shown(py, &old.moments)?;
        let fit = restored(py, rule.clone_ref(py), leaf.dtype, leaf.layout.clone(), &state)?;
        Ok(Self::Moments(fit.into_inner().moments))
    }

    /// Makes the change; what it returns is to be dropped later.
    fn make(self, moments: &mut Moments) -> Option<Moments> {
        match self {
            Self::Program(new) => {
                moments.program = new;
                None
            }
            Self::Moments(new) => Some(std::mem::replace(moments, new)),
        }
    }
}
