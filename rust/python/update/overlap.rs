//! Which arrays of an update share memory: parameters may not, unless they are tied; gradients may, and are copied.

use bumpalo::Bump;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::parameter::{ArrayOrigin, Entry, Gradient, Names, answer, tied};
use crate::memory::meet::Arrays;
use crate::memory::reserve::{OutOfMemory, Put, Reserve, list, listed};
use crate::python::array::{Memory, MemoryPart, View, placed, same_type, span};
use crate::python::memory::arena::{List, list_in};
use crate::python::memory::lists::Items;
use crate::python::tree::walk::bystander_name;
use std::collections::hash_map::Entry::{Occupied, Vacant};

/// What an update touches.
pub struct Touched<'c, 'a, 'py> {
    /// The trees, for names.
    pub state: &'c Bound<'py, PyAny>,
    /// See `state`.
    pub model: &'c Bound<'py, PyAny>,
    /// The parameters.
    pub entries: &'c [Entry<'a, 'py>],
    /// Arrays of the model that are not trained.
    pub bystanders: &'c [Bound<'py, PyAny>],
    /// Whether parameters and states are written where they lie.
    pub in_place: bool,
}

/// From an array's first byte to behind its last one, and whose it is.
#[derive(Clone, Copy)]
struct Span {
    low: usize,
    high: usize,
    whose: Whose,
}

#[derive(Clone, Copy)]
enum Whose {
    Parameter(u32),
    State,
    Gradient(u32),
    Bystander,
}

impl<'a, 'py> Touched<'_, 'a, 'py> {
    /// Refuses parameters that share elements without being tied, or with what is not trained; in place, copies
    /// gradients that share memory with what is written, so that the result is as if all had been copied first.
    ///
    /// Bystanders that are parameters themselves are added to `elsewhere`.
    pub fn separate(
        &self,
        py: Python<'py>,
        arena: &Bump,
        gradients: &mut [Option<Gradient<'a, 'py>>],
        elsewhere: &mut Vec<(usize, ArrayOrigin)>,
    ) -> PyResult<()> {
        let mut written = self.written(arena)?;
        let mut others = self.others(arena, gradients)?;
        for spans in [&mut written, &mut others] {
            spans.sort_unstable_by_key(|s| s.low); // in order already where arrays were made in the order of the tree
        }
        if disjoint(&written, &others) {
            return Ok(());
        }
        self.keep_states_apart(&written)?;
        copy_shared(py, &written, &others, self.entries, gradients)?;
        self.compare(py, arena, elsewhere)
    }

    /// Refuses parameters in the memory of the state.
    fn keep_states_apart(&self, written: &[Span]) -> PyResult<()> {
        let (mut parameter, mut state) = (None::<Span>, None::<Span>);
        for &b in written {
            // Of each kind the one that ends last: states never overlap each other, and what parameters do is seen later.
            let (own, other) = match b.whose {
                Whose::State => (&mut state, &parameter),
                _ => (&mut parameter, &state),
            };
            if let Some(a) = other.filter(|a| a.high > b.low)
                && let (Whose::Parameter(i), _) | (_, Whose::Parameter(i)) = (a.whose, b.whose)
            {
                let place = Names(self.state).of(self.entries[i as usize].place)?;
                return Err(PyValueError::new_err(format!("parameter at {place} lies in the memory of the state")));
            }
            *own = own.filter(|a| a.high >= b.high).or(Some(b));
        }
        Ok(())
    }

    /// Refuses parameters that share elements with each other or with bystanders, and finds the bystanders that are
    /// parameters.
    fn compare(&self, py: Python<'py>, arena: &Bump, elsewhere: &mut Vec<(usize, ArrayOrigin)>) -> PyResult<()> {
        let parameters = self.entries.iter().map(|entry| entry.array);
        let arrays: Vec<_> = listed(parameters.chain(self.bystanders))?;
        let names = Names(self.state);
        let name = |i: usize| match i.checked_sub(self.entries.len()) {
            None => names.of(self.entries[i].place),
            Some(j) => bystander_name(arena, self.state, self.model, j),
        };
        each_pair(py, &arrays, self.entries.len(), &mut |i, j, tied| match (tied, j.checked_sub(self.entries.len())) {
            (Some(transposed), Some(j)) => Ok(elsewhere.put((j, ArrayOrigin { entry: i as u32, transposed }))?),
            (Some(_), None) => Err(tied_in_the_model(&name(i)?, &name(j)?)),
            (None, _) => Err(overlap(&name(i)?, &name(j)?)),
        })
    }

    /// What may not be shared: the parameters and, in place, the memory of the state.
    fn written<'b>(&self, arena: &'b Bump) -> Result<List<'b, Span>, OutOfMemory> {
        let mut spans = list_in(self.entries.len() + 8, arena)?;
        for (i, entry) in (0_u32..).zip(self.entries) {
            add(&mut spans, entry.span(), Whose::Parameter(i));
        }
        if !self.in_place {
            return Ok(spans);
        }
        // Leaves share their memory slot by slot: it is listed once for all in a row, and again where one with memory of its
        // own stands between them.
        let mut last: SmallVec<[*const Memory; 4]> = SmallVec::new();
        let mut states: List<(usize, usize)> = List::new_in(arena);
        for entry in self.entries {
            let slots = &entry.guard.get().moments.slots;
            last.resize(last.len().max(slots.len()), std::ptr::null());
            for (slot, last) in slots.iter().zip(&mut last) {
                let memory: *const Memory = slot.place.memory.get();
                if !std::ptr::eq(*last, memory) {
                    *last = memory;
                    let buffer = &slot.place.memory.get().0;
                    let low = buffer.ptr() as usize;
                    states.put((low, low + buffer.len()))?;
                }
            }
        }
        states.sort_unstable();
        states.dedup();
        spans.make_room(states.len())?;
        for span in states {
            add(&mut spans, span, Whose::State);
        }
        Ok(spans)
    }

    /// What may be shared with others of its kind: in place the gradients, and the bystanders.
    fn others<'b>(&self, arena: &'b Bump, gradients: &[Option<Gradient>]) -> Result<List<'b, Span>, OutOfMemory> {
        let mut spans = list_in(self.entries.len() + self.bystanders.len(), arena)?;
        for (i, (entry, gradient)) in (0_u32..).zip(self.entries.iter().zip(gradients)) {
            let Some(g) = gradient.as_ref().filter(|_| self.in_place) else { continue };
            let bytes = entry.leaf().layout.len * g.dtype.size();
            add(&mut spans, (g.address, g.address + bytes), Whose::Gradient(i));
        }
        for span in self.bystanders.iter().filter_map(span) {
            add(&mut spans, span, Whose::Bystander);
        }
        Ok(spans)
    }
}

