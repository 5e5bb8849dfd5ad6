//! What is to be written: trees and states taken apart into forms and arrays.

use pyo3::exceptions::PyRecursionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use rustc_hash::FxHashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::forms::{Forms, is_json};
use super::inventory::Inventory;
use super::numbers::Numbers;
use super::outline::{Outline, by_text, outline_to_write};
use crate::loops::dtype::DType;
use crate::memory::reserve::{Put, Reserve, collected, list as room, listed, owned};
use crate::program::{Form, Part, Program};
use crate::python::array::{Layout, is_array};
use crate::python::leaf::{Leaf, Moments, Slot};
use crate::python::memory::lists::{Int, Items, Text, float, ints, list, text, tuple};
use crate::python::tree::path::{append, too_deep};

/// Levels of the state of one Leaf, so that every reader can follow.
const DEEPEST: usize = 200;
/// Where Leafs stand, as key paths name it.
const ROOT: &str = "state";
/// The most bytes that the text of a position takes.
const KEY: usize = 22;

/// See the module.
#[pyclass(module = "optirs._core")]
pub struct Draft {
    forms: Forms,
    words: Py<PyAny>,
    layers: Py<PyDict>,
    /// Whether everything is brought into one order, so that equal trees make equal drafts.
    canonical: bool,
    /// The arrays.
    #[pyo3(get)]
    inventory: Py<Inventory>,
    known: Known,
}

/// What was found of the states of compiled rules, of which most are alike.
#[derive(Default)]
struct Known {
    /// The node of the state of each link, and the order of its children, by the program's address and the link's number.
    links: FxHashMap<(usize, usize), Arc<State>>,
    tuples: FxHashMap<usize, i64>,
    counts: FxHashMap<u64, i64>,
    /// An array like those of each layout, by its address, and type.
    arrays: FxHashMap<(usize, DType), usize>,
    /// What has those addresses.
    programs: Vec<Arc<Program>>,
    layouts: Vec<Arc<Layout>>,
}

/// The state of a link.
struct State {
    node: i64,
    children: Vec<Child>,
}

enum Child {
    /// The `i`-th state array of a Leaf, called so.
    Slot(usize, &'static str),
    /// The count with this number.
    Count(usize),
    /// The float whose bits are the count with this number.
    Float(usize),
}

/// What Leafs have in common: rule, shape, strides, type, and whether frozen.
type LeafKind<'py> = (Py<PyAny>, Bound<'py, PyList>, Bound<'py, PyList>, &'static str, bool);

/// What [`Draft::kinds`] finds: kinds of Leafs, the first Leaf of each, and the kind of each Leaf.
type Kinds<'py> = (Items<LeafKind<'py>>, Bound<'py, PyList>, Numbers);

#[pymethods]
impl Draft {
    /// `words` is what Python knows of values and classes, `layers` the names of the layers of ours by class.
    #[new]
    fn new(py: Python<'_>, words: Py<PyAny>, layers: Py<PyDict>, canonical: bool) -> PyResult<Self> {
        let inventory = Bound::new(py, Inventory::empty())?.unbind();
        Ok(Self {
            forms: Forms::new(py, words.clone_ref(py))?,
            words,
            layers,
            canonical,
            inventory,
            known: Known::default(),
        })
    }

