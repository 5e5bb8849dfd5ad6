//! Files: what is in them, their header, and the bytes of their arrays. Python reads and writes the file itself.

mod draft;
mod forms;
mod inventory;
mod numbers;
mod outline;
mod restore;
mod texts;

use super::memory::lists::{Int, Items, text, tuple};
use crate::memory::reserve::{OutOfMemory, Put, Reserve, collected, list, listed, owned, probe};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;

pub use draft::Draft;
pub use forms::build;
pub use inventory::Inventory;
pub use numbers::Numbers;
pub use outline::{Outline, outline_of_file, outline_of_tree, place_in_file};
pub use restore::States;
use texts::wrong;

/// What stands before the JSON text: its length, so long.
const LENGTH: usize = 8;
/// Readers refuse longer texts.
const MAX_TEXT: usize = 100_000_000;
/// The one entry of `__metadata__` that is ours.
const ABOUT: &str = "optirs";
/// What entries of ours that are no array of the user's begin with; no key path does.
const OURS: &str = "optirs.";
/// The entry that says what is in the blocks.
const INDEX: &str = "optirs.index";

/// The first bytes of a file with the arrays of `inventory`, in its order, and the text `about`; None if they would be longer
/// than readers take.
///
/// Each array is an entry; or, where there is an index of `index` bytes, which comes first, all of one type are one.
#[pyfunction]
#[pyo3(signature = (inventory, about, index = None))]
pub fn file_header<'py>(
    py: Python<'py>,
    inventory: &Inventory,
    about: &str,
    index: Option<usize>,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let mut end = 0_usize;
    let mut infos = Vec::new();
    let mut add = |name: String, dtype: Dtype, shape: Vec<usize>, bytes: usize| -> PyResult<()> {
        let start = end;
        end = start.checked_add(bytes).ok_or_else(|| wrong("too many bytes"))?;
        infos.put((name, TensorInfo { dtype, shape, data_offsets: (start, end) }))?;
        Ok(())
    };
    if let Some(bytes) = index {
        add(INDEX.to_owned(), Dtype::U8, vec![bytes], bytes)?;
        for (code, bytes) in inventory.blocks()? {
            add(format!("{OURS}{code}"), code, vec![bytes / (code.bitsize() / 8)], bytes)?;
        }
    } else {
        for i in inventory.file_order()? {
            let kind = inventory.kind(i);
            add(owned(inventory.name(i))?, kind.code, kind.shape.clone(), kind.bytes)?;
        }
    }
    // The text is copied, and written as JSON, which may double it; a list that grows is there twice.
    probe(about.len().saturating_mul(6).saturating_add(infos.len().saturating_mul(1024)))?;
    let metadata = [(ABOUT.to_owned(), about.to_owned())].into_iter().collect();
    let header = Metadata::new(Some(metadata), infos).map_err(wrong)?;
    let mut text = serde_json::to_vec(&header).map_err(wrong)?;
    text.make_room(LENGTH)?;
    text.resize(text.len().next_multiple_of(LENGTH), b' '); // so that the arrays are aligned
    if text.len() > MAX_TEXT {
        return Ok(None);
    }
    let bytes = |bytes: &mut [u8]| {
        bytes[..LENGTH].copy_from_slice(&(text.len() as u64).to_le_bytes());
        bytes[LENGTH..].copy_from_slice(&text);
        Ok(())
    };
    PyBytes::new_with(py, LENGTH + text.len(), bytes).map(Some)
}

/// What the header of a file says.
#[pyclass(frozen, module = "optirs._core")]
pub struct Header {
    found: Metadata,
    /// How long its text is.
    length: usize,
}

#[pymethods]
impl Header {
    /// Reads a header, without its length, with all of the format's checks.
    #[new]
    fn new(header: &[u8]) -> PyResult<Self> {
        // For names, twice, and tables that are there twice as they grow: some 700 bytes for an entry of 70.
        probe(header.len().saturating_mul(16))?;
        let found = match ours(header) {
            Some(found) => found?,
            None => serde_json::from_slice(header).map_err(wrong)?,
        };
        Ok(Self { found, length: header.len() })
    }

