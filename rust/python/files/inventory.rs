//! The arrays of a file: of what type, shape and memory order each is, where it lies in the file, and its bytes.
//!
//! Bytes are copied once, a chunk at a time, into or out of memory that nothing else has: what is summed is what is written,
//! whatever another thread does to an array meanwhile.

use numpy::npyffi::{NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArray_Descr, get_type_object};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use rustc_hash::FxHashMap;
use safetensors::Dtype;
use std::hash::{Hash, Hasher};
use std::os::raw::c_int;

use super::numbers::Numbers;
use super::outline::Outline;
use super::texts::{Texts, wrong};
use crate::loops::dtype::DType;
use crate::memory::reserve::{OutOfMemory, Put, Reserve, collected, list as room, listed};
use crate::python::array::access::{bytes, fill_bytes};
use crate::python::array::{MemoryPart, View, copy_into, is_exact};
use crate::python::memory::lists::{Items, Text, bytes as new_bytes, dict, ints, list};

/// Bytes that are copied, summed and written at a time: they stay in the cache.
const CHUNK: usize = 1 << 20;

/// What arrays may have in common.
#[derive(Clone, PartialEq, Eq)]
pub struct Kind {
    /// What the format calls the type.
    pub code: Dtype,
    /// The shape in the file, where complex128 has another axis, and so has a type that the format lacks.
    pub shape: Vec<usize>,
    /// NumPy's name of the type, if the code does not say it.
    dtype: Option<String>,
    /// The axes from the one with the longest stride to the one with the shortest, unless that is C order.
    order: Option<Vec<usize>>,
    /// Whether its bytes have the other order than this machine's.
    swapped: bool,
    /// The bytes of an array.
    pub bytes: usize,
}

/// See the module. It is made from arrays to be written, or from what a file says.
#[pyclass(module = "optirs._core")]
pub struct Inventory {
    kinds: Vec<Kind>,
    known: FxHashMap<Kind, usize>,
    /// The kind of each array.
    of: Vec<usize>,
    arrays: Vec<Bytes>,
    /// How each is called; empty when reading.
    names: Texts,
    /// Whether two of the names may be one.
    pub doubtful: bool,
    /// Whether the file has them in the order in which they are counted, as those of format 1.
    counted: bool,
    /// Reading or writing: which arrays in which order, how far, and what lies in the file for the one at hand.
    order: Vec<usize>,
    at: usize,
    offset: usize,
    plain: Option<Py<PyAny>>,
}

/// Where the bytes of an array are.
enum Bytes {
    /// In an array.
    Array(Py<PyAny>),
    /// In memory of ours, as many as its kind says, in C order.
    Ours(MemoryPart),
    /// Nowhere yet.
    None,
}

#[pymethods]
impl Inventory {
    /// An inventory of what a file says: kinds of arrays, and the kind of each array; or of nothing, to be added to.
    #[new]
    #[pyo3(signature = (kinds = Items(Vec::new()), of = Items(Vec::new()), counted = false))]
    fn new(kinds: Items<Bound<'_, PyDict>>, of: Items<usize>, counted: bool) -> PyResult<Self> {
        let (kinds, of) = (collected(kinds.0.iter().map(Kind::read))?, of.0);
        if of.iter().any(|&k| k >= kinds.len()) {
            return Err(PyValueError::new_err("an array is of a kind that is not there"));
        }
        let mut made = Self::empty();
        made.arrays.make_room(of.len())?;
        made.arrays.resize_with(of.len(), || Bytes::None);
        (made.kinds, made.of, made.counted) = (kinds, of, counted);
        made.order = made.file_order()?;
        Ok(made)
    }

    /// Adds arrays. `dtype(array, name)` gives the name of a type that the format lacks, or refuses the array.
    fn add(
        &mut self,
        arrays: Items<Bound<'_, PyAny>>,
        names: Items<Bound<'_, PyString>>,
        dtype: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.doubtful = true;
        let mut each = arrays.0.iter().zip(&names.0);
        each.try_for_each(|(array, name)| self.push(array, name.to_str()?, dtype).map(|_| ()))
    }

    /// The same, of the arrays of a tree.
    fn add_tree(&mut self, py: Python<'_>, outline: &Outline, dtype: &Bound<'_, PyAny>) -> PyResult<()> {
        self.doubtful |= outline.doubtful;
        let mut each = outline.found.iter().zip(&outline.first);
        each.try_for_each(|(array, &i)| self.push(array.bind(py), outline.places.get(i), dtype).map(|_| ()))
    }

