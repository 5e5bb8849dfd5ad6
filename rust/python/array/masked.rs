//! Masked arrays, which are refused wherever arrays enter: what a mask hides is no number to compute with, and NumPy's own
//! conversions would show it.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple, PyType};

use super::{Pinned, is_array, is_exact, numpy, refuse_moved, settled};

/// How deep lists may nest for the arrays in them to be found.
const DEPTH: usize = 8;

/// Raises where `value` is a masked array that hides elements, or a list, tuple or dict with one in it. One that hides none
/// is an array like any other.
///
/// Args:
///     what: The argument or the place, for the text of the error.
///     value: Any object.
///
/// Raises:
///     TypeError: It hides elements.
#[pyfunction(name = "refuse_masked")]
#[pyo3(signature = (what, value, /))]
#[inline]
pub fn refuse(what: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_exact(value) { Ok(()) } else { refuse_other(value, || Ok(what.to_owned())) }
}

/// The same of what is no array of NumPy's own class.
#[cold]
pub fn refuse_other(value: &Bound<'_, PyAny>, what: impl FnOnce() -> PyResult<String>) -> PyResult<()> {
    let Some((hidden, all)) = masked(value, DEPTH)? else { return Ok(()) };
    let text = format!(
        "{} is a masked array with {hidden} of {all} elements masked: fill them, .filled(value), or drop their rows",
        what()?
    );
    Err(PyTypeError::new_err(text.trim_start().to_owned()))
}

/// `numpy.asarray(value)`, refused where elements are hidden, also by a mask that shows only in what `__array__` returns.
///
/// Args:
///     what: The argument or the place, for the text of the error.
///     value: Any object.
///
/// Raises:
///     TypeError: It hides elements.
#[pyfunction]
#[pyo3(signature = (what, value, /))]
pub fn as_plain<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if is_exact(value) {
        refuse_moved(what, value)?;
        return Ok(value.clone());
    }
    refuse_other(value, || Ok(what.to_owned()))?;
    let _pinned = Pinned::of(what, value)?;
    let numpy = numpy(value.py())?;
    let array = settled(&numpy.call_method1(intern!(value.py(), "asanyarray"), (value,))?)?;
    refuse(what, &array)?;
    refuse_moved(what, &array)?;
    numpy.call_method1(intern!(value.py(), "asarray"), (array,))
}

/// How many elements the first masked array in `value` that hides some has hidden, and how many it has.
fn masked(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Option<(usize, usize)>> {
    if value.is_exact_instance_of::<PyFloat>() || value.is_exact_instance_of::<PyInt>() {
        return Ok(None); // as nearly all that lists have
    }
    if let Ok(list) = value.cast::<PyList>() {
        return first(list.iter(), depth);
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        return first(tuple.iter(), depth);
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        return first(dict.values().iter(), depth);
    }
    if is_exact(value) || !is_array(value) {
        return Ok(None);
    }
    static MASKED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = value.py();
    if !value.is_instance(MASKED.import(py, "numpy.ma", "MaskedArray")?)? {
        return Ok(None);
    }
    let mask = value.getattr(intern!(py, "mask"))?;
    let hidden: usize = py.import("numpy")?.call_method1("count_nonzero", (mask,))?.extract()?;
    let all = value.getattr(intern!(py, "size"))?.extract()?;
    Ok((hidden > 0).then_some((hidden, all)))
}

fn first<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> PyResult<Option<(usize, usize)>> {
    let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
    for item in items {
        if let Some(found) = masked(&item, depth)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