    /// Takes a tree apart.
    fn outline<'py>(&mut self, tree: &Bound<'py, PyAny>, root: &str) -> PyResult<Outline> {
        let layers = self.layers.bind(tree.py()).clone();
        outline_to_write(tree, root, layers, &mut self.forms, self.canonical)
    }

    /// What the Leafs of a state have in common, the first Leaf of each kind, and the kind of each Leaf.
    #[staticmethod]
    fn kinds<'py>(py: Python<'py>, outline: &Outline) -> PyResult<Kinds<'py>> {
        let leafs = &outline.found;
        let (mut kinds, mut first) = (Vec::new(), Vec::new());
        let mut of: Vec<i64> = room(leafs.len())?;
        let mut known: FxHashMap<(usize, Arc<Layout>, DType, bool), usize> = FxHashMap::default();
        for (i, leaf) in leafs.iter().enumerate() {
            let leaf = leaf.bind(py).cast_exact::<Leaf>()?.get();
            let guard = leaf.reading()?;
            let (rule, frozen) = (&guard.get().rule, guard.get().frozen);
            // The rules are kept in `kinds`, so that no other gets the address of one.
            let key = (rule.as_ptr() as usize, leaf.layout.clone(), leaf.dtype, frozen);
            let kind = match known.get(&key) {
                Some(kind) => *kind,
                None => {
                    let (shape, strides) = (lengths(py, &key.1.shape)?, lengths(py, &key.1.strides)?);
                    kinds.put((rule.clone_ref(py), shape, strides, leaf.dtype.name(), frozen))?;
                    first.put(i)?;
                    known.make_room(1)?;
                    *known.entry(key).or_insert(kinds.len() - 1)
                }
            };
            of.push(i64::try_from(kind)?);
        }
        Ok((Items(kinds), ints(py, first)?, of.into()))
    }

    /// Takes the states of all Leafs of a tree apart: their nodes, one state after the other.
    fn states(&mut self, py: Python<'_>, outline: &Outline) -> PyResult<Numbers> {
        let mut nodes = Vec::new();
        let inventory = self.inventory.clone_ref(py);
        let mut own = false;
        for (leaf, &first) in outline.found.iter().zip(&outline.first) {
            let leaf = leaf.bind(py).cast_exact::<Leaf>()?;
            let mut text = owned(outline.places.get(first))?;
            let guard = leaf.get().reading()?;
            let Moments { program, slots, counts, .. } = &guard.get().moments;
            if program.owns == 0 {
                let mut arrays = inventory.try_borrow_mut(py)?;
                self.compiled(leaf, (program, slots, counts), &program.form, &mut text, &mut arrays, &mut nodes)?;
                continue;
            }
            own = true;
            drop(guard);
            let mut place = Place { leaf: text.len(), text, outline, first, keys: Vec::new() };
            self.state(&leaf.getattr(intern!(py, "state"))?, &mut place, &mut nodes)?;
        }
        inventory.try_borrow_mut(py)?.doubtful |= outline.doubtful || own;
        Ok(nodes.into())
    }

    #[getter]
    fn forms<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.forms.list(py)
    }

    // No `__clear__`: a cycle leads through the words or a dict, which have one.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.words)?;
        visit.call(&self.layers)?;
        visit.call(&self.inventory)?;
        self.forms.traverse(&visit)
    }
}

/// A place in the state of a Leaf.
struct Place<'a, 'py> {
    text: String,
    /// How long the text of the Leaf's place is, and which place that is.
    leaf: usize,
    outline: &'a Outline,
    first: usize,
    keys: Vec<Bound<'py, PyAny>>,
}

impl<'py> Place<'_, 'py> {
    fn path(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let root = text(py, ROOT)?.into_any();
        let leaf = self.outline.path(py, self.first)?;
        tuple(py, listed(std::iter::once(root).chain(leaf.iter()).chain(self.keys.iter().cloned()))?)
    }
}

