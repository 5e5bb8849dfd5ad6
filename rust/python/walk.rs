//! The walk of `update` over three trees at once: state, model and gradient.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};

use super::arrays::View;
use super::leaf::Leaf;
use super::path::{MAX_DEPTH, Path};
use super::tree::{Node, Registration, attribute, fields, node};

/// A place in the trees where a leaf stands.
pub struct Place<'py> {
    /// The leaf.
    pub leaf: Bound<'py, Leaf>,
    /// What the model has there.
    pub array: Bound<'py, PyAny>,
    /// What the gradient has there.
    pub gradient: Option<Bound<'py, PyAny>>,
}

/// All places of the leaves of `state`, in its order.
pub fn places<'py>(
    state: &Bound<'py, PyAny>,
    model: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
) -> PyResult<Vec<Place<'py>>> {
    let mut walk = Walk { places: Vec::new(), path: Path::default() };
    let walked = walk.visit(state, model, Some(gradient));
    if walked.is_err() || walk.places.is_empty() {
        check_order(state, model, gradient)?;
    }
    walked.map(|()| walk.places)
}

/// optax has `grads, state, params`: arguments in another order deserve an error of their own.
fn check_order(state: &Bound<'_, PyAny>, model: &Bound<'_, PyAny>, gradient: &Bound<'_, PyAny>) -> PyResult<()> {
    if has_leaf(state) {
        return Ok(());
    }
    let other = if has_leaf(model) {
        "second"
    } else if has_leaf(gradient) {
        "third"
    } else {
        return Ok(());
    };
    Err(PyTypeError::new_err(format!(
        "update takes (state, model, gradient) in this order; the {other} argument is the state here"
    )))
}

/// Whether a [`Leaf`] stands anywhere in `tree`; one that contains itself is not searched for ever.
fn has_leaf(tree: &Bound<'_, PyAny>) -> bool {
    search(tree, 0, &mut 1_000_000)
}

fn search(tree: &Bound<'_, PyAny>, depth: usize, left: &mut usize) -> bool {
    if tree.is_exact_instance_of::<Leaf>() {
        return true;
    }
    if depth > MAX_DEPTH || *left == 0 {
        return false;
    }
    *left -= 1;
    let Ok(kind) = node(tree) else { return false };
    let Ok(Some(children)) = super::tree::children(tree, &kind, &Path::default()) else { return false };
    children.iter().any(|(_, child)| search(child, depth + 1, left))
}

struct Walk<'py> {
    places: Vec<Place<'py>>,
    path: Path,
}

type Object<'py> = Bound<'py, PyAny>;

impl<'py> Walk<'py> {
    fn visit(&mut self, state: &Object<'py>, model: &Object<'py>, gradient: Option<&Object<'py>>) -> PyResult<()> {
        if state.is_none() {
            return Ok(());
        }
        let gradient = gradient.filter(|g| !g.is_none());
        if let Ok(leaf) = state.cast_exact::<Leaf>() {
            let (leaf, array, gradient) = (leaf.clone(), model.clone(), gradient.cloned());
            self.places.push(Place { leaf, array, gradient });
            return Ok(());
        }
        match node(state)? {
            Node::Leaf => self.no_state(state),
            Node::Dict(children) => self.dict(children, model, gradient),
            Node::List(children) => {
                let Ok(list) = model.cast::<PyList>() else { return self.differ(state, model) };
                self.lengths(state, children.len(), list.len())?;
                let gradient = self.sequence(state, list.len(), gradient)?;
                for (i, child) in children.iter().enumerate() {
                    self.path.push_index(state.py(), i)?;
                    self.visit(&child, &list.get_item(i)?, nth(gradient.as_ref(), i)?.as_ref())?;
                    self.path.pop();
                }
                Ok(())
            }
            Node::Tuple(children, names) => self.tuple(children, names, model, gradient),
            Node::Object(class) => self.object(state, class.get(), model, gradient),
        }
    }

    fn dict(
        &mut self,
        children: &Bound<'py, PyDict>,
        model: &Object<'py>,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<()> {
        let Ok(dict) = model.cast::<PyDict>() else { return self.differ(children, model) };
        let gradient = match gradient {
            Some(g) => self.mapping(children, g)?,
            None => None,
        };
        let mut used = 0;
        // A list first: attributes that are read on the way down may run code that changes the dict.
        for (key, child) in children.iter().collect::<Vec<_>>() {
            let Some(value) = dict.get_item(&key)? else {
                return self.only_one("state", "model", &key);
            };
            let down = match &gradient {
                Some(g) => g.get_item(&key)?,
                None => None,
            };
            used += usize::from(down.is_some());
            self.path.push(&key)?;
            self.visit(&child, &value, down.as_ref())?;
            self.path.pop();
        }
        if dict.len() != children.len() {
            return self.odd_key(dict, children, "model", "state");
        }
        match gradient {
            Some(g) if g.len() != used => self.odd_key(&g, dict, "gradient", "model"),
            _ => Ok(()),
        }
    }