    /// A name that two arrays have.
    fn repeated<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        if self.doubtful { self.names.repeated(py) } else { Ok(None) }
    }

    /// The kinds, as a file says them.
    #[getter]
    fn kinds<'py>(&self, py: Python<'py>) -> PyResult<Items<Bound<'py, PyDict>>> {
        collected(self.kinds.iter().map(|kind| kind.write(py))).map(Items)
    }

    fn __len__(&self) -> usize {
        self.of.len()
    }

    // No `__clear__`: an array that can be in a cycle has one.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for bytes in &self.arrays {
            if let Bytes::Array(array) = bytes {
                visit.call(array)?;
            }
        }
        visit.call(&self.plain)
    }

    #[getter]
    fn of(&self) -> PyResult<Numbers> {
        Ok(Numbers::of(&self.of)?)
    }

    /// The names of the arrays in JSON, in the order in which they are counted.
    fn names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        self.names.json(py)
    }

    /// New arrays for what the file has, one after the other: of the type and shape that is given for each kind.
    fn allocate<'py>(
        &mut self,
        py: Python<'py>,
        forms: Items<(Bound<'py, PyAny>, Items<isize>)>,
    ) -> PyResult<Bound<'py, PyList>> {
        let Items(forms) = forms;
        let fits = |kind: &Kind, form: &(Bound<'py, PyAny>, Items<isize>)| -> PyResult<bool> {
            let itemsize: usize = form.0.getattr(intern!(py, "itemsize"))?.extract()?;
            let plain = !form.0.getattr(intern!(py, "hasobject"))?.is_truthy()?;
            Ok(plain && volume(&form.1.0, itemsize) == Some(kind.bytes))
        };
        if forms.len() != self.kinds.len() {
            return Err(PyValueError::new_err("a type for each kind is needed"));
        }
        for (kind, form) in self.kinds.iter().zip(&forms) {
            if !fits(kind, form)? {
                return Err(PyValueError::new_err("an array takes more or less than the file has for it"));
            }
        }
        let arrays = collected(self.of.iter().map(|&k| new_array(&forms[k].0, &forms[k].1.0)))?;
        self.arrays = listed(arrays.iter().map(|x| Bytes::Array(x.clone().unbind())))?;
        list(py, arrays)
    }

    /// The next bytes of the arrays, in the order of the file; none at the end. With `canonical` it is the order in which
    /// they are counted, and all NaNs are one.
    #[pyo3(signature = (canonical = false))]
    fn chunk<'py>(&mut self, py: Python<'py>, canonical: bool) -> PyResult<Bound<'py, PyBytes>> {
        if self.at == 0 && self.offset == 0 {
            self.order = if canonical { listed(0..self.of.len())? } else { self.file_order()? };
        }
        let mut chunk = room(CHUNK)?;
        while self.at < self.order.len() && chunk.len() < CHUNK {
            let i = self.order[self.at];
            let kind = &self.kinds[self.of[i]];
            let unit = kind.unit(); // whole elements, so that a NaN is not cut in two
            let room = (CHUNK - chunk.len()) / unit * unit;
            let take = room.min(kind.bytes - self.offset);
            if take == 0 && kind.bytes > 0 {
                break;
            }
            let start = chunk.len();
            if take > 0 {
                match &self.arrays[i] {
                    // SAFETY: memory of ours, which has as many bytes as its kind says, and of which no part is ever given back
                    // alone.
                    Bytes::Ours(place) => chunk.extend_from_slice(unsafe {
                        std::slice::from_raw_parts(place.ptr.add(self.offset).cast_const(), take)
                    }),
                    Bytes::None => return Err(self.gone(i)),
                    Bytes::Array(array) => {
                        let plain = match self.plain.take() {
                            Some(plain) => plain.into_bound(py),
                            None => laid_out(self.name(i), array.bind(py))?,
                        };
                        let part = self.offset..self.offset + take;
                        let read = bytes(&plain, kind.bytes, |all| chunk.extend_from_slice(&all[part]));
                        read.filter(|()| is_little(&plain)).ok_or_else(|| self.gone(i))?;
                        self.plain = Some(plain.unbind());
                    }
                }
            }
            if canonical {
                one_nan(&mut chunk[start..], kind);
            }
            self.offset += take;
            if self.offset == kind.bytes {
                (self.at, self.offset, self.plain) = (self.at + 1, 0, None);
            }
        }
        if chunk.is_empty() {
            (self.at, self.offset) = (0, 0);
        }
        new_bytes(py, &chunk)
    }

    /// Copies the next bytes of the file into the arrays that were allocated.
    fn fill(&mut self, py: Python<'_>, mut data: &[u8]) -> PyResult<()> {
        while !data.is_empty() {
            let Some(&i) = self.order.get(self.at) else {
                return Err(PyValueError::new_err("there are more bytes than arrays"));
            };
            let kind = &self.kinds[self.of[i]];
            let take = data.len().min(kind.bytes - self.offset);
            if take > 0 {
                let Bytes::Array(array) = &self.arrays[i] else { return Err(self.gone(i)) };
                let array = array.bind(py);
                let filled =
                    if is_little(array) { fill_bytes(array, kind.bytes, self.offset, &data[..take]) } else { None };
                filled.ok_or_else(|| self.gone(i))?;
            }
            data = &data[take..];
            self.offset += take;
            if self.offset == kind.bytes {
                (self.at, self.offset) = (self.at + 1, 0);
            }
        }
        Ok(())
    }
}

