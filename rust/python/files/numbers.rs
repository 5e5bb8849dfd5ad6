//! Whole numbers that a file lists: nodes, and the kinds of arrays and Leafs.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use std::fmt::Write;

use crate::memory::reserve::{OutOfMemory, Reserve, listed};
use crate::python::memory::lists::{ints, text};

/// The most characters that an i64 has, and a comma.
const LONGEST: usize = 21;

/// A list of numbers that Python hands on: an object for each would take longer to make than all else about it.
#[pyclass(frozen, module = "optirs._core")]
pub struct Numbers(Vec<i64>);

impl From<Vec<i64>> for Numbers {
    fn from(numbers: Vec<i64>) -> Self {
        Self(numbers)
    }
}

impl Numbers {
    /// Of what counts things in memory.
    pub fn of(numbers: &[usize]) -> Result<Self, OutOfMemory> {
        listed(numbers.iter().map(|&n| n as i64)).map(Self)
    }
}

#[pymethods]
impl Numbers {
    /// As a list of Python's.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        ints(py, self.0.iter().copied())
    }

    /// As JSON has them.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let mut json = String::new();
        json.make_room(self.0.len().saturating_mul(8))?;
        json.push('[');
        for (i, number) in self.0.iter().enumerate() {
            json.make_room(LONGEST + 1)?;
            let comma = if i > 0 { "," } else { "" };
            let _ = write!(json, "{comma}{number}"); // which never fails
        }
        json.push(']');
        text(py, &json)
    }
}
