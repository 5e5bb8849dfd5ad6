//! `Hold`: access to read many leaves at once, for as long as Python needs it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::Leaf;
use crate::memory::reserve::list;
use crate::python::memory::lists::Items;

/// While it is entered, no update writes to these leaves: what is copied from them belongs to one step.
#[pyclass(module = "optirs._core")]
pub struct Hold {
    leaves: Vec<Py<Leaf>>,
}

#[pymethods]
impl Hold {
    /// Holds all of `leaves`, or is refused where an update is under way.
    #[new]
    fn new(leaves: Items<Bound<'_, Leaf>>) -> PyResult<Self> {
        let Items(leaves) = leaves;
        let mut hold = Self { leaves: list(leaves.len())? };
        for leaf in leaves {
            std::mem::forget(leaf.get().reading()?); // given back by `release`
            hold.leaves.push(leaf.unbind());
        }
        Ok(hold)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) {
        self.release();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.leaves.iter().try_for_each(|leaf| visit.call(leaf))
    }

    fn __clear__(&mut self) {
        self.release();
    }
}

impl Hold {
    fn release(&mut self) {
        for leaf in self.leaves.drain(..) {
            leaf.get().release();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}
