//! Arrays whose memory stays while the interpreter's lock is given away.

use numpy::npyffi::NPY_ARRAY_OWNDATA;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyList, PyTuple};

use super::fields::{Fields, is_array};
use super::owner::{Owner, borrowed, is_held, moved, release};
use crate::memory::reserve::Put;
use crate::python::memory::collector::Rest;

/// How much a kernel reads and writes, or how long it takes as such.
#[derive(Clone, Copy)]
pub struct Load {
    bytes: usize,
    /// Whether every array is small.
    is_of_small: bool,
}

/// A kernel over no more bytes takes less time than it takes to give the lock away and take it back.
const SHORT: usize = 64 << 10;
/// A step over small arrays of no more bytes in all takes less time than the five milliseconds after which Python lets its
/// threads take turns; a pin for each array would cost a tenth or two of that.
const SHORT_OF_SMALL: usize = 8 << 20;
/// Bytes of a small array, at most.
const SMALL: usize = 16 << 10;
/// A kernel with no more multiplications takes about as long as the two above.
const SHORT_PRODUCTS: usize = 1_000_000;

impl Load {
    /// Of what reads no array.
    pub const NONE: Self = Self { bytes: 0, is_of_small: true };
    /// Of what takes its time however little it reads.
    pub const LONG: Self = Self { bytes: usize::MAX, is_of_small: false };

    /// Of arrays of a call, with this number of bytes in all.
    #[inline]
    pub fn of(bytes: usize) -> Self {
        Self { bytes, is_of_small: false }
    }

    /// Of this number of multiplications.
    #[inline]
    pub fn of_products(n: usize) -> Self {
        if n > SHORT_PRODUCTS { Self::LONG } else { Self::NONE }
    }

    /// The load of two together.
    #[inline]
    pub fn and(self, other: Self) -> Self {
        let is_of_small = self.is_of_small && other.is_of_small;
        Self { bytes: self.bytes.saturating_add(other.bytes), is_of_small }
    }

    /// With one more array of a step, and its gradient.
    #[inline]
    pub fn with_step(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.saturating_add(2 * bytes), is_of_small: self.is_of_small && bytes <= SMALL }
    }

    /// Whether the kernel keeps the lock.
    #[inline]
    fn keeps_the_lock(self) -> bool {
        self.bytes <= SHORT || self.is_of_small && self.bytes <= SHORT_OF_SMALL
    }
}

/// What keeps the memory of a call's arrays where it is while the lock is given away.
///
/// NumPy resizes no array to which there is a weak reference, whatever `refcheck` says; a buffer that is lent is neither
/// resized nor closed. Of other owners it is not known when they take memory back.
pub struct Pins {
    /// `None` where the lock is kept.
    pinned: Option<Vec<Pin>>,
    rest: Rest,
}

enum Pin {
    /// A weak reference, or an owner that a view might let go.
    Held { _reference: Py<PyAny> },
    /// A buffer that is lent.
    Lent { _buffer: Lent },
}

/// A buffer that is given back when this is dropped.
struct Lent(Box<ffi::Py_buffer>);

// SAFETY: any thread that has the lock may give a buffer back.
unsafe impl Send for Lent {}
// SAFETY: nothing reads it.
unsafe impl Sync for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        Python::attach(|py| release(py, &mut self.0));
    }
}

impl Pins {
    /// None yet, for a kernel with this load.
    #[inline]
    pub(super) fn new(py: Python<'_>, load: Load) -> Self {
        Self { pinned: (!load.keeps_the_lock()).then(Vec::new), rest: Rest::begin(py) }
    }

    /// None at all: the lock is kept.
    #[inline]
    pub(super) fn none(py: Python<'_>) -> Self {
        Self { pinned: None, rest: Rest::begin(py) }
    }

    /// Whether the lock is given away.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.pinned.is_some()
    }

    /// Pins the memory of an array, which a look has just found as it was. Runs no Python code.
    #[inline]
    pub(super) fn add(&mut self, array: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pinned.as_mut().map_or(Ok(()), |pinned| pin(array, pinned))
    }

    /// No more come: the collector may run again.
    #[inline]
    pub(super) fn close(&mut self) {
        self.rest.end();
    }
}

