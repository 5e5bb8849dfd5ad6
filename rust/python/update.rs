//! `update` and `update_`: check everything, plan, run, hand out.

use bumpalo::Bump;
use pyo3::exceptions::{PyFloatingPointError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::hash_map;
use std::sync::Arc;

use super::arena::{List, list_in, with_arena};
use super::array::access::{Looks, Role, Seen, Wanted, run};
use super::array::{
    Layout, Load, PLACED, Place as Part, Request, View, allocate, array, descriptor, shape_text, swapped, too_large,
};
use super::entry::{Entry, Names, Origin, entries};
use super::gradient::Gradient;
use super::leaf::{Counts, Inner, Leaf, Moments, OwnState, Slot};
use super::lists::Items;
use super::make::asked;
use super::overlap::Touched;
use super::replace::replace;
use super::schedules::schedule;
use super::steps::{self, Fresh, Incoming, Step, Target, Through};
use super::walk::walk;
use crate::buffer::Buffer;
use crate::placement::Streams;
use crate::program::Program;
use crate::reserve::{Put, Reserve, check, collected, list};
use crate::step::{Outcome, Reason, Refused, Skip};

/// What the rule of a user's own made of a parameter: its new state, and the new parameter if there is one, with how it lay.
pub type Made<'py> = (Bound<'py, PyAny>, Option<(Bound<'py, PyAny>, View)>);

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
    for entry in &entries {
        gradients.push(entry.gradient(py, &names)?);
    }
    let mut made = List::new_in(arena);
    if entries.iter().any(|e| matches!(e.guard.get().moments, Moments::Own(_))) {
        for (entry, gradient) in entries.iter().zip(&gradients) {
            made.put(own_step(py, entry, gradient.as_ref(), &names)?)?;
        }
    }
    schedule(py, &mut entries, &gradients, &names)?;
    let touched = Touched { state, model, entries: &entries, bystanders: &found.bystanders, in_place };
    let mut elsewhere = Vec::new();
    touched.separate(py, arena, &mut gradients, &mut elsewhere)?;
    let results = if in_place { Vec::new() } else { results(arena, py, &entries, &gradients)? };
    let mut old = list_in(if in_place { made.len() } else { 0 }, arena)?; // before anything is written
    let to = if in_place { Targets::Places } else { Targets::Fresh(&results) };
    let (reached, skips) = Call { entries: &entries, gradients: &gradients, made: &made, to }.run(py, arena, &names)?;
    let skipped = Skipped::all(py, &entries, &skips, &names)?;
    if in_place {
        for (i, (entry, reached)) in entries.iter_mut().zip(reached).enumerate() {
            let made = made.get_mut(i).and_then(Option::take);
            if let Some(state) = commit(entry, made, reached) {
                old.push(state);
            }
        }
        drop((entries, old));
        skipped.iter().try_for_each(|skipped| skipped.tell(py))?;
        return Ok((state.clone(), model.clone()));
    }
    let mut fresh = list_in(entries.len(), arena)?;
    for (i, ((entry, result), reached)) in entries.iter().zip(&results).zip(reached).enumerate() {
        fresh.push(hand_out(py, entry, result, made.get_mut(i).and_then(Option::take), reached)?);
    }
    drop(entries);
    skipped.iter().try_for_each(|skipped| skipped.tell(py))?;
    let mut fresh = Pairs { pairs: fresh, transposes: FxHashMap::default() };
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

/// What a call steps.
pub struct Call<'c, 'a, 'py> {
    /// The parameters.
    pub entries: &'c [Entry<'a, 'py>],
    /// Their gradients.
    pub gradients: &'c [Option<Gradient<'a, 'py>>],
    /// What rules in Python made of them; empty where there is no such rule.
    pub made: &'c [Option<Made<'py>>],
    /// Where the results go.
    pub to: Targets<'c>,
}