    /// The text of ours, if there is one.
    #[getter]
    fn about<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        self.found.metadata().as_ref().and_then(|m| m.get(ABOUT)).map(|about| text(py, about)).transpose()
    }

    /// How many bytes of arrays follow.
    #[getter]
    fn bytes(&self) -> usize {
        self.found.data_len()
    }

    /// How many of these are the index.
    #[getter]
    fn index(&self) -> Option<usize> {
        let (start, end) = self.found.info(INDEX)?.data_offsets;
        (start == 0).then_some(end)
    }

    /// Name, type and shape of each entry, in the order of the file.
    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Items<Bound<'py, PyTuple>>> {
        let described = |name: String| {
            let info = self.found.info(&name)?;
            let parts = || {
                let shape = tuple(py, info.shape.iter().map(|&n| Int::from(n)))?.into_any();
                Ok([text(py, &name)?.into_any(), text(py, &info.dtype.to_string())?.into_any(), shape])
            };
            Some(parts().and_then(|parts| tuple(py, parts)))
        };
        collected(self.names()?.into_iter().filter_map(described)).map(Items)
    }

    /// Raises unless the entries are the arrays of `inventory`, as [`file_header`] describes them.
    fn check(&self, inventory: &Inventory) -> PyResult<()> {
        let entries = self.names()?;
        let infos = entries.iter().filter_map(|name| Some((name, self.found.info(name)?)));
        // Of entries without a byte the file has no order.
        let infos = infos.filter(|(_, info)| info.data_offsets.0 < info.data_offsets.1);
        let found = listed(infos.map(|(name, info)| (name.as_str(), info.dtype, info.shape.as_slice())))?;
        if self.index().is_some() {
            let blocks = inventory.blocks()?;
            let blocks: Vec<_> =
                blocks.into_iter().map(|(code, bytes)| (code, [bytes / (code.bitsize() / 8)])).collect();
            let expected: Vec<_> =
                blocks.iter().filter(|(_, n)| n[0] > 0).map(|(code, n)| (*code, n.as_slice())).collect();
            return same_entries(&found[usize::from(found.first().is_some_and(|f| f.0 == INDEX))..], expected);
        }
        if entries.len() != inventory.len() {
            return Err(wrong(format!("there are {} arrays, the text speaks of {}", entries.len(), inventory.len())));
        }
        let expected = inventory.file_order()?.into_iter().map(|i| inventory.kind(i)).filter(|kind| kind.bytes > 0);
        same_entries(&found, listed(expected.map(|kind| (kind.code, kind.shape.as_slice())))?)
    }
}

impl Header {
    /// The names of the entries, in the order of the file.
    fn names(&self) -> Result<Vec<String>, OutOfMemory> {
        probe(self.length.saturating_mul(2))?; // an entry is longer than a name and its place in a list
        Ok(self.found.offset_keys())
    }
}

/// What a header says that [`file_header`] wrote, whose metadata come first; `None` for all others, right or wrong.
///
/// The crate's own reader keeps all entries in between in a form that would do for any JSON, which takes some 1 µs each.
fn ours(header: &[u8]) -> Option<Result<Metadata, OutOfMemory>> {
    let rest = header.strip_prefix(b"{\"__metadata__\":")?;
    let mut metadata = serde_json::Deserializer::from_slice(rest).into_iter();
    let found = metadata.next()?.ok()?;
    let rest = rest.get(metadata.byte_offset()..)?;
    match entries(rest.strip_prefix(b",").unwrap_or(rest)).transpose()? {
        Ok(entries) => Metadata::new(Some(found), entries).ok().map(Ok),
        Err(none) => Some(Err(none)),
    }
}

/// The entries of a header in which nothing else is left, in the order of the file.
fn entries(rest: &[u8]) -> Result<Option<Vec<(String, TensorInfo)>>, OutOfMemory> {
    let mut text = list(rest.len() + 1)?;
    text.push(b'{');
    text.extend_from_slice(rest);
    let Ok(entries) = serde_json::from_slice::<BTreeMap<String, TensorInfo>>(&text) else { return Ok(None) };
    let mut entries = listed(entries)?;
    // A stable sort would ask for room; no two names are one.
    entries.sort_unstable_by(|(a, at), (b, other)| (at.data_offsets, a).cmp(&(other.data_offsets, b)));
    Ok(Some(entries))
}

/// Raises unless the entries that were found are those expected.
fn same_entries(found: &[(&str, Dtype, &[usize])], expected: Vec<(Dtype, &[usize])>) -> PyResult<()> {
    if found.len() != expected.len() {
        return Err(wrong(format!(
            "there are {} entries with bytes, the text speaks of {}",
            found.len(),
            expected.len()
        )));
    }
    for ((name, dtype, shape), (code, other)) in found.iter().zip(expected) {
        if *dtype != code || *shape != other {
            return Err(wrong(format!(
                "{name} is {dtype} of shape {shape:?}, the text speaks of {code} of shape {other:?}"
            )));
        }
    }
    Ok(())
}
