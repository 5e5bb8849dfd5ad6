//! The walk of `update` over three trees at once: state, model and gradient.

use bumpalo::Bump;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};
use smallvec::SmallVec;

use super::classes::Registration;
use super::node::{Node, attribute, children, node, optional, trained};
use super::order::{check_order, has_leaf};
use super::path::Path;
use super::twins::may_have_twin;
use crate::memory::reserve::{Put, listed};
use crate::python::array::{View, is_array};
use crate::python::errors::{asked, is_ordinary};
use crate::python::leaf::Leaf;
use crate::python::memory::arena::List;
use crate::python::memory::lists::Items;

/// A place in the trees where a leaf stands.
pub struct TreePlace<'py> {
    /// The leaf.
    pub leaf: Bound<'py, Leaf>,
    /// What the model has there.
    pub array: Bound<'py, PyAny>,
    /// What the gradient has there.
    pub gradient: Option<Bound<'py, PyAny>>,
}

/// What a walk found, in the order of the state.
pub struct Found<'b, 'py> {
    /// The places of the leaves.
    pub places: List<'b, TreePlace<'py>>,
    /// The model's arrays at the other places, which an update does not touch.
    pub bystanders: List<'b, Bound<'py, PyAny>>,
    /// Whether a node among those places may stand elsewhere in the model, too.
    pub twins_beside: bool,
    /// The gradients of what has no leaf and might be taken for a parameter.
    unused: Vec<Unused<'py>>,
}

/// Where a gradient stands, what the model has there, and the gradient.
type Unused<'py> = (String, Object<'py>, Object<'py>);

/// All places of the leaves of `state`, and the arrays beside them.
pub fn walk<'b, 'py>(
    arena: &'b Bump,
    state: &Object<'py>,
    model: &Object<'py>,
    gradient: &Object<'py>,
) -> PyResult<Found<'b, 'py>> {
    let mut walk = Walk::new(arena, state.py());
    let walked = walk.root(state, model, Some(gradient));
    let is_ours =
        walked.as_ref().map_or_else(|error| is_ordinary(state.py(), error), |()| walk.found.places.is_empty());
    if is_ours {
        check_order(state, model, gradient)?;
    }
    walked?;
    if !walk.found.unused.is_empty() {
        // Before anything is looked at or written: the warning may run code, or be an error.
        let unused = std::mem::take(&mut walk.found.unused);
        state.py().import("optirs._untrained")?.call_method1("warn_of_gradients", (Items(unused),))?;
    }
    Ok(walk.found)
}

/// The key path of the `i`-th bystander, for errors.
pub fn bystander_name(arena: &Bump, state: &Object<'_>, model: &Object<'_>, i: usize) -> PyResult<String> {
    let mut walk = Walk::new(arena, state.py());
    walk.wanted = Some(i);
    // Whatever the second walk meets, the first one has passed.
    asked(state.py(), walk.root(state, model, None))?;
    Ok(walk.name.unwrap_or_else(|| "?".into()))
}

/// The number of classes that are remembered.
const CLASSES: usize = 4;

/// A walk under way.
pub struct Walk<'b, 'py> {
    found: Found<'b, 'py>,
    /// Where it is.
    pub path: Path,
    leaf: Bound<'py, PyType>,
    /// The registered classes that were met first: a model has many objects of few classes.
    classes: SmallVec<[(Bound<'py, PyType>, Bound<'py, Registration>); CLASSES]>,
    /// The bystander whose name is asked for, and its name.
    wanted: Option<usize>,
    name: Option<String>,
}

/// Any Python object.
pub type Object<'py> = Bound<'py, PyAny>;

/// What to call a child.
#[derive(Clone, Copy)]
enum Key<'a, 'py> {
    Index(usize),
    Name(&'a Object<'py>),
}

impl<'b, 'py> Walk<'b, 'py> {
    fn new(arena: &'b Bump, py: Python<'py>) -> Self {
        let found = Found {
            places: List::new_in(arena),
            bystanders: List::new_in(arena),
            twins_beside: false,
            unused: Vec::new(),
        };
        Self {
            found,
            path: Path::default(),
            leaf: py.get_type::<Leaf>(),
            classes: SmallVec::new(),
            wanted: None,
            name: None,
        }
    }

    fn root(&mut self, state: &Object<'py>, model: &Object<'py>, gradient: Option<&Object<'py>>) -> PyResult<()> {
        let gradient = gradient.filter(|g| !g.is_none());
        if self.is_leaf(state) {
            return self.child(Key::Index(0), state.clone(), model.clone(), gradient.cloned());
        }
        if state.is_none() { self.beside(model, gradient) } else { self.visit(state, model, gradient) }
    }

    fn is_leaf(&self, state: &Object<'py>) -> bool {
        state.get_type_ptr() == self.leaf.as_type_ptr()
    }

