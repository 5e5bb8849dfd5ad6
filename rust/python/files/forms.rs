//! How a file has a tree: its nodes from the top down, each before its children.
//!
//! A node is a number: that of an array or a Leaf, or, from -1 downwards, that of a form, which stands in the file once
//! however many nodes have it. A form is an object of JSON:
//!
//! | | |
//! |---|---|
//! | `{"dict": keys}`, `{"list": n}`, `{"tuple": n}` | with `"class"`, if it is a class derived from these |
//! | `{"namedtuple": fields, "class": name}` | |
//! | `{"layer": name, "children": names, "plain": values by name}` | a layer of ours |
//! | `{"object": names, "class": name}` | of a class of the user's |
//! | `{"transposed": i}` | the transpose of an array |
//! | `null`, `{"value": encoded}` | None, and another plain value |
//! | `{"unknown": class}` | what cannot be written |

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

use super::outline::{Outline, address, deep, nonsense};
use crate::memory::reserve::{Put, Reserve, collected, listed, repeated};
use crate::python::memory::lists::{Int, Items, dict, list, tuple};
use crate::python::tree::node::{Node, among};
use crate::python::tree::path::{MAX_DEPTH, append, append_text};

/// Larger ints are not the same to every reader of JSON.
const EXACT: u64 = 1 << 53;

/// The forms of the nodes that were written so far.
pub struct Forms {
    list: Py<PyList>,
    /// The number of each form that was met, by what makes it that one.
    known: Py<PyDict>,
    /// What Python knows: `plain(value)`, `key(key)` and `name(class)`.
    words: Py<PyAny>,
}

type Object<'py> = Bound<'py, PyAny>;

impl Forms {
    /// None yet.
    pub fn new(py: Python<'_>, words: Py<PyAny>) -> PyResult<Self> {
        Ok(Self { list: list(py, [(); 0])?.unbind(), known: dict(py)?.unbind(), words })
    }