/// Where the results of a call go.
#[derive(Clone, Copy)]
pub enum Targets<'c> {
    /// To the parameters and their states.
    Places,
    /// To new memory, for each parameter.
    Fresh(&'c [Fresh]),
    /// The `dx` of the only parameter to new memory, the state to its place.
    Direction(&'c Part),
}

/// What a step was, and the counts after it where they do not follow from that.
pub type Reached = (Outcome, Option<Counts>);

impl<'c, 'py> Call<'c, '_, 'py> {
    /// Opens the arrays and takes all steps, or none.
    pub fn run<'b>(&self, py: Python<'py>, arena: &'b Bump, names: &Names) -> PyResult<(List<'b, Reached>, Vec<Skip>)> {
        let n = self.entries.len();
        let (mut steps, mut reached) = (list_in(n, arena)?, list_in(n, arena)?);
        let mut load = Load::NONE;
        for (i, (entry, gradient)) in self.entries.iter().zip(self.gradients).enumerate() {
            steps.push(self.step(i, entry, gradient.as_ref())?);
            load = load.with_step(entry.leaf().layout.len * entry.leaf().dtype.size());
        }
        let all = &mut steps[..];
        let looks = |looks: &mut Looks<'_, '_, '_>| self.look_again(looks);
        let wanted = Wanted::new(arena, 2 * n, load, names, looks);
        // SAFETY: the entries' guards are held by the caller, as writers' where targets are places; arrays that are written
        // are disjoint, and gradients in their memory are copied, as `Touched::separate` saw to; targets and copies are new.
        let done = run(py, &wanted, |arrays| unsafe { steps::run(all, arrays) })?;
        let skips = match done {
            Ok(skips) => skips,
            Err(why) => {
                return Err(refusal(py, why, |i| Ok((names.of(self.entries[i].place)?, self.entries[i].leaf())))?);
            }
        };
        reached.extend(steps.into_iter().map(|step: Step<'_>| (step.outcome, step.counts)));
        Ok((reached, skips))
    }

    /// Looks again at the arrays, which [`Step::array`] and [`Step::made`] name by their numbers.
    fn look_again(&self, looks: &mut Looks<'_, '_, '_>) -> PyResult<()> {
        let writes = matches!(self.to, Targets::Places);
        for (entry, gradient) in self.entries.iter().zip(self.gradients) {
            looks.at(entry.array, entry.seen(), writes, Role::Parameter, entry.place)?;
            match gradient {
                Some(g) => {
                    looks.at(g.array.array(), g.seen(&entry.leaf().layout), false, Role::Gradient, entry.place)?
                }
                None => looks.none()?,
            }
        }
        for (entry, made) in self.entries.iter().zip(self.made) {
            match made {
                Some((_, Some((x, view)))) => looks.at(x, Seen::Other(view), false, Role::Result, entry.place)?,
                _ => looks.none()?,
            }
        }
        Ok(())
    }

    /// Where in a page the step of an entry reads and writes.
    fn streams(&self, i: usize, entry: &Entry<'_, '_>, gradient: Option<&Gradient<'_, '_>>) -> Streams {
        let mut streams = entry.guard.get().streams(entry.address, gradient.map(Gradient::read_at));
        match (self.to, &entry.guard.get().moments) {
            (Targets::Fresh(fresh), Moments::Compiled { program, .. }) => {
                streams.add(fresh[i].x.ptr as usize, None);
                let slots = fresh[i].slots.iter().zip(program.loops());
                slots.for_each(|(slot, link)| streams.add(slot.ptr as usize, link));
            }
            (Targets::Direction(part), _) => streams.add(part.ptr as usize, None),
            _ => {}
        }
        streams
    }

    #[inline]
    fn step(&self, i: usize, entry: &'c Entry<'_, 'py>, gradient: Option<&'c Gradient<'_, 'py>>) -> PyResult<Step<'c>> {
        let leaf = entry.leaf();
        let through = match &entry.strided {
            Some(view) => {
                let bytes = leaf.layout.len * leaf.dtype.size();
                check::<Through>(1)?; // one for each such parameter
                let place = self.streams(i, entry, gradient).choose(None);
                Some(Box::new(Through { view, copy: Buffer::at(bytes, place).ok_or_else(|| too_large(bytes))? }))
            }
            None => None,
        };
        let made = self.made.get(i).and_then(|made| made.as_ref()?.1.as_ref());
        Ok(Step {
            leaf,
            inner: entry.guard.get(),
            given: entry.given.as_deref(),
            array: 2 * i,
            through,
            gradient: gradient.map(|g| Incoming { dtype: g.dtype, copy: g.copy.as_ref() }),
            made: made.map(|(_, view)| (2 * self.entries.len() + i, view)),
            target: match self.to {
                Targets::Places => Target::Place,
                Targets::Fresh(fresh) => Target::Fresh(&fresh[i]),
                Targets::Direction(part) => Target::Direction(part),
            },
            outcome: Outcome::default(),
            counts: None,
        })
    }
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
        collected(entries.iter().map(|e| Ok(e.gradient(py, &names)?.map(|g| g.array.array().clone())))).map(Items)
    })
}

