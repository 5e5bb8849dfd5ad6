//! Arrays whose memory stays while the interpreter's lock is given away.

use numpy::npyffi::NPY_ARRAY_OWNDATA;
use pyo3::ffi;
use pyo3::prelude::*;

use super::owner::Owner;
use super::view::Fields;
use crate::reserve::Put;

/// How much a kernel reads and writes.
#[derive(Clone, Copy)]
pub struct Load {
    /// How many arrays.
    pub arrays: usize,
    /// Their bytes in all.
    pub bytes: usize,
}

/// A kernel over no more bytes takes less time than it takes to give the lock away and take it back.
const SHORT: usize = 64 << 10;
/// A kernel over small arrays of no more bytes in all takes less time than the five milliseconds after which Python lets its
/// threads take turns; a pin for each array would cost a tenth or two of that.
const SHORT_OF_MANY: usize = 8 << 20;
/// Bytes of a small array.
const SMALL: usize = 16 << 10;

impl Load {
    /// Of what reads no array.
    pub const NONE: Self = Self { arrays: 0, bytes: 0 };
    /// Of what takes its time however little it reads.
    pub const LONG: Self = Self { arrays: 1, bytes: usize::MAX };

    /// Of one array.
    #[inline]
    pub fn one(bytes: usize) -> Self {
        Self { arrays: 1, bytes }
    }

    /// That of two together.
    #[inline]
    pub fn and(self, other: Self) -> Self {
        Self { arrays: self.arrays + other.arrays, bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// Whether the kernel keeps the lock.
    #[inline]
    fn keeps_the_lock(self) -> bool {
        self.bytes <= SHORT || self.bytes <= SHORT_OF_MANY && self.bytes / self.arrays.max(1) < SMALL
    }
}

/// Weak references to the arrays of a call that gives the lock away. NumPy resizes no array to which there is one, whatever
/// `refcheck` says: so no other thread takes the memory from a kernel.
pub struct Pins {
    /// `None` where the lock is kept.
    references: Option<Vec<Py<PyAny>>>,
    /// Whether the collector of cycles is to be switched on again.
    collects: bool,
}

impl Pins {
    /// None yet, for a kernel with this load.
    #[inline]
    pub(super) fn new(_: Python<'_>, load: Load) -> Self {
        let references = (!load.keeps_the_lock()).then(Vec::new);
        // SAFETY: the lock is held. A reference is an object that is counted for the collector, which might run code that
        // changes arrays between the look at one and its opening.
        let collects = references.is_some() && unsafe { ffi::PyGC_Disable() } != 0;
        Self { references, collects }
    }

    /// None at all: the lock is kept.
    #[inline]
    pub(super) fn none() -> Self {
        Self { references: None, collects: false }
    }

    /// Whether they are needed.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.references.is_some()
    }

    /// Pins the memory of an array. Runs no Python code.
    #[inline]
    pub(super) fn add(&mut self, array: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(references) = &mut self.references else { return Ok(()) };
        let Some(fields) = Fields::of(array) else { return Ok(()) };
        if fields.has(NPY_ARRAY_OWNDATA) {
            return pin(array, references);
        }
        if fields.base.is_null() || fields.is_of_ours(array.py()) {
            return Ok(());
        }
        // Of other owners nothing is known that takes memory back.
        let Owner::Array(owner) = Owner::of(array) else { return Ok(()) };
        pin(&owner, references)
    }

    /// No more come: the collector may run again.
    #[inline]
    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.collects) {
            // SAFETY: the lock is held.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

fn pin(array: &Bound<'_, PyAny>, references: &mut Vec<Py<PyAny>>) -> PyResult<()> {
    // SAFETY: a live object; the new reference, or the one there is already, becomes ours.
    let reference = unsafe {
        Bound::from_owned_ptr_or_err(array.py(), ffi::PyWeakref_NewRef(array.as_ptr(), std::ptr::null_mut()))
    }?;
    Ok(references.put(reference.unbind())?)
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.close();
    }
}
