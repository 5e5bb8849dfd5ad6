//! Leaves made: for the parameters of a model, and from a state that was saved or copied.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyTuple};
use rustc_hash::FxHashMap;
use smallvec::smallvec;

use super::program::program;
use super::{Counts, Inner, Leaf, Moments, OwnState, Slot, Slots, copied};
use crate::loops::dtype::DType;
use crate::memory::placement::Streams;
use crate::memory::reserve::{Reserve, collected, list, listed};
use crate::program::{Form, Part, Program, Start};
use crate::python::array::access::Seen;
use crate::python::array::masked::{refuse, refuse_other};
use crate::python::array::{
    Layout, MemoryPart, PLACED, Request, View, allocate, can_cast, copy_into, is_exact, shape_text,
};
use crate::python::errors::{asked, at, placeless};
use crate::python::memory::lists::Items;
use crate::python::tree::path::place_text;
use crate::step::job::fill;

/// A rule, an array, and the key path at which it stands, if it does.
type Parameter<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Option<Bound<'py, PyTuple>>);

/// The leaves of these parameters.
#[pyfunction]
pub fn make_leaves<'py>(py: Python<'py>, items: Items<Parameter<'py>>) -> PyResult<Items<Leaf>> {
    let Items(items) = items;
    let mut drafts = list(items.len())?;
    // Parameters of one layout share it, so that a walk finds it in the cache.
    let mut layouts: FxHashMap<Layout, Arc<Layout>> = FxHashMap::default();
    let mut requests = Vec::new();
    for (rule, x, path) in &items {
        let program = program(py, rule)?;
        if !is_exact(x) {
            refuse_other(x, || Ok(format!("the parameter at {}", named(path.as_ref())?)))?;
        }
        let Some((view, dtype)) = View::of(x).and_then(|v| v.dtype.map(|d| (v, d))) else {
            return Err(PyTypeError::new_err(format!("{} is not a trainable array", named(path.as_ref())?)));
        };
        layouts.make_room(1)?;
        let layout = layouts.entry(Layout::of(&view)).or_insert_with_key(|l| Arc::new(l.clone())).clone();
        suits(&program, dtype, || named(path.as_ref()))?;
        held(py, &program, dtype).map_err(|error| placed(py, error, path.as_ref()))?;
        let slots = program.slots(dtype);
        requests.make_room(slots.len())?;
        requests.extend(sizes(&program, dtype, layout.len, view.address));
        drafts.push((program, dtype, view, layout, slots));
    }
    let mut places = allocate(py, &requests)?.into_iter();
    let mut leaves = list(items.len())?;
    for ((rule, x, path), (program, dtype, view, layout, slots)) in items.iter().zip(drafts) {
        let counts = smallvec![0; program.counters()];
        let slots = slots.into_iter().zip(places.by_ref()).map(|((dtype, start), place)| {
            if let Start::Value(value) = start {
                // SAFETY: just allocated with this size; nothing else has it.
                unsafe { fill(place.ptr, dtype, layout.len, value) };
            }
            Slot { place, dtype }
        });
        let (slots, own) = (slots.collect(), none(py, &program));
        let inner =
            Inner { rule: rule.clone().unbind(), moments: Moments { program, slots, counts, own }, frozen: false };
        let mut leaf = Leaf::new(dtype, layout, inner);
        Seen::Other(&view).check(x, || Ok(format!("the parameter at {}", named(path.as_ref())?)))?;
        leaf.start_as(py, x, path.as_ref())?;
        leaf.start_own(py, x).map_err(|error| placed(py, error, path.as_ref()))?;
        leaves.push(leaf);
    }
    Ok(Items(leaves))
}

/// No state yet of the user's own rules in a program.
fn none(py: Python<'_>, program: &Program) -> Vec<OwnState> {
    (0..program.owns).map(|_| OwnState(py.None())).collect()
}

/// A place as errors name it.
pub fn named(path: Option<&Bound<'_, PyTuple>>) -> PyResult<String> {
    path.map_or_else(|| Ok("the top".into()), place_text)
}

