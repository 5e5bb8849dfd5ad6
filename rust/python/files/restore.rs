//! The states of Leafs in a file, and the Leafs that are made of them.

use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyList};
use std::ops::Range;

use super::forms::{Builder, Container, Form, Plain, Read};
use super::outline::{deep, nonsense, numbers};
use crate::memory::reserve::{Put, Reserve, collected, list, repeated};
use crate::program::{self, Part, Program};
use crate::python::array::access::bytes;
use crate::python::array::{Layout, Look};
use crate::python::leaf::create::{Described, Source, possible, restored_leaves};
use crate::python::leaf::{Leaf, Slot};
use crate::python::memory::lists::Items;
use crate::python::tree::path::MAX_DEPTH;

/// The states of Leafs as a file has them, one after the other.
#[pyclass(frozen, module = "optirs._core")]
pub struct States {
    nodes: Vec<i64>,
    /// Where each begins, and where the last one ends.
    starts: Vec<usize>,
}

#[pymethods]
impl States {
    /// The states of `count` Leafs, in which each of the arrays from `first` to `end` stands once.
    #[new]
    fn new(
        nodes: &Bound<'_, PyList>,
        forms: &Bound<'_, PyList>,
        decode: &Bound<'_, PyAny>,
        count: usize,
        first: usize,
        end: usize,
    ) -> PyResult<Self> {
        let forms = Read::all(forms, decode)?;
        let nodes = numbers(nodes)?;
        let mut starts = list(count.saturating_add(1))?;
        let mut used = repeated(false, end.saturating_sub(first))?;
        let mut open: Vec<usize> = Vec::new(); // how many children are to come, of each node on the way here
        for (i, &node) in nodes.iter().enumerate() {
            match open.last_mut() {
                Some(left) => *left -= 1,
                None => starts.put(i)?,
            }
            match forms.at(node)? {
                Form::Array(array) => {
                    let used = array.checked_sub(first).and_then(|i| used.get_mut(i)).filter(|used| !**used);
                    *used.ok_or_else(nowhere)? = true;
                }
                Form::Container(container) => open.put(container.len())?,
                _ => {}
            }
            if open.len() > MAX_DEPTH {
                return Err(deep());
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        if !open.is_empty() {
            return Err(nonsense("the structure ends too early"));
        }
        if starts.len() != count {
            return Err(nonsense("there are more or less states than Leafs"));
        }
        if used.contains(&false) {
            return Err(nowhere());
        }
        starts.put(nodes.len())?;
        Ok(Self { nodes, starts })
    }

    /// Leafs of these kinds, `of` says which, with the states `chosen`, each of which is asked for at most once.
    ///
    /// The arrays are taken out of the list once they are copied, so that none is in memory twice for longer. For `decode` and
    /// `make` see [`super::forms::build`].
    #[expect(clippy::too_many_arguments, reason = "Python's")]
    fn restore<'py>(
        &self,
        kinds: Items<Described>,
        of: Items<usize>,
        chosen: Items<usize>,
        forms: &Bound<'py, PyList>,
        arrays: &Bound<'py, PyList>,
        decode: &Bound<'py, PyAny>,
        make: &Bound<'py, PyAny>,
    ) -> PyResult<Items<Bound<'py, Leaf>>> {
        let py = forms.py();
        let forms = Read::all(forms, decode)?;
        let builder = Builder { py, forms: &forms, decode, make };
        let range = |i: usize| Some(*self.starts.get(i)?..*self.starts.get(i + 1)?);
        let ranges = chosen.0.into_iter().map(|i| range(i).ok_or_else(|| nonsense("there is no such state")));
        let mut read = InFile { states: self, ranges: collected(ranges)?, builder, arrays, taken: Vec::new() };
        let leaves = restored_leaves(py, kinds.0, of.0, &mut read)?;
        collected(leaves.into_iter().map(|leaf| leaf.into_object(py))).map(Items)
    }
}

fn nowhere() -> PyErr {
    nonsense("an array belongs nowhere, or to two places")
}

/// Where [`States::restore`] reads.
struct InFile<'a, 'py> {
    states: &'a States,
    /// The nodes of each state.
    ranges: Vec<Range<usize>>,
    builder: Builder<'a, 'py>,
    arrays: &'a Bound<'py, PyList>,
    /// The arrays of the state at hand that were copied.
    taken: Vec<usize>,
}

impl<'py> Source<'py> for InFile<'_, 'py> {
    fn read(&mut self, i: usize, program: &Program, layout: &Layout, slots: &[Slot], counts: &mut [u64]) -> bool {
        let mut nodes = self.states.nodes[self.ranges[i].clone()].iter();
        self.taken.clear();
        let read = self.copy(program, &program.form, layout, slots, counts, &mut nodes);
        read.is_some() && nodes.next().is_none() && self.drop_taken().is_ok()
    }

