//! One parameter of an update: its leaf, its array and its gradient, checked.

use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustc_hash::FxHashMap;

use super::arrays::{Layout, View, array, copy_into, descriptor, native, shape_text};
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
    /// Its leaf.
    pub leaf: &'a Leaf,
    /// Leave to use the leaf.
    pub guard: Guard<'a>,
    /// Its array at the first place.
    pub array: &'a Bound<'py, PyAny>,
    /// What that is made of.
    pub view: View<'a>,
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
    pub entry: usize,
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
pub fn entries<'a, 'py>(
    py: Python<'py>,
    places: &'a [Place<'py>],
    names: &Names,
    in_place: bool,
) -> PyResult<(Vec<Entry<'a, 'py>>, Vec<Origin>)> {
    let mut entries: Vec<Entry> = Vec::with_capacity(places.len());
    let mut origins = Vec::with_capacity(places.len());
    let mut seen: FxHashMap<*const Leaf, usize> = FxHashMap::default();
    seen.reserve(places.len());
    for (i, place) in places.iter().enumerate() {
        let leaf = place.leaf.get();
        let view = parameter(py, leaf, place, i, names)?;
        let known = seen.get(&std::ptr::from_ref(leaf)).copied();
        let origin = match known {
            Some(entry) => {
                let transposed = tied(&entries[entry].view, &view)
                    .ok_or_else(|| not_tied(&names.of(entries[entry].place), &names.of(i)))?;
                Origin { entry, transposed }
            }
            None => {
                if view.shape != leaf.layout.shape {
                    return Err(wrong_shape(py, leaf, &view, &names.of(i)));
                }
                seen.insert(leaf, entries.len());
                let guard = if in_place { leaf.write() } else { leaf.read() }.ok_or_else(busy)?;
                let direct = view.plain && leaf.layout.matches(&view);
                entries.push(Entry {
                    place: i,
                    leaf,
                    guard,
                    array: &place.array,
                    view,
                    direct,
                    scheduled: None,
                    gradient: None,
                    others: Vec::new(),
                });
                Origin { entry: entries.len() - 1, transposed: false }
            }
        };
        if in_place && !entries[origin.entry].view.writeable {
            return Err(PyValueError::new_err(format!("parameter at {} is read-only", names.of(i))));
        }
        let entry = &mut entries[origin.entry];
        if let Some(g) = &place.gradient {
            let part = (g, origin.transposed, i);
            match entry.gradient {
                None => entry.gradient = Some(part),
                Some(_) => entry.others.push(part),
            }
        }
        origins.push(origin);
    }
    Ok((entries, origins))
}

/// The parts of the model's array at a place; its type must be the leaf's.
fn parameter<'a>(py: Python<'_>, leaf: &Leaf, place: &'a Place, i: usize, names: &Names) -> PyResult<View<'a>> {
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

/// A gradient ready to be read, and the object that keeps it alive.
pub struct Gradient<'py> {
    /// Where it is.
    pub source: Source,
    /// From its first byte to behind its last one.
    pub span: (usize, usize),
    /// The array.
    pub array: Bound<'py, PyAny>,
}

impl<'py> Entry<'_, 'py> {
    /// The type in which the parameter is stepped: the master's, if there is one.
    pub fn working(&self) -> DType {
        match &self.guard.get().moments {
            Moments::Compiled { program, .. } => program.working(self.leaf.dtype),
            Moments::Own(_) => self.leaf.dtype,
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
            Some(DType::F64) if self.leaf.dtype.is_complex() => DType::C128,
            Some(_) if self.leaf.dtype.is_complex() => DType::C64,
            Some(dtype) => dtype,
            None => self.leaf.dtype,
        })
    }

    /// The gradient of the step: the sum over the parameter's places; `None` where there is no step.
    pub fn gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'py>>> {
        let gradient = self.checked_gradient(py, names)?;
        Ok(gradient.filter(|_| !self.guard.get().frozen))
    }

    fn checked_gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'py>>> {
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
    fn as_is(&self, g: &Bound<'py, PyAny>) -> Option<Gradient<'py>> {
        let view = View::of(g)?;
        let (dtype, working) = (view.dtype?, self.working());
        let readable = dtype == working
            || match working {
                DType::F32 | DType::F64 => !dtype.is_complex(),
                DType::C64 | DType::C128 => dtype.is_complex(),
                DType::F16 | DType::BF16 => false,
            };
        let layout = &self.leaf.layout;
        let fits = readable && view.plain && view.shape == layout.shape && layout.matches(&view);
        fits.then(|| Gradient {
            source: Source { ptr: view.data, dtype },
            span: view.span(dtype.size()),
            array: g.clone(),
        })
    }

    /// The gradient converted, summed and laid out by NumPy.
    fn converted(&self, py: Python<'py>, names: &Names) -> PyResult<Gradient<'py>> {
        let working = self.wanted(py)?;
        let layout = &self.leaf.layout;
        let order: Vec<isize> = layout.strides.iter().map(|s| s * working.size() as isize).collect();
        let dtype = if working == self.leaf.dtype { native(self.array, working)? } else { descriptor(py, working)? };
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
        Ok(Gradient { source: Source { ptr: view.data, dtype }, span: view.span(dtype.size()), array: array.clone() })
    }

    /// A gapless copy of the parameter in the leaf's own order.
    pub fn gapless(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let copy = new_array(py, &native(self.array, self.leaf.dtype)?, self.leaf.dtype, &self.leaf.layout)?;
        copy_into(&copy, self.array)?;
        Ok(copy)
    }

    /// Looks at the arrays again, after Python code has run: from here on no more of it does until all is written.
    pub fn refresh(&mut self, gradient: Option<&Gradient<'py>>, names: &Names, in_place: bool) -> PyResult<()> {
        let layout = &self.leaf.layout;
        let view = View::of(self.array).filter(|v| {
            v.dtype == Some(self.leaf.dtype)
                && v.shape == layout.shape
                && v.data == self.view.data
                && self.direct == (v.plain && layout.matches(v))
                && (v.writeable || !in_place)
        });
        let same_gradient = gradient.is_none_or(|g| {
            View::of(&g.array).is_some_and(|v| {
                v.data.cast_const() == g.source.ptr
                    && v.dtype == Some(g.source.dtype)
                    && v.shape == layout.shape
                    && v.plain
                    && layout.matches(&v)
            })
        });
        match view {
            Some(view) if same_gradient => {
                self.view = view;
                Ok(())
            }
            _ => {
                let place = names.of(self.place);
                Err(PyRuntimeError::new_err(format!(
                    "the arrays at {place} were changed while the update looked at them"
                )))
            }
        }
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