    /// For the collector of cycles.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.list)?;
        visit.call(&self.known)?;
        visit.call(&self.words)
    }

    /// The forms, as a file has them.
    pub fn list<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.list.bind(py).clone()
    }

    /// The node of the transpose of an array.
    pub fn transposed(&self, py: Python<'_>, array: usize) -> PyResult<i64> {
        let array = Int::from(array).into_pyobject(py)?.into_any();
        let name = intern!(py, "transposed");
        self.intern(py, Some(tuple(py, [name.as_any(), &array])?), || single(name, &array))
    }

    /// The node of a plain value.
    pub fn plain(&self, value: &Object<'_>) -> PyResult<i64> {
        let py = value.py();
        let key = if value.is_none() {
            Some(tuple(py, [intern!(py, "none")])?)
        } else if value.is_exact_instance_of::<PyString>() {
            Some(tuple(py, [intern!(py, "value").as_any(), value])?)
        } else if value.is_exact_instance_of::<PyInt>() {
            Some(tuple(py, [intern!(py, "int").as_any(), value])?)
        } else if value.is_exact_instance_of::<PyBool>() {
            Some(tuple(py, [intern!(py, "bool").as_any(), value])?)
        } else {
            None
        };
        self.intern(py, key, || self.written(value))
    }

    /// The form of a plain value.
    fn written<'py>(&self, value: &Object<'py>) -> PyResult<Object<'py>> {
        let py = value.py();
        if value.is_none() {
            return Ok(value.clone());
        }
        if is_json(value) {
            single(intern!(py, "value"), value)
        } else {
            self.words.bind(py).call_method1(intern!(py, "plain"), (value,))
        }
    }

    /// The node of a container. `layer` is the name of its class, if that is one of ours.
    pub fn container<'py>(
        &self,
        object: &Object<'py>,
        kind: &Node<'_, 'py>,
        layer: Option<&Object<'py>>,
        children: &[(Object<'py>, Object<'py>)],
    ) -> PyResult<i64> {
        let py = object.py();
        let class = object.get_type();
        let here = Int::from(address(&class)).into_pyobject(py)?.into_any();
        let count = Int::from(children.len()).into_pyobject(py)?.into_any();
        let keys = children.iter().map(|(key, _)| key);
        match kind {
            Node::Leaf => Err(nonsense("a leaf has no children")),
            Node::Dict(_) => {
                // Other keys may be equal without being the same, as 1 and True are.
                let texts = keys.clone().all(|key| key.is_exact_instance_of::<PyString>());
                let name = intern!(py, "dict");
                let key = match texts {
                    true => Some(tuple(py, [name.as_any(), &here, tuple(py, keys)?.as_any()])?),
                    false => None,
                };
                let written = || {
                    let keys = list(py, collected(children.iter().map(|(key, _)| self.key(key)))?)?;
                    self.with_class(object, single(name, &keys)?, object.is_exact_instance_of::<PyDict>())
                };
                self.intern(py, key, written)
            }
            Node::List(_) => {
                let name = intern!(py, "list");
                let written =
                    || self.with_class(object, single(name, &count)?, object.is_exact_instance_of::<PyList>());
                self.intern(py, Some(tuple(py, [name.as_any(), &here, &count])?), written)
            }
            Node::Tuple(_, None) => {
                let name = intern!(py, "tuple");
                self.intern(py, Some(tuple(py, [name.as_any(), &here, &count])?), || single(name, &count))
            }
            Node::Tuple(_, Some(fields)) => {
                let name = intern!(py, "namedtuple");
                let written = || self.with_class(object, single(name, fields)?, false);
                self.intern(py, Some(tuple(py, [name.as_any(), &here, fields])?), written)
            }
            Node::Object(class) => {
                let names = class.get().children.iter().map(|name| name.bind(py));
                let Some(layer) = layer else {
                    let name = intern!(py, "object");
                    let written = || self.with_class(object, single(name, list(py, names)?.as_any())?, false);
                    return self.intern(py, Some(tuple(py, [name.as_any(), &here])?), written);
                };
                let plain = dict(py)?;
                let mut same = listed([layer.clone()])?; // as another one, if all of these are
                // All at once: what is asked of a name or a value may change the dict.
                let attributes = object.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
                for (name, value) in listed(attributes.iter())? {
                    let is_child = among(names.clone(), &name)?.is_some();
                    if !is_child {
                        plain.set_item(&name, self.written(&value)?)?;
                        same.make_room(2)?;
                        same.extend([name, value]);
                    }
                }
                let texts = same.iter().all(|x| x.is_none() || x.is_exact_instance_of::<PyString>());
                let name = intern!(py, "layer");
                let key = if texts { Some(tuple(py, [name.as_any(), tuple(py, same)?.as_any()])?) } else { None };
                self.intern(py, key, || {
                    let form = single(name, layer)?;
                    form.set_item(intern!(py, "children"), list(py, names)?)?;
                    form.set_item(intern!(py, "plain"), plain)?;
                    Ok(form)
                })
            }
        }
    }

    /// The node of a list, tuple or dict in the state of a Leaf.
    pub fn of_state<'py>(
        &self,
        py: Python<'py>,
        what: &Bound<'py, PyString>,
        keys: Object<'py>,
        plain: bool,
    ) -> PyResult<i64> {
        let key = match keys.cast::<PyList>() {
            Ok(list) if plain => Some(tuple(py, [what.as_any(), copied(list)?.as_any()])?),
            Ok(_) => None,
            Err(_) => Some(tuple(py, [what.as_any(), &keys])?),
        };
        self.intern(py, key, || single(what, &keys))
    }

    /// The node of a value in the state of a Leaf, which is encoded already.
    pub fn of_value(&self, encoded: &Object<'_>) -> PyResult<i64> {
        let py = encoded.py();
        let key = match encoded.is_exact_instance_of::<PyInt>() {
            true => Some(tuple(py, [intern!(py, "int").as_any(), encoded])?),
            false => None,
        };
        self.intern(py, key, || single(intern!(py, "value"), encoded))
    }

    /// The number of a form; it is made if it was not met before.
    fn intern<'py>(
        &self,
        py: Python<'py>,
        key: Option<Bound<'py, PyTuple>>,
        make: impl FnOnce() -> PyResult<Object<'py>>,
    ) -> PyResult<i64> {
        let known = self.known.bind(py);
        if let Some(key) = &key
            && let Some(number) = known.get_item(key)?
        {
            return number.extract();
        }
        let form = make()?;
        let list = self.list.bind(py);
        list.append(form)?;
        let number = -i64::try_from(list.len())?;
        if let Some(key) = key {
            known.set_item(key, Int(number))?;
        }
        Ok(number)
    }

    /// The key of a dict as a file has it.
    fn key<'py>(&self, key: &Object<'py>) -> PyResult<Object<'py>> {
        if key.is_exact_instance_of::<PyString>() {
            Ok(key.clone())
        } else {
            self.words.bind(key.py()).call_method1(intern!(key.py(), "key"), (key,))
        }
    }

    fn with_class<'py>(&self, object: &Object<'py>, form: Object<'py>, exact: bool) -> PyResult<Object<'py>> {
        if !exact {
            let py = object.py();
            let name = self.words.bind(py).call_method1(intern!(py, "name"), (object.get_type(),))?;
            form.set_item(intern!(py, "class"), name)?;
        }
        Ok(form)
    }
}

