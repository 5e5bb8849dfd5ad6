//! Memory of our own, for the states of leaves and for results.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::buffer::{self, Buffer, PAGE, SMALL_STAGGER, streams};
use crate::reserve::{OutOfMemory, list};

/// Memory of ours, kept alive by the leaves and arrays that use it.
#[pyclass(frozen, module = "optirs._core")]
pub struct Memory(pub Buffer);

/// A part of a [`Memory`].
pub struct Place {
    /// The whole.
    pub memory: Py<Memory>,
    /// The first byte of the part.
    pub ptr: *mut u8,
}

// SAFETY: plain memory, kept alive by `memory`; who may write to it when is decided where it is used.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    /// Another handle on the same part.
    pub fn share(&self, py: Python<'_>) -> Self {
        Self { memory: self.memory.clone_ref(py), ptr: self.ptr }
    }
}

/// Parts larger than this get memory of their own; smaller ones of the same group share it, one after the other.
pub const OWN: usize = 256 << 10;

/// Up to so many bytes in all, the groups behind the first share one block.
const SMALL: usize = 16 << 10;

/// Memory for all of `requests`, each a group and a number of bytes.
///
/// The groups are state slots: all first moments of small arrays lie together, then all second ones, which makes a
/// thousand small arrays as fast as one large one. No two groups start at the same place of a page.
pub fn allocate(py: Python<'_>, requests: &[(usize, usize)]) -> PyResult<Vec<Place>> {
    let groups = requests.iter().map(|r| r.0 + 1).max().unwrap_or(0);
    let first = streams(groups);
    let mut totals = vec![0; groups];
    for &(group, bytes) in requests.iter().filter(|r| r.1 < OWN) {
        totals[group] += bytes.next_multiple_of(64); // of less than `OWN` each
    }
    let mut shared: Vec<Option<Place>> = (0..groups).map(|_| None).collect();
    // The first group may be parameters, which never share memory with states.
    let rest: usize = totals.iter().skip(1).sum();
    if rest > 0 && rest <= SMALL {
        let (starts, bytes) = side_by_side(&totals[1..]);
        let block = held(py, Buffer::of_stream(bytes, first + 1), bytes)?;
        for (place, start) in shared[1..].iter_mut().zip(starts) {
            *place = Some(Place { ptr: block.ptr.wrapping_add(start), ..block.share(py) });
        }
    }
    let mut places = list(requests.len())?;
    for &(group, bytes) in requests {
        if bytes >= OWN {
            places.push(held(py, Buffer::of_stream(bytes, first + group), bytes)?);
            continue;
        }
        let rest = match &mut shared[group] {
            Some(rest) => rest,
            none => none.insert(held(py, Buffer::of_stream(totals[group], first + group), totals[group])?),
        };
        places.push(rest.share(py));
        rest.ptr = rest.ptr.wrapping_add(bytes.next_multiple_of(64));
    }
    Ok(places)
}

/// Where groups of these sizes start in one block, no two at the same place of a page, nor at that of the stream before the
/// block; and the size of the block.
fn side_by_side(sizes: &[usize]) -> (Vec<usize>, usize) {
    let (mut starts, mut end): (Vec<usize>, usize) = (Vec::with_capacity(sizes.len()), 0);
    for size in sizes {
        let meets = |end: usize| starts.iter().any(|start| (end - start).is_multiple_of(PAGE));
        while meets(end) || (end + SMALL_STAGGER.distance).is_multiple_of(PAGE) {
            end += 64;
        }
        starts.push(end);
        end += size;
    }
    (starts, end)
}

/// New memory of so many bytes.
pub fn own(py: Python<'_>, bytes: usize) -> PyResult<Place> {
    held(py, Buffer::new(bytes), bytes)
}

fn held(py: Python<'_>, buffer: Option<Buffer>, bytes: usize) -> PyResult<Place> {
    let memory = Bound::new(py, Memory(buffer.ok_or_else(|| too_large(bytes))?))?;
    let ptr = memory.get().0.ptr();
    Ok(Place { memory: memory.unbind(), ptr })
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
pub struct Recycling(Option<buffer::Recycling>);

#[pymethods]
impl Recycling {
    #[new]
    fn new() -> Self {
        Self(Some(buffer::Recycling::begin()))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) {
        self.0 = None;
    }
}
