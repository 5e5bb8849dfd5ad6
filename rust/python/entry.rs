//! One parameter of an update: its leaf, its array and its gradient, checked.

use std::sync::Arc;

use bumpalo::Bump;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustc_hash::FxHashMap;

use super::arena::List;
use super::arrays::{Layout, Memory, View, array, copy_into, descriptor, native, overlaps_itself, shape_text};
use super::leaf::{Guard, Leaf, Moments, busy};
use super::path::place_text;
use super::tree::flatten;
use super::walk::Place;
use crate::chain::Program;
use crate::dtype::DType;
use crate::job::Source;

/// A parameter, once however many places it stands at.
pub struct Entry<'a, 'py> {
    /// The first of its places.
    pub place: usize,
    /// Leave to use its leaf.
    pub guard: Guard<'a>,
    /// Its array at the first place.
    pub array: &'a Bound<'py, PyAny>,
    /// Where that lies.
    pub data: *mut u8,
    /// Whether the array is stepped where it lies; if not, through a copy.
    pub direct: bool,
    /// The program of this step, where the leaf's own has schedules.
    pub scheduled: Option<Arc<Program>>,
    /// The gradient at the first place that has one.
    gradient: Option<Part<'a, 'py>>,
    /// Those at its other places.
    others: Vec<Part<'a, 'py>>,
}

/// A gradient, whether it is that of the transpose, and at which place.
type Part<'a, 'py> = (&'a Bound<'py, PyAny>, bool, usize);

/// Where a place's array comes from: an entry, transposed or not.
#[derive(Clone, Copy)]
pub struct Origin {
    /// The index of the entry.
    pub entry: u32,
    /// Whether the place has the transpose of the entry's array.
    pub transposed: bool,
}

/// Names the places of a state tree, for errors.
pub struct Names<'a, 'py>(pub &'a Bound<'py, PyAny>);

impl Names<'_, '_> {
    /// The key path of place `i`.
    pub fn of(&self, i: usize) -> String {
        let leaves = flatten(self.0, true).unwrap_or_default();
        let mut paths = leaves.iter().filter(|l| l.1.is_exact_instance_of::<Leaf>());
        paths.nth(i).map_or_else(|| "?".into(), |l| place_text(&l.0))
    }
}

/// The entries of all places, ties joined, and where each place's array comes from.
pub fn entries<'b, 'a, 'py>(
    arena: &'b Bump,
    py: Python<'py>,
    places: &'a [Place<'py>],
    names: &Names,
    in_place: bool,
) -> PyResult<(List<'b, Entry<'a, 'py>>, List<'b, Origin>)> {
    let mut entries = List::with_capacity_in(places.len(), arena);
    let mut origins = List::with_capacity_in(places.len(), arena);
    let mut seen: FxHashMap<*const Leaf, u32> = FxHashMap::default();
    seen.reserve(places.len());
    for (i, place) in places.iter().enumerate() {
        let view = parameter(py, place, i, names)?;
        if in_place && !view.writeable {
            return Err(PyValueError::new_err(format!("parameter at {} is read-only", names.of(i))));
        }
        let new = u32::try_from(entries.len()).map_err(|_| PyValueError::new_err("too many parameters"))?;
        let entry = *seen.entry(place.leaf.get()).or_insert(new);
        let transposed = if entry == new {
            entries.push(Entry::new(py, place, i, &view, names, in_place)?);
            false
        } else {
            let first: &Entry = &entries[entry as usize];
            let tied = View::of(first.array).and_then(|v| tied(&v, &view));
            tied.ok_or_else(|| not_tied(&names.of(first.place), &names.of(i)))?
        };
        origins.push(Origin { entry, transposed });
        entries[entry as usize].add(place, transposed, i);
    }
    Ok((entries, origins))
}

impl<'a, 'py> Entry<'a, 'py> {
    fn new(
        py: Python<'py>,
        place: &'a Place<'py>,
        i: usize,
        view: &View,
        names: &Names,
        in_place: bool,
    ) -> PyResult<Self> {
        let leaf = place.leaf.get();
        if !leaf.layout.has_shape(view.shape) {
            return Err(wrong_shape(py, leaf, view, &names.of(i)));
        }
        let guard = if in_place { leaf.write() } else { leaf.read() }.ok_or_else(busy)?;
        let direct = view.plain && leaf.layout.matches(view);
        if in_place && !direct && overlaps_itself(view, leaf.dtype.size()) {
            return Err(PyValueError::new_err(format!("parameter at {} shares elements with itself", names.of(i))));
        }
        let (array, data) = (&place.array, view.data);
        Ok(Self { place: i, guard, array, data, direct, scheduled: None, gradient: None, others: Vec::new() })
    }

