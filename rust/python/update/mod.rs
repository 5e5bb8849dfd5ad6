//! `update` and `update_`: check everything, plan, run, hand out.

pub mod apply;
pub mod overlap;
pub mod parameter;
pub mod refusal;
pub mod schedules;
pub mod steps;

use bumpalo::Bump;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::hash_map;
use std::sync::Arc;

use super::array::access::{Looks, Role, Wanted, run};
use super::array::{
    Layout, Load, MemoryPart, PLACED, Request, allocate, array, copy_into, descriptor, placed, swapped, too_large,
};
use super::errors::{at, moved};
use super::leaf::{Counts, Inner, Leaf, Moments, OwnState, Slot, copied};
use super::memory::arena::{List, list_in, with_arena};
use super::memory::lists::{Int, Items, tuple};
use super::tree::rebuild::rebuild_trees;
use super::tree::walk::walk;
use crate::memory::buffer::Buffer;
use crate::memory::placement::Streams;
use crate::memory::reserve::{Put, Reserve, check, collected, list};
use crate::program::Program;
use crate::step::job::Source;
use crate::step::planner::Planner;
use crate::step::walker::{Elsewhere, Progress};
use crate::step::{Outcome, Refused};
use overlap::Touched;
use parameter::{ArrayOrigin, Entry, Gradient, Names, entries};
use refusal::{Skipped, refusal};
use schedules::schedule;
use steps::{Fresh, Incoming, Step, Target, Through};

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
    schedule(py, &mut entries, &gradients, &names)?;
    let touched = Touched { state, model, entries: &entries, bystanders: &found.bystanders, in_place };
    let mut elsewhere = Vec::new();
    touched.separate(py, arena, &mut gradients, &mut elsewhere)?;
    let results = if in_place { Vec::new() } else { results(arena, py, &entries, &gradients)? };
    let to = if in_place { Targets::Places } else { Targets::Fresh(&results) };
    let Done { outcomes, counts: after, own, mut old, skipped } =
        Call { entries: &entries, gradients: &gradients, to }.run(py, arena, &names)?;
    let (mut own, mut after) = (own.into_iter().peekable(), &after[..]);
    if in_place {
        for (i, (entry, outcome)) in entries.iter_mut().zip(outcomes).enumerate() {
            let after = next_counts(&mut after, &entry.guard.get().moments.program);
            let Some(inner) = entry.guard.get_mut() else { continue };
            while let Some(new) = own.next_if(|new| new.entry == i) {
                old.push(std::mem::replace(&mut inner.moments.own[new.own], new.state));
            }
            let Moments { program, counts, .. } = &mut inner.moments;
            advance(program, counts, outcome, after);
        }
        drop((entries, old)); // the guards first: dropping a state may run Python code
        skipped.iter().for_each(|skipped| skipped.tell(py));
        return Ok((state.clone(), model.clone()));
    }
    let mut fresh = list_in(entries.len(), arena)?;
    for (i, ((entry, result), outcome)) in entries.iter().zip(&results).zip(outcomes).enumerate() {
        let after = next_counts(&mut after, &entry.guard.get().moments.program);
        let mut states = Vec::new();
        while let Some(new) = own.next_if(|new| new.entry == i) {
            states.put(new)?;
        }
        fresh.push(hand_out(py, entry, result, states, (outcome, after))?);
    }
    drop((entries, old));
    skipped.iter().for_each(|skipped| skipped.tell(py));
    let mut fresh = Pairs { pairs: fresh, transposes: FxHashMap::default() };
    let elsewhere = elsewhere.into_iter().map(|(i, origin)| {
        let new = fresh.at(py, origin)?.1;
        PyResult::Ok((i, (found.bystanders[i].clone(), new)))
    });
    let elsewhere = collected(elsewhere)?;
    let mut moved = FxHashMap::default();
    moved.make_room(elsewhere.len())?;
    moved.extend(elsewhere);
    rebuild_trees(state, model, &found, origins.iter().map(|o| fresh.at(py, *o)), moved)
}

/// What a call steps.
pub struct Call<'c, 'a, 'py> {
    /// The parameters.
    pub entries: &'c [Entry<'a, 'py>],
    /// Their gradients.
    pub gradients: &'c [Option<Gradient<'a, 'py>>],
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
    Direction(&'c MemoryPart),
}

/// The new state of a rule of the user's own.
pub struct OwnDone {
    /// The number of the entry.
    pub entry: usize,
    /// Which of the own rules of its program.
    pub own: usize,
    /// The state.
    pub state: OwnState,
}

