//! The owner of the memory that an array shows: the array itself, another one, a buffer, or an object that cannot be asked.
//!
//! All of this is found without running Python code, provided that the collector of cycles rests ([`Rest`]):
//! an error that is made and dropped on the way may set it off.

use numpy::npyffi::NPY_ARRAY_OWNDATA;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyCapsule, PyCapsuleMethods, PyDict, PyMemoryView, PyType};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use super::fields::{Fields, elements, is_exact, itemsize, numpy, reach};
use crate::memory::reserve::{OutOfMemory, check};
use crate::python::memory::collector::Rest;

/// The owner of the memory that an array shows.
pub(super) enum Owner<'py> {
    /// This array.
    Array(Bound<'py, PyAny>),
    /// An object that lends its memory by Python's protocol of buffers, and keeps it as long as it is lent.
    Buffer(Bound<'py, PyAny>),
    /// There is none any more: a memoryview on the way was released.
    Gone,
    /// Something else.
    Other(Bound<'py, PyAny>),
}

impl<'py> Owner<'py> {
    /// The owner of what `object`, an array or the base of one, shows; `lent` gets the memoryviews on the way.
    #[cold]
    pub(super) fn of(object: &Bound<'py, PyAny>, lent: &mut dyn FnMut(&Bound<'py, PyAny>)) -> Self {
        let (mut at, mut mark, mut hops, mut pause) = (object.clone(), object.clone(), 0, 1);
        loop {
            let next = match Fields::of(&at) {
                Some(fields) if fields.has(NPY_ARRAY_OWNDATA) || fields.base.is_null() => return Self::Array(at),
                // SAFETY: an array keeps its base alive.
                Some(fields) => unsafe { Bound::from_borrowed_ptr(at.py(), fields.base) },
                None if at.is_exact_instance_of::<PyMemoryView>() => {
                    lent(&at);
                    match at.getattr(intern!(at.py(), "obj")) {
                        Ok(next) => next,
                        Err(_) => return Self::Gone,
                    }
                }
                None if is_buffer(&at) => return Self::Buffer(at),
                None => match behind(&at) {
                    Some(next) => next,
                    None => return Self::Other(at),
                },
            };
            if next.is(&mark) {
                return Self::Other(next); // the chain of bases is a ring
            }
            hops += 1;
            if hops == pause {
                (mark, pause) = (next.clone(), 2 * pause);
            }
            at = next;
        }
    }
}

/// Classes that are asked for once: that of what NumPy's `as_strided` puts between two arrays, that of an element of a
/// structured array, and those of buffers.
struct Classes {
    strided: Option<Py<PyType>>,
    element: Option<Py<PyType>>,
    buffers: Vec<Py<PyType>>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// Whether it is of one of Python's own classes that lend memory.
fn is_buffer(object: &Bound<'_, PyAny>) -> bool {
    let class = object.get_type();
    object.is_exact_instance_of::<PyByteArray>()
        || CLASSES.get(object.py()).is_some_and(|known| known.buffers.iter().any(|buffer| class.is(buffer)))
}

/// What has the memory that NumPy's `as_strided`, an element of a structured array or a DLPack capsule of NumPy's shows; `None`
/// of anything else, which cannot be asked without running its code.
fn behind<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = object.py();
    if let Ok(capsule) = object.cast_exact::<PyCapsule>() {
        return exported(capsule);
    }
    let (class, known) = (object.get_type(), CLASSES.get(py)?);
    if known.element.as_ref().is_some_and(|element| class.is(element)) {
        // The class is NumPy's own, and so is the attribute: None where the element has memory of its own.
        return object.getattr(intern!(py, "base")).ok().filter(|base| !base.is_none());
    }
    if !class.is(known.strided.as_ref()?) {
        return None;
    }
    // Not the attribute, which the class may answer.
    // SAFETY: an object of a class without slots; what is returned is a new reference to its dict, or null with an error.
    let dict = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut()))
    };
    dict.ok()?.cast_into::<PyDict>().ok()?.get_item(intern!(py, "base")).ok()?
}

/// Whether the elements lie in the memory of the array that this is a view of, if it is one: that may have been resized,
/// which leaves the view as it was.
#[inline]
pub(super) fn is_held(fields: &Fields<'_>, py: Python<'_>) -> bool {
    fields.base.is_null() || fields.has(NPY_ARRAY_OWNDATA) || fields.is_of_ours(py) || lies_in_base(fields, py)
}

#[cold]
fn lies_in_base(fields: &Fields<'_>, py: Python<'_>) -> bool {
    let _rest = Rest::begin(py);
    // SAFETY: an array keeps its base alive.
    let owner = Owner::of(&unsafe { Bound::from_borrowed_ptr(py, fields.base) }, &mut |_| ());
    let (start, length) = match owner {
        Owner::Array(owner) => match Fields::of(&owner) {
            Some(of) => (of.data as usize, elements(of.shape).wrapping_mul(itemsize(py, of.descr))),
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
    let (low, high) = reach(fields.data as usize, fields.shape, fields.strides, itemsize(py, fields.descr));
    low == high || start <= low && high <= start.wrapping_add(length)
}

/// Refuses an array, called `what`, that is a view of memory which was given back, as by `resize` of the array that had it.
#[pyfunction(name = "refuse_moved")]
#[pyo3(signature = (what, x, /))]
pub fn refuse_moved(what: &str, x: &Bound<'_, PyAny>) -> PyResult<()> {
    let held = Fields::of(x).is_none_or(|fields| is_held(&fields, x.py()));
    if held { Ok(()) } else { Err(moved(what)) }
}

/// The error of such an array.
#[cold]
pub(super) fn moved(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "{what} was changed while it was in use: the memory that it is a view of was resized or released"
    ))
}