    fn state(&mut self, i: usize) -> PyResult<Bound<'py, PyAny>> {
        self.taken.clear();
        let (arrays, taken) = (self.arrays, &mut self.taken);
        let state = self.builder.tree(&self.states.nodes[self.ranges[i].clone()], Vec::new(), |array| {
            taken.put(array)?;
            arrays.get_item(array)
        })?;
        self.drop_taken()?;
        Ok(state)
    }
}

type Nodes<'a> = std::slice::Iter<'a, i64>;

impl<'py> InFile<'_, 'py> {
    fn drop_taken(&self) -> PyResult<()> {
        self.taken.iter().try_for_each(|&array| self.arrays.set_item(array, self.builder.py.None()))
    }

    /// Copies a state that has just the form that a Leaf of this program shows, and lies as its slots do; `None` for all
    /// others, about which [`Leaf`]s themselves know more.
    fn copy(
        &mut self,
        program: &Program,
        form: &program::Form,
        layout: &Layout,
        slots: &[Slot],
        counts: &mut [u64],
        nodes: &mut Nodes<'_>,
    ) -> Option<()> {
        match form {
            program::Form::Chain(forms) => {
                self.container(nodes).filter(|c| c.plain == Some(Plain::Tuple) && c.len() == forms.len())?;
                forms.iter().try_for_each(|form| self.copy(program, form, layout, slots, counts, nodes))
            }
            program::Form::Mixed(rule) => {
                self.pair(nodes)?;
                self.array(layout, &slots[0], nodes)?;
                self.copy(program, rule, layout, slots, counts, nodes)
            }
            program::Form::Scheduled(timer, rule) => {
                self.pair(nodes)?;
                counts[program.counter_of(*timer)] = self.count(nodes)?;
                self.copy(program, rule, layout, slots, counts, nodes)
            }
            &program::Form::Link(i) => {
                let parts = program.parts(i);
                let count = parts.clone().count();
                if count == 0 {
                    return matches!(self.form(nodes)?, Form::None).then_some(());
                }
                let container = self.container(nodes).filter(|c| c.plain == Some(Plain::Dict))?;
                if !container.has_keys(count, parts.clone().map(|(name, _)| name)) {
                    return None;
                }
                for (_, part) in parts {
                    match part {
                        Part::Array(slot) => self.array(layout, &slots[slot], nodes)?,
                        Part::Float(at) => counts[at] = self.float(nodes)?.to_bits(),
                        Part::Count(at) => {
                            counts[at] = self.count(nodes)?;
                            possible(program, i, counts).ok()?;
                        }
                    }
                }
                Some(())
            }
        }
    }

    fn form(&self, nodes: &mut Nodes<'_>) -> Option<Form<'_, 'py>> {
        self.builder.forms.at(*nodes.next()?).ok()
    }

    fn container(&self, nodes: &mut Nodes<'_>) -> Option<&Container<'py>> {
        if let Form::Container(container) = self.form(nodes)? { Some(container) } else { None }
    }

    fn pair(&self, nodes: &mut Nodes<'_>) -> Option<()> {
        self.container(nodes).filter(|c| c.plain == Some(Plain::Tuple) && c.len() == 2).map(|_| ())
    }

    fn count(&self, nodes: &mut Nodes<'_>) -> Option<u64> {
        let Form::Value(value) = self.form(nodes)? else { return None };
        value.cast_exact::<PyInt>().ok()?.extract::<i64>().ok()?.try_into().ok()
    }

    fn float(&self, nodes: &mut Nodes<'_>) -> Option<f64> {
        let Form::Value(value) = self.form(nodes)? else { return None };
        value.cast_exact::<PyFloat>().ok().map(|value| value.value())
    }

    fn array(&mut self, layout: &Layout, slot: &Slot, nodes: &mut Nodes<'_>) -> Option<()> {
        let Form::Array(number) = self.form(nodes)? else { return None };
        let array = self.arrays.get_item(number).ok()?;
        let look = Look::at(&array, layout)?;
        if look.dtype != Some(slot.dtype) || !look.laid || !layout.c_order {
            return None;
        }
        self.taken.make_room(1).ok()?;
        let to = &slot.place;
        // SAFETY: the slot was allocated for as many bytes as the layout's elements take, and nothing else has it yet.
        bytes(&array, layout.len * slot.dtype.size(), |from| unsafe {
            from.as_ptr().copy_to_nonoverlapping(to.ptr, from.len())
        })?;
        self.taken.push(number);
        Some(())
    }
}
