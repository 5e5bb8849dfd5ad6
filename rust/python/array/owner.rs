//! Who has the memory that an array shows: the array itself, another one, or an object that nothing can be asked of.

use numpy::npyffi::NPY_ARRAY_OWNDATA;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyCapsuleMethods, PyMemoryView, PyType};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use super::view::{Fields, numpy};

/// A chain of views that is longer is not followed to its end: only a chain that somebody has tied to a ring is.
const HOPS: usize = 64;

/// Who has the memory that an array shows.
pub(super) enum Owner<'py> {
    /// This array.
    Array(Bound<'py, PyAny>),
    /// Something else.
    Other(Bound<'py, PyAny>),
}

impl<'py> Owner<'py> {
    /// The owner of what `object`, an array or the base of one, shows.
    #[cold]
    pub(super) fn of(object: &Bound<'py, PyAny>) -> Self {
        let mut at = object.clone();
        for _ in 0..HOPS {
            let next = match Fields::of(&at) {
                Some(fields) if fields.has(NPY_ARRAY_OWNDATA) || fields.base.is_null() => return Self::Array(at),
                // SAFETY: an array keeps its base alive.
                Some(fields) => unsafe { Bound::from_borrowed_ptr(at.py(), fields.base) },
                None => match behind(&at) {
                    Some(next) => next,
                    None => break,
                },
            };
            at = next;
        }
        Self::Other(at)
    }
}

/// What has the memory that a memoryview, NumPy's `as_strided` or a DLPack capsule of NumPy's shows; `None` of anything else,
/// which cannot be asked without running its code.
fn behind<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static STRIDED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    if object.is_exact_instance_of::<PyMemoryView>() {
        return object.getattr(intern!(py, "obj")).ok();
    }
    if let Ok(capsule) = object.cast::<PyCapsule>() {
        return exported(capsule);
    }
    let class = object.get_type();
    if class.name().ok()? != "DummyArray" {
        return None;
    }
    let strided = STRIDED.import(py, "numpy.lib._stride_tricks_impl", "DummyArray").ok()?;
    if class.is(strided) { object.getattr(intern!(py, "base")).ok() } else { None }
}

/// The array itself, or a copy if its memory is lent by an object through `__array_interface__`: such an object can give the
/// memory back, and nothing would show it.
#[pyfunction]
#[pyo3(signature = (x, /))]
pub fn settled<'py>(x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let is_lent = Fields::of(x).is_some_and(|fields| !fields.has(NPY_ARRAY_OWNDATA) && !fields.base.is_null());
    if is_lent
        && let Owner::Other(lender) = Owner::of(x)
        && ["__array_interface__", "__array_struct__"].iter().any(|way| lender.hasattr(way).unwrap_or(true))
    {
        return numpy(x.py())?.call_method1(intern!(x.py(), "array"), (x,));
    }
    Ok(x.clone())
}

/// How DLPack hands memory over, before its version 1 and since: the first words of both structures.
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

/// What NumPy calls the capsules under arrays that it has made of DLPack's, and those that arrays give.
const NAMES: [(&CStr, &CStr); 2] =
    [(c"numpy_dltensor", c"dltensor"), (c"numpy_dltensor_versioned", c"dltensor_versioned")];

/// The context and the deleter in a capsule with this name.
fn handed_over(capsule: &Bound<'_, PyCapsule>, name: &CStr, is_versioned: bool) -> Option<(*mut c_void, usize)> {
    let at: NonNull<c_void> = capsule.pointer_checked(Some(name)).ok()?;
    // SAFETY: a capsule with this name has a pointer to this structure, which lives as long as the capsule is not consumed: then
    // it has another name.
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

/// The function by which NumPy takes back what it has given away, in both structures: who has it was given away by NumPy.
static DELETERS: PyOnceLock<[Option<usize>; 2]> = PyOnceLock::new();

/// Learns it from an array that is given away; later looks run no Python code.
pub fn learn(py: Python<'_>) {
    let deleters = || {
        let one = numpy(py)?.call_method1("zeros", (1,))?;
        let versioned = pyo3::types::PyDict::new(py);
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
