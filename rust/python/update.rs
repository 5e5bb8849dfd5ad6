//! `update` and `update_`: check everything, plan, run, hand out.

use bumpalo::Bump;
use pyo3::exceptions::{PyFloatingPointError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use std::collections::hash_map;

use super::arena::{List, list_in, with_arena};
use super::arrays::{View, array, copy_into, native, numpy};
use super::entry::{Entry, Names, Origin, entries};
use super::gradient::{Gradient, Held};
use super::leaf::{Inner, Leaf, Moments, OwnState, Slot};
use super::lists::Items;
use super::memory::{Place as Part, allocate};
use super::overlap::Touched;
use super::replace::replace;
use super::schedules::schedule;
use super::steps::Steps;
use super::walk::walk;
use crate::reserve::{Put, Reserve, collected};

/// What the rule of a user's own made of a parameter: its new state, and the new parameter if there is one.
type Made<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// One step of `state` and `model`; new trees, or in place the same ones.
#[pyfunction]
pub fn update<'py>(
    py: Python<'py>,
    state: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
    in_place: bool,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    with_arena(|arena| update_in(arena, py, state, model, gradient, in_place))
}

fn update_in<'py>(
    arena: &Bump,
    py: Python<'py>,
    state: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
    in_place: bool,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let found = walk(arena, state, model, gradient)?;
    let names = Names(state);
    let (mut entries, origins) = entries(arena, py, &found.places, &names, in_place)?;
    let mut gradients = list_in(entries.len(), arena)?;
    let mut disturbed = false;
    for entry in &entries {
        let gradient = entry.gradient(py, &names)?;
        disturbed |= matches!(&gradient, Some(Gradient { array: Held::Made(_), .. }));
        gradients.push(gradient);
    }
    let mut made = List::new_in(arena);
    if entries.iter().any(|e| matches!(e.guard.get().moments, Moments::Own(_))) {
        disturbed = true;
        for (entry, gradient) in entries.iter().zip(&gradients) {
            made.put(own_step(py, entry, gradient.as_ref(), &names)?)?;
        }
    }
    disturbed |= schedule(py, &mut entries, &gradients, &names)?;
    let touched = Touched { state, model, entries: &entries, bystanders: &found.bystanders, in_place };
    let mut elsewhere = Vec::new();
    disturbed |= touched.separate(py, arena, &mut gradients, &mut elsewhere)?;
    let parts = if in_place { Vec::new() } else { fresh_parts(arena, py, &entries)? };
    let outputs = outputs(arena, py, &entries, &parts, in_place)?;
    if disturbed || !in_place || entries.iter().any(|e| !(e.direct && e.exact)) {
        // Python code may have run since the arrays were looked at, be it in the collector that new objects set off; from
        // here on no more of it does until all is written.
        for (entry, gradient) in entries.iter().zip(&gradients) {
            entry.look_again(gradient.as_ref(), &names, in_place)?;
        }
    }
    let mut reached = list_in(entries.len(), arena)?;
    let mut steps = Steps::new(arena, py, &names, in_place, entries.len())?;
    let mut old = list_in(if in_place { made.len() } else { 0 }, arena)?; // before anything is written
    for ((entry, gradient), output) in entries.iter().zip(&gradients).zip(&outputs) {
        reached.push(steps.add(entry, gradient.as_ref(), output)?);
    }
    steps.run()?;
    drop(steps);
    if in_place {
        for (i, ((entry, output), reach)) in entries.iter_mut().zip(&outputs).zip(reached).enumerate() {
            let made = made.get_mut(i).and_then(Option::take);
            if let Some(state) = commit(entry, output, made, reach)? {
                old.push(state);
            }
        }
        drop((entries, old));
        return Ok((state.clone(), model.clone()));
    }
    let mut fresh = list_in(entries.len(), arena)?;
    for (i, ((entry, output), reach)) in entries.iter().zip(&outputs).zip(reached).enumerate() {
        fresh.push(hand_out(py, entry, output, made.get_mut(i).and_then(Option::take), reach)?);
    }
    drop(entries);
    let mut fresh = Fresh { pairs: fresh, transposes: FxHashMap::default() };
    let elsewhere = elsewhere.into_iter().map(|(i, origin)| {
        let new = fresh.at(py, origin)?.1;
        PyResult::Ok((i, (found.bystanders[i].clone(), new)))
    });
    let elsewhere = collected(elsewhere)?;
    let mut moved = FxHashMap::default();
    moved.make_room(elsewhere.len())?;
    moved.extend(elsewhere);
    replace(state, model, &found, origins.iter().map(|o| fresh.at(py, *o)), moved)
}

