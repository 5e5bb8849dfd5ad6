//! New arrays, over memory of ours or NumPy's, and copies that no array's class has a say in.

use numpy::npyffi::{
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ENSUREARRAY, NPY_ARRAY_WRITEABLE, NPY_CASTING, NPY_TYPES, NpyTypes, PY_ARRAY_API,
    PyArray_Descr, PyArrayObject, get_type_object, npy_intp,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use std::marker::PhantomData;
use std::os::raw::{c_char, c_int};
use std::ptr;

use super::access::read;
use super::fields::{bfloat16, is_array, numpy};
use super::layout::Layout;
use super::memory::{MemoryPart, OWN, own};
use super::pins::Pinned;
use crate::loops::dtype::DType;
use crate::loops::element::Real;

/// A new array of type `descr` over the memory of `place`.
pub fn array<'py>(
    py: Python<'py>,
    place: &MemoryPart,
    descr: &Bound<'py, PyAny>,
    itemsize: usize,
    layout: &Layout,
) -> PyResult<Bound<'py, PyAny>> {
    let mut shape = layout.shape.clone();
    let mut strides: Vec<isize> = layout.strides.iter().map(|s| s.wrapping_mul(itemsize as isize)).collect();
    // SAFETY: the layout's bytes lie within `place`, which the base object keeps alive; NumPy steals the references to the
    // descriptor and to the base, which are given to it with `into_ptr`.
    unsafe {
        let made = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descr.clone().into_ptr().cast::<PyArray_Descr>(),
            shape.len() as c_int,
            shape.as_mut_ptr(),
            strides.as_mut_ptr(),
            place.ptr.cast(),
            NPY_ARRAY_WRITEABLE,
            ptr::null_mut(),
        );
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        set_base(&made, place)?;
        Ok(made)
    }
}

/// Makes `array`, which is new and lies in `place`, keep that alive.
///
/// # Safety
/// `array` is a NumPy array without a base.
unsafe fn set_base(array: &Bound<'_, PyAny>, place: &MemoryPart) -> PyResult<()> {
    let py = array.py();
    let base = place.memory.clone_ref(py).into_ptr();
    // SAFETY: the caller's promise; NumPy takes over the reference to the base, also where it fails.
    if unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base) } != 0 {
        return Err(PyErr::take(py).unwrap_or_else(|| PyMemoryError::new_err("cannot make an array")));
    }
    Ok(())
}

/// An array of ours that nothing else has yet, in C order; its elements are written before anything reads one.
pub struct Fresh<'py, T> {
    pub(super) array: Bound<'py, PyAny>,
    /// How many elements it has.
    pub(super) len: usize,
    of: PhantomData<T>,
}

impl<'py, T> Fresh<'py, T> {
    /// The array, now that it is written.
    pub fn into_array(self) -> Bound<'py, PyAny> {
        self.array
    }
}

impl<'py> Fresh<'py, f32> {
    /// One in memory of ours, which has room for it.
    pub fn over(py: Python<'py>, place: &MemoryPart, shape: &[isize]) -> PyResult<Self> {
        let layout = Layout::row_major(shape);
        let array = array(py, place, &descriptor(py, DType::F32)?, DType::F32.size(), &layout)?;
        Ok(Self { array, len: layout.len, of: PhantomData })
    }
}

/// A new array of at most two dimensions. Too large a one is Python's `MemoryError`.
///
/// Large ones lie in memory of ours, which is recycled: fresh pages would cost as much as the arithmetic.
pub fn empty<'py, T: numpy::Element>(py: Python<'py>, shape: &[usize]) -> PyResult<Fresh<'py, T>> {
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
        let dtype = numpy::PyArrayDescrMethods::into_dtype_ptr(T::get_dtype(py));
        let data = memory.as_ref().map_or(ptr::null_mut(), |place| place.ptr);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            dtype,
            shape.len() as c_int,
            extents.as_mut_ptr(),
            ptr::null_mut(),
            data.cast(),
            if data.is_null() { 0 } else { NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE },
            ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if let Some(place) = memory {
            set_base(&array, &place)?;
        }
        Ok(Fresh { array, len: shape.iter().product(), of: PhantomData })
    }
}

/// A new array of these `values`.
pub fn of_values<'py, T: Real + numpy::Element>(py: Python<'py>, values: &[T]) -> PyResult<Bound<'py, PyAny>> {
    let array = empty::<T>(py, &[values.len()])?;
    read(py, &array, |to| to.copy_from_slice(values))?;
    Ok(array.into_array())
}