    /// The error of the first key of `of` that `to` lacks.
    fn odd_key(&self, of: &Bound<'py, PyDict>, to: &Bound<'py, PyDict>, name: &str, other: &str) -> PyResult<()> {
        for key in of.keys() {
            if !to.contains(&key)? {
                return self.only_one(name, other, &key);
            }
        }
        Ok(())
    }

    fn tuple(
        &mut self,
        children: &Bound<'py, PyTuple>,
        names: Option<Bound<'py, PyTuple>>,
        model: &Object<'py>,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<()> {
        let Ok(tuple) = model.cast::<PyTuple>() else { return self.differ(children, model) };
        if names.is_some() && !tuple.get_type().is(children.get_type()) {
            return self.differ(children, model);
        }
        self.lengths(children, children.len(), tuple.len())?;
        let by_name = match (&names, gradient) {
            (Some(names), Some(g)) => self.fields_by_name(names, model, g)?,
            _ => None,
        };
        let gradient = if by_name.is_some() { None } else { self.sequence(children, tuple.len(), gradient)? };
        for i in 0..children.len() {
            let down = match &by_name {
                Some(values) => values[i].clone(),
                None => nth(gradient.as_ref(), i)?,
            };
            match &names {
                Some(names) => self.path.push(&names.get_item(i)?)?,
                None => self.path.push_index(children.py(), i)?,
            }
            self.visit(&children.get_item(i)?, &tuple.get_item(i)?, down.as_ref())?;
            self.path.pop();
        }
        Ok(())
    }

