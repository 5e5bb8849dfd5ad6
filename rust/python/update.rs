//! `update` and `update_`: check everything, plan, run, hand out.

use pyo3::exceptions::{PyFloatingPointError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

use super::arrays::{Memory, Place as Part, allocate, array, copy_into, native, numpy};
use super::entry::{Entry, Gradient, Names, Origin, entries};
use super::leaf::{Inner, Leaf, Moments, Slot, memories};
use super::overlap::check_overlap;
use super::replace::replace;
use super::schedules::schedule;
use super::steps::Steps;
use super::walk::places;
use crate::job::{Sink, Source};

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
    let places = places(state, model, gradient)?;
    let names = Names(state);
    let (mut entries, origins) = entries(py, &places, &names, in_place)?;
    let written = check_overlap(py, &entries, &names)?;
    let mut gradients = entries.iter().map(|e| e.gradient(py, &names)).collect::<PyResult<Vec<_>>>()?;
    let mut made = Vec::with_capacity(entries.len());
    for (entry, gradient) in entries.iter().zip(&gradients) {
        made.push(own_step(py, entry, gradient.as_ref(), &names)?);
    }
    schedule(py, &mut entries, &gradients, &names)?;
    for (entry, gradient) in entries.iter_mut().zip(&gradients) {
        entry.refresh(gradient.as_ref(), &names, in_place)?;
    }
    if in_place {
        separate(py, &entries, &mut gradients, written, &names)?;
    }
    let outputs = outputs(py, &entries, in_place)?;
    let mut steps = Steps::new(py, &names, in_place);
    for (i, entry) in entries.iter().enumerate() {
        steps.add(entry, gradients[i].as_ref(), &outputs[i])?;
    }
    steps.run()?;
    let reached = steps.reached;
    if in_place {
        let mut old = Vec::new();
        for (i, entry) in entries.iter_mut().enumerate() {
            old.extend(commit(entry, &outputs[i], made[i].take(), reached[i])?);
        }
        drop((entries, old));
        return Ok((state.clone(), model.clone()));
    }
    let mut fresh = Vec::with_capacity(entries.len());
    for (i, output) in outputs.into_iter().enumerate() {
        fresh.push(hand_out(py, &entries[i], output, made[i].take(), reached[i])?);
    }
    drop(entries);
    let new = origins.iter().map(|o| at_place(py, &fresh, *o)).collect::<PyResult<Vec<_>>>()?;
    replace(state, model, &places, new)
}

/// The gradient of each parameter, summed over its places; None where there is none.
#[pyfunction]
pub fn gradients<'py>(
    py: Python<'py>,
    state: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
) -> PyResult<Vec<Option<Bound<'py, PyAny>>>> {
    let places = places(state, model, gradient)?;
    let names = Names(state);
    let (entries, _) = entries(py, &places, &names, false)?;
    entries.iter().map(|e| Ok(e.gradient(py, &names)?.map(|g| g.array))).collect()
}

fn at_place<'py>(
    py: Python<'py>,
    fresh: &[(Bound<'py, PyAny>, Bound<'py, PyAny>)],
    origin: Origin,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let (leaf, array) = &fresh[origin.entry];
    let array = if origin.transposed { array.getattr(intern!(py, "T"))? } else { array.clone() };
    Ok((leaf.clone(), array))
}