/// `{name: value}`.
fn single<'py>(name: &Bound<'py, PyString>, value: &Object<'py>) -> PyResult<Object<'py>> {
    let form = dict(name.py())?;
    form.set_item(name, value)?;
    Ok(form.into_any())
}

/// The items of a list.
fn copied<'py>(list: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyTuple>> {
    tuple(list.py(), listed(list.iter())?)
}

/// Whether JSON has the value as it is.
pub fn is_json(value: &Object<'_>) -> bool {
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBool>()
        || (value.is_exact_instance_of::<PyInt>() && value.extract::<i64>().is_ok_and(|n| n.unsigned_abs() < EXACT))
        || value.cast_exact::<PyFloat>().is_ok_and(|x| x.value().is_finite())
}

/// What stands at a node of a file.
pub enum Form<'a, 'py> {
    /// An array or a Leaf.
    Array(usize),
    /// The transpose of an array.
    Transposed(usize),
    /// None.
    None,
    /// A plain value, encoded.
    Value(&'a Object<'py>),
    /// What could not be written: its class.
    Unknown(&'a Object<'py>),
    /// A node with children.
    Container(&'a Container<'py>),
}

/// A node with children, in a file.
pub struct Container<'py> {
    /// What it has in common with its like; see [`super::outline::Outline`].
    pub kind: Bound<'py, PyTuple>,
    /// The form itself.
    pub form: Bound<'py, PyDict>,
    /// The keys of its children; `None`: positions.
    keys: Option<Vec<Key<'py>>>,
    count: usize,
    /// What it is made again as, if Python need not be asked.
    pub plain: Option<Plain>,
}

/// A container of Python's own class, all of whose keys could be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// See the module.
    Dict,
    /// See the module.
    List,
    /// See the module.
    Tuple,
}

enum Key<'py> {
    Object(Object<'py>),
    /// One that could not be written: how it prints.
    Text(Bound<'py, PyString>),
}

impl<'py> Container<'py> {
    /// How many children it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The key of a child, or the text of one that could not be written.
    pub fn key(&self, py: Python<'py>, i: usize) -> PyResult<Object<'py>> {
        match self.keys.as_ref().map(|keys| &keys[i]) {
            None => Ok(Int::from(i).into_pyobject(py)?.into_any()),
            Some(Key::Object(key)) => Ok(key.clone()),
            Some(Key::Text(text)) => Ok(text.clone().into_any()),
        }
    }

    /// Adds the key of a child to the text of those above it.
    pub fn append_key(&self, py: Python<'py>, i: usize, text: &mut String) -> PyResult<()> {
        match self.keys.as_ref().map(|keys| &keys[i]) {
            Some(Key::Text(key)) => append_text(text, "[", key, "]"),
            _ => append(text, &self.key(py, i)?),
        }
    }

    /// Whether its keys are these `count` names.
    pub fn has_keys<'a>(&self, count: usize, mut names: impl Iterator<Item = &'a str>) -> bool {
        count == self.count
            && self.keys.iter().flatten().all(|key| {
                let Key::Object(key) = key else { return false };
                key.cast_exact::<PyString>().is_ok_and(|key| key.to_str().ok() == names.next())
            })
    }
}

/// The forms of a file.
pub struct Read<'py>(Vec<Kept<'py>>);

