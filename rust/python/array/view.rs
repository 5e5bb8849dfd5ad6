//! What NumPy arrays are made of, as a look at them finds it.

use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE,
    NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArray_Check, PyArray_Descr, PyArrayObject, PyDataType_ELSIZE, get_type_object,
};
use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use smallvec::SmallVec;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::layout::{Layout, elements};
use super::memory::Memory;
use super::owner::Owner;
use super::pins::{Rest, borrowed, release};
use crate::loops::dtype::DType;
use crate::memory::strides::Strided;

/// The lengths of an array's dimensions, or the distances along them.
pub type Extents = SmallVec<[isize; 4]>;

/// What a NumPy array was made of when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where the first element lay: a number to compare. [`super::access`] alone follows it.
    pub address: usize,
    /// The lengths of the dimensions.
    pub shape: Extents,
    /// The distances between neighbours along each dimension, in bytes.
    pub strides: Extents,
    /// The type of the elements, if rules can step it.
    pub dtype: Option<DType>,
    /// NumPy's number of that type, and its letter.
    pub code: (c_int, u8),
    /// Bytes of an element.
    pub itemsize: usize,
    /// Whether each element is aligned.
    pub aligned: bool,
    /// Whether elements are in the other byte order than this machine's.
    pub swapped: bool,
    /// Whether elements may be written.
    pub writeable: bool,
    /// Whether they lie gapless in C order.
    pub c_order: bool,
    /// Whether they lie gapless in Fortran's order.
    pub fortran_order: bool,
}

/// The fields of an array, borrowed from it: whoever has them runs no Python code.
pub(super) struct Fields<'a> {
    pub(super) data: *mut u8,
    pub(super) shape: &'a [isize],
    pub(super) strides: &'a [isize],
    pub(super) dtype: Option<DType>,
    flags: c_int,
    swapped: bool,
    descr: *mut PyArray_Descr,
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

    /// Whether the elements lie in the memory of the array that this is a view of, if it is one: that may have been resized,
    /// which leaves the view as it was.
    #[inline]
    pub(super) fn is_held(&self, py: Python<'_>) -> bool {
        self.base.is_null() || self.has(NPY_ARRAY_OWNDATA) || self.is_of_ours(py) || self.lies_in_base(py)
    }

    /// Whether the elements of an array with a base lie in memory of ours, which stays as long as the array.
    #[inline]
    pub(super) fn is_of_ours(&self, py: Python<'_>) -> bool {
        // SAFETY: an array keeps its base alive.
        unsafe { pyo3::ffi::Py_TYPE(self.base) == Memory::type_object_raw(py) }
    }

    #[cold]
    fn lies_in_base(&self, py: Python<'_>) -> bool {
        let _rest = Rest::begin(py);
        // SAFETY: an array keeps its base alive.
        let owner = Owner::of(&unsafe { Bound::from_borrowed_ptr(py, self.base) }, &mut |_| ());
        let (start, length) = match owner {
            Owner::Array(owner) => match Fields::of(&owner) {
                Some(fields) => (fields.data as usize, elements(fields.shape).wrapping_mul(itemsize(py, fields.descr))),
                None => return true,
            },
            Owner::Buffer(owner) => match borrowed(&owner) {
                Ok(Some(mut buffer)) => {
                    let range = (buffer.buf as usize, usize::try_from(buffer.len).unwrap_or(0));
                    release(py, &mut buffer);
                    range
                }
                _ => return false,
            },
            Owner::Gone => return false,
            Owner::Other(_) => return true,
        };
        let (low, high) = reach(self.data as usize, self.shape, self.strides, itemsize(py, self.descr));
        low == high || start <= low && high <= start.wrapping_add(length)
    }

    pub(super) fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_plain_and_in_c_order(&self) -> bool {
        self.has(NPY_ARRAY_ALIGNED) && self.has(NPY_ARRAY_C_CONTIGUOUS) && !self.swapped
    }

    /// Whether the elements, which have this layout's shape, are aligned, in this machine's byte order, and lie just so.
    #[inline]
    pub(super) fn is_laid(&self, layout: &Layout) -> bool {
        self.has(NPY_ARRAY_ALIGNED) && !self.swapped && {
            let c_order = self.has(NPY_ARRAY_C_CONTIGUOUS);
            self.dtype.is_some_and(|d| layout.matches(self.strides, d.size(), c_order))
        }
    }
}