/// An error with its place, if that is known.
pub fn placed(py: Python<'_>, error: PyErr, path: Option<&Bound<'_, PyTuple>>) -> PyErr {
    match path.map(place_text) {
        None => error,
        Some(Ok(place)) => at(py, error, &place),
        Some(Err(interrupt)) => interrupt,
    }
}

/// Whether the type in which a parameter of this type is stepped holds all hyper-parameters.
pub fn held(py: Python<'_>, program: &Program, dtype: DType) -> PyResult<()> {
    let refusal = program.refusal(dtype, None);
    refusal.map_or(Ok(()), |reason| Err(placeless(py, reason)))
}

/// Whether the rules of `program` make sense for this type; if not, the error says so.
pub fn suits(program: &Program, dtype: DType, place: impl Fn() -> PyResult<String>) -> PyResult<()> {
    if !dtype.is_complex() {
        return Ok(());
    }
    let real_only = program.links.iter().find(|link| !link.kernel.shape().complex).map(|link| link.entry.name);
    let reason = match (real_only, program.master) {
        (Some(name), _) => format!("{name} has no meaning for complex numbers"),
        (None, Some(DType::F16 | DType::BF16)) => "MixedPrecision has no 16-bit complex type".into(),
        _ => return Ok(()),
    };
    Err(PyTypeError::new_err(format!("the parameter at {} is {}: {reason}", place()?, dtype.name())))
}

/// The compiled form of `rule`, if it makes sense for parameters of this type and their step can use its values; `path` is
/// that of the parameter.
pub fn suitable(
    py: Python<'_>,
    rule: &Bound<'_, PyAny>,
    dtype: DType,
    path: Option<&Bound<'_, PyTuple>>,
) -> PyResult<Arc<Program>> {
    let program = program(py, rule)?;
    suits(&program, dtype, || named(path)).and_then(|()| held(py, &program, dtype)).map_err(|e| placed(py, e, path))?;
    Ok(program)
}

impl Leaf {
    /// Starts the state arrays that start as the parameter `x`, which stands at `path`: the master copy, and as that averages.
    fn start_as(&self, py: Python<'_>, x: &Bound<'_, PyAny>, path: Option<&Bound<'_, PyTuple>>) -> PyResult<()> {
        let guard = self.reading()?;
        let Moments { program, slots, .. } = &guard.get().moments;
        let mut from = x.clone();
        for (i, (_, start)) in program.slots(self.dtype).into_iter().enumerate() {
            if start != Start::Parameter {
                continue;
            }
            let to = self.view(py, &slots[i])?;
            copy_into(&to, &format!("the parameter at {}", named(path)?), &from)?;
            if i == 0 && program.master.is_some() {
                from = to;
            }
        }
        Ok(())
    }
}

impl Leaf {
    /// Makes the states of the user's own rules, for the parameter `x`.
    fn start_own(&mut self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.inner_mut().moments.program.owns == 0 {
            return Ok(());
        }
        let rules = py.import(intern!(py, "optirs.rules"))?;
        let rule = self.inner_mut().rule.clone_ref(py);
        let master = self.master_of(py, self.reading()?.get())?;
        let mut states = Vec::new();
        for own in rules.call_method1(intern!(py, "own_rules"), (rule,))?.try_iter()? {
            let state = rules.call_method1(intern!(py, "init"), (own?, master.as_ref().unwrap_or(x)))?;
            states.push(OwnState(state.unbind()));
        }
        self.inner_mut().moments.own = states;
        Ok(())
    }

    /// The copy that a rule steps instead of the parameter, if there is one: `inner` is what the leaf holds.
    pub fn master_of<'py>(&self, py: Python<'py>, inner: &Inner) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Moments { program, slots, .. } = &inner.moments;
        program.master.map(|_| self.view(py, &slots[0])).transpose()
    }
}

/// A leaf with this state, copied: what pickle calls.
#[pyfunction]
#[pyo3(signature = (rule, shape, strides, dtype, state, frozen, stamps=None))]
#[expect(clippy::too_many_arguments, reason = "what a leaf is made of")]
pub fn restore(
    py: Python<'_>,
    rule: Py<PyAny>,
    shape: Vec<isize>,
    strides: Vec<isize>,
    dtype: &str,
    state: &Bound<'_, PyAny>,
    frozen: bool,
    stamps: Option<Items<u64>>,
) -> PyResult<Leaf> {
    let (dtype, layout) = parameter(shape, strides, dtype)?;
    let mut leaf = restored(py, rule, dtype, layout, state)?.with_frozen(frozen);
    leaf.stamp(stamps.into_iter().flat_map(|stamps| stamps.0));
    Ok(leaf)
}

