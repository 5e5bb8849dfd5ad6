//! One parameter of an update: its leaf and its array, checked.

use std::sync::Arc;

use bumpalo::Bump;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::arena::{List, list_in};
use super::arrays::{View, array, copy_into, is_exact, native, numpy, shape_text, strided};
use super::gradient::Gradient;
use super::layout::Layout;
use super::leaf::{Guard, Leaf, busy};
use super::masked::refuse_other;
use super::memory::allocate;
use super::order::a_leaf;
use super::overlap::answer;
use super::path::place_text;
use super::tree::flatten;
use super::walk::Place;
use crate::chain::Program;
use crate::dtype::DType;
use crate::reserve::{OutOfMemory, Put, Reserve};

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
    /// Whether it is of NumPy's own class: to look at others takes Python code.
    pub exact: bool,
    /// The program of this step, where the leaf's own has schedules.
    pub scheduled: Option<Arc<Program>>,
    /// The gradient at the first place that has one.
    pub gradient: Option<Part<'a, 'py>>,
    /// Those at its other places.
    pub others: Vec<Part<'a, 'py>>,
}

/// A gradient, whether it is that of the transpose, and at which place.
pub type Part<'a, 'py> = (&'a Bound<'py, PyAny>, bool, usize);

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
    let mut entries = list_in(places.len(), arena)?;
    let mut origins = list_in(places.len(), arena)?;
    let mut seen = Seen::default();
    if !in_place {
        seen.0.make_room(places.len())?;
    }
    for (i, place) in places.iter().enumerate() {
        let view = parameter(py, place, i, names)?;
        if in_place && !view.writeable {
            return Err(PyValueError::new_err(format!("parameter at {} is read-only", names.of(i))));
        }
        let new = u32::try_from(entries.len()).map_err(|_| PyValueError::new_err("too many parameters"))?;
        // A leaf that can be entered to write is none of those before: they are taken.
        let guard = if in_place { place.leaf.get().write() } else { None };
        let entry = if guard.is_some() { None } else { seen.find(place.leaf.get(), &entries)? };
        let Some(entry) = entry else {
            let guard = if in_place { guard } else { place.leaf.get().read() };
            let (guard, direct) = checked(py, place, i, &view, guard, names)?;
            let gradient = place.gradient.as_ref().map(|g| (g, false, i));
            let (array, data, others) = (&place.array, view.data, Vec::new());
            let exact = is_exact(array);
            entries.push(Entry { place: i, guard, array, data, direct, exact, scheduled: None, gradient, others });
            origins.push(Origin { entry: new, transposed: false });
            continue;
        };
        let first: &mut Entry = &mut entries[entry as usize];
        let tied = View::of(first.array).and_then(|v| tied(&v, &view));
        let transposed = tied.ok_or_else(|| not_tied(&names.of(first.place), &names.of(i)))?;
        first.add(place, transposed, i)?;
        origins.push(Origin { entry, transposed });
    }
    Ok((entries, origins))
}

/// The entries by their leaves, as far as somebody asked: in place, that is only where there are ties.
#[derive(Default)]
struct Seen(FxHashMap<*const Leaf, u32>);

impl Seen {
    /// Which of `entries` has this leaf.
    fn find(&mut self, leaf: &Leaf, entries: &[Entry]) -> Result<Option<u32>, OutOfMemory> {
        self.0.make_room(entries.len() - self.0.len())?;
        for entry in &entries[self.0.len()..] {
            let i = self.0.len() as u32;
            self.0.insert(entry.leaf(), i);
        }
        Ok(self.0.get(&std::ptr::from_ref(leaf)).copied())
    }
}

/// Leave to use a leaf met for the first time, and whether the array is stepped where it lies. `guard`: `None` if somebody
/// else uses the leaf.
#[inline]
fn checked<'a>(
    py: Python<'_>,
    place: &'a Place,
    i: usize,
    view: &View,
    guard: Option<Guard<'a>>,
    names: &Names,
) -> PyResult<(Guard<'a>, bool)> {
    let leaf = place.leaf.get();
    if !leaf.layout.has_shape(view.shape) {
        return Err(wrong_shape(py, leaf, view, &names.of(i)));
    }
    let guard = guard.ok_or_else(busy)?;
    let direct = view.plain && leaf.layout.matches(view);
    if guard.writes()
        && !direct
        && let Some(lies) = strided(&place.array)
        && answer(py, lies.overlaps_itself())?
    {
        return Err(PyValueError::new_err(format!("parameter at {} shares elements with itself", names.of(i))));
    }
    Ok((guard, direct))
}

impl<'a, 'py> Entry<'a, 'py> {
    /// Adds the gradient at another place.
    fn add(&mut self, place: &'a Place<'py>, transposed: bool, i: usize) -> Result<(), OutOfMemory> {
        let Some(g) = &place.gradient else { return Ok(()) };
        match self.gradient {
            None => self.gradient = Some((g, transposed, i)),
            Some(_) => self.others.put((g, transposed, i))?,
        }
        Ok(())
    }

    /// The leaf.
    pub fn leaf(&self) -> &'a Leaf {
        self.guard.leaf()
    }

    /// The addresses from the parameter's first byte to behind its last one.
    #[inline]
    pub fn span(&self) -> (usize, usize) {
        let size = self.leaf().dtype.size();
        let view = if self.direct { None } else { View::of(self.array) };
        let gapless = || (self.data as usize, self.data as usize + self.leaf().layout.len * size);
        view.map_or_else(gapless, |v| v.span(size))
    }
}

/// The parts of the model's array at a place; its type must be the leaf's.
#[inline]
fn parameter<'a>(py: Python<'_>, place: &'a Place, i: usize, names: &Names) -> PyResult<View<'a>> {
    let leaf = place.leaf.get();
    let Some(view) = View::of(&place.array) else {
        if place.array.is_exact_instance_of::<Leaf>() {
            return Err(a_leaf("model", &names.of(i), "second"));
        }
        let kind = place.array.get_type().name()?;
        let scalar = place.array.is_instance(&numpy(py)?.getattr(intern!(py, "generic"))?)?;
        let hint =
            if scalar { "; arithmetic with 0-d arrays returns scalars, np.asarray(x) keeps them arrays" } else { "" };
        let text = format!("model at {} is {kind}, the state has a Leaf there{hint}", names.of(i));
        return Err(PyTypeError::new_err(text));
    };
    if view.dtype == Some(leaf.dtype) {
        if !is_exact(&place.array) {
            refuse_other(&place.array, || format!("parameter at {}", names.of(i)))?;
        }
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
pub fn tied<'a>(a: &View<'a>, b: &View<'a>) -> Option<bool> {
    if a.data != b.data || a.dtype != b.dtype || a.shape.len() != b.shape.len() {
        return None;
    }
    // The stride of an axis of length 1 leads nowhere, so any will do.
    let alike = |(x, y): ((&isize, &isize), (&isize, &isize))| x.0 == y.0 && (*x.0 == 1 || x.1 == y.1);
    let axes = |v: &View<'a>| v.shape.iter().zip(v.strides);
    if axes(a).zip(axes(b)).all(alike) {
        return Some(false);
    }
    axes(a).zip(axes(b).rev()).all(alike).then_some(true)
}

impl<'py> Entry<'_, 'py> {
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

fn new_array<'py>(
    py: Python<'py>,
    descr: &Bound<'py, PyAny>,
    dtype: DType,
    layout: &Layout,
) -> PyResult<Bound<'py, PyAny>> {
    let place = allocate(py, &[(0, layout.len * dtype.size())])?.remove(0);
    array(py, &place, descr, dtype.size(), layout)
}