impl Inventory {
    /// Of nothing yet.
    pub fn empty() -> Self {
        Self {
            kinds: Vec::new(),
            known: FxHashMap::default(),
            of: Vec::new(),
            arrays: Vec::new(),
            names: Texts::default(),
            doubtful: false,
            counted: false,
            order: Vec::new(),
            at: 0,
            offset: 0,
            plain: None,
        }
    }

    /// Adds an array; its number.
    pub fn push(&mut self, array: &Bound<'_, PyAny>, name: &str, dtype: &Bound<'_, PyAny>) -> PyResult<usize> {
        let kind = Kind::of(array, name, dtype)?;
        let k = match self.known.get(&kind) {
            Some(k) => *k,
            None => {
                self.known.make_room(1)?;
                self.kinds.put(kind.clone())?;
                *self.known.entry(kind).or_insert(self.kinds.len() - 1)
            }
        };
        Ok(self.put(k, Bytes::Array(array.clone().unbind()), name)?)
    }

    /// Adds an array in memory of ours that is just like another one, which was pushed.
    pub fn push_like(&mut self, other: usize, place: MemoryPart, name: &str) -> Result<usize, OutOfMemory> {
        self.put(self.of[other], Bytes::Ours(place), name)
    }

    fn put(&mut self, kind: usize, bytes: Bytes, name: &str) -> Result<usize, OutOfMemory> {
        self.of.make_room(1)?;
        self.arrays.make_room(1)?;
        self.names.push(name)?;
        self.of.push(kind);
        self.arrays.push(bytes);
        Ok(self.of.len() - 1)
    }

    /// How many arrays there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// The kind of an array.
    pub fn kind(&self, array: usize) -> &Kind {
        &self.kinds[self.of[array]]
    }

    /// How an array is called.
    pub fn name(&self, array: usize) -> &str {
        if array < self.names.len() { self.names.get(array) } else { "an array" }
    }

    /// The types of elements, in the order of the file, and the bytes of all arrays of each.
    pub fn blocks(&self) -> PyResult<Vec<(Dtype, usize)>> {
        let mut blocks: Vec<(Dtype, usize)> = Vec::new();
        for i in self.file_order()? {
            let kind = self.kind(i);
            match blocks.last_mut() {
                Some((code, bytes)) if *code == kind.code => {
                    *bytes = bytes.checked_add(kind.bytes).ok_or_else(|| PyValueError::new_err("too many bytes"))?;
                }
                _ => blocks.put((kind.code, kind.bytes))?,
            }
        }
        Ok(blocks)
    }

    /// The arrays in the order of the file: those of one type together, larger elements first, so that all are aligned.
    pub fn file_order(&self) -> Result<Vec<usize>, OutOfMemory> {
        let mut order = listed(0..self.of.len())?;
        if self.counted {
            return Ok(order);
        }
        let names = listed(self.kinds.iter().map(|k| (std::cmp::Reverse(k.code.bitsize()), k.code.to_string())))?;
        let mut sorted = listed(&names)?;
        sorted.sort_unstable();
        sorted.dedup();
        let ranks = listed(names.iter().map(|name| sorted.binary_search(&name)))?;
        order.sort_unstable_by_key(|&i| (ranks[self.of[i]], i)); // a stable sort would ask for room
        Ok(order)
    }

    fn gone(&self, i: usize) -> PyErr {
        PyRuntimeError::new_err(format!("{} was changed while it was copied", self.name(i)))
    }
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (std::mem::discriminant(&self.code), &self.shape, &self.dtype, &self.order, self.swapped).hash(state);
    }
}

