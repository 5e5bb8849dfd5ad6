//! One parameter of an update: its leaf, its array, and its gradient, which is checked, converted, and summed over its places.

use std::sync::Arc;

use bumpalo::Bump;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustc_hash::FxHashMap;

use crate::loops::dtype::DType;
use crate::memory::reserve::{OutOfMemory, Put, Reserve, check};
use crate::memory::strides::Search;
use crate::program::contract::Hyper;
use crate::python::array::access::{Places, Seen};
use crate::python::array::masked::refuse_other;
use crate::python::array::{Layout, Look, MemoryPart, View, descriptor, is_array, is_exact, numpy, shape_text};
use crate::python::errors::{asked, moved, noted};
use crate::python::leaf::{Access, Leaf, busy};
use crate::python::memory::arena::{List, list_in};
use crate::python::tree::node::flatten;
use crate::python::tree::order::a_leaf;
use crate::python::tree::path::place_text;
use crate::python::tree::walk::TreePlace;

/// A parameter, once however many places it stands at.
pub struct Entry<'a, 'py> {
    /// The first of its places.
    pub place: usize,
    /// Access to its leaf.
    pub guard: Access<'a>,
    /// Its array at the first place.
    pub array: &'a Bound<'py, PyAny>,
    /// Where that lay when it was looked at.
    pub address: usize,
    /// How it lay, if it is not stepped where it lies but through a copy.
    pub strided: Option<Box<View>>,
    /// The hyper-parameters of its links at this step, where a function in Python has said what they are.
    pub given: Option<Arc<[Hyper]>>,
    /// The gradient at the first place that has one.
    pub gradient: Option<GradientTerm<'a, 'py>>,
    /// Those at its other places.
    pub others: Vec<GradientTerm<'a, 'py>>,
}

/// A gradient, whether it is the transpose's, and at which place it stands.
pub type GradientTerm<'a, 'py> = (&'a Bound<'py, PyAny>, bool, usize);

/// Where a place's array comes from: an entry, transposed or not.
#[derive(Clone, Copy)]
pub struct ArrayOrigin {
    /// The index of the entry.
    pub entry: u32,
    /// Whether the place has the transpose of the entry's array.
    pub transposed: bool,
}

/// Names the places of a state tree, for errors.
pub struct Names<'a, 'py>(pub &'a Bound<'py, PyAny>);

impl Names<'_, '_> {
    /// The key path of place `i`.
    pub fn of(&self, i: usize) -> PyResult<String> {
        let leaves = asked(self.0.py(), flatten(self.0, true))?.unwrap_or_default();
        let mut paths = leaves.iter().filter(|l| l.1.is_exact_instance_of::<Leaf>());
        paths.nth(i).map_or_else(|| Ok("?".into()), |l| place_text(&l.0))
    }
}

impl Places for Names<'_, '_> {
    fn name(&self, i: usize) -> PyResult<String> {
        self.of(i)
    }
}