/// A new leaf and its new array.
type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What the entries became.
struct Pairs<'b, 'py> {
    pairs: List<'b, Pair<'py>>,
    /// The transposes asked for so far: what stands twice in a model holds one and the same of them.
    transposes: FxHashMap<u32, Bound<'py, PyAny>>,
}

impl<'py> Pairs<'_, 'py> {
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
    let Some(array) = gradient.map(|g| g.array.array()) else { return Ok(None) };
    let Moments::Own(OwnState(state)) = &entry.guard.get().moments else { return Ok(None) };
    let rules = py.import(intern!(py, "optirs.rules"))?;
    let rule = entry.guard.get().rule.bind(py);
    let made = rules.call_method1(intern!(py, "step"), (rule, state, entry.array, array));
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            let place = names.of(entry.place)?;
            return Err(at(py, moved(py, error, "parameter", &place), &place));
        }
    };
    let (state, x): (Bound<'py, PyAny>, Bound<'py, PyAny>) = made.extract()?;
    if x.is_none() {
        return Ok(Some((state, None)));
    }
    let leaf = entry.leaf();
    let fits = |view: &View| view.dtype == Some(leaf.dtype) && leaf.layout.has_shape(&view.shape);
    let Some(view) = View::of(&x).filter(fits) else {
        let place = names.of(entry.place)?;
        return Err(PyTypeError::new_err(format!("the rule's result at {place} is no array like the parameter")));
    };
    Ok(Some((state, Some((x, view)))))
}

/// The refusal of an array that lies in memory that was given back, with the place in its text; any other error as it is.
pub fn moved(py: Python<'_>, error: PyErr, what: &str, place: &str) -> PyErr {
    let text = error.value(py).to_string();
    match text.strip_prefix("the ").and_then(|text| text.strip_prefix(what)?.strip_prefix(" was changed")) {
        Some(rest) if error.is_instance_of::<PyRuntimeError>(py) => {
            PyRuntimeError::new_err(format!("{what} at {place} was changed{rest}"))
        }
        _ => error,
    }
}

/// An error of a rule in Python with the place: in its text where it is ours, as a note where it is anybody's.
pub fn at(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    let value = error.value(py);
    if error.is_instance_of::<PyFloatingPointError>(py)
        && let Some((reason, _)) = value.to_string().split_once(PLACE)
    {
        return refused(place, reason);
    }
    let placeless = match asked(py, value.hasattr(intern!(py, "_placeless"))) {
        Ok(answer) => answer.unwrap_or(false),
        Err(interrupt) => return interrupt,
    };
    if placeless {
        // The same error, so that it keeps its traceback and its cause.
        let text = value.to_string();
        let reason = text.split_once(PLACE).map_or(&text[..], |(reason, _)| reason);
        let named = (format!("{reason}{PLACE}{place}"),);
        if value.setattr(intern!(py, "args"), named).is_ok() {
            return error;
        }
    }
    noted(py, error, format!("for the parameter at {place}"))
}

