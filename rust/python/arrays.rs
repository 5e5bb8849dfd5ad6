//! NumPy arrays in and out: what an array is made of, read once, and new ones over our own memory.

use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArray_Check,
    PyArray_Descr, PyArrayObject, PyDataType_ELSIZE, get_type_object,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::os::raw::{c_char, c_int};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::layout::{Layout, elements};
use super::memory::Place;
use crate::dtype::DType;
use crate::strides::Strided;

/// What a NumPy array is made of.
pub struct View<'a> {
    /// The first element.
    pub data: *mut u8,
    /// The lengths of the dimensions.
    pub shape: &'a [isize],
    /// The distances between neighbours along each dimension, in bytes.
    pub strides: &'a [isize],
    /// The type of the elements, if rules can step it.
    pub dtype: Option<DType>,
    /// Whether elements are aligned and in this machine's byte order.
    pub plain: bool,
    /// Whether elements may be written.
    pub writeable: bool,
    /// Whether they lie gapless in C order.
    pub c_order: bool,
}

/// NumPy's class `ndarray`, once one was seen: most arrays are of that class itself.
static NDARRAY: AtomicPtr<pyo3::ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

#[inline]
fn is_array(object: &Bound<'_, PyAny>) -> bool {
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

impl<'a> View<'a> {
    /// The parts of `object`, if it is a NumPy array.
    #[inline]
    pub fn of(object: &'a Bound<'_, PyAny>) -> Option<Self> {
        let py = object.py();
        if !is_array(object) {
            return None;
        }
        // SAFETY: `object` is a live array; NumPy keeps `dimensions` and `strides` `nd` long. They may be null where `nd` is
        // 0.
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
                dtype: dtype(py, descr.type_num, descr.typeobj),
                plain: array.flags & NPY_ARRAY_ALIGNED != 0 && descr.byteorder as u8 != swapped,
                writeable: array.flags & NPY_ARRAY_WRITEABLE != 0,
                c_order: array.flags & NPY_ARRAY_C_CONTIGUOUS != 0,
            })
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        elements(self.shape)
    }

    /// The addresses from the first byte to behind the last one; empty for an empty array.
    pub fn span(&self, itemsize: usize) -> (usize, usize) {
        let start = self.data as usize;
        if self.len() == 0 {
            return (start, start);
        }
        let (mut low, mut high) = (0, 0);
        for (n, s) in self.shape.iter().zip(self.strides) {
            // Of an array that was made up the strides may lead anywhere.
            let reach = isize::wrapping_mul(n - 1, *s);
            let end = if reach < 0 { &mut low } else { &mut high };
            *end = isize::wrapping_add(*end, reach);
        }
        (start.wrapping_add_signed(low), start.wrapping_add_signed(high).wrapping_add(itemsize))
    }
}

/// The addresses from an array's first byte to behind its last one, whatever its type; `None` if it is no array.
pub fn span(object: &Bound<'_, PyAny>) -> Option<(usize, usize)> {
    Some(View::of(object)?.span(itemsize(object)?))
}

/// Where the elements of an array lie, whatever their type; `None` if there are none.
pub fn strided(object: &Bound<'_, PyAny>) -> Option<Strided> {
    let view = View::of(object)?;
    Strided::new(view.data as usize, itemsize(object)?, view.shape, view.strides)
}

/// Bytes of an element of an array.
fn itemsize(object: &Bound<'_, PyAny>) -> Option<usize> {
    View::of(object)?;
    // SAFETY: an array, whose descriptor is a live object.
    let size = unsafe {
        let descr = (*object.as_ptr().cast::<PyArrayObject>()).fields.descr;
        PyDataType_ELSIZE(object.py(), descr)
    };
    usize::try_from(size).ok()
}

