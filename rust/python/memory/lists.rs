//! Lists, numbers and text between Rust and Python, made so that a lack of memory is Python's `MemoryError`: PyO3's own
//! conversions end the process or panic.

use pyo3::IntoPyObjectExt;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString, PyTuple};

use crate::memory::reserve::{Put, Reserve};

/// A list that Python gives, or gets.
pub struct Items<T>(pub Vec<T>);

impl<'py, T: FromPyObjectOwned<'py>> FromPyObject<'_, 'py> for Items<T> {
    type Error = PyErr;

    /// Takes what `Vec` takes, without room for as many items as the object claims to have.
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() || !is_sequence(&object) {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("a list is wanted, not {kind}")));
        }
        let mut items = Vec::new();
        if object.is_exact_instance_of::<PyList>() {
            items.make_room(object.len()?)?;
        }
        for item in object.try_iter()? {
            items.put(item?.extract::<T>().map_err(Into::into)?)?;
        }
        Ok(Self(items))
    }
}

/// Whether an object may have items by number.
fn is_sequence(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object.
    unsafe { ffi::PySequence_Check(object.as_ptr()) != 0 }
}

impl<'py, T: IntoPyObject<'py>> IntoPyObject<'py> for Items<T> {
    type Target = PyList;
    type Output = Bound<'py, PyList>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        list(py, self.0)
    }
}

/// A list of `items`.
pub fn list<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
) -> PyResult<Bound<'py, PyList>> {
    let items = items.into_iter();
    // SAFETY: a new list, or null with an exception set. Each place is filled once, with a reference that the list takes over;
    // until then it is null, which no walk over a list minds.
    unsafe {
        let len = ffi::Py_ssize_t::try_from(items.len())?;
        let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(len))?.cast_into_unchecked::<PyList>();
        for (i, item) in (0..len).zip(items) {
            if ffi::PyList_SetItem(list.as_ptr(), i, item.into_bound_py_any(py)?.into_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(list)
    }
}

/// A tuple of `items`.
pub fn tuple<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
) -> PyResult<Bound<'py, PyTuple>> {
    let items = items.into_iter();
    // SAFETY: as in `list`; nothing else knows the tuple yet.
    unsafe {
        let len = ffi::Py_ssize_t::try_from(items.len())?;
        let tuple = Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(len))?.cast_into_unchecked::<PyTuple>();
        for (i, item) in (0..len).zip(items) {
            if ffi::PyTuple_SetItem(tuple.as_ptr(), i, item.into_bound_py_any(py)?.into_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(tuple)
    }
}

/// An empty dict.
pub fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: a new dict, or null with an exception set.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyDict_New())?.cast_into_unchecked()) }
}

/// A number, which becomes an int.
#[derive(Clone, Copy)]
pub struct Int(pub i64);

impl From<usize> for Int {
    fn from(n: usize) -> Self {
        Self(n as i64) // a number of things in memory
    }
}

impl From<i64> for Int {
    fn from(n: i64) -> Self {
        Self(n)
    }
}

impl<'py> IntoPyObject<'py> for Int {
    type Target = PyInt;
    type Output = Bound<'py, PyInt>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        // SAFETY: a new int, or null with an exception set.
        unsafe {
            let int = ffi::PyLong_FromLongLong(self.0);
            Ok(Bound::from_owned_ptr_or_err(py, int)?.cast_into_unchecked())
        }
    }
}

/// A list of whole numbers.
pub fn ints<'py, N: Into<Int>>(
    py: Python<'py>,
    numbers: impl IntoIterator<Item = N, IntoIter: ExactSizeIterator>,
) -> PyResult<Bound<'py, PyList>> {
    list(py, numbers.into_iter().map(Into::into))
}

/// A float.
pub fn float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: a new float, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(value)) }
}

/// A str.
pub fn text<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    let len = ffi::Py_ssize_t::try_from(text.len())?;
    // SAFETY: the bytes are UTF-8; a new str, or null with an exception set.
    unsafe {
        let made = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), len);
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}

/// A text, which becomes a str.
pub struct Text<'a>(pub &'a str);

impl<'py> IntoPyObject<'py> for Text<'_> {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        text(py, self.0)
    }
}

/// A bytes.
pub fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let len = ffi::Py_ssize_t::try_from(bytes.len())?;
    // SAFETY: the bytes of a slice; a new object, or null with an exception set.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), len);
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}