impl Kind {
    /// The bytes of a number of the type that the file says.
    fn unit(&self) -> usize {
        (self.code.bitsize() / 8).max(1)
    }

    fn of(x: &Bound<'_, PyAny>, name: &str, dtype: &Bound<'_, PyAny>) -> PyResult<Self> {
        let view = View::of(x).ok_or_else(|| PyTypeError::new_err(format!("{name} is not an array")))?;
        let Element { number, size, little, fortran } = element(&view);
        let exact = is_exact(x);
        let (code, named) = match (number, size) {
            (Some(b'b'), _) => (Some(Dtype::BOOL), None),
            (Some(b'i'), 1) => (Some(Dtype::I8), None),
            (Some(b'i'), 2) => (Some(Dtype::I16), None),
            (Some(b'i'), 4) => (Some(Dtype::I32), None),
            (Some(b'i'), 8) => (Some(Dtype::I64), None),
            (Some(b'u'), 1) => (Some(Dtype::U8), None),
            (Some(b'u'), 2) => (Some(Dtype::U16), None),
            (Some(b'u'), 4) => (Some(Dtype::U32), None),
            (Some(b'u'), 8) => (Some(Dtype::U64), None),
            (Some(b'B'), _) => (Some(Dtype::BF16), None),
            (Some(b'f'), 2) => (Some(Dtype::F16), None),
            (Some(b'f'), 4) => (Some(Dtype::F32), None),
            (Some(b'f'), 8) => (Some(Dtype::F64), None),
            (Some(b'c'), 8) => (Some(Dtype::C64), None),
            (Some(b'c'), 16) => (Some(Dtype::F64), Some("complex128".to_owned())), // which the format lacks
            _ => (None, None),
        };
        let mut shape: Vec<usize> = view.shape.iter().map(|&n| n as usize).collect();
        let (order, bytes) = (order(&view, fortran), volume(&view.shape, size));
        let number = code.is_some();
        let named =
            if number && exact { named } else { dtype.call1((x, name))?.extract::<Option<String>>()?.or(named) };
        if named.is_some() {
            shape.push(if number { 2 } else { size });
        }
        Ok(Self {
            code: code.unwrap_or(Dtype::U8),
            shape,
            dtype: named,
            order,
            swapped: number && size > 1 && little != cfg!(target_endian = "little"),
            bytes: bytes.ok_or_else(|| PyValueError::new_err(format!("{name} is too large")))?,
        })
    }

    /// What [`Kind::write`] wrote, of which only code and shape matter here.
    fn read<'py>(kind: &Bound<'py, PyDict>) -> PyResult<Self> {
        let py = kind.py();
        let item = |key: &Bound<'py, PyString>| {
            kind.get_item(key)?.ok_or_else(|| PyValueError::new_err(format!("a kind has no {key}")))
        };
        let code = type_named(&item(intern!(py, "code"))?.extract::<String>()?)?;
        let Items(shape): Items<usize> = item(intern!(py, "shape"))?.extract()?;
        let too_large = || PyValueError::new_err("an array is too large");
        let signed = collected(shape.iter().map(|&n| isize::try_from(n).map_err(|_| too_large())))?;
        let bytes = volume(&signed, code.bitsize() / 8).filter(|_| code.bitsize().is_multiple_of(8));
        Ok(Self { code, shape, dtype: None, order: None, swapped: false, bytes: bytes.ok_or_else(too_large)? })
    }

    fn write<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let written = dict(py)?;
        written.set_item(intern!(py, "code"), Text(&self.code.to_string()))?;
        written.set_item(intern!(py, "shape"), ints(py, self.shape.iter().copied())?)?;
        if let Some(dtype) = &self.dtype {
            written.set_item(intern!(py, "dtype"), Text(dtype))?;
        }
        if let Some(order) = &self.order {
            written.set_item(intern!(py, "order"), ints(py, order.iter().copied())?)?;
        }
        if self.swapped {
            written.set_item(intern!(py, "swapped"), true)?;
        }
        Ok(written)
    }
}

/// What an array's elements are.
struct Element {
    /// The letter of NumPy's built-in types of numbers; `None` for others, but for bfloat16.
    number: Option<u8>,
    size: usize,
    /// Whether a number begins with its lowest byte.
    little: bool,
    /// Whether the array lies in Fortran's order.
    fortran: bool,
}