/// Whether the elements of two arrays are of one type, byte order included.
pub fn same_type(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    if View::of(a).is_none() || View::of(b).is_none() {
        return false;
    }
    let descr = |object: &Bound<'_, PyAny>| {
        // SAFETY: an array, whose descriptor is a live object.
        unsafe { (*object.as_ptr().cast::<PyArrayObject>()).fields.descr }
    };
    // SAFETY: two live descriptors.
    unsafe { PY_ARRAY_API.PyArray_EquivTypes(a.py(), descr(a), descr(b)) != 0 }
}

/// As [`span`], for Python.
#[pyfunction(name = "span")]
pub fn array_span(x: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    span(x).ok_or_else(|| PyTypeError::new_err("span: not an array"))
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
    let name: String = scalar.getattr("__name__").and_then(|n| n.extract()).ok()?;
    if name != "bfloat16" {
        return None;
    }
    BF16.store(num, Ordering::Relaxed);
    Some(DType::BF16)
}

/// A new array of type `descr` over the memory of `place`.
pub fn array<'py>(
    py: Python<'py>,
    place: &Place,
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
            std::ptr::null_mut(),
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
pub unsafe fn set_base(array: &Bound<'_, PyAny>, place: &Place) -> PyResult<()> {
    let py = array.py();
    let base = place.memory.clone_ref(py).into_ptr();
    // SAFETY: the caller's promise; NumPy takes over the reference to the base, also where it fails.
    if unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base) } != 0 {
        return Err(PyErr::take(py).unwrap_or_else(|| PyMemoryError::new_err("cannot make an array")));
    }
    Ok(())
}

/// NumPy's descriptor of `dtype`, which is not bfloat16: that one belongs to `ml_dtypes`.
pub fn descriptor(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyAny>> {
    let num = match dtype {
        DType::F32 => NPY_TYPES::NPY_FLOAT,
        DType::F64 => NPY_TYPES::NPY_DOUBLE,
        DType::F16 => NPY_TYPES::NPY_HALF,
        DType::C64 => NPY_TYPES::NPY_CFLOAT,
        DType::C128 => NPY_TYPES::NPY_CDOUBLE,
        DType::BF16 => {
            return py.import("ml_dtypes")?.getattr("bfloat16").and_then(|t| numpy(py)?.call_method1("dtype", (t,)));
        }
    };
    // SAFETY: NumPy returns a new reference to one of its own types.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, num as c_int);
        Bound::from_owned_ptr_or_err(py, descr.cast())
    }
}

/// The descriptor of `view`'s type in this machine's byte order; `object` is the array that `view` is of.
pub fn native<'py>(object: &Bound<'py, PyAny>, dtype: DType) -> PyResult<Bound<'py, PyAny>> {
    if dtype != DType::BF16 {
        return descriptor(object.py(), dtype);
    }
    // SAFETY: `object` was seen to be an array of bfloat16, whose descriptor is a live object; NumPy returns a new reference
    // to one in this machine's byte order, or null with an exception set.
    unsafe {
        let descr = (*object.as_ptr().cast::<PyArrayObject>()).fields.descr;
        let native = PY_ARRAY_API.PyArray_DescrNewByteorder(object.py(), descr, b'=' as c_char);
        Bound::from_owned_ptr_or_err(object.py(), native.cast())
    }
}

/// Copies the elements of one array to another of the same shape, converting them. No Python code runs.
pub fn copy_into(to: &Bound<'_, PyAny>, from: &Bound<'_, PyAny>) -> PyResult<()> {
    if View::of(to).is_none() || View::of(from).is_none() {
        return Err(PyTypeError::new_err("not an array"));
    }
    // SAFETY: both are arrays; NumPy checks all else.
    let failed = unsafe { PY_ARRAY_API.PyArray_CopyInto(to.py(), to.as_ptr().cast(), from.as_ptr().cast()) } != 0;
    if failed { Err(PyErr::fetch(to.py())) } else { Ok(()) }
}

/// The module `numpy`.
pub fn numpy(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("numpy")
}

/// A shape as Python prints it.
pub fn shape_text(py: Python<'_>, shape: &[isize]) -> String {
    PyTuple::new(py, shape).map_or_else(|_| format!("{shape:?}"), |t| t.to_string())
}