/// The gradient of each parameter, summed over its places; None where there is none.
#[pyfunction]
pub fn gradients<'py>(
    py: Python<'py>,
    state: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
) -> PyResult<Items<Option<Bound<'py, PyAny>>>> {
    with_arena(|arena| {
        let found = walk(arena, state, model, gradient)?;
        let names = Names(state);
        let (entries, _) = entries(arena, py, &found.places, &names, false)?;
        collected(entries.iter().map(|e| Ok(e.gradient(py, &names)?.and_then(|g| g.array.array().cloned())))).map(Items)
    })
}

/// A new leaf and its new array.
type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What the entries became.
struct Fresh<'b, 'py> {
    pairs: List<'b, Pair<'py>>,
    /// The transposes asked for so far: what stands twice in a model holds one and the same of them.
    transposes: FxHashMap<u32, Bound<'py, PyAny>>,
}

impl<'py> Fresh<'_, 'py> {
    /// What belongs at a place.
    fn at(&mut self, py: Python<'py>, origin: Origin) -> PyResult<Pair<'py>> {
        let (leaf, array) = &self.pairs[origin.entry as usize];
        if !origin.transposed {
            return Ok((leaf.clone(), array.clone()));
        }
        self.transposes.make_room(1)?;
        let transpose = match self.transposes.entry(origin.entry) {
            hash_map::Entry::Occupied(known) => known.get().clone(),
            hash_map::Entry::Vacant(new) => new.insert(array.getattr(intern!(py, "T"))?).clone(),
        };
        Ok((leaf.clone(), transpose))
    }
}

/// Runs a rule of the user's own, which may raise: nothing is written yet.
fn own_step<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    gradient: Option<&Gradient<'_, 'py>>,
    names: &Names,
) -> PyResult<Option<Made<'py>>> {
    let Some(array) = gradient.and_then(|g| g.array.array()) else { return Ok(None) };
    let Moments::Own(OwnState(state)) = &entry.guard.get().moments else { return Ok(None) };
    let rules = py.import(intern!(py, "optirs.rules"))?;
    let rule = entry.guard.get().rule.bind(py);
    let made = rules.call_method1(intern!(py, "step"), (rule, state, entry.array, array));
    let made = made.map_err(|error| at(py, error, &names.of(entry.place)))?;
    let (state, x): (Bound<'py, PyAny>, Bound<'py, PyAny>) = made.extract()?;
    Ok(Some((state, if x.is_none() { None } else { Some(x) })))
}

/// An error of a rule in Python with the place: in its text where it is ours, as a note where it is anybody's.
pub fn at(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    let value = error.value(py);
    if error.is_instance_of::<PyFloatingPointError>(py)
        && let Some((reason, _)) = value.to_string().split_once(PLACE)
    {
        return refused(place, reason);
    }
    if value.hasattr(intern!(py, "_placeless")).unwrap_or(false) {
        // The same error, so that it keeps its traceback and its cause.
        let text = value.to_string();
        let reason = text.split_once(PLACE).map_or(&text[..], |(reason, _)| reason);
        let named = (format!("{reason}{PLACE}{place}"),);
        if value.setattr(intern!(py, "args"), named).is_ok() {
            return error;
        }
    }
    // A note that cannot be added is no reason to hide the error itself.
    let _ = value.call_method1("add_note", (format!("for the parameter at {place}"),));
    error
}

/// Where an entry's new values go.
pub struct Output<'p, 'py> {
    /// The parameter.
    pub x: *mut u8,
    /// Its old values, gapless.
    pub from: *mut u8,
    /// Where `dx` goes instead of being subtracted, in the compute type.
    pub dx: Option<*mut u8>,
    /// The state arrays; empty in place.
    pub slots: &'p [Part],
    /// Fresh memory for the parameter; `None` in place and where it goes through a copy.
    fresh: Option<&'p Part>,
    /// The gapless copy through which an unusual array is stepped.
    through: Option<Bound<'py, PyAny>>,
}

impl<'py> Output<'_, 'py> {
    /// For a step whose `dx` is wanted, with the state in place.
    pub fn direction(py: Python<'py>, entry: &Entry<'_, 'py>, dx: *mut u8) -> PyResult<Self> {
        Ok(Self { dx: Some(dx), ..output(py, entry, true, &mut &[][..])? })
    }
}

/// Fresh memory for the new values of all entries.
fn fresh_parts(arena: &Bump, py: Python<'_>, entries: &[Entry]) -> PyResult<Vec<Part>> {
    let mut requests = List::new_in(arena);
    for entry in entries {
        let len = entry.leaf().layout.len;
        if entry.direct {
            requests.put((0, len * entry.leaf().dtype.size()))?;
        }
        if let Moments::Compiled { slots, .. } = &entry.guard.get().moments {
            requests.make_room(slots.len())?;
            requests.extend(slots.iter().enumerate().map(|(i, s)| (i + 1, len * s.dtype.size())));
        }
    }
    allocate(py, &requests)
}