/// What [`restore`] takes, without the state: rule, shape, strides, type, and whether frozen.
pub type Described = (Py<PyAny>, Vec<isize>, Vec<isize>, String, bool);

/// The states of leaves that are restored.
pub trait Source<'py> {
    /// Copies the `i`-th state into these slots and counts, if it fits and there is no need of an object.
    fn read(&mut self, i: usize, program: &Program, layout: &Layout, slots: &[Slot], counts: &mut [u64]) -> bool;

    /// The `i`-th state as an object, which the source lets go of, so that it is not in memory twice for longer.
    fn state(&mut self, i: usize) -> PyResult<Bound<'py, PyAny>>;
}

impl<'py> Source<'py> for &Bound<'py, PyList> {
    fn read(&mut self, _: usize, _: &Program, _: &Layout, _: &[Slot], _: &mut [u64]) -> bool {
        false
    }

    fn state(&mut self, i: usize) -> PyResult<Bound<'py, PyAny>> {
        let state = self.get_item(i)?;
        self.set_item(i, self.py().None())?;
        Ok(state)
    }
}

/// Leaves of these kinds, `of` says which, with copies of the states.
#[pyfunction]
pub fn restore_leaves(
    py: Python<'_>,
    kinds: Items<Described>,
    of: Items<usize>,
    states: &Bound<'_, PyList>,
) -> PyResult<Items<Leaf>> {
    restored_leaves(py, kinds.0, of.0, &mut { states }).map(Items)
}

/// The same, of states from anywhere. Small arrays lie together, as `setup` lays them.
pub fn restored_leaves<'py>(
    py: Python<'py>,
    kinds: Vec<Described>,
    of: Vec<usize>,
    states: &mut impl Source<'py>,
) -> PyResult<Vec<Leaf>> {
    let describe = |(rule, shape, strides, dtype, frozen): Described| {
        let (dtype, layout) = parameter(shape, strides, &dtype)?;
        let program = program(py, rule.bind(py))?;
        PyResult::Ok((rule, dtype, layout, program, frozen))
    };
    let kinds = collected(kinds.into_iter().map(describe))?;
    let kind = |k| kinds.get(k).ok_or_else(|| PyValueError::new_err("there is no such kind of Leaf"));
    let of = collected(of.into_iter().map(kind))?;
    let programs = of.iter().map(|(_, dtype, layout, program, _)| (program, *dtype, layout.len));
    let requests = listed(programs.flat_map(|(program, dtype, len)| sizes(program, dtype, len, USUAL)))?;
    let mut places = allocate(py, &requests)?.into_iter();
    let mut leaves = list(of.len())?;
    for (i, (rule, dtype, layout, program, frozen)) in of.into_iter().enumerate() {
        let (rule, dtype, layout, frozen) = (rule.clone_ref(py), *dtype, layout.clone(), *frozen);
        suits(program, dtype, || Ok("the top".into()))?;
        let slots = slots(program, dtype, &mut places);
        let mut counts: Counts = smallvec![0; program.counters()];
        let program = Arc::clone(program);
        leaves.push(if program.owns == 0 && states.read(i, &program, &layout, &slots, &mut counts) {
            let moments = Moments { program, slots, counts, own: Vec::new() };
            Leaf::new(dtype, layout, Inner { rule, moments, frozen })
        } else {
            let mut places = slots.into_iter().map(|slot| slot.place);
            filled(py, rule, dtype, layout, program, &mut places, &states.state(i)?)?.with_frozen(frozen)
        });
    }
    Ok(leaves)
}

/// The state arrays of a leaf, in the next of these places.
fn slots(program: &Program, dtype: DType, places: &mut impl Iterator<Item = MemoryPart>) -> Slots {
    program.slots(dtype).into_iter().zip(places).map(|((dtype, _), place)| Slot { place, dtype }).collect()
}