    /// Goes on with a child.
    #[inline]
    fn child(
        &mut self,
        key: Key<'_, 'py>,
        state: Object<'py>,
        model: Object<'py>,
        gradient: Option<Object<'py>>,
    ) -> PyResult<()> {
        let gradient = gradient.filter(|g| !g.is_none());
        if self.is_leaf(&state) {
            let leaf = state.cast_into_exact::<Leaf>()?;
            return Ok(self.found.places.put(TreePlace { leaf, array: model, gradient })?);
        }
        self.down(key, &state, &model, gradient.as_ref())
    }

    /// Goes down to a child that is no leaf.
    #[inline(never)]
    fn down(
        &mut self,
        key: Key<'_, 'py>,
        state: &Object<'py>,
        model: &Object<'py>,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<()> {
        match key {
            Key::Index(i) => self.path.push_index(state.py(), i)?,
            Key::Name(name) => self.path.push(name)?,
        }
        if state.is_none() {
            self.beside(model, gradient)?
        } else {
            self.visit(state, model, gradient)?
        }
        self.path.pop();
        Ok(())
    }

    /// A place without a leaf.
    fn beside(&mut self, model: &Object<'py>, gradient: Option<&Object<'py>>) -> PyResult<()> {
        if let Some(g) = gradient
            && matches!(node(model)?, Node::Leaf)
        {
            self.unused(model, g)?;
        }
        self.bystanders(model)
    }

    /// Notes the gradient of something without a leaf; of an array that could have one, it is not wanted.
    #[cold]
    fn unused(&mut self, model: &Object<'py>, gradient: &Object<'py>) -> PyResult<()> {
        if View::of(model).is_none_or(|view| view.dtype.is_none()) {
            self.found.unused.put((self.path.text(model.py())?, model.clone(), gradient.clone()))?;
        }
        Ok(())
    }

    /// Notes the arrays below a place without a leaf.
    fn bystanders(&mut self, model: &Object<'py>) -> PyResult<()> {
        if is_array(model) {
            if self.wanted == Some(self.found.bystanders.len()) {
                self.name = Some(self.path.text(model.py())?);
            }
            return Ok(self.found.bystanders.put(model.clone())?);
        }
        let Some(children) = children(model, &node(model)?, &self.path)? else { return Ok(()) };
        self.found.twins_beside |= may_have_twin(model);
        for (key, child) in children {
            self.path.push(&key)?;
            self.bystanders(&child)?;
            self.path.pop();
        }
        Ok(())
    }