/// What has become of a call.
pub struct Done<'b> {
    /// What the step was to each entry.
    pub outcomes: List<'b, Outcome>,
    /// The counts of all entries after it, one after the other, where they do not follow from that; else none.
    pub counts: Vec<u64>,
    /// The new states of the user's own rules, in the order of the entries.
    pub own: Vec<OwnDone>,
    /// Those of steps that were skipped later on, with room for the old ones of all others: to drop one may run Python code.
    pub old: Vec<OwnState>,
    /// What is to be said of the steps that rules have skipped.
    pub skipped: Vec<Skipped>,
}

impl<'c, 'py> Call<'c, '_, 'py> {
    /// Opens the arrays and takes all steps, or none. The rules of the user's own are called in between, when nothing is
    /// written yet that is seen outside.
    pub fn run<'b>(&self, py: Python<'py>, arena: &'b Bump, names: &Names) -> PyResult<Done<'b>> {
        let n = self.entries.len();
        let (mut steps, mut reached) = (list_in(n, arena)?, list_in(n, arena)?);
        let mut load = Load::NONE;
        for (i, (entry, gradient)) in self.entries.iter().zip(self.gradients).enumerate() {
            steps.push(self.step(i, entry, gradient.as_ref())?);
            load = load.with_step(entry.leaf().layout.len * entry.leaf().dtype.size());
        }
        let (mut planner, mut counts) = (Planner::default(), Vec::new());
        let (mut answers, mut own, mut calls) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rules, mut old, mut skipped) = (OwnRules::default(), Vec::new(), Vec::new());
        loop {
            let (all, given, plan, counts) = (&mut steps[..], Answers(&mut answers), &mut planner, &mut counts);
            let looks = |looks: &mut Looks<'_, '_, '_>| self.look_again(looks);
            let wanted = Wanted::new(arena, 2 * n, load, names, looks);
            let waits = !own.is_empty();
            let progress = run(py, &wanted, |arrays| {
                // SAFETY: the entries' guards are held by the caller, as writers' where targets are places; arrays that are
                // written are disjoint, and gradients in their memory are copied, as `Touched::separate` saw to; targets,
                // copies and answers are new.
                unsafe { steps::go_on(all, given.all(), arrays, plan, counts, waits) }
            })?;
            if progress.map_err(|why| self.refusal(py, why, names))? == Progress::Ready {
                break;
            }
            calls.clear();
            for call in planner.calls() {
                calls.put(call)?;
            }
            for call in &calls {
                let made = self.own_step(py, &mut rules, call, names)?;
                own.put(OwnDone { entry: call.parameter, own: made.own, state: made.state })?;
                answers.put((*call, made.dx.as_ref().map(|(_, source)| *source)))?;
                if let Some((place, _)) = made.dx {
                    rules.kept.put(place)?;
                }
            }
        }
        if !own.is_empty() || !planner.skips.is_empty() {
            // All that may fail or run Python code comes before anything is written that others see.
            skipped = Skipped::all(py, self.entries, &planner.skips, names)?;
            old.make_room(own.len())?;
            let mut kept = list(own.len())?;
            for new in own {
                if planner.outcomes[new.entry].skipped.is_none() {
                    kept.push(new);
                } else {
                    old.push(new.state);
                }
            }
            own = kept;
            own.sort_unstable_by_key(|new: &OwnDone| (new.entry, new.own));
            let (all, plan, counts) = (&mut steps[..], &mut planner, &mut counts);
            let looks = |looks: &mut Looks<'_, '_, '_>| self.look_again(looks);
            let wanted = Wanted::new(arena, 2 * n, load, names, looks);
            // SAFETY: as above.
            let done = run(py, &wanted, |arrays| unsafe { steps::finish(all, arrays, plan, counts) })?;
            done.map_err(|why| self.refusal(py, why, names))?;
        }
        reached.extend_from_slice_copy(&planner.outcomes);
        Ok(Done { outcomes: reached, counts, own, old, skipped })
    }

    /// The error of steps that do not take place.
    fn refusal(&self, py: Python<'_>, why: Refused, names: &Names) -> PyErr {
        let of = |i: usize| Ok((names.of(self.entries[i].place)?, self.entries[i].leaf()));
        refusal(py, why, of).unwrap_or_else(|error| error)
    }

    /// What a rule of the user's own makes of what comes to it: `None` as source where that is the gradient itself.
    fn own_step(
        &self,
        py: Python<'py>,
        rules: &mut OwnRules<'py>,
        &Elsewhere { parameter: i, link, source, .. }: &Elsewhere,
        names: &Names,
    ) -> PyResult<OwnMade> {
        let entry = &self.entries[i];
        let (leaf, inner) = (entry.leaf(), entry.guard.get());
        let Moments { program, counts, own, .. } = &inner.moments;
        let (Some(k), Some(gradient)) = (program.links[link].own, &self.gradients[i]) else {
            return Err(PyRuntimeError::new_err("a rule waits for nothing"));
        };
        let fail = |error| match names.of(entry.place) {
            Ok(place) => at(py, moved(py, error, "parameter", &place), &place),
            Err(interrupt) => interrupt,
        };
        let rule = rules.of(inner.rule.bind(py), program, counts, k).map_err(fail)?;
        let compute = program.working(leaf.dtype).compute().dtype();
        let bytes = leaf.layout.len * compute.size();
        let streams = || entry.guard.get().streams(entry.address, None).choose(None);
        let as_array = |place: &MemoryPart| array(py, place, &descriptor(py, compute)?, compute.size(), &leaf.layout);
        let dx = match source {
            None => gradient.array.array().clone(),
            Some(source) => {
                let copy = placed(py, bytes, streams())?;
                // SAFETY: what a phase has made lies gapless in the order of the leaf, in the type of the step.
                unsafe { std::ptr::copy_nonoverlapping(source.ptr, copy.ptr, bytes) };
                as_array(&copy)?
            }
        };
        let x = match leaf.master_of(py, inner)? {
            Some(master) => master,
            None => entry.array.clone(),
        };
        let apply = py.import(intern!(py, "optirs.rules"))?.getattr(intern!(py, "apply"))?;
        let made = apply.call1((rule, &own[k].0, x, dx)).map_err(fail)?;
        let (state, dx): (Bound<'py, PyAny>, Bound<'py, PyAny>) = made.extract()?;
        let mut answer = None;
        if !dx.is_none() {
            // A copy: others may have a hand on what the rule has returned.
            let copy = placed(py, bytes, streams())?;
            copy_into(&as_array(&copy)?, "the rule's dx", &dx).map_err(fail)?;
            let source = Source { ptr: copy.ptr, dtype: compute };
            answer = Some((copy, source));
        }
        Ok(OwnMade { own: k, state: OwnState(state.unbind()), dx: answer })
    }

    /// Looks again at the arrays, which [`Step::array`] names by their numbers.
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
        Ok(())
    }

    /// Where in a page the step of an entry reads and writes.
    fn streams(&self, i: usize, entry: &Entry<'_, '_>, gradient: Option<&Gradient<'_, '_>>) -> Streams {
        let mut streams = entry.guard.get().streams(entry.address, gradient.map(Gradient::read_at));
        match self.to {
            Targets::Fresh(fresh) => {
                streams.add(fresh[i].x.ptr as usize, None);
                let slots = fresh[i].slots.iter().zip(entry.guard.get().moments.program.loops());
                slots.for_each(|(slot, link)| streams.add(slot.ptr as usize, link));
            }
            Targets::Direction(part) => streams.add(part.ptr as usize, None),
            Targets::Places => {}
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
        Ok(Step {
            leaf,
            inner: entry.guard.get(),
            given: entry.given.as_deref(),
            array: 2 * i,
            through,
            gradient: gradient.map(|g| Incoming { dtype: g.dtype, copy: g.copy.as_ref() }),
            target: match self.to {
                Targets::Places => Target::Place,
                Targets::Fresh(fresh) => Target::Fresh(&fresh[i]),
                Targets::Direction(part) => Target::Direction(part),
            },
            outcome: Outcome::default(),
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
    fn at(&mut self, py: Python<'py>, origin: ArrayOrigin) -> PyResult<Pair<'py>> {
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

/// What a rule of the user's own has made.
struct OwnMade {
    /// Which of the own rules of its program it is.
    own: usize,
    state: OwnState,
    /// What is passed on, if anything is.
    dx: Option<(MemoryPart, Source)>,
}

/// The user's own rules in the programs of a call's entries, as they are at this step, and what they have made.
#[derive(Default)]
struct OwnRules<'py> {
    /// Those that were asked for last, with the rule that they are in and the step counts of its timers.
    last: SmallVec<[KnownRules<'py>; 4]>,
    kept: Vec<MemoryPart>,
}

impl<'py> OwnRules<'py> {
    /// The `k`-th own rule in `rule`, at these counts.
    fn of(
        &mut self,
        rule: &Bound<'py, PyAny>,
        program: &Program,
        counts: &[u64],
        k: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, timers) = (rule.py(), program.timers(counts));
        let known = self.last.iter().position(|known| known.0.is(rule) && known.1[..] == *timers);
        let at = if let Some(at) = known {
            at
        } else {
            let rules = py.import(intern!(py, "optirs.rules"))?;
            let mut now = rule.clone();
            if program.is_scheduled() {
                let timers = tuple(py, timers.iter().map(|&t| Int(t as i64)))?;
                now = rules.call_method1(intern!(py, "resolved"), (now, timers))?;
            }
            let own = rules.call_method1(intern!(py, "own_rules"), (now,))?.try_iter()?.collect::<PyResult<_>>()?;
            if self.last.len() == self.last.inline_size() {
                self.last.remove(0);
            }
            self.last.push((rule.clone(), timers.into(), own));
            self.last.len() - 1
        };
        let found = self.last[at].2.get(k).cloned();
        found.ok_or_else(|| PyValueError::new_err("a rule turned into another one"))
    }
}

/// A rule, the step counts of its timers, and the own rules in it at that step.
type KnownRules<'py> = (Bound<'py, PyAny>, Counts, Vec<Bound<'py, PyAny>>);

/// What was made elsewhere, for a phase that runs without Python.
struct Answers<'a>(&'a mut Vec<(Elsewhere, Option<Source>)>);

// SAFETY: the pointers are to memory that the call keeps alive, and that nothing else has.
unsafe impl Send for Answers<'_> {}

impl<'a> Answers<'a> {
    fn all(self) -> &'a mut Vec<(Elsewhere, Option<Source>)> {
        self.0
    }
}

/// New memory for the results of all entries.
pub fn results(
    arena: &Bump,
    py: Python<'_>,
    entries: &[Entry],
    gradients: &[Option<Gradient<'_, '_>>],
) -> PyResult<Vec<Fresh>> {
    let mut requests = List::new_in(arena);
    for (entry, gradient) in entries.iter().zip(gradients) {
        let (len, inner) = (entry.leaf().layout.len, entry.guard.get());
        let bytes = len * entry.leaf().dtype.size();
        let Moments { program, slots, .. } = &inner.moments;
        if bytes < PLACED {
            requests.put(Request { group: 0, bytes, place: 0 })?;
            requests.make_room(slots.len())?;
            let bytes = slots.iter().map(|slot| len * slot.dtype.size()).enumerate();
            requests.extend(bytes.map(|(i, bytes)| Request { group: i + 1, bytes, place: 0 }));
            continue;
        }
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
        let slots = parts.by_ref().take(entry.guard.get().moments.slots.len()).collect();
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

/// The states of the user's own rules after a step: new ones, or copies.
#[cold]
fn own_states(py: Python<'_>, own: &[OwnState], new: Vec<OwnDone>) -> PyResult<Vec<OwnState>> {
    let mut new = new.into_iter().peekable();
    collected(own.iter().enumerate().map(|(k, old)| match new.next_if(|new| new.own == k) {
        Some(new) => Ok(new.state),
        None => Ok(OwnState(copied(py, &old.0)?)),
    }))
}

/// The counts of the next entry, whose rule is `program`, among those of all that are left; `None` where there are none.
fn next_counts<'c>(left: &mut &'c [u64], program: &Program) -> Option<&'c [u64]> {
    let (own, rest) = left.split_at_checked(program.counters())?;
    *left = rest;
    Some(own)
}

/// Brings counts to where they are after a step.
#[inline]
pub fn advance(program: &Program, counts: &mut Counts, outcome: Outcome, after: Option<&[u64]>) {
    match (after, outcome.reach) {
        (Some(after), _) => counts.copy_from_slice(after),
        (None, Some(reach)) => program.advance(counts, reach as usize, outcome.steps, |_| None),
        (None, None) => {}
    }
}

/// The new leaf and the new array of an entry.
pub fn hand_out<'py>(
    py: Python<'py>,
    entry: &Entry<'_, 'py>,
    result: &Fresh,
    new: Vec<OwnDone>,
    (outcome, after): (Outcome, Option<&[u64]>),
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let old = entry.guard.get();
    let (dtype, layout) = (entry.leaf().dtype, &entry.leaf().layout);
    let is_swapped = entry.strided.as_ref().is_some_and(|view| view.swapped);
    let descr = if is_swapped { swapped(py, dtype)? } else { descriptor(py, dtype)? };
    let x = array(py, &result.x, &descr, dtype.size(), &result.layout)?;
    let Moments { program, slots, counts, own } = &old.moments;
    let fresh = slots.iter().zip(&result.slots).map(|(old, part)| Slot { place: part.share(py), dtype: old.dtype });
    let mut counts = counts.clone();
    advance(program, &mut counts, outcome, after);
    let states = if own.is_empty() { Vec::new() } else { own_states(py, own, new)? };
    let moments = Moments { program: program.clone(), slots: fresh.collect(), counts, own: states };
    let inner = Inner { rule: old.rule.clone_ref(py), moments, frozen: old.frozen };
    let leaf = Leaf::new(dtype, layout.clone(), inner).into_object(py)?;
    Ok((leaf.into_any(), x))
}