fn parameter(shape: Vec<isize>, strides: Vec<isize>, dtype: &str) -> PyResult<(DType, Arc<Layout>)> {
    let Some(dtype) = DType::from_name(dtype) else { return Err(PyValueError::new_err(format!("no type {dtype}"))) };
    let layout =
        Layout::checked(shape, strides).ok_or_else(|| PyValueError::new_err("the strides do not fit the shape"))?;
    Ok((dtype, Arc::new(layout)))
}

/// What the state arrays of a parameter with `len` elements at `address` take, as [`allocate`] wants it.
fn sizes(program: &Program, dtype: DType, len: usize, address: usize) -> impl Iterator<Item = Request> {
    let mut streams = Streams::of(address);
    program.slots(dtype).into_iter().zip(program.loops()).enumerate().map(move |(group, ((dtype, _), link))| {
        let bytes = len.saturating_mul(dtype.size());
        Request { group, bytes, place: if bytes < PLACED { 0 } else { streams.choose(link) } }
    })
}

/// Where a parameter is taken to start in a page as long as it is not known: there large arrays of NumPy's do, behind the 16
/// bytes that the C library keeps for itself.
const USUAL: usize = 16;

/// A leaf whose state is a copy of `state`, which has the form that `leaf.state` has.
pub fn restored(
    py: Python<'_>,
    rule: Py<PyAny>,
    dtype: DType,
    layout: Arc<Layout>,
    state: &Bound<'_, PyAny>,
) -> PyResult<Leaf> {
    let program = program(py, rule.bind(py))?;
    let requests: Vec<_> = sizes(&program, dtype, layout.len, USUAL).collect();
    filled(py, rule, dtype, layout, program, &mut allocate(py, &requests)?.into_iter(), state)
}

/// The same in memory that was allocated for it.
fn filled(
    py: Python<'_>,
    rule: Py<PyAny>,
    dtype: DType,
    layout: Arc<Layout>,
    program: Arc<Program>,
    places: &mut impl Iterator<Item = MemoryPart>,
    state: &Bound<'_, PyAny>,
) -> PyResult<Leaf> {
    suits(&program, dtype, || Ok("the top".into()))?;
    let (slots, own) = (slots(&program, dtype, places), none(py, &program));
    let counts = smallvec![0; program.counters()];
    let mut leaf = Leaf::new(
        dtype,
        layout,
        Inner { rule, moments: Moments { program: program.clone(), slots, counts, own }, frozen: false },
    );
    let (mut counts, mut own): (Counts, _) = (smallvec![0; program.counters()], none(py, &program));
    leaf.read_state(py, &program, &program.form, state, &mut counts, &mut own)?;
    let moments = &mut leaf.inner_mut().moments;
    (moments.counts, moments.own) = (counts, own);
    Ok(leaf)
}