/// What keeps the memory of arrays where it is while NumPy reads them, which gives the lock away, too.
///
/// As a context manager it does so until its block is left. All of it is C code, so that no signal's handler runs between the
/// pins and the block.
#[pyclass(module = "optirs._core")]
pub struct Pinned {
    pinned: Vec<Pin>,
}

/// How deep lists may nest for the arrays in them to be pinned.
const DEPTH: usize = 8;

impl Pinned {
    /// Pins an array, called `what`, or those in a list; others are passed over.
    pub fn of(what: &str, x: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut all = Self { pinned: Vec::new() };
        all.add(what, x, DEPTH)?;
        Ok(all)
    }

    fn add(&mut self, what: &str, x: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
        if x.is_exact_instance_of::<PyFloat>() || x.is_exact_instance_of::<PyInt>() {
            return Ok(()); // as nearly all that lists have
        }
        if is_array(x) {
            let _rest = Rest::begin(x.py());
            pin(x, &mut self.pinned)?;
            let held = Fields::of(x).is_none_or(|fields| is_held(&fields, x.py()));
            return if held { Ok(()) } else { Err(moved(what)) };
        }
        let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
        if let Ok(list) = x.cast::<PyList>() {
            return list.iter().try_for_each(|x| self.add(what, &x, depth));
        }
        x.cast::<PyTuple>().map_or(Ok(()), |tuple| tuple.iter().try_for_each(|x| self.add(what, &x, depth)))
    }
}

#[pymethods]
impl Pinned {
    /// Pins the arrays among `all`, and those in lists.
    ///
    /// Args:
    ///     what: What they are, for the text of the error.
    ///     all: Any objects.
    ///
    /// Raises:
    ///     RuntimeError: One is a view of memory that was given back, as by `resize` of the array that had it.
    #[new]
    #[pyo3(signature = (what, /, *all))]
    fn new(what: &str, all: &Bound<'_, PyTuple>) -> PyResult<Self> {
        Self::of(what, all)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) {
        self.pinned.clear();
    }
}

#[inline]
fn pin(array: &Bound<'_, PyAny>, pinned: &mut Vec<Pin>) -> PyResult<()> {
    let Some(fields) = Fields::of(array) else { return Ok(()) };
    if fields.has(NPY_ARRAY_OWNDATA) { weakly(array, pinned) } else { add_view(array, &fields, pinned) }
}

fn add_view(array: &Bound<'_, PyAny>, fields: &Fields<'_>, pinned: &mut Vec<Pin>) -> PyResult<()> {
    if fields.base.is_null() {
        return Ok(());
    }
    // SAFETY: an array keeps its base alive.
    let base = unsafe { Bound::from_borrowed_ptr(array.py(), fields.base) };
    if fields.is_of_ours(array.py()) {
        return Ok(pinned.put(Pin::Held { _reference: base.unbind() })?);
    }
    let mut result = Ok(());
    let owner = Owner::of(&base, &mut |view| {
        if result.is_ok() {
            result = lend(view, pinned);
        }
    });
    result?;
    match owner {
        Owner::Array(owner) => {
            weakly(&owner, pinned)?;
            pinned.put(Pin::Held { _reference: owner.unbind() })?;
        }
        Owner::Buffer(owner) => lend(&owner, pinned)?,
        Owner::Other(owner) => pinned.put(Pin::Held { _reference: owner.unbind() })?,
        Owner::Gone => {}
    }
    Ok(())
}

fn weakly(array: &Bound<'_, PyAny>, pinned: &mut Vec<Pin>) -> PyResult<()> {
    // SAFETY: a live object; the new reference, or the one there is already, becomes ours.
    let reference = unsafe {
        Bound::from_owned_ptr_or_err(array.py(), ffi::PyWeakref_NewRef(array.as_ptr(), std::ptr::null_mut()))
    }?;
    Ok(pinned.put(Pin::Held { _reference: reference.unbind() })?)
}

fn lend(owner: &Bound<'_, PyAny>, pinned: &mut Vec<Pin>) -> PyResult<()> {
    if let Some(buffer) = borrowed(owner)? {
        pinned.put(Pin::Lent { _buffer: Lent(buffer) })?;
    }
    Ok(())
}