    /// The gradient of a named tuple if it is not one by position.
    fn fields_by_name(
        &self,
        names: &Bound<'py, PyTuple>,
        model: &Object<'py>,
        gradient: &Object<'py>,
    ) -> PyResult<Option<Vec<Option<Object<'py>>>>> {
        if let Ok(tuple) = gradient.cast::<PyTuple>() {
            let other = fields(tuple)?;
            if other.is_none_or(|o| o.eq(names).unwrap_or(false)) {
                return Ok(None);
            }
        } else if gradient.is_instance_of::<PyList>() {
            return Ok(None);
        }
        let names: Vec<_> = names.iter().map(|n| n.cast_into::<PyString>()).collect::<Result<_, _>>()?;
        self.named(&names.iter().collect::<Vec<_>>(), model, gradient).map(Some)
    }

    fn object(
        &mut self,
        state: &Object<'py>,
        class: &Registration,
        model: &Object<'py>,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<()> {
        let py = state.py();
        if !model.get_type().is(state.get_type()) {
            return self.differ(state, model);
        }
        let gradients = match gradient {
            Some(g) if g.get_type().is(model.get_type()) => {
                Some(class.children.iter().map(|c| optional(g, c.bind(py))).collect::<PyResult<Vec<_>>>()?)
            }
            Some(g) if has_leaf(state) => {
                let names: Vec<_> = class.children.iter().map(|c| c.bind(py)).collect();
                Some(self.named(&names, model, g)?)
            }
            _ => None,
        };
        for (i, name) in class.children.iter().enumerate() {
            let name = name.bind(py);
            let (child, value) = (attribute(state, name, &self.path)?, attribute(model, name, &self.path)?);
            self.path.push(name)?;
            self.visit(&child, &value, gradients.as_ref().and_then(|g| g[i].as_ref()))?;
            self.path.pop();
        }
        Ok(())
    }

    /// The gradients of the fields `names` from a dict or a look-alike object.
    fn named(
        &self,
        names: &[&Bound<'py, PyString>],
        model: &Object<'py>,
        gradient: &Object<'py>,
    ) -> PyResult<Vec<Option<Object<'py>>>> {
        let py = model.py();
        let given: Vec<Object<'py>>;
        let values: Vec<_>;
        if let Ok(dict) = gradient.cast::<PyDict>() {
            given = dict.keys().iter().collect();
            values = names.iter().map(|n| dict.get_item(n)).collect::<PyResult<_>>()?;
        } else if is_value(gradient)? {
            return self.differ_from_gradient(model, gradient);
        } else {
            let tuple = gradient.cast::<PyTuple>().ok().map(fields).transpose()?.flatten();
            let dict = gradient.getattr(intern!(py, "__dict__")).ok();
            given = match (tuple, &dict) {
                (Some(fields), _) => fields.iter().collect(),
                (None, Some(dict)) => dict.cast::<PyDict>()?.keys().iter().collect(),
                (None, None) => Vec::new(),
            };
            values = names.iter().map(|n| optional(gradient, n)).collect::<PyResult<_>>()?;
            let opaque = gradient.is_callable() || dict.is_none_or(|d| d.len().unwrap_or(0) > 0);
            if given.is_empty() && values.iter().all(Option::is_none) && opaque {
                return self.differ_from_gradient(model, gradient);
            }
        }
        for key in given {
            let known = match key.cast::<PyString>() {
                Ok(key) => names.iter().any(|n| n.as_any().eq(key).unwrap_or(false)) || model.hasattr(key)?,
                Err(_) => false,
            };
            if !known {
                return self.only_one("gradient", "model", &key);
            }
        }
        Ok(values)
    }

    fn mapping(&self, state: &Object<'py>, gradient: &Object<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        if let Ok(dict) = gradient.cast::<PyDict>() {
            return Ok(Some(dict.clone()));
        }
        if let Ok(mapping) = gradient.cast::<PyMapping>() {
            let dict = PyDict::new(state.py());
            dict.update(mapping)?;
            return Ok(Some(dict));
        }
        if has_leaf(state) { self.differ_from_gradient(state, gradient) } else { Ok(None) }
    }

    /// The gradient of a list or tuple of `n` children, itself a list or a tuple.
    fn sequence(&self, state: &Object<'py>, n: usize, gradient: Option<&Object<'py>>) -> PyResult<Option<Object<'py>>> {
        let Some(g) = gradient else { return Ok(None) };
        let len = match (g.cast::<PyList>(), g.cast::<PyTuple>()) {
            (Ok(list), _) => list.len(),
            (_, Ok(tuple)) => tuple.len(),
            _ if has_leaf(state) => return self.differ_from_gradient(state, g),
            _ => return Ok(None),
        };
        if len == n {
            return Ok(Some(g.clone()));
        }
        if !has_leaf(state) {
            return Ok(None);
        }
        let place = self.path.text(g.py());
        Err(PyValueError::new_err(format!("gradient at {place} has length {len}, the model has {n}")))
    }

    fn lengths(&self, node: &Object<'py>, state: usize, model: usize) -> PyResult<()> {
        if state == model {
            return Ok(());
        }
        let place = self.path.text(node.py());
        Err(PyValueError::new_err(format!("model at {place} has length {model}, the state has {state}")))
    }

    fn no_state(&self, state: &Object<'py>) -> PyResult<()> {
        let place = self.path.text(state.py());
        let kind = state.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "state at {place} is {kind}, not a Leaf; update takes (state, model, gradient)"
        )))
    }

    fn differ<T>(&self, state: &Object<'py>, model: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(model.py());
        let (a, b) = (model.get_type().name()?, state.get_type().name()?);
        Err(PyValueError::new_err(format!("model at {place} is {a}, the state has {b}")))
    }

    fn differ_from_gradient<T>(&self, model: &Object<'py>, gradient: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(model.py());
        let (a, b) = (gradient.get_type().name()?, model.get_type().name()?);
        Err(PyTypeError::new_err(format!("gradient at {place} is {a}, the model has {b}")))
    }

    fn only_one<T>(&self, name: &str, other: &str, key: &Object<'py>) -> PyResult<T> {
        let place = self.path.text(key.py());
        Err(PyValueError::new_err(format!("{name} at {place} has {}, which the {other} lacks", key.repr()?)))
    }
}

/// Whether an object is one value, so that its attributes mean nothing here.
fn is_value(object: &Object<'_>) -> PyResult<bool> {
    let py = object.py();
    Ok(View::of(object).is_some()
        || object.is_instance_of::<PyList>()
        || object.is_exact_instance_of::<PyTuple>()
        || object.is_instance_of::<PyString>()
        || object.is_instance_of::<PyInt>()
        || object.is_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<Leaf>()
        || object.hasattr(intern!(py, "__array__"))?
        || object.hasattr(intern!(py, "__dlpack__"))?)
}

fn nth<'py>(sequence: Option<&Object<'py>>, i: usize) -> PyResult<Option<Object<'py>>> {
    let Some(sequence) = sequence else { return Ok(None) };
    match sequence.cast::<PyList>() {
        Ok(list) => list.get_item(i).map(Some),
        Err(_) => sequence.cast::<PyTuple>()?.get_item(i).map(Some),
    }
}

/// An attribute, or `None` if there is none.
fn optional<'py>(object: &Object<'py>, name: &Bound<'py, PyString>) -> PyResult<Option<Object<'py>>> {
    object.getattr_opt(name)
}
