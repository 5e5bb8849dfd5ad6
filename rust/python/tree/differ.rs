//! What a walk says where the trees do not fit each other.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::walk::{Object, Walk};

impl<'py> Walk<'_, 'py> {
    /// The error of the first key of `of` that `to` lacks.
    pub fn odd_key(&self, of: &Bound<'py, PyDict>, to: &Bound<'py, PyDict>, name: &str, other: &str) -> PyResult<()> {
        for key in of.keys() {
            if !to.contains(&key)? {
                return self.only_one(name, other, &key);
            }
        }
        Ok(())
    }

    /// The error of lists or tuples of different lengths, if they are.
    pub fn lengths(&self, node: &Object<'py>, state: usize, model: usize) -> PyResult<()> {
        if state == model {
            return Ok(());
        }
        let place = self.path.text(node.py())?;
        Err(PyValueError::new_err(format!("model at {place} has length {model}, the state has {state}")))
    }

    /// The error of a state with something else than leaves.
    pub fn no_state(&self, state: &Object<'py>) -> PyResult<()> {
        let place = self.path.text(state.py())?;
        let kind = state.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "state at {place} is {kind}, not a Leaf; update takes (state, model, gradient)"
        )))
    }

    /// The error of nodes of different kinds.
    pub fn differ<T>(&self, state: &Object<'py>, model: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(model.py())?;
        let (a, b) = (model.get_type().name()?, state.get_type().name()?);
        Err(PyValueError::new_err(format!("model at {place} is {a}, the state has {b}")))
    }

    /// The error of a gradient of another kind.
    pub fn differ_from_gradient<T>(&self, model: &Object<'py>, gradient: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(model.py())?;
        let (a, b) = (gradient.get_type().name()?, model.get_type().name()?);
        Err(PyTypeError::new_err(format!("gradient at {place} is {a}, the model has {b}")))
    }

    /// The error of a key that only one tree has.
    pub fn only_one<T>(&self, name: &str, other: &str, key: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(key.py())?;
        Err(PyValueError::new_err(format!("{name} at {place} has {}, which the {other} lacks", key.repr()?)))
    }
}
