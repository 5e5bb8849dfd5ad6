//! Arrays for the layers and losses: whatever NumPy can read becomes contiguous float32, or float64 where it is wider.
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NpyTypes, get_type_object, npy_intp};
use numpy::{Element, PY_ARRAY_API, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use std::os::raw::c_int;

use super::arrays::{View, set_base};
use super::masked::{as_plain, refuse};
use super::memory::{OWN, own};
use crate::element::Real;
use crate::losses::Values;
use crate::reserve::listed;

/// A C-contiguous, aligned array of float32 or float64 that can be read as a slice.
pub struct Numbers<'py, T>(Bound<'py, PyArrayDyn<T>>);

/// One of float32.
pub type Float32<'py> = Numbers<'py, f32>;

impl<'py, T: Real + Element> Numbers<'py, T> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        refuse(what, value)?;
        match Self::as_is(value) {
            Some(numbers) => Ok(numbers),
            None => convert(&numbers(what, value)?.0).map(Self),
        }
    }

    /// `value` itself, if it is such an array.
    fn as_is(value: &Bound<'py, PyAny>) -> Option<Self> {
        let view = View::of(value)?;
        if !view.plain || view.dtype != Some(T::COMPUTE.dtype()) {
            return None;
        }
        // SAFETY: the lines above have seen that it is an array of aligned, native elements of this type.
        let array = unsafe { value.cast_unchecked::<PyArrayDyn<T>>() };
        array.is_c_contiguous().then(|| Self(array.clone()))
    }

    /// An array that was such a one before.
    pub fn kept(array: &Py<PyArrayDyn<T>>, py: Python<'py>) -> Self {
        Self(array.bind(py).clone())
    }

    /// Another handle on the array, to be kept.
    pub fn share(&self) -> Py<PyArrayDyn<T>> {
        self.0.clone().unbind()
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The elements, row by row.
    pub fn as_slice(&self) -> PyResult<&[T]> {
        // SAFETY: the array is kept alive by `self`. Python code that writes to it from another thread while the GIL is
        // released races with us as it would with NumPy itself; we only read numbers, every bit pattern of which is one.
        Ok(unsafe { self.0.as_slice() }?)
    }
}

/// Numbers in the type in which losses compute with them: float32 where that holds them, else float64.
pub enum Reals<'py> {
    /// Those of float32 and of 16 bits.
    Single(Float32<'py>),
    /// All others: integers too, as NumPy takes them beside floats.
    Double(Numbers<'py, f64>),
}

/// The same, to be kept.
pub enum KeptReals {
    /// As [`Reals::Single`].
    Single(Py<PyArrayDyn<f32>>),
    /// As [`Reals::Double`].
    Double(Py<PyArrayDyn<f64>>),
}

impl<'py> Reals<'py> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        refuse(what, value)?;
        if let Some(single) = Numbers::as_is(value) {
            return Ok(Self::Single(single));
        }
        if let Some(double) = Numbers::as_is(value) {
            return Ok(Self::Double(double));
        }
        let (array, precision) = numbers(what, value)?;
        Ok(match precision {
            Precision::Other => Self::Double(Numbers(convert(&array)?)),
            _ => Self::Single(Numbers(convert(&array)?)),
        })
    }

    /// Arrays that were such ones before.
    pub fn kept(arrays: &KeptReals, py: Python<'py>) -> Self {
        match arrays {
            KeptReals::Single(array) => Self::Single(Numbers::kept(array, py)),
            KeptReals::Double(array) => Self::Double(Numbers::kept(array, py)),
        }
    }

    /// The array, to be kept.
    pub fn keep(self) -> KeptReals {
        match self {
            Self::Single(numbers) => KeptReals::Single(numbers.0.unbind()),
            Self::Double(numbers) => KeptReals::Double(numbers.0.unbind()),
        }
    }

    /// The same numbers as float64.
    pub fn double(self) -> PyResult<Numbers<'py, f64>> {
        match self {
            Self::Single(numbers) => convert(numbers.0.as_untyped()).map(Numbers),
            Self::Double(numbers) => Ok(numbers),
        }
    }

    /// Whether they are float64.
    pub fn is_double(&self) -> bool {
        matches!(self, Self::Double(_))
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Single(numbers) => numbers.shape(),
            Self::Double(numbers) => numbers.shape(),
        }
    }

    /// The elements, row by row.
    pub fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Self::Single(numbers) => Values::Single(numbers.as_slice()?),
            Self::Double(numbers) => Values::Double(numbers.as_slice()?),
        })
    }
}

/// How exactly an array's elements are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// bfloat16: to 8 binary digits.
    BFloat16,
    /// float16: to 11, or to multiples of 2^-24.
    Float16,
    /// float32: to 24.
    Float32,
    /// float64, longdouble, integers and bools.
    Other,
}

impl Precision {
    /// That of an array; `None` if it is none of real numbers.
    pub fn of(array: &Bound<'_, PyUntypedArray>) -> PyResult<Option<Self>> {
        let dtype = array.dtype();
        Ok(match (dtype.kind(), dtype.itemsize()) {
            (b'f', 2) => Some(Self::Float16),
            (b'f', 4) => Some(Self::Float32),
            (b'f' | b'i' | b'u' | b'b', _) => Some(Self::Other),
            _ if dtype.getattr("name")?.extract::<String>()? == "bfloat16" => Some(Self::BFloat16),
            _ => None,
        })
    }
}

/// `value` as an array of real numbers, and how exact they are.
fn numbers<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyUntypedArray>, Precision)> {
    let array = as_array(what, value)?;
    match Precision::of(&array)? {
        Some(precision) => Ok((array, precision)),
        None => Err(not_numbers(what, value, &array)?),
    }
}

/// Integers as int64, C-contiguous.
pub fn int64<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Vec<i64>> {
    let converted = convert::<i64>(array)?;
    // SAFETY: the array is new, so nobody else writes to it.
    Ok(listed(unsafe { converted.as_slice() }?.iter().copied())?)
}

/// `numpy.asarray(value)`; `what` names it in errors.
pub fn as_array<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    Ok(as_plain(what, value)?.cast_into()?)
}

/// A new array in row-major order, and not initialised: the caller writes every element before anything reads one. Too
/// large a one is Python's `MemoryError`.
///
/// Large ones lie in memory of ours, which is recycled: fresh pages would cost as much as the arithmetic.
pub fn empty<'py, T: Element>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let bytes = shape.iter().try_fold(size_of::<T>(), |bytes, &extent| bytes.checked_mul(extent));
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
        let dtype = T::get_dtype(py).into_dtype_ptr();
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

/// A new array of these `values`.
pub fn new_array<'py, T: Element + Copy>(py: Python<'py>, values: &[T]) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let array = empty::<T>(py, &[values.len()])?;
    // SAFETY: the array is new, so this is the only reference to its elements.
    unsafe { array.as_slice_mut() }?.copy_from_slice(values);
    Ok(array)
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