/// The entries of all places, ties joined, and where each place's array comes from.
pub fn entries<'b, 'a, 'py>(
    arena: &'b Bump,
    py: Python<'py>,
    places: &'a [TreePlace<'py>],
    names: &Names,
    in_place: bool,
) -> PyResult<(List<'b, Entry<'a, 'py>>, List<'b, ArrayOrigin>)> {
    let mut entries = list_in(places.len(), arena)?;
    let mut origins = list_in(places.len(), arena)?;
    let mut seen = Known::default();
    if !in_place {
        seen.0.make_room(places.len())?;
    }
    for (i, place) in places.iter().enumerate() {
        let look = parameter(py, place, i, names)?;
        if in_place && !look.writeable {
            return Err(PyValueError::new_err(format!("parameter at {} is read-only", names.of(i)?)));
        }
        let new = u32::try_from(entries.len()).map_err(|_| PyValueError::new_err("too many parameters"))?;
        // A leaf that can be entered to write is none of those before: they are taken.
        let guard = if in_place { place.leaf.get().write() } else { None };
        let entry = if guard.is_some() { None } else { seen.find(place.leaf.get(), &entries)? };
        let Some(entry) = entry else {
            let guard = if in_place { guard } else { place.leaf.get().read() };
            let (guard, strided) = checked(py, place, i, &look, guard, names)?;
            let gradient = place.gradient.as_ref().map(|g| (g, false, i));
            let (array, address, others) = (&place.array, look.address, Vec::new());
            entries.push(Entry { place: i, guard, array, address, strided, given: None, gradient, others });
            origins.push(ArrayOrigin { entry: new, transposed: false });
            continue;
        };
        let first: &mut Entry = &mut entries[entry as usize];
        let tied = View::of(first.array).zip(View::of(&place.array)).and_then(|(a, b)| tied(&a, &b));
        let Some(transposed) = tied else { return Err(not_tied(&names.of(first.place)?, &names.of(i)?)) };
        first.add(place, transposed, i)?;
        origins.push(ArrayOrigin { entry, transposed });
    }
    Ok((entries, origins))
}

/// A lazy index from leaf to entry: filled as far as a leaf was looked up, in place only where there are ties.
#[derive(Default)]
struct Known(FxHashMap<*const Leaf, u32>);

impl Known {
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

/// Access to a leaf met for the first time, and how the array lies if it is not stepped there. `guard`: `None` if the
/// leaf is in use.
#[inline]
fn checked<'a>(
    py: Python<'_>,
    place: &'a TreePlace,
    i: usize,
    look: &Look,
    guard: Option<Access<'a>>,
    names: &Names,
) -> PyResult<(Access<'a>, Option<Box<View>>)> {
    if !look.fits {
        return Err(wrong_shape(py, place, &names.of(i)?));
    }
    let guard = guard.ok_or_else(busy)?;
    if look.laid {
        return Ok((guard, None));
    }
    // Nothing has run since the first look that could have made it something else than an array.
    let Some(view) = View::of(&place.array) else {
        return Err(PyTypeError::new_err(format!("no array at {}", names.of(i)?)));
    };
    if guard.writes()
        && let Some(lies) = view.strided()
        && answer(py, lies.overlaps_itself())?
    {
        return Err(PyValueError::new_err(format!("parameter at {} shares elements with itself", names.of(i)?)));
    }
    check::<View>(1)?; // one for each such parameter
    Ok((guard, Some(Box::new(view))))
}

impl<'a, 'py> Entry<'a, 'py> {
    /// Adds the gradient at another place.
    fn add(&mut self, place: &'a TreePlace<'py>, transposed: bool, i: usize) -> Result<(), OutOfMemory> {
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
        let gapless = || (self.address, self.address + self.leaf().layout.len * self.leaf().dtype.size());
        self.strided.as_ref().map_or_else(gapless, |view| view.span())
    }

    /// How the parameter lay when it was looked at.
    #[inline]
    pub fn seen(&self) -> Seen<'_> {
        let leaf = self.leaf();
        match &self.strided {
            None => Seen::Laid { address: self.address, dtype: leaf.dtype, layout: &leaf.layout },
            Some(view) => Seen::Other(view),
        }
    }
}

/// A look at the model's array at a place; its type must be the leaf's.
#[inline]
fn parameter(py: Python<'_>, place: &TreePlace, i: usize, names: &Names) -> PyResult<Look> {
    let leaf = place.leaf.get();
    if !is_exact(&place.array) && is_array(&place.array) {
        refuse_other(&place.array, || Ok(format!("parameter at {}", names.of(i)?)))?;
    }
    match Look::at(&place.array, &leaf.layout) {
        Some(look) if look.dtype == Some(leaf.dtype) => Ok(look),
        look => Err(no_parameter(py, place, look, &names.of(i)?)?),
    }
}