/// An error with a note, unless that cannot be added: that is no reason to hide the error itself.
pub fn noted(py: Python<'_>, error: PyErr, note: String) -> PyErr {
    let done = error.value(py).call_method1("add_note", (note,));
    asked(py, done).map_or_else(|interrupt| interrupt, |_| error)
}

/// New memory for the results of all entries.
fn results(
    arena: &Bump,
    py: Python<'_>,
    entries: &[Entry],
    gradients: &[Option<Gradient<'_, '_>>],
) -> PyResult<Vec<Fresh>> {
    let mut requests = List::new_in(arena);
    for (entry, gradient) in entries.iter().zip(gradients) {
        let (len, inner) = (entry.leaf().layout.len, entry.guard.get());
        let bytes = len * entry.leaf().dtype.size();
        let (Moments::Compiled { program, slots, .. }, true) = (&inner.moments, bytes >= PLACED) else {
            requests.put(Request { group: 0, bytes, place: 0 })?;
            if let Moments::Compiled { slots, .. } = &inner.moments {
                requests.make_room(slots.len())?;
                let bytes = slots.iter().map(|slot| len * slot.dtype.size()).enumerate();
                requests.extend(bytes.map(|(i, bytes)| Request { group: i + 1, bytes, place: 0 }));
            }
            continue;
        };
        let mut streams = inner.streams(entry.address, gradient.as_ref().map(Gradient::read_at));
        requests.put(Request { group: 0, bytes, place: streams.choose(None) })?;
        requests.make_room(slots.len())?;
        requests.extend(slots.iter().zip(program.loops()).enumerate().map(|(i, (slot, link))| Request {
            group: i + 1,
            bytes: len * slot.dtype.size(),
            place: streams.choose(link),
        }));
    }
    let mut parts = allocate(py, &requests)?.into_iter();
    let mut results = list(entries.len())?;
    for entry in entries {
        let Some(x) = parts.next() else { break };
        let slots = match &entry.guard.get().moments {
            Moments::Compiled { slots, .. } => parts.by_ref().take(slots.len()).collect(),
            Moments::Own(_) => SmallVec::new(),
        };
        let layout = match &entry.strided {
            Some(view) => {
                check::<Layout>(1)?; // one for each such parameter
                Arc::new(Layout::of(view))
            }
            None => entry.leaf().layout.clone(),
        };
        results.push(Fresh { x, layout, slots });
    }
    Ok(results)
}

/// Makes what the step of an entry has come to the leaf's, without running Python code. What it returns is to be dropped when
/// all entries are done: that may run some.
fn commit<'py>(entry: &mut Entry<'_, 'py>, made: Option<Made<'py>>, reached: Reached) -> Option<OwnState> {
    let inner = entry.guard.get_mut()?;
    match (&mut inner.moments, made) {
        (Moments::Own(state), Some((new, _))) => Some(std::mem::replace(state, OwnState(new.unbind()))),
        (Moments::Compiled { program, counts, .. }, _) => {
            advance(program, counts, reached);
            None
        }
        _ => None,
    }
}

/// Brings counts to where they are after a step.
pub fn advance(program: &Program, counts: &mut Counts, (outcome, after): Reached) {
    match (after, outcome.reach) {
        (Some(after), _) => *counts = after,
        (None, Some(reach)) => program.advance(counts, reach, |_| None),
        (None, None) => {}
    }
}

