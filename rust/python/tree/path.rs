//! Key paths: where a walk is, and how errors print it.

use pyo3::exceptions::{PyMemoryError, PyRecursionError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};

use crate::memory::reserve::Reserve;
use crate::python::errors::asked;
use crate::python::memory::lists::{Int, tuple};
use crate::python::memory::stack::exhausted;

/// Deeper structures are refused: a walk may not overflow the stack.
pub const MAX_DEPTH: usize = 1000;

/// From this depth on a walk asks how much of the stack is left: every thread has stack for this number of levels.
const SAFE_DEPTH: usize = 32;

/// Whether a walk at this depth may not go deeper.
pub fn too_deep(depth: usize) -> bool {
    depth >= MAX_DEPTH || (depth >= SAFE_DEPTH && exhausted())
}

/// The error of a structure that is too deep, whose printed path starts with `head`.
fn nests_too_deep(depth: usize, head: &str) -> PyErr {
    let most = if depth < MAX_DEPTH { " that this thread's stack has room for" } else { "" };
    let levels = depth.min(MAX_DEPTH);
    PyRecursionError::new_err(format!(
        "the structure at {head}... nests deeper than {levels} levels{most}, or contains itself"
    ))
}

/// Where a walk is: the keys from the root down.
#[derive(Default)]
pub struct Path {
    keys: Vec<Key>,
}

enum Key {
    Index(usize),
    Name(Py<PyAny>),
}

impl Key {
    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Index(i) => PyInt::new(py, *i).into_any(),
            Self::Name(name) => name.bind(py).clone(),
        }
    }
}

impl<'py> IntoPyObject<'py> for &Key {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        match self {
            Key::Index(i) => Int::from(*i).into_pyobject(py).map(Bound::into_any),
            Key::Name(name) => Ok(name.bind(py).clone()),
        }
    }
}

impl Path {
    /// Goes down to the child `key`; too deep or in a circle is an error.
    pub fn push(&mut self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        self.go(key.py(), Key::Name(key.clone().unbind()))
    }

    /// Goes down to the `i`-th child.
    pub fn push_index(&mut self, py: Python<'_>, i: usize) -> PyResult<()> {
        self.go(py, Key::Index(i))
    }

    fn go(&mut self, py: Python<'_>, key: Key) -> PyResult<()> {
        let depth = self.keys.len();
        if too_deep(depth) {
            let head = text(self.keys.iter().take(6).map(|k| k.object(py)))?;
            return Err(nests_too_deep(depth, &head));
        }
        self.keys.push(key);
        Ok(())
    }

    /// Goes back up.
    pub fn pop(&mut self) {
        self.keys.pop();
    }

    /// As errors print it, after "at".
    pub fn text(&self, py: Python<'_>) -> PyResult<String> {
        text(self.keys.iter().map(|k| k.object(py)))
    }

    /// As a tuple.
    pub fn tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, &self.keys)
    }
}

/// `layers[0].W` for `("layers", 0, "W")`; "the top" where there are no keys. The only error is what ends a program, as Ctrl-C:
/// it goes before the error whose words these are.
fn text<'py>(keys: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<String> {
    let mut text = String::new();
    for key in keys {
        match append(&mut text, &key) {
            Err(error) if error.is_instance_of::<PyMemoryError>(key.py()) => text.push_str("[?]"),
            done => done?,
        }
    }
    Ok(if text.is_empty() { "the top".into() } else { text })
}

/// Adds a key to the text of those above it. The only errors are that there is no memory for it, what ends a program, and what
/// a signal's handler raises: Python asks for signals before it prints anything, also numbers and texts, which print always.
pub fn append(text: &mut String, key: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = key.py();
    if let Ok(name) = key.cast::<PyString>()
        && asked(py, is_identifier(name))?.unwrap_or(false)
    {
        let dot = if text.is_empty() { "" } else { "." };
        return append_text(text, dot, name, "");
    }
    let printed = key.repr();
    let is_sure = key.is_exact_instance_of::<PyInt>() || key.is_exact_instance_of::<PyString>();
    match if is_sure { printed.map(Some) } else { asked(py, printed) }? {
        Some(printed) => append_text(text, "[", &printed, "]"),
        None => {
            text.push_str("[?]");
            Ok(())
        }
    }
}

/// Adds `words` between these two; what is no Unicode in them is replaced.
pub fn append_text(text: &mut String, before: &str, words: &Bound<'_, PyString>, behind: &str) -> PyResult<()> {
    let mut add = |words: &str| {
        text.make_room(before.len() + words.len() + behind.len())?;
        [before, words, behind].into_iter().for_each(|part| text.push_str(part));
        Ok(())
    };
    match asked(words.py(), words.to_str())? {
        Some(words) => add(words),
        None => add(&words.to_string_lossy()),
    }
}

/// Whether Python could have it as a name.
fn is_identifier(name: &Bound<'_, PyString>) -> PyResult<bool> {
    match name.to_str() {
        Ok(text) if text.is_ascii() => Ok(!text.is_empty()
            && !text.as_bytes()[0].is_ascii_digit()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')),
        _ => name.call_method0(intern!(name.py(), "isidentifier"))?.is_truthy(),
    }
}

/// A key path as errors print it, after "at".
pub fn place_text(path: &Bound<'_, PyTuple>) -> PyResult<String> {
    text(path.iter())
}

/// The printed form of a key path.
#[pyfunction]
pub fn path_text(path: &Bound<'_, PyTuple>) -> PyResult<String> {
    if path.is_empty() { Ok(String::new()) } else { text(path.iter()) }
}
