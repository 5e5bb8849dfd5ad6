//! Arrays for the layers and losses: whatever NumPy can read becomes contiguous float32.
use numpy::{Element, PY_ARRAY_API, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods};
use numpy::{PyUntypedArray, PyUntypedArrayMethods, npyffi};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

/// A C-contiguous, aligned float32 array that can be read as a slice.
pub struct Float32<'py>(Bound<'py, PyArrayDyn<f32>>);

impl<'py> Float32<'py> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = value.cast::<PyArrayDyn<f32>>() {
            // SAFETY: only asks whether the memory is aligned and contiguous; the slice is dropped at once.
            if array.is_c_contiguous() && unsafe { array.as_slice() }.is_ok() {
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

/// A new array of zeros in row-major order, and its elements. Too large a one is Python's `MemoryError`.
pub fn zeros<'py>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let mut extents: Vec<npyffi::npy_intp> = shape.iter().map(|&extent| extent as npyffi::npy_intp).collect();
    let dtype = numpy::dtype::<f32>(py).into_dtype_ptr();
    // SAFETY: `extents` has as many entries as is said and outlives the call, which takes over the reference to `dtype`
    // and returns a new reference, or null with an exception set.
    let array = unsafe {
        let pointer = PY_ARRAY_API.PyArray_Zeros(py, extents.len() as i32, extents.as_mut_ptr(), dtype, 0);
        Bound::from_owned_ptr_or_err(py, pointer)?
    };
    Ok(array.cast_into()?)
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