/// The new leaf and the new array of an entry.
fn hand_out<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    result: &Fresh,
    made: Option<Made<'py>>,
    reached: Reached,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let old = entry.guard.get();
    let (dtype, layout) = (entry.leaf().dtype, &entry.leaf().layout);
    let is_swapped = entry.strided.as_ref().is_some_and(|view| view.swapped);
    let descr = if is_swapped { swapped(py, dtype)? } else { descriptor(py, dtype)? };
    let x = array(py, &result.x, &descr, dtype.size(), &result.layout)?;
    let moments = match &old.moments {
        Moments::Own(OwnState(state)) => Moments::Own(OwnState(match made {
            Some((new, _)) => new.unbind(),
            None => copied(py, state)?,
        })),
        Moments::Compiled { program, slots, counts } => {
            let fresh =
                slots.iter().zip(&result.slots).map(|(old, part)| Slot { place: part.share(py), dtype: old.dtype });
            let mut counts = counts.clone();
            advance(program, &mut counts, reached);
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

/// The error of a step that does not take place; `of` says where a parameter stands, and its leaf.
pub fn refusal<'l>(
    py: Python<'_>,
    why: Refused,
    of: impl Fn(usize) -> PyResult<(String, &'l Leaf)>,
) -> PyResult<PyErr> {
    let place = || Ok::<_, PyErr>(of(why.parameter)?.0);
    Ok(match why.reason {
        Reason::Norm(reason) => refused(&place()?, &reason),
        Reason::Element(reason, element) => {
            let (place, leaf) = of(why.parameter)?;
            let index = index_text(py, &leaf.layout, element);
            refused(&place, &format!("{reason}: element {index} of the gradient is not finite"))
        }
        Reason::Value(reason) => unusable(&place()?, &reason),
        Reason::Order(other, [a, b]) => PyValueError::new_err(format!(
            "{a} and {b} wait for each other: {a} comes first at {}, {b} at {}; give all parameters one order, or the rules names",
            place()?,
            of(other)?.0
        )),
        Reason::OutOfMemory(none) => too_large(none.bytes),
    })
}

/// The index of the element that stands at `element` in an array with this layout.
fn index_text(py: Python<'_>, layout: &Layout, element: usize) -> String {
    let mut axes: Vec<usize> = (0..layout.shape.len()).filter(|&axis| layout.shape[axis] > 1).collect();
    axes.sort_by_key(|&axis| std::cmp::Reverse(layout.strides[axis]));
    let (mut rest, mut index) = (element, vec![0_isize; layout.shape.len()]);
    for axis in axes {
        let stride = layout.strides[axis] as usize;
        (index[axis], rest) = ((rest / stride) as isize, rest % stride);
    }
    shape_text(py, &index)
}

/// What is to be said of a skipped step.
pub struct Skipped {
    rule: String,
    place: String,
    index: String,
    counts: [u64; 2],
}

impl Skipped {
    /// What is to be said of `skips`, whose parameters are among `entries`.
    pub fn all(py: Python<'_>, entries: &[Entry], skips: &[Skip], names: &Names) -> PyResult<Vec<Self>> {
        let rule = |(i, link): (usize, usize)| match &entries[i].guard.get().moments {
            Moments::Compiled { program, .. } => program.links[link].name(),
            Moments::Own(_) => String::new(),
        };
        collected(skips.iter().map(|skip| {
            let entry = &entries[skip.parameter];
            Self::of(py, rule(skip.rule), names.of(entry.place)?, entry.leaf(), skip)
        }))
    }

    /// The same of a parameter at `place`.
    pub fn of(py: Python<'_>, rule: String, place: String, leaf: &Leaf, skip: &Skip) -> PyResult<Self> {
        Ok(Self { rule, place, index: index_text(py, &leaf.layout, skip.element), counts: skip.counts })
    }

    /// Says it, now that the step is over.
    pub fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let (Self { rule, place, index, .. }, [all, row]) = (self, self.counts);
        let log = py.import(intern!(py, "optirs._skipped"))?.getattr(intern!(py, "tell"))?;
        log.call1((rule, place, index, all, row)).map(drop)
    }
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