impl Draft {
    /// As [`Self::state`] of what a Leaf shows, without making that.
    fn compiled(
        &mut self,
        leaf: &Bound<'_, Leaf>,
        moments: (&Arc<Program>, &[Slot], &[u64]),
        form: &Form,
        text: &mut String,
        inventory: &mut Inventory,
        nodes: &mut Vec<i64>,
    ) -> PyResult<()> {
        let (program, slots, counts) = moments;
        let length = text.len();
        match form {
            Form::Chain(forms) => {
                nodes.put(self.tuple(leaf.py(), forms.len())?)?;
                for (i, form) in forms.iter().enumerate() {
                    text.make_room(KEY)?;
                    let _ = write!(text, "[{i}]"); // which never fails
                    self.compiled(leaf, moments, form, text, inventory, nodes)?;
                    text.truncate(length);
                }
            }
            Form::Mixed(rule) => {
                nodes.make_room(2)?;
                text.make_room(KEY)?;
                nodes.push(self.tuple(leaf.py(), 2)?);
                text.push_str("[0]");
                nodes.push(self.array(leaf, &slots[0], text, inventory)?);
                text.truncate(length);
                text.push_str("[1]");
                self.compiled(leaf, moments, rule, text, inventory, nodes)?;
            }
            Form::Scheduled(timer, rule) => {
                nodes.make_room(2)?;
                text.make_room(KEY)?;
                nodes.push(self.tuple(leaf.py(), 2)?);
                nodes.push(self.count(leaf.py(), counts[program.counter_of(*timer)])?);
                text.push_str("[1]");
                self.compiled(leaf, moments, rule, text, inventory, nodes)?;
            }
            &Form::Link(i) => {
                let known = self.known.links.get(&(Arc::as_ptr(program) as usize, i)).cloned();
                let state = if let Some(state) = known { state } else { self.link(leaf, program, i)? };
                nodes.make_room(1 + state.children.len())?;
                nodes.push(state.node);
                for child in &state.children {
                    nodes.push(match *child {
                        Child::Slot(slot, name) => {
                            text.make_room(1 + name.len())?;
                            text.push('.');
                            text.push_str(name);
                            self.array(leaf, &slots[slot], text, inventory)?
                        }
                        Child::Count(at) => self.count(leaf.py(), counts[at])?,
                        Child::Float(at) => self.float(leaf.py(), f64::from_bits(counts[at]))?,
                    });
                    text.truncate(length);
                }
            }
        }
        text.truncate(length);
        Ok(())
    }

    /// The state of a link that was not met before.
    fn link(&mut self, leaf: &Bound<'_, Leaf>, program: &Arc<Program>, i: usize) -> PyResult<Arc<State>> {
        let py = leaf.py();
        let child = |(name, part)| match part {
            Part::Array(slot) => (name, Child::Slot(slot, name)),
            Part::Count(at) => (name, Child::Count(at)),
            Part::Float(at) => (name, Child::Float(at)),
        };
        let mut named: Vec<_> = program.parts(i).map(child).collect();
        if self.canonical {
            named.sort_by_key(|(name, _)| *name);
        }
        let node = if named.is_empty() {
            self.forms.plain(py.None().bind(py))?
        } else {
            let names = list(py, named.iter().map(|(name, _)| Text(name)))?.into_any();
            self.forms.of_state(py, intern!(py, "dict"), names, true)?
        };
        let state = Arc::new(State { node, children: named.into_iter().map(|(_, child)| child).collect() });
        self.known.programs.put(program.clone())?;
        self.known.links.make_room(1)?;
        self.known.links.insert((Arc::as_ptr(program) as usize, i), state.clone());
        Ok(state)
    }

    fn float(&self, py: Python<'_>, value: f64) -> PyResult<i64> {
        let value = float(py, value)?;
        let encoded = if is_json(&value) { value } else { self.encoded(&value, tuple(py, [Text(ROOT)])?)? };
        self.forms.of_value(&encoded)
    }

    fn tuple(&mut self, py: Python<'_>, length: usize) -> PyResult<i64> {
        if let Some(node) = self.known.tuples.get(&length) {
            return Ok(*node);
        }
        let node =
            self.forms.of_state(py, intern!(py, "tuple"), Int::from(length).into_pyobject(py)?.into_any(), true)?;
        self.known.tuples.make_room(1)?;
        self.known.tuples.insert(length, node);
        Ok(node)
    }

    fn count(&mut self, py: Python<'_>, count: u64) -> PyResult<i64> {
        if let Some(node) = self.known.counts.get(&count) {
            return Ok(*node);
        }
        let value = match i64::try_from(count) {
            Ok(count) => Int(count).into_pyobject(py)?,
            Err(_) => count.into_pyobject(py)?, // larger than any count
        };
        let value = value.into_any();
        let encoded = if is_json(&value) { value } else { self.encoded(&value, tuple(py, [Text(ROOT)])?)? };
        let node = self.forms.of_value(&encoded)?;
        self.known.counts.make_room(1)?;
        self.known.counts.insert(count, node);
        Ok(node)
    }