enum Kept<'py> {
    Transposed(usize),
    None,
    Value(Object<'py>),
    Unknown(Object<'py>),
    Container(Container<'py>),
}

impl<'py> Read<'py> {
    /// All of them; `key` decodes the key of a dict.
    pub fn all(forms: &Bound<'py, PyList>, key: &Object<'py>) -> PyResult<Self> {
        collected(forms.iter().map(|form| kept(form, key))).map(Self)
    }

    /// What stands at a node.
    pub fn at(&self, number: i64) -> PyResult<Form<'_, 'py>> {
        let Ok(form) = usize::try_from(-1 - number) else { return Ok(Form::Array(usize::try_from(number)?)) };
        Ok(match self.0.get(form).ok_or_else(|| nonsense("there are not so many forms"))? {
            Kept::Transposed(array) => Form::Transposed(*array),
            Kept::None => Form::None,
            Kept::Value(value) => Form::Value(value),
            Kept::Unknown(class) => Form::Unknown(class),
            Kept::Container(container) => Form::Container(container),
        })
    }
}

fn kept<'py>(form: Object<'py>, decode: &Object<'py>) -> PyResult<Kept<'py>> {
    let py = form.py();
    if form.is_none() {
        return Ok(Kept::None);
    }
    let form = form.cast_into::<PyDict>().map_err(|_| nonsense("a form is no object"))?;
    let item = |name: &Bound<'py, PyString>| form.get_item(name);
    let names = |list: &Object<'py>| -> PyResult<(Vec<Key<'py>>, Bound<'py, PyTuple>)> {
        let list = list.cast::<PyList>().map_err(|_| nonsense("names are no list"))?;
        let keys = list.iter().map(|name| PyResult::Ok(Key::Object(name.cast_into::<PyString>()?.into_any())));
        Ok((collected(keys)?, copied(list)?))
    };
    let classed = form.contains(intern!(py, "class"))?;
    let container = |kind, keys: Option<Vec<Key<'py>>>, count: Option<usize>, plain: Option<Plain>| {
        let count = count.unwrap_or_else(|| keys.as_ref().map_or(0, Vec::len));
        let written = keys.iter().flatten().all(|key: &Key| matches!(key, Key::Object(_)));
        let plain = plain.filter(|_| written && !classed);
        Ok(Kept::Container(Container { kind, form: form.clone(), keys, count, plain }))
    };
    if let Some(keys) = item(intern!(py, "dict"))? {
        let keys = keys.cast_into::<PyList>().map_err(|_| nonsense("keys are no list"))?;
        let keys = collected(keys.iter().map(|key| read_key(key, decode)))?;
        return container(tuple(py, [intern!(py, "dict")])?, Some(keys), None, Some(Plain::Dict));
    }
    for (what, plain) in [(intern!(py, "list"), Plain::List), (intern!(py, "tuple"), Plain::Tuple)] {
        if let Some(count) = item(what)? {
            return container(tuple(py, [what])?, None, Some(count.extract()?), Some(plain));
        }
    }
    if let Some(fields) = item(intern!(py, "namedtuple"))? {
        let (keys, fields) = names(&fields)?;
        return container(tuple(py, [intern!(py, "namedtuple").as_any(), &fields])?, Some(keys), None, None);
    }
    if let Some(children) = item(intern!(py, "object"))? {
        let (keys, children) = names(&children)?;
        return container(tuple(py, [intern!(py, "class").as_any(), &children])?, Some(keys), None, None);
    }
    if let Some(layer) = item(intern!(py, "layer"))? {
        let children = item(intern!(py, "children"))?.ok_or_else(|| nonsense("a layer has no children"))?;
        let (keys, _) = names(&children)?;
        let layer = layer.cast_into::<PyString>().map_err(|_| nonsense("a layer's name is no text"))?;
        let plain = item(intern!(py, "plain"))?.ok_or_else(|| nonsense("a layer has no values"))?;
        let activation = plain.cast::<PyDict>()?.get_item(intern!(py, "activation"))?;
        let value = match activation {
            Some(form) if !form.is_none() => form.cast::<PyDict>()?.get_item(intern!(py, "value"))?,
            _ => None,
        };
        let value = value.unwrap_or_else(|| py.None().into_bound(py));
        let kind = tuple(py, [intern!(py, "layer").as_any(), layer.as_any(), &value])?;
        return container(kind, Some(keys), None, None);
    }
    if let Some(array) = item(intern!(py, "transposed"))? {
        return Ok(Kept::Transposed(array.extract()?));
    }
    if let Some(value) = item(intern!(py, "value"))? {
        return Ok(Kept::Value(value));
    }
    if let Some(class) = item(intern!(py, "unknown"))? {
        return Ok(Kept::Unknown(class));
    }
    Err(nonsense("a form is unknown"))
}

/// The key of a dict that [`Forms`] wrote.
fn read_key<'py>(key: Object<'py>, decode: &Object<'py>) -> PyResult<Key<'py>> {
    if key.is_exact_instance_of::<PyString>() {
        return Ok(Key::Object(key));
    }
    if let Ok(form) = key.cast::<PyDict>()
        && let Some(text) = form.get_item(intern!(key.py(), "unknown"))?
    {
        return Ok(Key::Text(text.cast_into()?));
    }
    decode.call1((key,)).map(Key::Object)
}