    fn visit(&mut self, state: &Object<'py>, model: &Object<'py>, gradient: Option<&Object<'py>>) -> PyResult<()> {
        let class = state.get_type_ptr();
        if let Some((_, registration)) = self.classes.iter().find(|known| known.0.as_type_ptr() == class) {
            let registration = registration.clone();
            return self.object(state, registration.get(), model, gradient);
        }
        match node(state)? {
            Node::Leaf => self.no_state(state),
            Node::Dict(children) => self.dict(children, model, gradient),
            Node::List(children) => {
                let Ok(list) = model.cast::<PyList>() else { return self.differ(state, model) };
                self.lengths(state, children.len(), list.len())?;
                let gradient = self.sequence(state, model, list.len(), gradient)?;
                for i in 0..list.len() {
                    self.child(Key::Index(i), children.get_item(i)?, list.get_item(i)?, gradient.get(i)?)?;
                }
                Ok(())
            }
            Node::Tuple(children, names) => self.tuple(children, names, model, gradient),
            Node::Object(registration) => {
                if self.classes.len() < CLASSES {
                    self.classes.push((state.get_type(), registration.clone()));
                }
                self.object(state, registration.get(), model, gradient)
            }
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
            Some(g) => {
                let mapping = self.mapping(children, g)?;
                if mapping.is_none() {
                    self.unused(model, g)?;
                }
                mapping
            }
            None => None,
        };
        let mut used = 0;
        // A list first: attributes that are read on the way down may run code that changes the dict.
        for (key, child) in listed(children.iter())? {
            let Some(value) = dict.get_item(&key)? else {
                return self.only_one("state", "model", &key);
            };
            let down = match &gradient {
                Some(g) => g.get_item(&key)?,
                None => None,
            };
            used += usize::from(down.is_some());
            self.child(Key::Name(&key), child, value, down)?;
        }
        if dict.len() != children.len() {
            return self.odd_key(dict, children, "model", "state");
        }
        match gradient {
            Some(g) if g.len() != used => self.odd_key(&g, dict, "gradient", "model"),
            _ => Ok(()),
        }
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
            (Some(names), Some(g)) => match self.fields_by_name(names, model, g) {
                Err(error) if !is_ordinary(model.py(), &error) || has_leaf(children)? => return Err(error),
                Err(_) => None, // as by position: nothing below has a leaf
                Ok(values) => values,
            },
            _ => None,
        };
        let gradient =
            if by_name.is_some() { Sequence::None } else { self.sequence(children, model, tuple.len(), gradient)? };
        for i in 0..children.len() {
            let down = match &by_name {
                Some(values) => values[i].clone(),
                None => gradient.get(i)?,
            };
            let (child, value) = (children.get_item(i)?, tuple.get_item(i)?);
            match &names {
                Some(names) => self.child(Key::Name(&names.get_item(i)?), child, value, down)?,
                None => self.child(Key::Index(i), child, value, down)?,
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        state: &Object<'py>,
        class: &Registration,
        model: &Object<'py>,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<()> {
        let py = state.py();
        let kind = model.get_type_ptr();
        if kind != state.get_type_ptr() {
            return self.differ(state, model);
        }
        let same = gradient.filter(|g| g.get_type_ptr() == kind);
        let others = match gradient {
            Some(g) if same.is_none() => {
                let names = listed(class.children.iter().map(|c| c.bind(py)))?;
                match self.named(&names, model, g) {
                    Ok(values) => Some(values),
                    Err(error) if !is_ordinary(py, &error) || has_leaf(state)? => return Err(error),
                    Err(_) => {
                        self.unused(model, g)?; // nothing below has a leaf, so the gradient there does not matter
                        None
                    }
                }
            }
            _ => None,
        };
        // Which children are declared trained, once it matters: where a gradient has no leaf.
        let mut declared = None;
        for (i, name) in class.children.iter().enumerate() {
            let name = name.bind(py);
            let (child, value) = (attribute(state, name, &self.path)?, attribute(model, name, &self.path)?);
            let down = match (same, &others) {
                (Some(g), _) => optional(g, name, &self.path)?,
                (None, Some(values)) => values[i].clone(),
                (None, None) => None,
            };
            let down = match down.filter(|g| !g.is_none()) {
                Some(g) if child.is_none() => {
                    if declared.is_none() {
                        declared = Some(trained(model, class, &self.path)?);
                    }
                    let is_trained = declared.as_ref().is_some_and(|trained| trained[i]);
                    let given = is_trained && !same.map_or(Ok(false), |same| is_default(same, &g))?;
                    Some(g).filter(|_| given)
                }
                down => down,
            };
            self.child(Key::Name(name.as_any()), child, value, down)?;
        }
        Ok(())
    }

    /// The gradient of a list or tuple of `n` children, itself a list or a tuple.
    fn sequence(
        &mut self,
        state: &Object<'py>,
        model: &Object<'py>,
        n: usize,
        gradient: Option<&Object<'py>>,
    ) -> PyResult<Sequence<'py>> {
        let Some(g) = gradient else { return Ok(Sequence::None) };
        let (len, sequence) = match (g.cast::<PyList>(), g.cast::<PyTuple>()) {
            (Ok(list), _) => (list.len(), Sequence::List(list.clone())),
            (_, Ok(tuple)) => (tuple.len(), Sequence::Tuple(tuple.clone())),
            _ if has_leaf(state)? => return self.differ_from_gradient(state, g),
            _ => (usize::MAX, Sequence::None),
        };
        if len == n {
            return Ok(sequence);
        }
        if !has_leaf(state)? {
            self.unused(model, g)?;
            return Ok(Sequence::None);
        }
        let place = self.path.text(g.py())?;
        Err(PyValueError::new_err(format!("gradient at {place} has length {len}, the model has {n}")))
    }
}

/// Whether `value` is in `object` because the class has that default for an argument, rather than because it was given.
#[cold]
fn is_default(object: &Object<'_>, value: &Object<'_>) -> PyResult<bool> {
    let py = object.py();
    let Some(init) = asked(py, object.get_type().getattr(intern!(py, "__init__")))? else { return Ok(false) };
    let of = |name: &str| asked(py, init.getattr(name));
    let by_place = of("__defaults__")?.and_then(|d| d.cast_into::<PyTuple>().ok());
    let by_name = of("__kwdefaults__")?.and_then(|d| d.cast_into::<PyDict>().ok());
    Ok(by_place.is_some_and(|d| d.iter().any(|default| default.is(value)))
        || by_name.is_some_and(|d| d.values().iter().any(|default| default.is(value))))
}

/// The gradients of a list's or tuple's children.
enum Sequence<'py> {
    None,
    List(Bound<'py, PyList>),
    Tuple(Bound<'py, PyTuple>),
}

impl<'py> Sequence<'py> {
    fn get(&self, i: usize) -> PyResult<Option<Object<'py>>> {
        match self {
            Self::None => Ok(None),
            Self::List(list) => list.get_item(i).map(Some),
            Self::Tuple(tuple) => tuple.get_item(i).map(Some),
        }
    }
}
