//! Memory of our own, for the states of leaves and for results.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::memory::buffer::Buffer;
use crate::memory::placement::{LINE, PAGE, Streams};
use crate::memory::recycling;
use crate::memory::reserve::{OutOfMemory, list};

/// Memory of ours, kept alive by the leaves and arrays that use it.
#[pyclass(frozen, module = "optirs._core")]
pub struct Memory(pub Buffer);

/// A part of a [`Memory`].
pub struct MemoryPart {
    /// The whole.
    pub memory: Py<Memory>,
    /// The first byte of the part.
    pub ptr: *mut u8,
}

// SAFETY: plain memory, kept alive by `memory`; where it is used it is decided what may write to it when.
unsafe impl Send for MemoryPart {}
// SAFETY: as above.
unsafe impl Sync for MemoryPart {}

impl MemoryPart {
    /// Another handle on the same part.
    pub fn share(&self, py: Python<'_>) -> Self {
        Self { memory: self.memory.clone_ref(py), ptr: self.ptr }
    }
}

/// What [`allocate`] is asked for.
#[derive(Clone, Copy)]
pub struct Request {
    /// Parts of one group lie together where they are small.
    pub group: usize,
    /// How many bytes.
    pub bytes: usize,
    /// Where in a page the part starts, unless it is smaller than [`PLACED`].
    pub place: usize,
}

/// Parts of this size and larger ones get memory of their own; smaller ones of the same group share it, one after the other.
pub const OWN: usize = 256 << 10;

/// Smaller parts start where the one before them in their group has ended. A place of their own would cost a page each, and
/// where they start does not show in the time of a step.
pub const PLACED: usize = 32 << 10;

/// Up to this number of bytes in all, the groups behind the first share one block.
const SMALL: usize = 16 << 10;

/// Memory for all of `requests`.
///
/// The groups are state slots: all first moments of small arrays lie together, then all second ones, which makes a
/// thousand small arrays as fast as one large one. Groups start far from each other in a page.
pub fn allocate(py: Python<'_>, requests: &[Request]) -> PyResult<Vec<MemoryPart>> {
    let groups = requests.iter().map(|r| r.group + 1).max().unwrap_or(0);
    let mut totals = vec![0; groups];
    for request in requests.iter().filter(|r| r.bytes < OWN) {
        totals[request.group] += request.room(); // of less than `OWN` and a page each
    }
    let mut streams = Streams::default();
    let starts: Vec<usize> = totals.iter().map(|_| streams.choose(None)).collect();
    let mut shared: Vec<Option<MemoryPart>> = (0..groups).map(|_| None).collect();
    // The first group may be parameters, which never share memory with states.
    let rest: usize = totals.iter().skip(1).sum();
    if rest > 0 && rest <= SMALL {
        let (starts, bytes) = side_by_side(&totals[1..]);
        let block = held(py, Buffer::at(bytes, streams.choose(None)), bytes)?;
        for (place, start) in shared[1..].iter_mut().zip(starts) {
            *place = Some(MemoryPart { ptr: block.ptr.wrapping_add(start), ..block.share(py) });
        }
    }
    let mut places = list(requests.len())?;
    for request in requests {
        let &Request { group, bytes, place } = request;
        if bytes >= OWN {
            places.push(held(py, Buffer::at(bytes, place), bytes)?);
            continue;
        }
        let rest = match &mut shared[group] {
            Some(rest) => rest,
            none => none.insert(held(py, Buffer::at(totals[group], starts[group]), totals[group])?),
        };
        let gap = if bytes >= PLACED { place.wrapping_sub(rest.ptr as usize) % PAGE } else { 0 };
        rest.ptr = rest.ptr.wrapping_add(gap);
        places.push(rest.share(py));
        rest.ptr = rest.ptr.wrapping_add(bytes.next_multiple_of(LINE));
    }
    Ok(places)
}

impl Request {
    /// The bytes that it may take of what its group shares.
    fn room(&self) -> usize {
        self.bytes.next_multiple_of(LINE) + if self.bytes >= PLACED { PAGE } else { 0 }
    }
}

/// Where groups of these sizes start in one block, no two at the same place of a page; and the size of the block.
fn side_by_side(sizes: &[usize]) -> (Vec<usize>, usize) {
    let (mut starts, mut end): (Vec<usize>, usize) = (Vec::with_capacity(sizes.len()), 0);
    for size in sizes {
        while starts.iter().any(|start| (end - start).is_multiple_of(PAGE)) {
            end += LINE;
        }
        starts.push(end);
        end += size;
    }
    (starts, end)
}

/// Memory that starts at `place` of a page.
pub fn placed(py: Python<'_>, bytes: usize, place: usize) -> PyResult<MemoryPart> {
    held(py, Buffer::at(bytes, place), bytes)
}

/// New memory of `bytes` bytes.
pub fn own(py: Python<'_>, bytes: usize) -> PyResult<MemoryPart> {
    held(py, Buffer::new(bytes), bytes)
}

fn held(py: Python<'_>, buffer: Option<Buffer>, bytes: usize) -> PyResult<MemoryPart> {
    let memory = Bound::new(py, Memory(buffer.ok_or_else(|| too_large(bytes))?))?;
    let ptr = memory.get().0.ptr();
    Ok(MemoryPart { memory: memory.unbind(), ptr })
}

/// The error of memory that the system does not have.
pub fn too_large(bytes: usize) -> PyErr {
    PyMemoryError::new_err(format!("cannot allocate {bytes} bytes"))
}

impl From<OutOfMemory> for PyErr {
    fn from(none: OutOfMemory) -> Self {
        too_large(none.bytes)
    }
}

/// From when it is made until it is left, memory that is dropped is kept for the next step, as far as it was in use at once.
#[pyclass(module = "optirs._core")]
pub struct Recycling(Option<recycling::Recycling>);

#[pymethods]
impl Recycling {
    #[new]
    fn new() -> Self {
        Self(Some(recycling::Recycling::begin()))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) {
        self.0 = None;
    }
}
