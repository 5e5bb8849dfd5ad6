//! The header of a safetensors file: made, and read with all its checks. The bytes of the arrays pass by here.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// What stands before the JSON text: its length, so long.
const LENGTH: usize = 8;
/// Readers refuse longer texts.
const MAX_TEXT: usize = 100_000_000;
/// The one entry of `__metadata__` that is ours.
const ABOUT: &str = "optirs";

/// An array in the file: its name, safetensors' name of its type, its shape, and its bytes.
type Entry = (String, String, Vec<usize>, usize);

/// The first bytes of a file with these arrays, in this order, and the text `about`.
#[pyfunction]
pub fn file_header<'py>(py: Python<'py>, entries: Vec<Entry>, about: String) -> PyResult<Bound<'py, PyBytes>> {
    let mut end = 0_usize;
    let mut infos = Vec::with_capacity(entries.len());
    for (name, dtype, shape, bytes) in entries {
        let start = end;
        end = start.checked_add(bytes).ok_or_else(|| wrong("too many bytes"))?;
        infos.push((name, TensorInfo { dtype: type_named(&dtype)?, shape, data_offsets: (start, end) }));
    }
    let metadata = [(ABOUT.to_owned(), about)].into_iter().collect();
    let header = Metadata::new(Some(metadata), infos).map_err(wrong)?;
    let mut text = serde_json::to_vec(&header).map_err(wrong)?;
    text.resize(text.len().next_multiple_of(LENGTH), b' '); // so that the arrays are aligned
    if text.len() > MAX_TEXT {
        let megabytes = text.len() / 1_000_000;
        return Err(wrong(format!("names and metadata take {megabytes} MB, of which safetensors allows 100")));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(PyBytes::new(py, &bytes))
}

/// What a header says: its text, if there is one, how many bytes of arrays follow, and name, type and shape of each.
type Read<'py> = (Option<String>, usize, Vec<(String, String, Bound<'py, PyTuple>)>);

/// What [`file_header`] was given, of a header without its length, with the arrays in the order of the file.
#[pyfunction]
pub fn read_file_header<'py>(py: Python<'py>, header: &[u8]) -> PyResult<Read<'py>> {
    let header: Metadata = serde_json::from_slice(header).map_err(wrong)?;
    let about = header.metadata().as_ref().and_then(|m| m.get(ABOUT).cloned());
    let described = |name: String| {
        let info = header.info(&name)?;
        Some(PyTuple::new(py, &info.shape).map(|shape| (name.clone(), info.dtype.to_string(), shape)))
    };
    let entries = header.offset_keys().into_iter().filter_map(described).collect::<PyResult<_>>()?;
    Ok((about, header.data_len(), entries))
}

fn type_named(name: &str) -> PyResult<Dtype> {
    serde_json::from_value(name.into()).map_err(wrong)
}

fn wrong(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