/// NumPy's descriptor of `dtype`, in this machine's byte order.
pub fn descriptor(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyAny>> {
    let num = match dtype {
        DType::F32 => NPY_TYPES::NPY_FLOAT as c_int,
        DType::F64 => NPY_TYPES::NPY_DOUBLE as c_int,
        DType::F16 => NPY_TYPES::NPY_HALF as c_int,
        DType::C64 => NPY_TYPES::NPY_CFLOAT as c_int,
        DType::C128 => NPY_TYPES::NPY_CDOUBLE as c_int,
        DType::BF16 => match bfloat16() {
            Some(num) => num,
            None => {
                let scalar = py.import("ml_dtypes")?.getattr("bfloat16")?;
                return numpy(py)?.call_method1("dtype", (scalar,));
            }
        },
    };
    // SAFETY: NumPy returns a new reference to a type of its own, or of one that was registered with it, as the number of an
    // array's type was.
    unsafe { Bound::from_owned_ptr_or_err(py, PY_ARRAY_API.PyArray_DescrFromType(py, num).cast()) }
}

/// The same in the other byte order.
pub fn swapped<'py>(py: Python<'py>, dtype: DType) -> PyResult<Bound<'py, PyAny>> {
    let native = descriptor(py, dtype)?;
    // SAFETY: a live descriptor; NumPy returns a new reference, or null with an exception set.
    unsafe {
        let other = PY_ARRAY_API.PyArray_DescrNewByteorder(py, native.as_ptr().cast(), b's' as c_char);
        Bound::from_owned_ptr_or_err(py, other.cast())
    }
}

/// Whether NumPy converts the elements of `array` to `dtype` without a change of kind.
pub fn can_cast(array: &Bound<'_, PyAny>, dtype: DType) -> PyResult<bool> {
    let to = descriptor(array.py(), dtype)?;
    if !is_array(array) {
        return Ok(false);
    }
    // SAFETY: an array, whose descriptor is a live object, and another descriptor.
    unsafe {
        let from = (*array.as_ptr().cast::<PyArrayObject>()).fields.descr;
        let casting = NPY_CASTING::NPY_SAME_KIND_CASTING;
        Ok(PY_ARRAY_API.PyArray_CanCastTypeTo(array.py(), from, to.as_ptr().cast(), casting) != 0)
    }
}

/// Copies the elements of one array, called `what`, to another of the same shape, converting them.
///
/// No array's class is asked. Python code may run after it, where NumPy warns of a number that overflows.
pub fn copy_into(to: &Bound<'_, PyAny>, what: &str, from: &Bound<'_, PyAny>) -> PyResult<()> {
    if !is_array(to) || !is_array(from) {
        return Err(PyTypeError::new_err("not an array"));
    }
    let _pinned = Pinned::of(what, from)?;
    // SAFETY: both are arrays; NumPy checks all else.
    let failed = unsafe { PY_ARRAY_API.PyArray_CopyInto(to.py(), to.as_ptr().cast(), from.as_ptr().cast()) } != 0;
    if failed { Err(PyErr::fetch(to.py())) } else { Ok(()) }
}

/// The elements of an array, called `what`, as one of NumPy's own class: the same memory, whatever its class says.
pub fn plain_array<'py>(what: &str, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    from_array(what, array, ptr::null_mut(), NPY_ARRAY_ENSUREARRAY)
}

/// The elements of an array, called `what`, in type `T`, C-contiguous, as one of NumPy's own class; a copy unless it is such a
/// one.
pub fn converted<'py, T: numpy::Element>(what: &str, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    use numpy::npyffi::{NPY_ARRAY_CARRAY_RO, NPY_ARRAY_FORCECAST};
    let dtype = numpy::PyArrayDescrMethods::into_dtype_ptr(T::get_dtype(array.py()));
    from_array(what, array, dtype, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSUREARRAY)
}

/// `descr`: null, or a reference that is given away.
fn from_array<'py>(
    what: &str,
    array: &Bound<'py, PyAny>,
    descr: *mut PyArray_Descr,
    flags: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    if !is_array(array) {
        return Err(PyTypeError::new_err("not an array"));
    }
    let py = array.py();
    let _pinned = Pinned::of(what, array)?;
    // SAFETY: an array, and null or an owned reference to a descriptor, which NumPy takes over; it returns a new reference, or
    // null with an exception set.
    unsafe {
        let made = PY_ARRAY_API.PyArray_FromArray(py, array.as_ptr().cast(), descr, flags);
        Bound::from_owned_ptr_or_err(py, made)
    }
}
