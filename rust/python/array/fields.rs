//! The fields of NumPy's arrays, read in C: no function of NumPy is called that a class may answer.

use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_TYPES, NpyTypes, PyArray_Check, PyArray_Descr, PyArrayObject,
    PyDataType_ELSIZE, get_type_object,
};
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::memory::Memory;
use crate::loops::dtype::DType;

/// The fields of an array, borrowed from it: whoever has them runs no Python code.
pub(super) struct Fields<'a> {
    pub(super) data: *mut u8,
    pub(super) shape: &'a [isize],
    pub(super) strides: &'a [isize],
    pub(super) dtype: Option<DType>,
    flags: c_int,
    pub(super) swapped: bool,
    pub(super) descr: *mut PyArray_Descr,
    pub(super) base: *mut pyo3::ffi::PyObject,
}

impl<'a> Fields<'a> {
    #[inline]
    pub(super) fn of(object: &'a Bound<'_, PyAny>) -> Option<Self> {
        if !is_array(object) {
            return None;
        }
        // SAFETY: `object` is a live array; NumPy keeps `dimensions` and `strides` `nd` long. They may be null where `nd` is
        // 0. Its descriptor is a live object.
        unsafe {
            let array = &(*object.as_ptr().cast::<PyArrayObject>()).fields;
            let nd = array.nd as usize;
            let slice = |p: *mut isize| if nd == 0 { &[][..] } else { std::slice::from_raw_parts(p, nd) };
            let descr = &(*array.descr).fields;
            let swapped = if cfg!(target_endian = "little") { b'>' } else { b'<' };
            Some(Self {
                data: array.data.cast(),
                shape: slice(array.dimensions),
                strides: slice(array.strides),
                dtype: dtype(object.py(), descr.type_num, descr.typeobj),
                flags: array.flags,
                swapped: descr.byteorder as u8 == swapped,
                descr: array.descr,
                base: array.base,
            })
        }
    }

    /// Whether the elements of an array with a base lie in memory of ours, which stays as long as the array.
    #[inline]
    pub(super) fn is_of_ours(&self, py: Python<'_>) -> bool {
        // SAFETY: an array keeps its base alive.
        unsafe { pyo3::ffi::Py_TYPE(self.base) == Memory::type_object_raw(py) }
    }

    pub(super) fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_plain_and_in_c_order(&self) -> bool {
        self.has(NPY_ARRAY_ALIGNED) && self.has(NPY_ARRAY_C_CONTIGUOUS) && !self.swapped
    }
}

/// NumPy's class `ndarray`, once one was seen: most arrays are of that class itself.
static NDARRAY: AtomicPtr<pyo3::ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

/// Whether `object` is a NumPy array, also one of a class derived from it.
#[inline]
pub fn is_array(object: &Bound<'_, PyAny>) -> bool {
    let class = object.get_type_ptr();
    if class == NDARRAY.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: `object` is a live Python object; NumPy's type object lives as long as the process.
    let found = unsafe { PyArray_Check(object.py(), object.as_ptr()) != 0 };
    if found {
        // SAFETY: as above.
        let ndarray = unsafe { get_type_object(object.py(), NpyTypes::PyArray_Type) };
        NDARRAY.store(ndarray, Ordering::Relaxed);
    }
    found
}

/// Whether `object` is of NumPy's class `ndarray` itself, not of one derived from it.
#[inline]
pub fn is_exact(object: &Bound<'_, PyAny>) -> bool {
    is_array(object) && object.get_type_ptr() == NDARRAY.load(Ordering::Relaxed)
}

/// NumPy's number for bfloat16, which `ml_dtypes` registers at run time; 0 until one was seen.
static BF16: AtomicI32 = AtomicI32::new(0);

/// NumPy's number for bfloat16, if an array of it was seen.
pub(super) fn bfloat16() -> Option<c_int> {
    Some(BF16.load(Ordering::Relaxed)).filter(|&number| number != 0)
}

/// Bytes of an element of this type.
pub(super) fn itemsize(py: Python<'_>, descr: *mut PyArray_Descr) -> usize {
    // SAFETY: the descriptor of an array, a live object.
    usize::try_from(unsafe { PyDataType_ELSIZE(py, descr) }).unwrap_or(0)
}

/// The addresses from the first byte to behind the last one of an array; empty for an empty one.
pub(super) fn reach(address: usize, shape: &[isize], strides: &[isize], itemsize: usize) -> (usize, usize) {
    if shape.contains(&0) {
        return (address, address);
    }
    let (mut low, mut high) = (0, 0);
    for (n, s) in shape.iter().zip(strides) {
        // Of an array that was made up the strides may lead anywhere.
        let way = isize::wrapping_mul(n - 1, *s);
        let end = if way < 0 { &mut low } else { &mut high };
        *end = isize::wrapping_add(*end, way);
    }
    (address.wrapping_add_signed(low), address.wrapping_add_signed(high).wrapping_add(itemsize))
}

/// How many elements an array of this shape has. NumPy has seen to it that the number of those that are not empty is one.
pub fn elements(shape: &[isize]) -> usize {
    shape.iter().fold(1_isize, |n, &extent| n.wrapping_mul(extent)) as usize
}

/// Our name for NumPy's type number `num`.
#[inline]
fn dtype(py: Python<'_>, num: c_int, scalar: *mut pyo3::ffi::PyTypeObject) -> Option<DType> {
    const HALF: c_int = NPY_TYPES::NPY_HALF as c_int;
    const FLOAT: c_int = NPY_TYPES::NPY_FLOAT as c_int;
    const DOUBLE: c_int = NPY_TYPES::NPY_DOUBLE as c_int;
    const CFLOAT: c_int = NPY_TYPES::NPY_CFLOAT as c_int;
    const CDOUBLE: c_int = NPY_TYPES::NPY_CDOUBLE as c_int;
    match num {
        FLOAT => Some(DType::F32),
        DOUBLE => Some(DType::F64),
        HALF => Some(DType::F16),
        CFLOAT => Some(DType::C64),
        CDOUBLE => Some(DType::C128),
        num if num >= NPY_TYPES::NPY_USERDEF as c_int => registered(py, num, scalar),
        _ => None,
    }
}

/// The same of a type that was registered at run time.
#[inline(never)]
fn registered(py: Python<'_>, num: c_int, scalar: *mut pyo3::ffi::PyTypeObject) -> Option<DType> {
    if BF16.load(Ordering::Relaxed) == num {
        return Some(DType::BF16);
    }
    // SAFETY: a descriptor's scalar type is a live type object.
    let scalar = unsafe { Bound::from_borrowed_ptr(py, scalar.cast()) };
    // Not the attribute `__name__`, which code of a metaclass may answer.
    if scalar.cast::<PyType>().ok()?.name().ok()? != "bfloat16" {
        return None;
    }
    BF16.store(num, Ordering::Relaxed);
    Some(DType::BF16)
}

/// The module `numpy`.
pub fn numpy(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("numpy")
}
