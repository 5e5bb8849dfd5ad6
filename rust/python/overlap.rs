//! Which arrays of an update share memory: parameters may not, unless they are tied; gradients may, and are copied.

use bumpalo::Bump;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::arena::List;
use super::arrays::{View, numpy};
use super::entry::{Entry, Names, Origin, tied};
use super::gradient::{Gradient, Held};
use super::leaf::Moments;
use super::memory::{Memory, allocate};
use super::walk::bystander_name;
use crate::job::Source;

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
    Bystander(u32),
}

impl Whose {
    /// Whether nobody else may share it.
    fn alone(self) -> bool {
        matches!(self, Self::Parameter(_) | Self::State)
    }
}

impl<'a, 'py> Touched<'_, 'a, 'py> {
    /// Refuses parameters that share elements without being tied, or with what is not trained; in place, copies
    /// gradients that share memory with what is written, so that the result is as if all had been copied first.
    ///
    /// Whether Python code may have run. Bystanders that are parameters themselves are added to `elsewhere`.
    pub fn separate(
        &self,
        py: Python<'py>,
        arena: &Bump,
        gradients: &mut [Option<Gradient<'a, 'py>>],
        elsewhere: &mut Vec<(usize, Origin)>,
    ) -> PyResult<bool> {
        let mut written = self.written(arena);
        let mut others = self.others(arena, gradients);
        for spans in [&mut written, &mut others] {
            spans.sort_by_key(|s| s.low); // which are in order already where arrays were made in the order of the tree
        }
        if disjoint(&written, &others) {
            return Ok(false);
        }
        let mut spans = written;
        spans.extend_from_slice(&others);
        spans.sort_by_key(|s| s.low);
        let mut open: Vec<Span> = Vec::new();
        for &b in &spans {
            open.retain(|a| a.high > b.low);
            for &a in &open {
                self.meet(py, arena, a, b, gradients, elsewhere)?;
            }
            open.push(b);
        }
        Ok(true)
    }

    /// What nobody else may share: the parameters and, in place, the memory of the state.
    fn written<'b>(&self, arena: &'b Bump) -> List<'b, Span> {
        let mut spans = List::with_capacity_in(self.entries.len() + 8, arena);
        for (i, entry) in (0_u32..).zip(self.entries) {
            add(&mut spans, entry.span(), Whose::Parameter(i));
        }
        if !self.in_place {
            return spans;
        }
        // Leaves share their memory slot by slot: it is listed once for all in a row, and again where one with memory of its
        // own stands between them.
        let mut last: SmallVec<[*const Memory; 4]> = SmallVec::new();
        let mut states: SmallVec<[(usize, usize); 8]> = SmallVec::new();
        for entry in self.entries {
            let Moments::Compiled { slots, .. } = &entry.guard.get().moments else { continue };
            last.resize(last.len().max(slots.len()), std::ptr::null());
            for (slot, last) in slots.iter().zip(&mut last) {
                let memory: *const Memory = slot.place.memory.get();
                if !std::ptr::eq(*last, memory) {
                    *last = memory;
                    let buffer = &slot.place.memory.get().0;
                    let low = buffer.ptr() as usize;
                    states.push((low, low + buffer.len()));
                }
            }
        }
        states.sort_unstable();
        states.dedup();
        for span in states {
            add(&mut spans, span, Whose::State);
        }
        spans
    }

    /// What may be shared with others of its kind: in place the gradients, and the bystanders.
    fn others<'b>(&self, arena: &'b Bump, gradients: &[Option<Gradient>]) -> List<'b, Span> {
        let mut spans = List::with_capacity_in(self.entries.len() + self.bystanders.len(), arena);
        for (i, (entry, gradient)) in (0_u32..).zip(self.entries.iter().zip(gradients)) {
            let Some(g) = gradient.as_ref().filter(|_| self.in_place) else { continue };
            let low = g.source.ptr as usize;
            add(&mut spans, (low, low + entry.leaf().layout.len * g.source.dtype.size()), Whose::Gradient(i));
        }
        for (i, array) in (0_u32..).zip(self.bystanders) {
            if let Some(span) = super::arrays::span(array) {
                add(&mut spans, span, Whose::Bystander(i));
            }
        }
        spans
    }

    /// What to do where the addresses of `a` and `b` meet.
    fn meet(
        &self,
        py: Python<'py>,
        arena: &Bump,
        a: Span,
        b: Span,
        gradients: &mut [Option<Gradient<'a, 'py>>],
        elsewhere: &mut Vec<(usize, Origin)>,
    ) -> PyResult<()> {
        let names = Names(self.state);
        match (a.whose, b.whose) {
            (Whose::Gradient(i), other) | (other, Whose::Gradient(i)) => {
                let Some(gradient) = gradients[i as usize].as_mut().filter(|_| other.alone()) else { return Ok(()) };
                copy(py, gradient, self.entries[i as usize].leaf().layout.len)
            }
            (Whose::Parameter(i), Whose::Parameter(j)) => {
                let (a, b) = (&self.entries[i.min(j) as usize], &self.entries[i.max(j) as usize]);
                let one = View::of(a.array).zip(View::of(b.array)).and_then(|(a, b)| tied(&a, &b)).is_some();
                if !one && !shares(py, a.array, b.array)? {
                    return Ok(());
                }
                let (a, b) = (names.of(a.place), names.of(b.place));
                Err(if one { tied_in_the_model(&a, &b) } else { overlap(&a, &b) })
            }
            (Whose::Parameter(i), Whose::Bystander(j)) | (Whose::Bystander(j), Whose::Parameter(i)) => {
                let (entry, other) = (&self.entries[i as usize], &self.bystanders[j as usize]);
                if let Some(transposed) = View::of(entry.array).zip(View::of(other)).and_then(|(a, b)| tied(&a, &b)) {
                    elsewhere.push((j as usize, Origin { entry: i, transposed }));
                    return Ok(());
                }
                if !shares(py, entry.array, other)? {
                    return Ok(());
                }
                let (a, b) = (names.of(entry.place), bystander_name(arena, self.state, self.model, j as usize));
                Err(overlap(&a, &b))
            }
            (Whose::Parameter(i), Whose::State) | (Whose::State, Whose::Parameter(i)) => {
                let place = names.of(self.entries[i as usize].place);
                Err(PyValueError::new_err(format!("parameter at {place} lies in the memory of the state")))
            }
            _ => Ok(()),
        }
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

fn shares(py: Python<'_>, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<bool> {
    numpy(py)?.call_method1("shares_memory", (a, b))?.is_truthy()
}

/// Gives a gradient of `n` elements memory of its own.
fn copy(py: Python<'_>, gradient: &mut Gradient<'_, '_>, n: usize) -> PyResult<()> {
    if matches!(gradient.array, Held::Copied { .. }) {
        return Ok(());
    }
    let bytes = n * gradient.source.dtype.size();
    let part = allocate(py, &[(0, bytes)])?.remove(0);
    // SAFETY: a gradient is gapless and of this size; the copy is fresh.
    unsafe { std::ptr::copy_nonoverlapping(gradient.source.ptr, part.ptr, bytes) };
    gradient.source = Source { ptr: part.ptr, dtype: gradient.source.dtype };
    gradient.array = Held::Copied { _memory: part.memory };
    Ok(())
}
