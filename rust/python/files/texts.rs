//! Many texts: the names of places and arrays.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use rustc_hash::FxHashSet;

/// Texts in one piece of memory; an object, or a piece, for each would take longer to make than all else about it.
#[derive(Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Texts {
    /// Adds one.
    pub fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len());
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
    pub fn repeated(&self) -> Option<&str> {
        let mut seen = FxHashSet::default();
        self.iter().find(|text| !seen.insert(*text))
    }

    /// As JSON has them.
    pub fn json(&self) -> serde_json::Result<String> {
        let mut text = String::with_capacity(self.all.len() + 3 * self.len() + 2);
        text.push('[');
        for (i, each) in self.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            if each.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
                text.push_str(&serde_json::to_string(each)?);
            } else {
                text.push('"');
                text.push_str(each);
                text.push('"');
            }
        }
        text.push(']');
        Ok(text)
    }

    /// As a list of Python's.
    pub fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.iter().map(|text| PyString::new(py, text)))
    }
}