/// Adds what `whose` spans, unless it is empty.
#[inline]
fn add(spans: &mut List<Span>, (low, high): (usize, usize), whose: Whose) {
    if low < high {
        spans.push(Span { low, high, whose });
    }
}

/// Whether nothing meets what is written; both are sorted by their starts.
fn disjoint(written: &[Span], others: &[Span]) -> bool {
    let mut next = written.iter().peekable();
    written.is_sorted_by(|a, b| a.high <= b.low)
        && others.iter().all(|other| {
            while next.next_if(|w| w.high <= other.low).is_some() {}
            next.peek().is_none_or(|w| other.high <= w.low)
        })
}

fn tied_in_the_model(a: &str, b: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{a} and {b} are one parameter in the model, but two in the state: make the state of this model with setup, or \
         give each place an array of its own"
    ))
}

fn overlap(a: &str, b: &str) -> PyErr {
    PyValueError::new_err(format!("{a} and {b} share memory without being the same array or its transpose"))
}

/// Calls `found` with the numbers of every two of `arrays`, one of them among the first `alone`, that share an element, and
/// whether the second one is the first one, or its transpose.
fn each_pair(
    py: Python<'_>,
    arrays: &[&Bound<'_, PyAny>],
    alone: usize,
    found: &mut dyn FnMut(usize, usize, Option<bool>) -> PyResult<()>,
) -> PyResult<()> {
    let (mut views, mut lie) = (list(arrays.len())?, list(arrays.len())?);
    let mut first = 0;
    for (i, array) in arrays.iter().enumerate() {
        if let Some(view) = View::of(array)
            && let Some(strided) = view.strided()
        {
            lie.push(strided);
            views.push((i, view));
            first += usize::from(i < alone);
        }
    }
    let all = &lie;
    Arrays { all, alone: first }.pairs(&mut |i, j| {
        let ((a, x), (b, y)) = (&views[i], &views[j]);
        let tied = tied(x, y).filter(|_| same_type(arrays[*a], arrays[*b]));
        if tied.is_some() || answer(py, all[i].overlaps(&all[j]))? {
            return found(*a, *b, tied);
        }
        Ok(())
    })
}

/// Two of `arrays`, one of them among the first `parameters`, that share an element; not the second, where that is not among
/// these, if it is the first or its transpose.
#[pyfunction]
pub fn overlapping(
    py: Python<'_>,
    arrays: Items<Bound<'_, PyAny>>,
    parameters: usize,
) -> PyResult<Option<(usize, usize)>> {
    let mut pair = None;
    let answer = each_pair(py, &listed(&arrays.0)?, parameters, &mut |i, j, tied| {
        if tied.is_some() && j >= parameters {
            return Ok(());
        }
        pair = Some((i, j));
        Err(PyValueError::new_err("an overlap"))
    });
    if pair.is_some() { Ok(pair) } else { answer.map(|()| None) }
}

/// Gives gradients that share memory with what is written memory of their own, to which the step copies them first: the same
/// for all that are one array.
fn copy_shared(
    py: Python<'_>,
    written: &[Span],
    others: &[Span],
    entries: &[Entry],
    gradients: &mut [Option<Gradient<'_, '_>>],
) -> PyResult<()> {
    let mut high = 0;
    // Of each and all that start before it, where the one that ends last does.
    let ends = written.iter().map(|w| {
        high = w.high.max(high);
        high
    });
    let ends: Vec<usize> = listed(ends)?;
    let meets = |other: &Span| {
        let before = written.partition_point(|w| w.low < other.high);
        before > 0 && ends[before - 1] > other.low
    };
    let mut copies: FxHashMap<(usize, usize), MemoryPart> = FxHashMap::default();
    for other in others {
        let Whose::Gradient(i) = other.whose else { continue };
        let Some(gradient) = gradients[i as usize].as_mut().filter(|_| meets(other)) else { continue };
        let bytes = entries[i as usize].leaf().layout.len * gradient.dtype.size();
        copies.make_room(1)?;
        gradient.copy = Some(match copies.entry((gradient.address, bytes)) {
            Occupied(known) => known.get().share(py),
            Vacant(free) => {
                let entry = &entries[i as usize];
                let place = entry.guard.get().streams(entry.address, None).choose(None);
                free.insert(placed(py, bytes, place)?).share(py)
            }
        });
    }
    Ok(())
}