#[cold]
fn no_parameter(py: Python<'_>, place: &TreePlace, look: Option<Look>, name: &str) -> PyResult<PyErr> {
    if look.is_some() {
        let (dtype, expected) = (place.array.getattr(intern!(py, "dtype"))?, place.leaf.get().dtype.name());
        return Ok(PyTypeError::new_err(format!("parameter at {name} is {dtype}, its Leaf is {expected}")));
    }
    if place.array.is_exact_instance_of::<Leaf>() {
        return Ok(a_leaf("model", name, "second"));
    }
    let kind = place.array.get_type().name()?;
    let scalar = place.array.is_instance(&numpy(py)?.getattr(intern!(py, "generic"))?)?;
    let hint =
        if scalar { "; arithmetic with 0-d arrays returns scalars, np.asarray(x) keeps them arrays" } else { "" };
    Ok(PyTypeError::new_err(format!("model at {name} is {kind}, the state has a Leaf there{hint}")))
}

fn wrong_shape(py: Python<'_>, place: &TreePlace, name: &str) -> PyErr {
    let found = View::of(&place.array).map_or_else(String::new, |view| shape_text(py, &view.shape));
    let expected = shape_text(py, &place.leaf.get().layout.shape);
    PyValueError::new_err(format!("parameter at {name} has shape {found}, its Leaf has {expected}"))
}

fn not_tied(first: &str, second: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{first} and {second} are one parameter in the state, but different arrays in the model; views such as \
         transposes are pickled and copied apart: tie them again"
    ))
}

/// Whether `b` is the array `a` (`Some(false)`), its full transpose (`Some(true)`), or neither.
pub fn tied(a: &View, b: &View) -> Option<bool> {
    if a.address != b.address || a.dtype != b.dtype || a.swapped != b.swapped || a.shape.len() != b.shape.len() {
        return None;
    }
    // The stride of an axis of length 1 leads nowhere, so any will do.
    let alike = |(x, y): ((&isize, &isize), (&isize, &isize))| x.0 == y.0 && (*x.0 == 1 || x.1 == y.1);
    let [a, b] = [a, b].map(|v| v.shape.iter().zip(&v.strides));
    if a.clone().zip(b.clone()).all(alike) {
        return Some(false);
    }
    a.zip(b.rev()).all(alike).then_some(true)
}

/// Trials of a search that take no time to speak of, and those that take some ten milliseconds.
const TRIALS: [usize; 2] = [1 << 10, 1 << 20];

/// The answer of a search. One that takes long lets other threads run, and Ctrl-C ends it.
pub fn answer(py: Python<'_>, mut search: Search) -> PyResult<bool> {
    let mut answer = search.advance(TRIALS[0]);
    loop {
        if let Some(answer) = answer {
            return Ok(answer);
        }
        py.check_signals()?;
        answer = py.detach(|| search.advance(TRIALS[1]));
    }
}

/// A gradient ready to be read: gapless, in the order of the leaf.
pub struct Gradient<'a, 'py> {
    /// Where it lay when it was looked at.
    pub address: usize,
    /// The type of its elements.
    pub dtype: DType,
    /// The array.
    pub array: Held<'a, 'py>,
    /// Where it is copied to before anything is written, if something that is written shares its memory.
    pub copy: Option<MemoryPart>,
}

impl Gradient<'_, '_> {
    /// Where the step reads it.
    pub fn read_at(&self) -> usize {
        self.copy.as_ref().map_or(self.address, |copy| copy.ptr as usize)
    }

    /// How it lay when it was looked at; `layout` is the leaf's.
    #[inline]
    pub fn seen<'s>(&self, layout: &'s Layout) -> Seen<'s> {
        Seen::Laid { address: self.address, dtype: self.dtype, layout }
    }
}

