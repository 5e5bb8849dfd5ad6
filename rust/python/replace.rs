//! What a pure update returns: new trees of new leaves and arrays, in the order in which the walk found the old ones.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::leaf::Leaf;
use super::path::Path;
use super::tree::{Node, children, node, rebuild};
use super::walk::Place;

type Object<'py> = Bound<'py, PyAny>;
/// A leaf and its array.
type Pair<'py> = (Object<'py>, Object<'py>);

/// New trees like `state` and `model` with these leaves and arrays at `places`, which [`super::walk::walk`] found there.
pub fn replace<'py>(
    state: &Object<'py>,
    model: &Object<'py>,
    places: &[Place<'py>],
    new: impl Iterator<Item = PyResult<Pair<'py>>>,
) -> PyResult<(Object<'py>, Object<'py>)> {
    let mut rest = places.iter().zip(new);
    let made = replaced(state, model, &mut rest)?;
    if rest.next().is_some() { Err(changed()) } else { Ok(made) }
}

fn changed() -> PyErr {
    PyValueError::new_err("the trees changed during the update")
}

fn replaced<'a, 'py: 'a>(
    state: &Object<'py>,
    model: &Object<'py>,
    new: &mut impl Iterator<Item = (&'a Place<'py>, PyResult<Pair<'py>>)>,
) -> PyResult<(Object<'py>, Object<'py>)> {
    if state.is_none() {
        return Ok((state.clone(), model.clone()));
    }
    if state.is_exact_instance_of::<Leaf>() {
        let (place, made) = new.next().ok_or_else(changed)?;
        return if place.leaf.is(state) && place.array.is(model) { made } else { Err(changed()) };
    }
    let py = state.py();
    let (kind, model_kind) = (node(state)?, node(model)?);
    let path = Path::default();
    let (mut keys, mut states, mut models) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (key, child)) in children(state, &kind, &path)?.unwrap_or_default().into_iter().enumerate() {
        let value = match &model_kind {
            Node::Dict(dict) => dict.as_any().get_item(&key)?,
            Node::List(list) => list.get_item(i)?,
            Node::Tuple(tuple, _) => tuple.get_item(i)?,
            Node::Object(class) => model.getattr(class.get().children[i].bind(py))?,
            Node::Leaf => return Err(changed()),
        };
        let (s, m) = replaced(&child, &value, new)?;
        keys.push(key);
        states.push(s);
        models.push(m);
    }
    let new_state = rebuild(state, &kind, keys.iter().cloned(), states, true)?;
    let new_model = rebuild(model, &model_kind, keys.into_iter(), models, false)?;
    Ok((new_state, new_model))
}