fn element(view: &View) -> Element {
    let (number, kind) = view.code;
    let little = view.itemsize <= 1 || view.swapped != cfg!(target_endian = "little");
    let builtin = number < NPY_TYPES::NPY_USERDEF as c_int && b"biufc".contains(&kind);
    let number = if view.dtype == Some(DType::BF16) { Some(b'B') } else { builtin.then_some(kind) };
    Element { number, size: view.itemsize, little, fortran: view.fortran_order }
}

/// The order of an array's axes; see [`Kind`].
fn order(view: &View, fortran: bool) -> Option<Vec<usize>> {
    if view.c_order {
        return None;
    }
    let mut axes: Vec<usize> = (0..view.shape.len()).collect();
    if fortran {
        axes.reverse();
        return Some(axes);
    }
    axes.sort_by_key(|&a| {
        std::cmp::Reverse(if view.shape[a] == 1 { usize::MAX } else { view.strides[a].unsigned_abs() })
    });
    (!axes.is_sorted()).then_some(axes)
}

/// The bytes of this number of elements; `None` if there is no such number.
fn volume(shape: &[isize], itemsize: usize) -> Option<usize> {
    let mut bytes = Some(itemsize);
    for &n in shape {
        let n = usize::try_from(n).ok()?;
        if n == 0 {
            return Some(0);
        }
        bytes = bytes.and_then(|b| b.checked_mul(n));
    }
    bytes.filter(|&b| isize::try_from(b).is_ok())
}

/// `x`, called `what`, itself if its bytes lie as the file has them, in C order and little-endian, else a copy.
fn laid_out<'py>(what: &str, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let view = View::of(x).ok_or_else(|| PyTypeError::new_err("not an array"))?;
    let element = element(&view);
    if view.c_order && element.little && element.number.is_some() {
        return Ok(x.clone());
    }
    let shape = view.shape.to_vec();
    let descr = x.getattr(intern!(py, "dtype"))?.call_method1(intern!(py, "newbyteorder"), ("<",))?;
    let copy = new_array(&descr, &shape)?;
    copy_into(&copy, what, x)?;
    Ok(copy)
}

/// A new array in C order, whose memory is whatever it is.
fn new_array<'py>(descr: &Bound<'py, PyAny>, shape: &[isize]) -> PyResult<Bound<'py, PyAny>> {
    let py = descr.py();
    let is_descr =
        // SAFETY: a live object; NumPy's type object lives as long as the process.
        unsafe { pyo3::ffi::PyObject_TypeCheck(descr.as_ptr(), get_type_object(py, NpyTypes::PyArrayDescr_Type)) != 0 };
    if !is_descr {
        return Err(PyTypeError::new_err("not a dtype"));
    }
    let mut shape = shape.to_vec();
    // SAFETY: `descr` is a descriptor, to which NumPy takes over a reference; the shape has as many lengths as it says; null
    // strides and data ask for memory of NumPy's own.
    unsafe {
        let made = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descr.clone().into_ptr().cast::<PyArray_Descr>(),
            shape.len() as c_int,
            shape.as_mut_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, made)
    }
}

/// Whether the numbers of an array begin with their lowest byte.
fn is_little(x: &Bound<'_, PyAny>) -> bool {
    View::of(x).is_some_and(|view| element(&view).little)
}

/// Gives all NaNs among these elements the same bytes.
fn one_nan(bytes: &mut [u8], kind: &Kind) {
    fn each<const N: usize>(bytes: &mut [u8], nan: [u8; N], is_nan: impl Fn([u8; N]) -> bool) {
        for element in bytes.as_chunks_mut::<N>().0 {
            if is_nan(*element) {
                *element = nan;
            }
        }
    }
    // Above the exponent's bits there is the sign alone, below them the fraction.
    let sixteen = |infinity: u16| move |b| u16::from_le_bytes(b) & 0x7fff > infinity;
    match kind.code {
        Dtype::F16 => each(bytes, 0x7e00_u16.to_le_bytes(), sixteen(0x7c00)),
        Dtype::BF16 => each(bytes, 0x7fc0_u16.to_le_bytes(), sixteen(0x7f80)),
        Dtype::F32 | Dtype::C64 => each(bytes, 0x7fc0_0000_u32.to_le_bytes(), |b| f32::from_le_bytes(b).is_nan()),
        Dtype::F64 => {
            each(bytes, 0x7ff8_0000_0000_0000_u64.to_le_bytes(), |b| f64::from_le_bytes(b).is_nan());
        }
        _ => {}
    }
}

/// The type that safetensors calls `name`.
fn type_named(name: &str) -> PyResult<Dtype> {
    serde_json::from_value(name.into()).map_err(wrong)
}
