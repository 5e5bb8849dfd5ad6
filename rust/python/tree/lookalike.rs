//! What a gradient may be beside a tree like the model: a dict, a mapping or an object with some of the attributes.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple, PyType};

use super::node::{among, fields, optional};
use super::order::has_leaf;
use super::walk::{Object, Walk};
use crate::memory::reserve::{collected, listed};
use crate::python::array::is_array;
use crate::python::errors::asked;
use crate::python::leaf::Leaf;

impl<'py> Walk<'_, 'py> {
    /// The gradient of a named tuple if it is not one by position.
    pub fn fields_by_name(
        &self,
        names: &Bound<'py, PyTuple>,
        model: &Object<'py>,
        gradient: &Object<'py>,
    ) -> PyResult<Option<Vec<Option<Object<'py>>>>> {
        if let Ok(tuple) = gradient.cast::<PyTuple>() {
            let other = fields(tuple)?;
            if other.map_or(Ok(Some(true)), |o| asked(names.py(), o.eq(names)))?.unwrap_or(false) {
                return Ok(None);
            }
        } else if gradient.is_instance_of::<PyList>() {
            return Ok(None);
        }
        let names: Vec<_> = collected(names.iter().map(|n| Ok::<_, PyErr>(n.cast_into::<PyString>()?)))?;
        self.named(&listed(&names)?, model, gradient).map(Some)
    }

    /// The gradients of the fields `names` from a dict or a look-alike object.
    pub fn named(
        &self,
        names: &[&Bound<'py, PyString>],
        model: &Object<'py>,
        gradient: &Object<'py>,
    ) -> PyResult<Vec<Option<Object<'py>>>> {
        let py = model.py();
        let given: Vec<Object<'py>>;
        let values: Vec<_>;
        if let Ok(dict) = gradient.cast::<PyDict>() {
            given = listed(dict.iter().map(|(key, _)| key))?;
            values = collected(names.iter().map(|n| dict.get_item(n)))?;
        } else if is_value(gradient)? {
            return self.differ_from_gradient(model, gradient);
        } else {
            let tuple = gradient.cast::<PyTuple>().ok().map(fields).transpose()?.flatten();
            let dict = asked(py, gradient.getattr(intern!(py, "__dict__")))?;
            given = match (tuple, &dict) {
                (Some(fields), _) => listed(fields.iter())?,
                (None, Some(dict)) => listed(dict.cast::<PyDict>()?.iter().map(|(key, _)| key))?,
                (None, None) => Vec::new(),
            };
            values = collected(names.iter().map(|n| optional(gradient, n, &self.path)))?;
            let size = dict.map_or(Ok(Some(1)), |dict| asked(py, dict.len()))?;
            let opaque = gradient.is_callable() || size.unwrap_or(0) > 0;
            if given.is_empty() && values.iter().all(Option::is_none) && opaque {
                return self.differ_from_gradient(model, gradient);
            }
        }
        for key in given {
            let known = match key.cast::<PyString>() {
                Ok(key) => among(names.iter().copied(), key)?.is_some() || model.hasattr(key)?,
                Err(_) => false,
            };
            if !known {
                return self.only_one("gradient", "model", &key);
            }
        }
        Ok(values)
    }

    /// The gradient of a dict: itself a dict or another mapping.
    pub fn mapping(&self, state: &Object<'py>, gradient: &Object<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        if let Ok(dict) = gradient.cast::<PyDict>() {
            return Ok(Some(dict.clone()));
        }
        if let Ok(mapping) = gradient.cast::<PyMapping>() {
            let dict = PyDict::new(state.py());
            dict.update(mapping)?;
            return Ok(Some(dict));
        }
        if has_leaf(state)? { self.differ_from_gradient(state, gradient) } else { Ok(None) }
    }
}

/// Whether an object is one value, so that its attributes mean nothing here.
fn is_value(object: &Object<'_>) -> PyResult<bool> {
    let py = object.py();
    Ok(is_array(object)
        || object.is_instance_of::<PyList>()
        || object.is_exact_instance_of::<PyTuple>()
        || object.is_instance_of::<PyString>()
        || object.is_instance_of::<PyType>()
        || object.is_instance_of::<PyInt>()
        || object.is_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<Leaf>()
        || object.hasattr(intern!(py, "__array__"))?
        || object.hasattr(intern!(py, "__dlpack__"))?)
}
