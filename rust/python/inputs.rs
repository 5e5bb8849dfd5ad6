//! Arrays for the layers and losses: whatever NumPy can read becomes contiguous float32.
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_TYPES, NpyTypes, get_type_object, npy_intp};
use numpy::{Element, PY_ARRAY_API, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use std::os::raw::c_int;

use super::arrays::{View, set_base};
use super::memory::{OWN, own};
use crate::dtype::DType;

/// A C-contiguous, aligned float32 array that can be read as a slice.
pub struct Float32<'py>(Bound<'py, PyArrayDyn<f32>>);

impl<'py> Float32<'py> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(View { dtype: Some(DType::F32), plain: true, .. }) = View::of(value) {
            // SAFETY: the line above has seen that it is an array of aligned, native float32.
            let array = unsafe { value.cast_unchecked::<PyArrayDyn<f32>>() };
            if array.is_c_contiguous() {
                return Ok(Self(array.clone()));
            }
        }
        let array = as_array(value)?;
        let kind = array.dtype().kind();
        if !b"fiub".contains(&kind) && array.dtype().getattr("name")?.extract::<String>()? != "bfloat16" {
            return Err(not_numbers(what, value, &array)?);
        }
        convert::<f32>(&array).map(Self)
    }

    /// An array that was such a one before.
    pub fn kept(array: &Py<PyArrayDyn<f32>>, py: Python<'py>) -> Self {
        Self(array.bind(py).clone())
    }

    /// The array, to be kept.
    pub fn keep(self) -> Py<PyArrayDyn<f32>> {
        self.0.unbind()
    }

    /// Another handle on the array, to be kept.
    pub fn share(&self) -> Py<PyArrayDyn<f32>> {
        self.0.clone().unbind()
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The elements, row by row.
    pub fn as_slice(&self) -> PyResult<&[f32]> {
        // SAFETY: the array is kept alive by `self`. Python code that writes to it from another thread while the GIL is
        // released races with us as it would with NumPy itself; we only read numbers, every bit pattern of which is one.
        Ok(unsafe { self.0.as_slice() }?)
    }
}

/// Integers as int64, C-contiguous.
pub fn int64<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Vec<i64>> {
    let converted = convert::<i64>(array)?;
    // SAFETY: the array is new, so nobody else writes to it.
    Ok(unsafe { converted.as_slice() }?.to_vec())
}

/// `numpy.asarray(value)`.
pub fn as_array<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    Ok(value.py().import("numpy")?.call_method1("asarray", (value,))?.cast_into()?)
}

/// A new array in row-major order, and not initialised: the caller writes every element before anything reads one. Too
/// large a one is Python's `MemoryError`.
///
/// Large ones lie in memory of ours, which is recycled: fresh pages would cost as much as the arithmetic.
pub fn empty<'py>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let bytes = shape.iter().try_fold(size_of::<f32>(), |bytes, &extent| bytes.checked_mul(extent));
    let memory = match bytes {
        Some(bytes) if bytes >= OWN => Some(own(py, bytes)?),
        // One that has no number of bytes is NumPy's to refuse.
        _ => None,
    };
    let mut extents = [0; 2];
    for (to, &extent) in extents.iter_mut().zip(shape) {
        *to = extent as npy_intp;
    }
    assert!(shape.len() <= extents.len(), "layers make rows and matrices");
    // SAFETY: `extents` has as many entries as is said and outlives the call, which takes over the reference to the dtype
    // and returns a new reference, or null with an exception set. The memory has room for the elements, and the array
    // keeps it alive.
    unsafe {
        let dtype = PY_ARRAY_API.PyArray_DescrFromType(py, NPY_TYPES::NPY_FLOAT as c_int);
        let data = memory.as_ref().map_or(std::ptr::null_mut(), |place| place.ptr);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            dtype,
            shape.len() as c_int,
            extents.as_mut_ptr(),
            std::ptr::null_mut(),
            data.cast(),
            if data.is_null() { 0 } else { NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE },
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if let Some(place) = memory {
            set_base(&array, &place)?;
        }
        Ok(array.cast_into_unchecked())
    }
}

/// `(2, 3)`, as Python writes a shape.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A row is a batch of one: `(batch, columns)` of a shape with one or two dimensions, else `None`.
pub fn rows(shape: &[usize]) -> Option<(usize, usize)> {
    match *shape {
        [columns] => Some((1, columns)),
        [batch, columns] => Some((batch, columns)),
        _ => None,
    }
}

/// The error for arrays that cannot go together.
pub fn shape_error(message: String) -> PyErr {
    PyValueError::new_err(message)
}

fn convert<'py, T: Element>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let py = array.py();
    let order = [("order", "C")].into_py_dict(py)?;
    Ok(array.call_method("astype", (numpy::dtype::<T>(py),), Some(&order))?.cast_into()?)
}

/// The error for an array of strings, objects, complex numbers and so on.
fn not_numbers(what: &str, value: &Bound<'_, PyAny>, array: &Bound<'_, PyUntypedArray>) -> PyResult<PyErr> {
    // A list of complex numbers is better told by its elements, None by its own name.
    let found = if array.ndim() > 0 || value.cast::<PyUntypedArray>().is_ok() {
        format!("an array of {}", array.dtype().str()?)
    } else {
        value.get_type().name()?.to_string()
    };
    Ok(PyTypeError::new_err(format!("{what} must be an array of real numbers, got {found}")))
}
