//! Many texts: the names of places and arrays.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use rustc_hash::FxHashSet;

use crate::memory::reserve::{OutOfMemory, Reserve, probe};
use crate::python::memory::lists::{Text, list, text};

/// Texts in one piece of memory; an object, or a piece, for each would take longer to make than all else about it.
#[derive(Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Texts {
    /// Adds one.
    pub fn push(&mut self, text: &str) -> Result<(), OutOfMemory> {
        self.all.make_room(text.len())?;
        self.ends.make_room(1)?;
        self.all.push_str(text);
        self.ends.push(self.all.len());
        Ok(())
    }

    /// The `i`-th; empty if there is none.
    pub fn get(&self, i: usize) -> &str {
        let start = if i == 0 { Some(&0) } else { self.ends.get(i - 1) };
        start.zip(self.ends.get(i)).map_or("", |(&start, &end)| &self.all[start..end])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The first that stands there twice.
    pub fn repeated<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        let mut seen = FxHashSet::default();
        seen.make_room(self.len())?;
        self.iter().find(|text| !seen.insert(*text)).map(|found| text(py, found)).transpose()
    }

    /// As JSON has them.
    pub fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let mut json = String::new();
        json.make_room(self.all.len() + 3 * self.len() + 2)?;
        json.push('[');
        for (i, each) in self.iter().enumerate() {
            if i > 0 {
                json.push(',');
            }
            if each.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
                probe(each.len().saturating_mul(12))?; // six bytes for one, in a list that is there twice as it grows
                let escaped = serde_json::to_string(each).map_err(wrong)?;
                json.make_room(escaped.len() + 2)?;
                json.push_str(&escaped);
            } else {
                json.make_room(each.len() + 4)?;
                json.push('"');
                json.push_str(each);
                json.push('"');
            }
        }
        json.push(']');
        text(py, &json)
    }

    /// As a list of Python's.
    pub fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, self.iter().map(Text))
    }
}

/// The error of a file whose text or header is wrong.
pub fn wrong(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
