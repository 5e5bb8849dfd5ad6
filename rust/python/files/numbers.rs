//! Whole numbers that a file lists: nodes, and the kinds of arrays and Leafs.

use pyo3::prelude::*;
use pyo3::types::PyList;
use std::fmt::Write;

/// A list of numbers that Python hands on: an object for each would take longer to make than all else about it.
#[pyclass(frozen, module = "optirs._core")]
pub struct Numbers(Vec<i64>);

impl From<Vec<i64>> for Numbers {
    fn from(numbers: Vec<i64>) -> Self {
        Self(numbers)
    }
}

impl From<&[usize]> for Numbers {
    fn from(numbers: &[usize]) -> Self {
        Self(numbers.iter().map(|&n| n as i64).collect()) // they count things in memory
    }
}

#[pymethods]
impl Numbers {
    /// As a list of Python's.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, &self.0)
    }

    /// As JSON has them.
    fn json(&self) -> String {
        let mut text = String::with_capacity(8 * self.0.len() + 2);
        text.push('[');
        for (i, number) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{number}"); // which never fails
        }
        text.push(']');
        text
    }
}