/// The tree of an outline of a file, made of the file's `values`, arrays or Leafs.
///
/// `same` are pairs of nodes that are one object. Python's `decode(value)` makes plain values, `make(form, children, node)`
/// what JSON has not, or refuses it.
#[pyfunction]
pub fn build<'py>(
    outline: &Outline,
    forms: &Bound<'py, PyList>,
    same: Items<(usize, usize)>,
    values: &Bound<'py, PyList>,
    decode: &Object<'py>,
    make: &Object<'py>,
) -> PyResult<Object<'py>> {
    let value = |array: usize| values.get_item(array).map_err(|_| nonsense("there are not so many arrays"));
    Builder { py: forms.py(), forms: &Read::all(forms, decode)?, decode, make }.tree(&outline.nodes, same.0, value)
}

/// What makes trees again.
pub struct Builder<'a, 'py> {
    /// The interpreter.
    pub py: Python<'py>,
    /// The forms of the file.
    pub forms: &'a Read<'py>,
    /// See [`build`].
    pub decode: &'a Object<'py>,
    /// See [`build`].
    pub make: &'a Object<'py>,
}

impl<'py> Builder<'_, 'py> {
    /// The tree of these nodes, of the arrays or Leafs that `value` has.
    pub fn tree(
        &self,
        nodes: &[i64],
        same: Vec<(usize, usize)>,
        mut value: impl FnMut(usize) -> PyResult<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        let py = self.py;
        // Which object each of these nodes is, and the objects with their levels, once they are made.
        let mut shared: FxHashMap<usize, usize> = FxHashMap::default();
        let mut objects: Vec<Option<(Object<'py>, usize)>> = repeated(None, same.len())?;
        shared.make_room(same.len().saturating_mul(2))?;
        for (i, (later, first)) in same.into_iter().enumerate() {
            let object = *shared.entry(first).or_insert(i);
            shared.insert(later, object);
        }
        let mut transposes: FxHashMap<usize, Object<'py>> = FxHashMap::default();
        // From the last node to the first: what is made of the children of a node lies on the stack, the first one on top,
        // each with its levels.
        let mut stack: Vec<(Object<'py>, usize)> = Vec::new();
        for (i, &node) in nodes.iter().enumerate().rev() {
            let mut levels = 0;
            let object = match self.forms.at(node)? {
                Form::Array(array) => value(array)?,
                Form::Transposed(array) => {
                    transposes.make_room(1)?;
                    match transposes.entry(array) {
                        Entry::Occupied(known) => known.get().clone(),
                        Entry::Vacant(new) => new.insert(value(array)?.getattr(intern!(py, "T"))?).clone(),
                    }
                }
                Form::None => py.None().into_bound(py),
                Form::Value(encoded) if is_json(encoded) => encoded.clone(),
                Form::Value(encoded) => self.decode.call1((encoded,))?,
                Form::Unknown(class) => self.make.call1((class, py.None(), Int::from(i)))?,
                Form::Container(container) => {
                    let count = container.len();
                    if count > stack.len() {
                        return Err(nonsense("the structure ends too early"));
                    }
                    let first = stack.len() - count;
                    levels = 1 + stack[first..].iter().map(|(_, levels)| *levels).max().unwrap_or(0);
                    if levels > MAX_DEPTH {
                        return Err(deep());
                    }
                    let children = listed(stack.drain(first..).rev().map(|(child, _)| child))?;
                    let known = shared.get(&i).copied();
                    if let Some((object, made)) = known.and_then(|k| objects[k].clone()) {
                        levels = made;
                        object
                    } else {
                        let object = self.join(container, children, i)?;
                        if let Some(k) = known {
                            objects[k] = Some((object.clone(), levels));
                        }
                        object
                    }
                }
            };
            stack.put((object, levels))?;
        }
        match stack.pop() {
            Some((tree, _)) if stack.is_empty() => Ok(tree),
            _ => Err(nonsense("a tree goes on behind its end")),
        }
    }

    /// A node of these children.
    fn join(&self, container: &Container<'py>, children: Vec<Object<'py>>, node: usize) -> PyResult<Object<'py>> {
        let py = self.py;
        match container.plain {
            Some(Plain::Dict) => {
                let dict = dict(py)?;
                for (i, child) in children.into_iter().enumerate() {
                    dict.set_item(container.key(py, i)?, child)?;
                }
                Ok(dict.into_any())
            }
            Some(Plain::List) => Ok(list(py, children)?.into_any()),
            Some(Plain::Tuple) => Ok(tuple(py, children)?.into_any()),
            None => self.make.call1((&container.form, list(py, children)?, Int::from(node))),
        }
    }
}