impl Leaf {
    fn read_state(
        &self,
        py: Python<'_>,
        program: &Program,
        form: &Form,
        state: &Bound<'_, PyAny>,
        counts: &mut [u64],
        own: &mut [OwnState],
    ) -> PyResult<()> {
        let wrong = |what: String| placeless(py, format!("the state does not fit the rule: {what}"));
        match form {
            Form::Chain(forms) => {
                let states = state.cast::<PyTuple>().map_err(|_| wrong("a chain's state is a tuple".into()))?;
                if states.len() != forms.len() {
                    return Err(wrong(format!("{} states for {} rules", states.len(), forms.len())));
                }
                forms.iter().zip(states.iter()).try_for_each(|(f, s)| self.read_state(py, program, f, &s, counts, own))
            }
            Form::Mixed(rule) => {
                let pair = state.cast::<PyTuple>().ok().filter(|t| t.len() == 2);
                let pair = pair.ok_or_else(|| wrong("MixedPrecision's state is (master, state)".into()))?;
                self.read_slot(py, 0, "MixedPrecision: master", &pair.get_item(0)?)?;
                self.read_state(py, program, rule, &pair.get_item(1)?, counts, own)
            }
            Form::Scheduled(timer, rule) => {
                let pair = state.cast::<PyTuple>().ok().filter(|t| t.len() == 2);
                let pair = pair.ok_or_else(|| wrong("Scheduled's state is (t, state)".into()))?;
                counts[program.counter_of(*timer)] = read_count("Scheduled: t", &pair.get_item(0)?)?;
                self.read_state(py, program, rule, &pair.get_item(1)?, counts, own)
            }
            &Form::Link(i) => {
                if let Some(k) = program.links[i].own {
                    own[k].0 = copied(py, &state.clone().unbind())?;
                    return Ok(());
                }
                let (name, expected) = (program.links[i].entry.name, program.parts(i).count());
                if expected == 0 {
                    return if state.is_none() { Ok(()) } else { Err(wrong(format!("{name} has none"))) };
                }
                let dict = state.cast::<PyDict>().map_err(|_| wrong(format!("{name}'s is a dict")))?;
                for (key, part) in program.parts(i) {
                    let value = dict.get_item(key)?.ok_or_else(|| wrong(format!("{name} lacks {key}")))?;
                    let what = format!("{name}: {key}");
                    match part {
                        Part::Array(slot) => self.read_slot(py, slot, &what, &value)?,
                        Part::Float(at) => counts[at] = read_float(&what, &value)?.to_bits(),
                        Part::Count(at) => {
                            counts[at] = read_count(&what, &value)?;
                            possible(program, i, counts)?;
                        }
                    }
                }
                if dict.len() == expected {
                    Ok(())
                } else {
                    Err(wrong(format!("{name} has {expected} entries, not {}", dict.len())))
                }
            }
        }
    }

    /// Copies a state array; `what` names it in errors.
    fn read_slot(&self, py: Python<'_>, slot: usize, what: &str, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = self.reading()?;
        let slots = &guard.get().moments.slots;
        let (to, dtype) = (self.view(py, &slots[slot])?, slots[slot].dtype);
        refuse(what, values)?;
        let Some(view) = View::of(values) else {
            let kind = values.get_type().name()?;
            return Err(PyTypeError::new_err(format!("{what} must be an array, got {kind}")));
        };
        if !self.layout.has_shape(&view.shape) {
            let (a, b) = (shape_text(py, &view.shape), shape_text(py, &self.layout.shape));
            return Err(PyValueError::new_err(format!("{what} has shape {a}, the parameter has {b}")));
        }
        if view.dtype != Some(dtype) && !can_cast(values, dtype)? {
            let found = asked(py, values.getattr(intern!(py, "dtype")))?.map_or_else(|| "?".into(), |d| d.to_string());
            return Err(PyTypeError::new_err(format!("{what} is {found}, not {}", dtype.name())));
        }
        copy_into(&to, what, values)
    }
}

/// Whether link `i` can have counted so far.
pub fn possible(program: &Program, i: usize, counts: &[u64]) -> PyResult<()> {
    let (link, t) = (&program.links[i], counts[i]);
    // Of the built-in rules only AccumGrad ever starts to count again.
    match link.kernel.shape().counter {
        Some(counter) if link.kernel.shape().collects && link.kernel.emits(&link.hyper, t) => {
            Err(PyValueError::new_err(format!("{}: {counter} must be less than n, got {t}", link.entry.name)))
        }
        _ => Ok(()),
    }
}

/// `operator.index(value)`.
fn int<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a live object; a new int, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(value.py(), pyo3::ffi::PyNumber_Index(value.as_ptr())) }
}

/// A count of steps in a state; `what` names it in errors.
fn read_count(what: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = value.py();
    let index = if value.is_instance_of::<PyBool>() { None } else { asked(py, int(value))? };
    let Some(index) = index else {
        return Err(PyTypeError::new_err(format!("{what} must be an int, got {}", value.repr()?)));
    };
    // Half the range of u64, so that counting on never overflows.
    let count = index.extract::<i64>().ok().and_then(|n| u64::try_from(n).ok());
    count.ok_or_else(|| PyValueError::new_err(format!("{what} must be in [0, 2**63), got {index}")))
}

/// A float in a state; `what` names it in errors.
fn read_float(what: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let is_number = value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>();
    match value.extract() {
        Ok(number) if is_number && !value.is_instance_of::<PyBool>() => Ok(number),
        _ => Err(PyTypeError::new_err(format!("{what} must be a float, got {}", value.repr()?))),
    }
}