/// What a step asks of an array, found without a copy of anything.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Where the first element lay: a number to compare.
    pub address: usize,
    /// The type of the elements, if rules can step it.
    pub dtype: Option<DType>,
    /// Whether it has the layout's shape.
    pub fits: bool,
    /// Whether the elements, besides, are aligned, in this machine's byte order, and lie just as the layout says.
    pub laid: bool,
    /// Whether elements may be written.
    pub writeable: bool,
    /// Whether the memory is still there: the array is no view of one that was resized.
    pub held: bool,
}

impl Look {
    /// Compares an array with a layout; `None` if it is none.
    #[inline]
    pub fn at(object: &Bound<'_, PyAny>, layout: &Layout) -> Option<Self> {
        let fields = Fields::of(object)?;
        let fits = layout.has_shape(fields.shape);
        Some(Self {
            address: fields.data as usize,
            dtype: fields.dtype,
            fits,
            laid: fits && fields.is_laid(layout),
            writeable: fields.has(NPY_ARRAY_WRITEABLE),
            held: fields.is_held(object.py()),
        })
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

impl View {
    /// What `object` is made of now, if it is a NumPy array.
    pub fn of(object: &Bound<'_, PyAny>) -> Option<Self> {
        let fields = Fields::of(object)?;
        // SAFETY: the descriptor is a live object.
        let (number, kind) = unsafe { ((*fields.descr).fields.type_num, (*fields.descr).fields.kind as u8) };
        Some(Self {
            address: fields.data as usize,
            shape: fields.shape.into(),
            strides: fields.strides.into(),
            dtype: fields.dtype,
            code: (number, kind),
            itemsize: itemsize(object.py(), fields.descr),
            aligned: fields.has(NPY_ARRAY_ALIGNED),
            swapped: fields.swapped,
            writeable: fields.has(NPY_ARRAY_WRITEABLE),
            c_order: fields.has(NPY_ARRAY_C_CONTIGUOUS),
            fortran_order: fields.has(NPY_ARRAY_F_CONTIGUOUS),
        })
    }

    /// Whether elements are aligned and in this machine's byte order.
    pub fn is_plain(&self) -> bool {
        self.aligned && !self.swapped
    }

    /// Whether the elements are plain and lie as the layout, which has this shape, says.
    pub fn is_laid(&self, layout: &Layout) -> bool {
        self.is_plain() && layout.has_shape(&self.shape) && layout.matches(&self.strides, self.itemsize, self.c_order)
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// The addresses from the first byte to behind the last one; empty for an empty array.
    pub fn span(&self) -> (usize, usize) {
        reach(self.address, &self.shape, &self.strides, self.itemsize)
    }

    /// Where the elements lie; `None` if there are none.
    pub fn strided(&self) -> Option<Strided> {
        Strided::new(self.address, self.itemsize, &self.shape, &self.strides)
    }
}

/// Bytes of an element of this type.
fn itemsize(py: Python<'_>, descr: *mut PyArray_Descr) -> usize {
    // SAFETY: the descriptor of an array, a live object.
    usize::try_from(unsafe { PyDataType_ELSIZE(py, descr) }).unwrap_or(0)
}

/// The addresses from the first byte to behind the last one of an array; empty for an empty one.
fn reach(address: usize, shape: &[isize], strides: &[isize], itemsize: usize) -> (usize, usize) {
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

/// Refuses an array, called `what`, that is a view of memory which was given back, as by `resize` of the array that had it.
#[pyfunction(name = "refuse_moved")]
#[pyo3(signature = (what, x, /))]
pub fn refuse_moved(what: &str, x: &Bound<'_, PyAny>) -> PyResult<()> {
    let held = Fields::of(x).is_none_or(|fields| fields.is_held(x.py()));
    if held { Ok(()) } else { Err(moved(what)) }
}

/// The error of such an array.
#[cold]
pub(super) fn moved(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "{what} was changed while it was in use: the memory that it is a view of was resized or released"
    ))
}

/// The addresses from an array's first byte to behind its last one, whatever its type; `None` if it is no array.
pub fn span(object: &Bound<'_, PyAny>) -> Option<(usize, usize)> {
    View::of(object).map(|view| view.span())
}

/// Whether the elements of two arrays are of one type, byte order included.
pub fn same_type(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    let Some((x, y)) = Fields::of(a).zip(Fields::of(b)) else { return false };
    // SAFETY: two live descriptors.
    unsafe { PY_ARRAY_API.PyArray_EquivTypes(a.py(), x.descr, y.descr) != 0 }
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

/// A shape as Python prints it.
pub fn shape_text(py: Python<'_>, shape: &[isize]) -> String {
    PyTuple::new(py, shape).map_or_else(|_| format!("{shape:?}"), |t| t.to_string())
}