/// Copies gradients that share memory with what is written: the result is as if all had been copied first.
fn separate<'py>(
    py: Python<'py>,
    entries: &[Entry<'_, 'py>],
    gradients: &mut [Option<Gradient<'py>>],
    mut written: Vec<(usize, usize)>,
    names: &Names,
) -> PyResult<()> {
    let mut own: Vec<(usize, usize)> = Vec::new();
    let mut last: Option<&Py<Memory>> = None;
    for memory in entries.iter().flat_map(|e| memories(&e.guard.get().moments)) {
        if last.is_none_or(|l| !l.is(memory)) {
            let buffer = &memory.get().0;
            own.push((buffer.ptr() as usize, buffer.ptr() as usize + buffer.len()));
            last = Some(memory);
        }
    }
    own.sort_unstable();
    for entry in entries {
        let span = entry.view.span(entry.leaf.dtype.size());
        let before = own.partition_point(|w| w.0 < span.1);
        if span.0 < span.1 && before > 0 && own[before - 1].1 > span.0 {
            let text = format!("parameter at {} lies in the memory of the state", names.of(entry.place));
            return Err(PyValueError::new_err(text));
        }
    }
    written.append(&mut own);
    written.sort_unstable();
    let mut high = 0;
    for span in &mut written {
        high = high.max(span.1);
        span.1 = high; // of all that start no later
    }
    for (entry, gradient) in entries.iter().zip(gradients) {
        let Some(g) = gradient else { continue };
        let before = written.partition_point(|w| w.0 < g.span.1);
        if before > 0 && written[before - 1].1 > g.span.0 {
            let bytes = entry.leaf.layout.len * g.source.dtype.size();
            let part = allocate(py, &[(0, bytes)])?.remove(0);
            // SAFETY: a gradient is gapless and was looked at again just now; the copy is fresh.
            unsafe { std::ptr::copy_nonoverlapping(g.source.ptr, part.ptr, bytes) };
            g.source = Source { ptr: part.ptr, dtype: g.source.dtype };
            g.array = part.memory.into_bound(py).into_any();
        }
    }
    Ok(())
}

/// Runs a rule of the user's own, which may raise: nothing is written yet.
fn own_step<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    gradient: Option<&Gradient<'py>>,
    names: &Names,
) -> PyResult<Option<Made<'py>>> {
    let (Moments::Own(state), Some(g)) = (&entry.guard.get().moments, gradient) else { return Ok(None) };
    let rules = py.import(intern!(py, "optirs.rules"))?;
    let rule = entry.guard.get().rule.bind(py);
    let made = rules.call_method1(intern!(py, "step"), (rule, state, entry.array, &g.array));
    let made = made.map_err(|error| at(py, error, &names.of(entry.place)))?;
    let (state, x): (Bound<'py, PyAny>, Bound<'py, PyAny>) = made.extract()?;
    Ok(Some((state, if x.is_none() { None } else { Some(x) })))
}

/// An error of a rule in Python with the place: in its text where it is ours, as a note where it may be anybody's.
pub fn at(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    if error.is_instance_of::<PyFloatingPointError>(py) {
        let text = error.value(py).to_string();
        let reason = text.split(PLACE).next().unwrap_or(&text);
        return refused(place, reason);
    }
    // A note that cannot be added is no reason to hide the error itself.
    let _ = error.value(py).call_method1("add_note", (format!("for the parameter at {place}"),));
    error
}

/// Where an entry's new values go.
pub struct Output<'py> {
    /// The parameter.
    pub x: Sink,
    /// Its old values, gapless.
    pub from: Source,
    /// Where `dx` goes instead of being subtracted, in the compute type.
    pub dx: Option<*mut u8>,
    /// The state arrays; empty in place.
    pub slots: Vec<Part>,
    /// Fresh memory for the parameter; `None` in place and where it goes through a copy.
    fresh: Option<Part>,
    /// The gapless copy through which an unusual array is stepped.
    through: Option<Bound<'py, PyAny>>,
}

impl<'py> Output<'py> {
    /// For a step whose `dx` is wanted, with the state in place.
    pub fn direction(py: Python<'py>, entry: &Entry<'_, 'py>, dx: *mut u8) -> PyResult<Self> {
        Ok(Self { dx: Some(dx), ..output(py, entry, true, &mut std::iter::empty())? })
    }
}