/// An array that keeps what is read alive.
pub enum Held<'a, 'py> {
    /// The caller's.
    Given(&'a Bound<'py, PyAny>),
    /// One made for the step.
    Made(Bound<'py, PyAny>),
}

impl<'py> Held<'_, 'py> {
    /// The array.
    #[inline]
    pub fn array(&self) -> &Bound<'py, PyAny> {
        match self {
            Self::Given(array) => array,
            Self::Made(array) => array,
        }
    }
}

impl<'a, 'py> Entry<'a, 'py> {
    /// The type in which the parameter is stepped: the master's, if there is one.
    pub fn working(&self) -> DType {
        self.guard.get().moments.program.working(self.leaf().dtype)
    }

    /// The gradient of the step: the sum over the parameter's places; `None` where there is no step.
    #[inline(always)]
    pub fn gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'a, 'py>>> {
        let Some((g, transposed, _)) = self.gradient else { return Ok(None) };
        let inner = self.guard.get();
        let alone = !transposed && self.others.is_empty();
        let gradient = match if alone { self.as_is(g) } else { None } {
            Some(gradient) => gradient,
            None => self.converted(py, names)?,
        };
        Ok((!inner.frozen).then_some(gradient))
    }

    /// The gradient where it lies, if the driver can read it there: it converts real types to real ones, complex to complex.
    #[inline]
    fn as_is(&self, g: &'a Bound<'py, PyAny>) -> Option<Gradient<'a, 'py>> {
        // Others may be masked, which takes Python code to see.
        let look = Look::at(g, &self.leaf().layout).filter(|_| is_exact(g))?;
        let dtype = look.dtype?;
        let fits = look.laid && dtype.is_complex() == self.leaf().dtype.is_complex();
        fits.then_some(Gradient { address: look.address, dtype, array: Held::Given(g), copy: None })
    }

    /// The gradient converted, summed and laid out by NumPy.
    #[cold]
    fn converted(&self, py: Python<'py>, names: &Names) -> PyResult<Gradient<'a, 'py>> {
        let wanted = self.working().compute().dtype(); // also where a rule of the user's own gets it
        let layout = &self.leaf().layout;
        let (dtype, parameter) = (descriptor(py, wanted)?, descriptor(py, self.leaf().dtype)?);
        let helpers = py.import(intern!(py, "optirs._gradient"))?;
        let convert = helpers.getattr(intern!(py, "converted"))?;
        let parts = PyList::empty(py);
        for &(g, transposed, place) in self.gradient.iter().chain(&self.others) {
            if g.is_exact_instance_of::<Leaf>() {
                return Err(a_leaf("gradient", &names.of(place)?, "third"));
            }
            let part = convert.call1((g, &dtype, &parameter, &layout.shape, transposed));
            match part {
                Ok(part) => parts.append(part)?,
                Err(error) => {
                    let place = names.of(place)?;
                    return Err(placed(py, moved(py, error, "gradient", &place), &place));
                }
            }
        }
        let total = helpers.call_method1(intern!(py, "total"), (parts, dtype, &layout.shape, &layout.strides));
        let array = match total {
            Ok(array) => array,
            Err(error) => return Err(moved(py, error, "gradient", &names.of(self.place)?)),
        };
        match Look::at(&array, layout) {
            Some(Look { address, dtype: Some(dtype), laid: true, .. }) => {
                Ok(Gradient { address, dtype, array: Held::Made(array), copy: None })
            }
            // It was laid out so a moment ago.
            _ => Err(PyRuntimeError::new_err(format!(
                "gradient at {} was changed while it was in use",
                names.of(self.place)?
            ))),
        }
    }
}

/// An error whose text starts with what is wrong, with the place put before it.
fn placed(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    if !error.is_instance_of::<PyValueError>(py) && !error.is_instance_of::<PyTypeError>(py) {
        return noted(py, error, format!("for the gradient at {place}"));
    }
    let text = format!("gradient at {place} {}", error.value(py));
    let placed = PyErr::from_type(error.get_type(py), text);
    placed.set_cause(py, error.cause(py));
    placed
}