    /// Adds the gradient at a place.
    fn add(&mut self, place: &'a Place<'py>, transposed: bool, i: usize) {
        let Some(g) = &place.gradient else { return };
        match self.gradient {
            None => self.gradient = Some((g, transposed, i)),
            Some(_) => self.others.push((g, transposed, i)),
        }
    }

    /// The leaf.
    pub fn leaf(&self) -> &'a Leaf {
        self.guard.leaf()
    }

    /// The addresses from the parameter's first byte to behind its last one.
    pub fn span(&self) -> (usize, usize) {
        let size = self.leaf().dtype.size();
        let view = if self.direct { None } else { View::of(self.array) };
        let gapless = || (self.data as usize, self.data as usize + self.leaf().layout.len * size);
        view.map_or_else(gapless, |v| v.span(size))
    }
}

/// The parts of the model's array at a place; its type must be the leaf's.
fn parameter<'a>(py: Python<'_>, place: &'a Place, i: usize, names: &Names) -> PyResult<View<'a>> {
    let leaf = place.leaf.get();
    let Some(view) = View::of(&place.array) else {
        let kind = place.array.get_type().name()?;
        return Err(PyTypeError::new_err(format!("model at {} is {kind}, the state has a Leaf there", names.of(i))));
    };
    if view.dtype == Some(leaf.dtype) {
        return Ok(view);
    }
    let dtype = place.array.getattr(intern!(py, "dtype"))?;
    Err(PyTypeError::new_err(format!("parameter at {} is {dtype}, its Leaf is {}", names.of(i), leaf.dtype.name())))
}

fn wrong_shape(py: Python<'_>, leaf: &Leaf, view: &View, place: &str) -> PyErr {
    let (a, b) = (shape_text(py, view.shape), shape_text(py, &leaf.layout.shape));
    PyValueError::new_err(format!("parameter at {place} has shape {a}, its Leaf has {b}"))
}

fn not_tied(first: &str, second: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{first} and {second} are one parameter in the state, but different arrays in the model; views such as \
         transposes are pickled and copied apart: tie them again"
    ))
}

/// Whether `b` is the array `a` (`Some(false)`), its full transpose (`Some(true)`), or neither.
pub fn tied(a: &View, b: &View) -> Option<bool> {
    if a.data != b.data || a.dtype != b.dtype || a.shape.len() != b.shape.len() {
        return None;
    }
    if a.shape == b.shape && a.strides == b.strides {
        return Some(false);
    }
    let reversed = |x: &[isize], y: &[isize]| x.iter().eq(y.iter().rev());
    (reversed(a.shape, b.shape) && reversed(a.strides, b.strides)).then_some(true)
}

/// A gradient ready to be read: gapless, in the order of the leaf.
pub struct Gradient<'a, 'py> {
    /// Where it is.
    pub source: Source,
    /// The array.
    pub array: Held<'a, 'py>,
}

/// An array that keeps what is read alive.
pub enum Held<'a, 'py> {
    /// The caller's.
    Given(&'a Bound<'py, PyAny>),
    /// One made for the step, which took Python code.
    Made(Bound<'py, PyAny>),
    /// A copy of the elements, which nobody else knows.
    Copied { _memory: Py<Memory> },
}

impl<'py> Held<'_, 'py> {
    /// The array that somebody else may know, too.
    pub fn array(&self) -> Option<&Bound<'py, PyAny>> {
        match self {
            Self::Given(array) => Some(array),
            Self::Made(array) => Some(array),
            Self::Copied { .. } => None,
        }
    }
}

impl<'a, 'py> Entry<'a, 'py> {
    /// The type in which the parameter is stepped: the master's, if there is one.
    pub fn working(&self) -> DType {
        match &self.guard.get().moments {
            Moments::Compiled { program, .. } => program.working(self.leaf().dtype),
            Moments::Own(_) => self.leaf().dtype,
        }
    }

    /// The type to which gradients are converted: as [`Entry::working`], also where a master copy is a rule's in Python.
    fn wanted(&self, py: Python<'py>) -> PyResult<DType> {
        let inner = self.guard.get();
        let master = match inner.moments {
            Moments::Own(_) => inner.rule.bind(py).getattr(intern!(py, "_master"))?,
            Moments::Compiled { .. } => return Ok(self.working()),
        };
        let Some(master) = master.extract::<Option<String>>()? else { return Ok(self.working()) };
        Ok(match DType::from_name(&master) {
            Some(DType::F64) if self.leaf().dtype.is_complex() => DType::C128,
            Some(_) if self.leaf().dtype.is_complex() => DType::C64,
            Some(dtype) => dtype,
            None => self.leaf().dtype,
        })
    }

