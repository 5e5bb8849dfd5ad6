//! What is to be written: trees and states taken apart into forms and arrays.

use pyo3::exceptions::PyRecursionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use rustc_hash::FxHashMap;
use std::sync::Arc;

use super::super::arrays::View;
use super::super::layout::Layout;
use super::super::leaf::Leaf;
use super::super::lists::{Int, Items, ints, list, tuple};
use super::super::path::{append, too_deep};
use super::forms::{Forms, is_json};
use super::inventory::Inventory;
use super::outline::{Outline, by_text, outline_to_write};
use crate::dtype::DType;
use crate::reserve::{Put, Reserve, collected, list as room, listed};

/// Levels of the state of one Leaf, so that every reader can follow.
const DEEPEST: usize = 200;
/// Where Leafs stand, as key paths name it.
const ROOT: &str = "state";

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
}

/// What Leafs have in common: rule, shape, strides, type, and whether frozen.
type LeafKind<'py> = (Py<PyAny>, Bound<'py, PyList>, Bound<'py, PyList>, &'static str, bool);

/// What [`Draft::kinds`] finds: kinds of Leafs, the first Leaf of each, and the kind of each Leaf.
type Kinds<'py> = (Items<LeafKind<'py>>, Bound<'py, PyList>, Bound<'py, PyList>);

#[pymethods]
impl Draft {
    /// `words` is what Python knows of values and classes, `layers` the names of the layers of ours by class.
    #[new]
    fn new(py: Python<'_>, words: Py<PyAny>, layers: Py<PyDict>, canonical: bool) -> PyResult<Self> {
        let inventory = Bound::new(py, Inventory::empty())?.unbind();
        Ok(Self { forms: Forms::new(py, words.clone_ref(py)), words, layers, canonical, inventory })
    }

    /// Takes a tree apart.
    fn outline<'py>(&mut self, tree: &Bound<'py, PyAny>, root: &str) -> PyResult<Outline> {
        let layers = self.layers.bind(tree.py()).clone();
        outline_to_write(tree, root, layers, &mut self.forms, self.canonical)
    }

    /// What the Leafs of a state have in common, the first Leaf of each kind, and the kind of each Leaf.
    #[staticmethod]
    fn kinds<'py>(py: Python<'py>, leafs: Items<Bound<'py, Leaf>>) -> PyResult<Kinds<'py>> {
        let Items(leafs) = leafs;
        let (mut kinds, mut first, mut of) = (Vec::new(), Vec::new(), room(leafs.len())?);
        let mut known: FxHashMap<(usize, Arc<Layout>, DType, bool), usize> = FxHashMap::default();
        for (i, leaf) in leafs.iter().enumerate() {
            let leaf = leaf.get();
            let guard = leaf.reading()?;
            let (rule, frozen) = (&guard.get().rule, guard.get().frozen);
            // The rules are kept in `kinds`, so that no other gets the address of one.
            let key = (rule.as_ptr() as usize, leaf.layout.clone(), leaf.dtype, frozen);
            let kind = match known.get(&key) {
                Some(kind) => *kind,
                None => {
                    let (shape, strides) = (list(py, &key.1.shape)?, list(py, &key.1.strides)?);
                    kinds.put((rule.clone_ref(py), shape, strides, leaf.dtype.name(), frozen))?;
                    first.put(i)?;
                    known.make_room(1)?;
                    *known.entry(key).or_insert(kinds.len() - 1)
                }
            };
            of.push(kind);
        }
        Ok((Items(kinds), ints(py, first)?, ints(py, of)?))
    }

    /// Takes the states of all Leafs of a tree apart: their nodes, one state after the other.
    fn states<'py>(&mut self, py: Python<'py>, outline: &Outline) -> PyResult<Bound<'py, PyList>> {
        let mut nodes = Vec::new();
        let (leafs, first, places) = (outline.found.bind(py), outline.first.bind(py), outline.places.bind(py));
        for (leaf, first) in leafs.iter().zip(first.iter()) {
            let first: usize = first.extract()?;
            let text: String = places.get_item(first)?.extract()?;
            let mut place = Place { leaf: text.len(), text, outline, first, keys: Vec::new() };
            self.state(&leaf.getattr(intern!(py, "state"))?, &mut place, &mut nodes)?;
        }
        ints(py, nodes)
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
        let root = PyString::new(py, ROOT).into_any();
        let leaf = self.outline.path(py, self.first)?;
        tuple(py, listed(std::iter::once(root).chain(leaf.iter()).chain(self.keys.iter().cloned()))?)
    }
}

impl Draft {
    fn state<'py>(&self, value: &Bound<'py, PyAny>, place: &mut Place<'_, 'py>, nodes: &mut Vec<i64>) -> PyResult<()> {
        let py = value.py();
        let words = self.words.bind(py);
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
                keys.append(if plain { key.clone() } else { words.call_method1("value", (key, place.path(py)?))? })?;
                place.keys.pop();
            }
            self.forms.of_state(py, "dict", keys.into_any(), plain)?
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            children = numbered(py, list.iter())?;
            self.forms.of_state(py, "list", Int::from(children.len()).into_pyobject(py)?.into_any(), true)?
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            children = numbered(py, tuple.iter())?;
            self.forms.of_state(py, "tuple", Int::from(children.len()).into_pyobject(py)?.into_any(), true)?
        } else if View::of(value).is_some() {
            let mut inventory = self.inventory.try_borrow_mut(py)?;
            let number = inventory.push(value, place.text.clone(), &words.getattr("state_dtype")?)?;
            nodes.put(i64::try_from(number)?)?;
            return Ok(());
        } else if value.is_none() {
            nodes.put(self.forms.plain(value)?)?;
            return Ok(());
        } else {
            let encoded =
                if is_json(value) { value.clone() } else { words.call_method1("value", (value, place.path(py)?))? };
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
            append(&mut place.text, &key);
            place.keys.put(key)?;
            self.state(&child, place, nodes)?;
            place.keys.pop();
            place.text.truncate(length);
        }
        Ok(())
    }
}

/// Children by their positions.
fn numbered<'py>(
    py: Python<'py>,
    children: impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    collected(children.enumerate().map(|(i, child)| Ok((Int::from(i).into_pyobject(py)?.into_any(), child))))
}
