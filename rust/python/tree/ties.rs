//! Which arrays of a tree are one: the same object, the same elements, or one the full transpose of the other.

use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::memory::reserve::{OutOfMemory, Put, Reserve, list};
use crate::python::array::{View, same_type, span};

/// Objects, of which some are one.
pub struct Ties {
    /// For each object which one it is, counted in the order of their first places, and whether it is transposed.
    pub index: Vec<(usize, bool)>,
    /// Where each of them stands first.
    pub first: Vec<usize>,
    /// Those that may share some elements with another one: only NumPy can tell.
    pub overlapping: Vec<usize>,
}

/// The ties of `objects`. What is no array is one with itself only.
pub fn ties(objects: &[Bound<'_, PyAny>]) -> Result<Ties, OutOfMemory> {
    let mut found = Ties { index: list(objects.len())?, first: Vec::new(), overlapping: Vec::new() };
    let mut known: FxHashMap<usize, (usize, bool)> = FxHashMap::default();
    let mut by_span: FxHashMap<(usize, usize), SmallVec<[usize; 1]>> = FxHashMap::default();
    known.make_room(objects.len())?;
    if objects.first().is_some_and(|object| View::of(object).is_some()) {
        by_span.make_room(objects.len())?; // which Leafs do not need
    }
    let mut spans = Vec::new();
    for (place, object) in objects.iter().enumerate() {
        let address = object.as_ptr() as usize;
        if let Some(at) = known.get(&address) {
            found.index.push(*at);
            continue;
        }
        let span = span(object).filter(|(low, high)| low < high);
        let mut alike = span.and_then(|s| by_span.get(&s)).into_iter().flatten();
        let tied = alike.find_map(|&i| Some((i, tie(&objects[found.first[i]], object)?)));
        let at = if let Some(tied) = tied {
            tied
        } else {
            let i = found.first.len();
            found.first.put(place)?;
            if let Some(span) = span {
                by_span.make_room(1)?;
                let alike = by_span.entry(span).or_default();
                alike.make_room(1)?;
                alike.push(i);
                spans.put((span, i))?;
            }
            (i, false)
        };
        known.insert(address, at); // there is room for each object
        found.index.push(at);
    }
    found.overlapping = overlapping(spans)?;
    Ok(found)
}

/// Those of these stretches of addresses that meet another one.
fn overlapping(mut spans: Vec<((usize, usize), usize)>) -> Result<Vec<usize>, OutOfMemory> {
    spans.sort_unstable();
    let mut meeting = Vec::new();
    let mut farthest: Option<(usize, usize)> = None; // the highest end so far, and whose it is
    for ((low, high), i) in spans {
        if let Some((end, whose)) = farthest
            && low < end
        {
            meeting.put(whose)?;
            meeting.put(i)?;
        }
        if farthest.is_none_or(|(end, _)| high >= end) {
            farthest = Some((high, i));
        }
    }
    meeting.sort_unstable();
    meeting.dedup();
    Ok(meeting)
}

/// Whether `b`, which covers the same addresses, is `a` (false), its full transpose (true), or neither.
fn tie(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> Option<bool> {
    let (x, y) = (View::of(a)?, View::of(b)?);
    if !same_type(a, b) || x.shape.len() != y.shape.len() {
        return None;
    }
    // The stride of an axis of length 1 leads nowhere, so any will do.
    let alike = |i: usize, j: usize| x.shape[i] == y.shape[j] && (x.shape[i] == 1 || x.strides[i] == y.strides[j]);
    let nd = x.shape.len();
    if (0..nd).all(|i| alike(i, i)) { Some(false) } else { (0..nd).all(|i| alike(i, nd - 1 - i)).then_some(true) }
}