fn outputs<'b, 'p, 'py>(
    arena: &'b Bump,
    py: Python<'py>,
    entries: &[Entry<'_, 'py>],
    mut parts: &'p [Part],
    in_place: bool,
) -> PyResult<List<'b, Output<'p, 'py>>> {
    let mut outputs = list_in(entries.len(), arena)?;
    for entry in entries {
        outputs.push(output(py, entry, in_place, &mut parts)?);
    }
    Ok(outputs)
}

/// `parts`: fresh memory, of which it takes its own from the front.
#[inline]
fn output<'p, 'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    in_place: bool,
    parts: &mut &'p [Part],
) -> PyResult<Output<'p, 'py>> {
    let (mut x, mut through) = (entry.data, None);
    if !entry.direct {
        let copy = entry.gapless(py)?;
        x = View::of(&copy).map_or(x, |copy| copy.data);
        through = Some(copy);
    }
    let mut output = Output { x, from: x, dx: None, slots: &[], fresh: None, through };
    if !in_place {
        if entry.direct {
            output.fresh = parts.split_off_first();
            output.x = output.fresh.map_or(x, |fresh| fresh.ptr);
        }
        if let Moments::Compiled { slots, .. } = &entry.guard.get().moments {
            output.slots = parts.split_off(..slots.len()).unwrap_or(&[]);
        }
    }
    Ok(output)
}

/// Writes what does not lie where it belongs yet, without running Python code. What it returns is to be dropped when all
/// entries are done: that may run some.
fn commit<'py>(
    entry: &mut Entry<'_, 'py>,
    output: &Output<'_, 'py>,
    made: Option<Made<'py>>,
    reach: Option<usize>,
) -> PyResult<Option<OwnState>> {
    match (&made, &output.through) {
        (Some((_, Some(x))), _) => copy_into(entry.array, x)?,
        (None, Some(through)) if reach.is_some() => copy_into(entry.array, through)?,
        _ => {}
    }
    let Some(inner) = entry.guard.get_mut() else { return Ok(None) };
    match (&mut inner.moments, made, reach) {
        (Moments::Own(state), Some((new, _)), _) => Ok(Some(std::mem::replace(state, OwnState(new.unbind())))),
        (Moments::Compiled { program, counts, .. }, _, Some(reach)) => {
            program.advance(counts, reach);
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The new leaf and the new array of an entry.
fn hand_out<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    output: &Output<'_, 'py>,
    made: Option<Made<'py>>,
    reach: Option<usize>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let old = entry.guard.get();
    let (dtype, layout) = (entry.leaf().dtype, &entry.leaf().layout);
    let (own, new_x) = made.map_or((None, None), |(s, x)| (Some(s), x));
    let x = match (&output.fresh, &output.through) {
        (&Some(part), _) => array(py, part, &native(entry.array, dtype)?, dtype.size(), layout)?,
        (None, through) => {
            let x = numpy(py)?.call_method1(intern!(py, "empty_like"), (entry.array, py.None(), "K", false))?;
            let values = through.as_ref().unwrap_or(entry.array);
            copy_into(&x, values)?;
            x
        }
    };
    if let Some(new_x) = new_x {
        copy_into(&x, &new_x)?;
    }
    let moments = match &old.moments {
        Moments::Own(OwnState(state)) => Moments::Own(OwnState(match own {
            Some(new) => new.unbind(),
            None => copied(py, state)?,
        })),
        Moments::Compiled { program, slots, counts } => {
            let fresh =
                slots.iter().zip(output.slots).map(|(old, part)| Slot { place: part.share(py), dtype: old.dtype });
            let mut counts = counts.clone();
            program.advance(&mut counts, reach.unwrap_or(0));
            Moments::Compiled { program: program.clone(), slots: fresh.collect(), counts }
        }
    };
    let inner = Inner { rule: old.rule.clone_ref(py), moments, frozen: old.frozen };
    let leaf = Leaf::new(dtype, layout.clone(), inner).into_object(py)?;
    Ok((leaf.into_any(), x))
}

const PLACE: &str = ", for the parameter at ";

/// The error of a refused norm.
pub fn refused(place: &str, reason: &str) -> PyErr {
    PyFloatingPointError::new_err(format!("{reason}{PLACE}{place}"))
}

/// The error of a hyper-parameter whose value a step cannot use.
pub fn unusable(place: &str, reason: &str) -> PyErr {
    PyValueError::new_err(format!("{reason}{PLACE}{place}"))
}

/// The same where the place is for others to say: [`at`] puts it into the text.
pub fn placeless(py: Python<'_>, reason: String) -> PyErr {
    let error = PyValueError::new_err(reason);
    match error.value(py).setattr(intern!(py, "_placeless"), true) {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// The state of a rule in Python, with arrays of its own.
pub fn copied(py: Python<'_>, state: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    Ok(py.import(intern!(py, "copy"))?.call_method1(intern!(py, "deepcopy"), (state,))?.unbind())
}