    /// The gradient of the step: the sum over the parameter's places; `None` where there is no step.
    pub fn gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'a, 'py>>> {
        let gradient = self.checked_gradient(py, names)?;
        Ok(gradient.filter(|_| !self.guard.get().frozen))
    }

    fn checked_gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'a, 'py>>> {
        let own = matches!(self.guard.get().moments, Moments::Own(_));
        match self.gradient {
            None => Ok(None),
            Some((g, false, _)) if !own && self.others.is_empty() => match self.as_is(g) {
                Some(gradient) => Ok(Some(gradient)),
                None => self.converted(py, names).map(Some),
            },
            Some(_) => self.converted(py, names).map(Some),
        }
    }

    /// The gradient where it lies, if the driver can read it there.
    fn as_is(&self, g: &'a Bound<'py, PyAny>) -> Option<Gradient<'a, 'py>> {
        let view = View::of(g)?;
        let (dtype, working) = (view.dtype?, self.working());
        let readable = dtype == working
            || match working {
                DType::F32 | DType::F64 => !dtype.is_complex(),
                DType::C64 | DType::C128 => dtype.is_complex(),
                DType::F16 | DType::BF16 => false,
            };
        let layout = &self.leaf().layout;
        let fits = readable && view.plain && layout.has_shape(view.shape) && layout.matches(&view);
        fits.then(|| Gradient { source: Source { ptr: view.data, dtype }, array: Held::Given(g) })
    }

    /// The gradient converted, summed and laid out by NumPy.
    fn converted(&self, py: Python<'py>, names: &Names) -> PyResult<Gradient<'a, 'py>> {
        let working = self.wanted(py)?;
        let layout = &self.leaf().layout;
        let order: Vec<isize> = layout.strides.iter().map(|s| s * working.size() as isize).collect();
        let dtype = if working == self.leaf().dtype { native(self.array, working)? } else { descriptor(py, working)? };
        let helpers = py.import(intern!(py, "optirs._gradient"))?;
        let convert = helpers.getattr(intern!(py, "converted"))?;
        let parts = PyList::empty(py);
        for &(g, transposed, place) in self.gradient.iter().chain(&self.others) {
            let part = convert.call1((g, &dtype, &layout.shape, transposed));
            parts.append(part.map_err(|e| placed(py, e, &names.of(place)))?)?;
        }
        let array = helpers.call_method1(intern!(py, "total"), (parts, dtype, &layout.shape, order))?;
        let Some(view) = View::of(&array) else { return Err(PyTypeError::new_err("the gradient is no array")) };
        let dtype = view.dtype.unwrap_or(working);
        Ok(Gradient { source: Source { ptr: view.data, dtype }, array: Held::Made(array.clone()) })
    }

    /// A gapless copy of the parameter in the leaf's own order.
    pub fn gapless(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let copy = new_array(py, &native(self.array, self.leaf().dtype)?, self.leaf().dtype, &self.leaf().layout)?;
        copy_into(&copy, self.array)?;
        Ok(copy)
    }

    /// Looks at the arrays again, after Python code has run: from here on no more of it does until all is written.
    pub fn look_again(&self, gradient: Option<&Gradient>, names: &Names, in_place: bool) -> PyResult<()> {
        let layout = &self.leaf().layout;
        let same = View::of(self.array).is_some_and(|v| {
            v.dtype == Some(self.leaf().dtype)
                && v.shape == layout.shape
                && v.data == self.data
                && self.direct == (v.plain && layout.matches(&v))
                && (v.writeable || !in_place)
        });
        let same_gradient = gradient.is_none_or(|g| {
            let Some(array) = g.array.array() else { return true };
            View::of(array).is_some_and(|v| {
                v.data.cast_const() == g.source.ptr
                    && v.dtype == Some(g.source.dtype)
                    && v.shape == layout.shape
                    && v.plain
                    && layout.matches(&v)
            })
        });
        if same && same_gradient {
            return Ok(());
        }
        let place = names.of(self.place);
        Err(PyRuntimeError::new_err(format!("the arrays at {place} were changed while the update looked at them")))
    }
}

/// An error whose text starts with what is wrong, with the place put before it.
fn placed(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    if !error.is_instance_of::<PyValueError>(py) && !error.is_instance_of::<PyTypeError>(py) {
        return error;
    }
    let text = format!("gradient at {place} {}", error.value(py));
    let placed = PyErr::from_type(error.get_type(py), text);
    placed.set_cause(py, error.cause(py));
    placed
}

fn new_array<'py>(
    py: Python<'py>,
    descr: &Bound<'py, PyAny>,
    dtype: DType,
    layout: &Layout,
) -> PyResult<Bound<'py, PyAny>> {
    let place = super::arrays::allocate(py, &[(0, layout.len * dtype.size())])?.remove(0);
    array(py, &place, descr, dtype.size(), layout)
}
