//! What a pure update returns: new trees of new leaves and arrays, in the order in which the walk found the old ones.

use pyo3::exceptions::{PyLookupError, PyRuntimeError};
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::node::{Node, children, node, rebuild};
use super::path::Path;
use super::twins::Twins;
use super::walk::{Found, TreePlace};
use crate::memory::reserve::{Put, list};
use crate::python::array::is_array;
use crate::python::leaf::Leaf;

type Object<'py> = Bound<'py, PyAny>;
/// A leaf and its array.
type Pair<'py> = (Object<'py>, Object<'py>);

/// New trees like `state` and `model` with these leaves and arrays at the places that [`super::walk::walk`] found.
///
/// `elsewhere`: by their numbers, the arrays beside the leaves that are parameters, too, each with what it becomes.
pub fn rebuild_trees<'py>(
    state: &Object<'py>,
    model: &Object<'py>,
    found: &Found<'_, 'py>,
    new: impl Iterator<Item = PyResult<Pair<'py>>>,
    elsewhere: FxHashMap<usize, (Object<'py>, Object<'py>)>,
) -> PyResult<(Object<'py>, Object<'py>)> {
    let mut replacing = Rebuilding {
        new: found.places.iter().zip(new),
        looks_beside: found.twins_beside || !elsewhere.is_empty(),
        elsewhere,
        bystanders: 0,
        states: Twins::new(state),
        models: Twins::new(model),
        path: Path::default(),
    };
    let made = replacing.both(state, model)?;
    match (replacing.new.next(), replacing.elsewhere.is_empty()) {
        (None, true) => Ok(made),
        (Some(_), _) => Err(replacing.changed("state", state.py())?),
        (None, false) => Err(replacing.changed("model", state.py())?),
    }
}

/// A replacement under way.
struct Rebuilding<'py, I> {
    /// The places to come.
    new: I,
    elsewhere: FxHashMap<usize, (Object<'py>, Object<'py>)>,
    /// Whether something may be new where there are no leaves.
    looks_beside: bool,
    /// How many arrays beside the leaves it has met.
    bystanders: usize,
    /// The nodes that may stand at several places.
    states: Twins<'py>,
    models: Twins<'py>,
    /// Where it is.
    path: Path,
}

impl<'a, 'py: 'a, I: Iterator<Item = (&'a TreePlace<'py>, PyResult<Pair<'py>>)>> Rebuilding<'py, I> {
    /// The error of a tree that code of others has changed since the walk, at the place where it shows.
    fn changed(&self, what: &str, py: Python<'py>) -> PyResult<PyErr> {
        let place = self.path.text(py)?;
        Ok(PyRuntimeError::new_err(format!("the {what} was changed during the update, at {place}")))
    }

    fn both(&mut self, state: &Object<'py>, model: &Object<'py>) -> PyResult<Pair<'py>> {
        let py = state.py();
        if state.is_none() {
            let model = if self.looks_beside { self.beside(model)? } else { model.clone() };
            return Ok((state.clone(), model));
        }
        if state.is_exact_instance_of::<Leaf>() {
            return match self.new.next() {
                Some((place, made)) if place.leaf.is(state) && place.array.is(model) => made,
                Some((place, _)) if place.leaf.is(state) => Err(self.changed("model", py)?),
                _ => Err(self.changed("state", py)?),
            };
        }
        let (kind, model_kind) = (node(state)?, node(model)?);
        let (state_twin, model_twin) = (self.states.enter(state), self.models.enter(model));
        let (mut keys, mut states, mut models) = (Vec::new(), Vec::new(), Vec::new());
        let children = children(state, &kind, &self.path)?.unwrap_or_default();
        for (i, (key, child)) in children.into_iter().enumerate() {
            self.path.push(&key)?;
            let value = match &model_kind {
                Node::Dict(dict) => dict.as_any().get_item(&key),
                Node::List(list) => list.get_item(i),
                Node::Tuple(tuple, _) => tuple.get_item(i),
                Node::Object(class) => match class.get().children.get(i) {
                    Some(name) => model.getattr(name.bind(py)),
                    None => Err(self.changed("model", py)?),
                },
                Node::Leaf => Err(self.changed("model", py)?),
            };
            let value = match value {
                Err(error) if error.is_instance_of::<PyLookupError>(py) => return Err(self.changed("model", py)?),
                value => value?,
            };
            let (s, m) = self.both(&child, &value)?;
            self.path.pop();
            keys.put(key)?;
            states.put(s)?;
            models.put(m)?;
        }
        let top = &Path::default();
        let of_state = |new| rebuild(state, &kind, keys.iter().cloned(), new, true, top);
        let of_model = |new| rebuild(model, &model_kind, keys.iter().cloned(), new, false, top);
        let new_state = self.states.leave(state, state_twin, states, of_state)?;
        Ok((new_state, self.models.leave(model, model_twin, models, of_model)?))
    }

    /// What stands where there are no leaves: the same object, unless a parameter is in it.
    fn beside(&mut self, model: &Object<'py>) -> PyResult<Object<'py>> {
        if is_array(model) {
            let expected = self.elsewhere.remove(&self.bystanders);
            self.bystanders += 1;
            return match expected {
                None => Ok(model.clone()),
                Some((old, new)) if old.is(model) => Ok(new),
                Some(_) => Err(self.changed("model", model.py())?),
            };
        }
        let kind = node(model)?;
        let Some(old) = children(model, &kind, &self.path)? else { return Ok(model.clone()) };
        let twin = self.models.enter(model);
        let mut new = list(old.len())?;
        for (key, child) in &old {
            self.path.push(key)?;
            new.push(self.beside(child)?);
            self.path.pop();
        }
        let same = old.iter().zip(&new).all(|((_, a), b)| a.is(b));
        let keys = old.into_iter().map(|(key, _)| key);
        self.models.leave(model, twin, new, |new| {
            if same { Ok(model.clone()) } else { rebuild(model, &kind, keys, new, false, &Path::default()) }
        })
    }
}