fn outputs<'py>(py: Python<'py>, entries: &[Entry<'_, 'py>], in_place: bool) -> PyResult<Vec<Output<'py>>> {
    let mut requests = Vec::new();
    for entry in entries.iter().filter(|_| !in_place) {
        let len = entry.leaf.layout.len;
        if entry.direct {
            requests.push((0, len * entry.leaf.dtype.size()));
        }
        if let Moments::Compiled { slots, .. } = &entry.guard.get().moments {
            requests.extend(slots.iter().enumerate().map(|(i, s)| (i + 1, len * s.dtype.size())));
        }
    }
    let mut parts = allocate(py, &requests)?.into_iter();
    entries.iter().map(|entry| output(py, entry, in_place, &mut parts)).collect()
}

fn output<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    in_place: bool,
    parts: &mut impl Iterator<Item = Part>,
) -> PyResult<Output<'py>> {
    let dtype = entry.leaf.dtype;
    let fresh = if entry.direct && !in_place { parts.next() } else { None };
    let slots = match &entry.guard.get().moments {
        Moments::Compiled { slots, .. } if !in_place => parts.by_ref().take(slots.len()).collect(),
        _ => Vec::new(),
    };
    let through = if entry.direct { None } else { Some(entry.gapless(py)?) };
    let data = match &through {
        None => entry.view.data,
        Some(copy) => super::arrays::View::of(copy).map_or(entry.view.data, |v| v.data),
    };
    let to = fresh.as_ref().map_or(data, |f| f.ptr);
    Ok(Output { x: Sink { ptr: to, dtype }, from: Source { ptr: data, dtype }, dx: None, slots, fresh, through })
}

/// Writes what does not lie where it belongs yet, without running Python code. What it returns is to be dropped when all
/// entries are done: that may run some.
fn commit<'py>(
    entry: &mut Entry<'_, 'py>,
    output: &Output<'py>,
    made: Option<Made<'py>>,
    reach: Option<usize>,
) -> PyResult<Option<Py<PyAny>>> {
    match (&made, &output.through) {
        (Some((_, Some(x))), _) => copy_into(entry.array, x)?,
        (None, Some(through)) if reach.is_some() => copy_into(entry.array, through)?,
        _ => {}
    }
    let Some(inner) = entry.guard.get_mut() else { return Ok(None) };
    match (&mut inner.moments, made, reach) {
        (Moments::Own(state), Some((new, _)), _) => Ok(Some(std::mem::replace(state, new.unbind()))),
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
    output: Output<'py>,
    made: Option<Made<'py>>,
    reach: Option<usize>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let old = entry.guard.get();
    let (dtype, layout) = (entry.leaf.dtype, &entry.leaf.layout);
    let (own, new_x) = made.map_or((None, None), |(s, x)| (Some(s), x));
    let x = match (&output.fresh, &output.through) {
        (Some(part), _) => array(py, part, &native(entry.array, dtype)?, dtype.size(), layout)?,
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
        Moments::Own(state) => Moments::Own(match own {
            Some(new) => new.unbind(),
            None => copied(py, state)?,
        }),
        Moments::Compiled { program, slots, counts } => {
            let fresh = slots.iter().zip(output.slots).map(|(old, place)| Slot { place, dtype: old.dtype });
            let mut counts = counts.clone();
            program.advance(&mut counts, reach.unwrap_or(0));
            Moments::Compiled { program: program.clone(), slots: fresh.collect(), counts }
        }
    };
    let inner = Inner { rule: old.rule.clone_ref(py), moments, frozen: old.frozen };
    let leaf = Bound::new(py, Leaf::new(dtype, layout.clone(), inner))?;
    Ok((leaf.into_any(), x))
}

const PLACE: &str = ", for the parameter at ";

/// The error of a refused norm.
pub fn refused(place: &str, reason: &str) -> PyErr {
    PyFloatingPointError::new_err(format!("{reason}{PLACE}{place}"))
}

/// The state of a rule in Python, with arrays of its own.
pub fn copied(py: Python<'_>, state: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    Ok(py.import(intern!(py, "copy"))?.call_method1(intern!(py, "deepcopy"), (state,))?.unbind())
}