    /// The node of a state array.
    fn array(&mut self, leaf: &Bound<'_, Leaf>, slot: &Slot, text: &str, inventory: &mut Inventory) -> PyResult<i64> {
        let py = leaf.py();
        let layout = &leaf.get().layout;
        let key = (Arc::as_ptr(layout) as usize, slot.dtype);
        let number = match self.known.arrays.get(&key) {
            Some(&like) if layout.c_order => inventory.push_like(like, slot.place.share(py), text)?,
            _ => {
                let view = leaf.get().view(py, slot)?;
                let number = inventory.push(&view, text, &self.state_dtype(py)?)?;
                self.known.arrays.make_room(1)?;
                self.known.layouts.make_room(1)?;
                if self.known.arrays.insert(key, number).is_none() {
                    self.known.layouts.push(layout.clone());
                }
                number
            }
        };
        Ok(i64::try_from(number)?)
    }

    fn state_dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.words.bind(py).getattr(intern!(py, "state_dtype"))
    }

    /// A value that JSON has not, as Python encodes it.
    fn encoded<'py>(&self, value: &Bound<'py, PyAny>, path: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.words.bind(value.py()).call_method1(intern!(value.py(), "value"), (value, path))
    }

    fn state<'py>(&self, value: &Bound<'py, PyAny>, place: &mut Place<'_, 'py>, nodes: &mut Vec<i64>) -> PyResult<()> {
        let py = value.py();
        let mut children: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;
        let node = if let Ok(dict) = value.cast_exact::<PyDict>() {
            children = listed(dict.iter())?;
            if self.canonical {
                children = by_text(children)?;
            }
            let plain = children.iter().all(|(key, _)| key.is_exact_instance_of::<PyString>());
            let keys = list(py, [(); 0])?;
            for (key, _) in &children {
                place.keys.put(key.clone())?;
                let plain = key.is_exact_instance_of::<PyString>();
                keys.append(if plain { key.clone() } else { self.encoded(key, place.path(py)?)? })?;
                place.keys.pop();
            }
            self.forms.of_state(py, intern!(py, "dict"), keys.into_any(), plain)?
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            children = numbered(py, list.iter())?;
            let count = Int::from(children.len()).into_pyobject(py)?.into_any();
            self.forms.of_state(py, intern!(py, "list"), count, true)?
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            children = numbered(py, tuple.iter())?;
            let count = Int::from(children.len()).into_pyobject(py)?.into_any();
            self.forms.of_state(py, intern!(py, "tuple"), count, true)?
        } else if is_array(value) {
            let mut inventory = self.inventory.try_borrow_mut(py)?;
            let number = inventory.push(value, &place.text, &self.state_dtype(py)?)?;
            nodes.put(i64::try_from(number)?)?;
            return Ok(());
        } else if value.is_none() {
            nodes.put(self.forms.plain(value)?)?;
            return Ok(());
        } else {
            let encoded = if is_json(value) { value.clone() } else { self.encoded(value, place.path(py)?)? };
            nodes.put(self.forms.of_value(&encoded)?)?;
            return Ok(());
        };
        nodes.put(node)?;
        if place.keys.len() >= DEEPEST || too_deep(place.keys.len()) {
            let levels = place.keys.len();
            let leaf = &place.text[..place.leaf];
            return Err(PyRecursionError::new_err(format!(
                "{leaf} nests deeper than {levels} levels, or contains itself"
            )));
        }
        let length = place.text.len();
        for (key, child) in children {
            append(&mut place.text, &key)?;
            place.keys.put(key)?;
            self.state(&child, place, nodes)?;
            place.keys.pop();
            place.text.truncate(length);
        }
        Ok(())
    }
}

/// The lengths or strides of an array.
fn lengths<'py>(py: Python<'py>, numbers: &[isize]) -> PyResult<Bound<'py, PyList>> {
    ints(py, numbers.iter().map(|&n| n as i64)) // of as many bits, or less
}

/// Children by their positions.
fn numbered<'py>(
    py: Python<'py>,
    children: impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    collected(children.enumerate().map(|(i, child)| Ok((Int::from(i).into_pyobject(py)?.into_any(), child))))
}