/// The buffer of an object that was seen to be of one of Python's own classes, lent until it is released; `None` where it has
/// none any more.
pub(super) fn borrowed(owner: &Bound<'_, PyAny>) -> Result<Option<Box<ffi::Py_buffer>>, OutOfMemory> {
    check::<ffi::Py_buffer>(1)?;
    let mut buffer = Box::new(ffi::Py_buffer::new());
    // SAFETY: a live object, and room for what it tells; what is told is released where the pin is dropped.
    if unsafe { ffi::PyObject_GetBuffer(owner.as_ptr(), &raw mut *buffer, ffi::PyBUF_FULL_RO) } == 0 {
        return Ok(Some(buffer));
    }
    drop(PyErr::take(owner.py()));
    Ok(None)
}

/// Gives a buffer back.
pub(super) fn release(_: Python<'_>, buffer: &mut ffi::Py_buffer) {
    // SAFETY: it was lent by `borrowed`, and the lock is held.
    unsafe { ffi::PyBuffer_Release(buffer) };
}

/// The array itself, or a copy if its memory is lent by an object that may take it back without telling, as one with an
/// `__array_interface__` can.
#[pyfunction]
#[pyo3(signature = (x, /))]
pub fn settled<'py>(x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let is_view = Fields::of(x).is_some_and(|fields| !fields.has(NPY_ARRAY_OWNDATA) && !fields.is_of_ours(x.py()));
    // What DLPack hands over stays until it is given back.
    let may_go = |owner| match owner {
        Owner::Other(lender) => !lender.is_exact_instance_of::<PyCapsule>(),
        Owner::Buffer(_) | Owner::Gone | Owner::Array(_) => false,
    };
    if is_view && may_go(Owner::of(x, &mut |_| ())) {
        let copy = numpy(x.py())?.call_method1(intern!(x.py(), "array"), (x,))?;
        debug_assert!(is_exact(&copy));
        return Ok(copy);
    }
    Ok(x.clone())
}

/// How DLPack hands memory over before its version 1, and since: the first words of both structures.
#[repr(C)]
struct Unversioned {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: [u8; 4],
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
    context: *mut c_void,
    deleter: *mut c_void,
}

#[repr(C)]
struct Versioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: *mut c_void,
}

/// What NumPy calls the capsules below its arrays, and those that arrays give away.
const NAMES: [(&CStr, &CStr); 2] =
    [(c"numpy_dltensor", c"dltensor"), (c"numpy_dltensor_versioned", c"dltensor_versioned")];

/// The context and the deleter in a capsule with this name.
fn handed_over(capsule: &Bound<'_, PyCapsule>, name: &CStr, is_versioned: bool) -> Option<(*mut c_void, usize)> {
    if !capsule.is_valid_checked(Some(name)) {
        return None;
    }
    let at: NonNull<c_void> = capsule.pointer_checked(Some(name)).ok()?;
    // SAFETY: a capsule with this name has a pointer to this structure, which lives until the capsule is consumed: then it has
    // another name.
    unsafe {
        Some(if is_versioned {
            let tensor = at.cast::<Versioned>().as_ref();
            (tensor.context, tensor.deleter as usize)
        } else {
            let tensor = at.cast::<Unversioned>().as_ref();
            (tensor.context, tensor.deleter as usize)
        })
    }
}

/// NumPy's own deleters, of both structures: what has one of them was made by NumPy.
static DELETERS: PyOnceLock<[Option<usize>; 2]> = PyOnceLock::new();

/// Learns what later looks compare with, since those run no Python code.
pub fn learn(py: Python<'_>) {
    let class = |module: &str, name: &str| py.import(module)?.getattr(name)?.cast_into::<PyType>().map_err(PyErr::from);
    let _ = CLASSES.get_or_init(py, || {
        let strided = class("numpy.lib._stride_tricks_impl", "DummyArray").ok().map(Bound::unbind);
        let element = class("numpy", "void").ok().map(Bound::unbind);
        let buffers = [("mmap", "mmap"), ("array", "array")];
        let buffers = buffers.into_iter().filter_map(|(module, name)| class(module, name).ok().map(Bound::unbind));
        Classes { strided, element, buffers: buffers.collect() }
    });
    let deleters = || {
        let one = numpy(py)?.call_method1("zeros", (1,))?;
        let versioned = PyDict::new(py);
        versioned.set_item("max_version", (1, 0))?;
        let capsules = [one.call_method0("__dlpack__"), one.call_method("__dlpack__", (), Some(&versioned))];
        let mut found = [None; 2];
        for ((capsule, (_, name)), (i, found)) in capsules.iter().zip(NAMES).zip(found.iter_mut().enumerate()) {
            // A NumPy that does not give such capsules takes none of its own, either.
            let capsule = capsule.as_ref().ok().and_then(|capsule| capsule.cast::<PyCapsule>().ok());
            *found = capsule.and_then(|capsule| Some(handed_over(capsule, name, i == 1)?.1));
        }
        PyResult::Ok(found)
    };
    let _ = DELETERS.get_or_init(py, || deleters().unwrap_or_default());
}

/// The array that NumPy has given away in a capsule.
fn exported<'py>(capsule: &Bound<'py, PyCapsule>) -> Option<Bound<'py, PyAny>> {
    let py = capsule.py();
    let deleters = DELETERS.get(py)?;
    let (context, _) = NAMES.iter().zip(deleters).enumerate().find_map(|(i, ((name, _), deleter))| {
        handed_over(capsule, name, i == 1).filter(|(context, found)| Some(*found) == *deleter && !context.is_null())
    })?;
    // SAFETY: with this deleter the context is the array, to which the capsule has a reference.
    Some(unsafe { Bound::from_borrowed_ptr(py, context.cast::<ffi::PyObject>()) })
}
