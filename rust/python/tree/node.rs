//! What a model is made of: the one definition of "child".
//!
//! Python's `functor` registers classes here; every walk, there or in Rust, asks [`children`] and [`rebuild`].

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyList, PyString, PyTuple};

use super::classes::{Registration, find};
use super::path::Path;
use super::twins::Twins;
use crate::memory::reserve::{self, Put, collected, listed, repeated};
use crate::python::array::is_array;
use crate::python::errors::{asked, is_ordinary};
use crate::python::leaf::Leaf;
use crate::python::memory::lists::{self, Int, Items, list};

/// What kind of node an object is.
pub enum Node<'a, 'py> {
    /// Not walked.
    Leaf,
    /// A dict or an instance of a class derived from it.
    Dict(&'a Bound<'py, PyDict>),
    /// The same for list.
    List(&'a Bound<'py, PyList>),
    /// A tuple or a named tuple, with its field names.
    Tuple(&'a Bound<'py, PyTuple>, Option<Bound<'py, PyTuple>>),
    /// An instance of a registered class.
    Object(Bound<'py, Registration>),
}

/// Which kind of node `object` is.
pub fn node<'a, 'py>(object: &'a Bound<'py, PyAny>) -> PyResult<Node<'a, 'py>> {
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        return Ok(Node::Dict(dict));
    }
    if let Ok(list) = object.cast_exact::<PyList>() {
        return Ok(Node::List(list));
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        return Ok(Node::Tuple(tuple, None));
    }
    if object.is_none() || is_array(object) || object.is_exact_instance_of::<Leaf>() {
        return Ok(Node::Leaf);
    }
    if let Some(class) = find(&object.get_type()) {
        return Ok(Node::Object(class));
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        return Ok(Node::Dict(dict));
    }
    if let Ok(list) = object.cast::<PyList>() {
        return Ok(Node::List(list));
    }
    if let Ok(tuple) = object.cast::<PyTuple>()
        && let Some(fields) = fields(tuple)?
    {
        return Ok(Node::Tuple(tuple, Some(fields)));
    }
    Ok(Node::Leaf)
}

/// The field names of a named tuple.
pub fn fields<'py>(tuple: &Bound<'py, PyTuple>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let fields = asked(tuple.py(), tuple.get_type().getattr(intern!(tuple.py(), "_fields")))?;
    Ok(fields.and_then(|fields| fields.cast_into::<PyTuple>().ok()).filter(|f| f.len() == tuple.len()))
}

/// Which of `names`, if any, `name` is; a text of a class of one's own has a say in that.
pub fn among<'a, 'py: 'a>(
    names: impl Iterator<Item = &'a Bound<'py, PyString>>,
    name: &Bound<'py, PyAny>,
) -> PyResult<Option<usize>> {
    for (i, each) in names.enumerate() {
        if asked(name.py(), each.as_any().eq(name))?.unwrap_or(false) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// The child `name` of a registered object.
#[inline]
pub fn attribute<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    path: &Path,
) -> PyResult<Bound<'py, PyAny>> {
    object.getattr(name).map_err(|error| unreadable(object, name, path, error))
}

/// The same of an object that may lack it, as a gradient may.
#[inline]
pub fn optional<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    path: &Path,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    object.getattr_opt(name).map_err(|error| unreadable(object, name, path, error))
}

/// The error of an attribute that raised `error` when it was read.
#[cold]
fn unreadable(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, path: &Path, error: PyErr) -> PyErr {
    unusable(object, name, path, "readable", error)
}

fn unusable(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, path: &Path, what: &str, error: PyErr) -> PyErr {
    let py = object.py();
    if !is_ordinary(py, &error) {
        return error;
    }
    let class = object.get_type();
    let class = class.name().map_or_else(|_| "?".into(), |n| n.to_string());
    let place = match path.text(py) {
        Ok(place) => place,
        Err(interrupt) => return interrupt,
    };
    let wrapped = PyValueError::new_err(format!("{class} at {place} has no {what} attribute {name}: {error}"));
    wrapped.set_cause(py, Some(error));
    wrapped
}

/// The keys and values of a node's children; `None` for a leaf.
pub type Children<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;

/// See [`Children`].
pub fn children<'py>(object: &Bound<'py, PyAny>, kind: &Node<'_, 'py>, path: &Path) -> PyResult<Option<Children<'py>>> {
    let py = object.py();
    let number = |(i, x): (usize, Bound<'py, PyAny>)| PyResult::Ok((Int::from(i).into_pyobject(py)?.into_any(), x));
    Ok(Some(match kind {
        Node::Leaf => return Ok(None),
        Node::Dict(dict) => listed(dict.iter())?,
        Node::List(list) => collected(list.iter().enumerate().map(number))?,
        Node::Tuple(tuple, None) => collected(tuple.iter().enumerate().map(number))?,
        Node::Tuple(tuple, Some(fields)) => listed(fields.iter().zip(tuple.iter()))?,
        Node::Object(class) => {
            let child = |name: &Py<PyString>| {
                PyResult::Ok((name.bind(py).clone().into_any(), attribute(object, name.bind(py), path)?))
            };
            collected(class.get().children.iter().map(child))?
        }
    }))
}

/// A node like `object`, which stands at `path`, with other children. `bare`: it shows nothing of the attributes that are no
/// children.
pub fn rebuild<'py>(
    object: &Bound<'py, PyAny>,
    kind: &Node<'_, 'py>,
    keys: impl Iterator<Item = Bound<'py, PyAny>>,
    values: Vec<Bound<'py, PyAny>>,
    bare: bool,
    path: &Path,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    match kind {
        Node::Leaf => Ok(object.clone()),
        Node::Dict(dict) => {
            let exact = dict.is_exact_instance_of::<PyDict>();
            let new = if exact { dict.copy()? } else { shallow_copy(object)?.cast_into()? };
            for (key, value) in keys.zip(values) {
                new.set_item(key, value)?;
            }
            Ok(new.into_any())
        }
        Node::List(old) => {
            if old.is_exact_instance_of::<PyList>() {
                return Ok(list(py, values)?.into_any());
            }
            let new = shallow_copy(object)?.cast_into::<PyList>()?;
            for (i, value) in values.into_iter().enumerate() {
                new.set_item(i, value)?;
            }
            Ok(new.into_any())
        }
        Node::Tuple(_, None) => Ok(lists::tuple(py, values)?.into_any()),
        Node::Tuple(tuple, Some(_)) => {
            let new = py.get_type::<PyTuple>().getattr(intern!(py, "__new__"))?;
            new.call1((tuple.get_type(), lists::tuple(py, values)?))
        }
        Node::Object(class) => instance(object, class.get(), values, bare, path),
    }
}

fn shallow_copy<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let copy = object.py().import("copy")?.call_method1("copy", (object,))?;
    if copy.is(object) {
        let class = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!("copy.copy of a {class} returns the object itself, not a copy")));
    }
    Ok(copy)
}

/// A new instance with these children: neither `__init__` nor any other method of the class runs.
fn instance<'py>(
    object: &Bound<'py, PyAny>,
    class: &Registration,
    values: Vec<Bound<'py, PyAny>>,
    bare: bool,
    path: &Path,
) -> PyResult<Bound<'py, PyAny>> {
    static NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    let new =
        NEW.get_or_try_init(py, || py.import("builtins")?.getattr("object")?.getattr("__new__").map(Bound::unbind))?;
    let made = new.bind(py).call1((object.get_type(),))?;
    if bare {
        hide_others(object, class, &made)?;
    } else {
        let dict = intern!(py, "__dict__");
        if let Some(old) = asked(py, object.getattr(dict))? {
            made.getattr(dict)?.cast::<PyDict>()?.update(old.cast::<PyDict>()?.as_mapping())?;
        }
        for name in &class.slots {
            if let Some(value) = asked(py, object.getattr(name))? {
                set_attribute(&made, name.bind(py), &value)?;
            }
        }
    }
    for (name, value) in class.children.iter().zip(values) {
        let name = name.bind(py);
        set_attribute(&made, name, &value).map_err(|error| unusable(object, name, path, "writable", error))?;
    }
    Ok(made)
}

/// Makes what `made` shows of `object`'s attributes that are no children None, where it would show anything or raise: what
/// the class declares, and what it has a default for.
fn hide_others<'py>(object: &Bound<'py, PyAny>, class: &Registration, made: &Bound<'py, PyAny>) -> PyResult<()> {
    let (py, kind) = (object.py(), object.get_type());
    let others = class.others(&kind)?;
    for name in &others.declared {
        // One that is a property of the class's own is not stored.
        asked(py, set_attribute(made, name.bind(py), py.None().bind(py)))?;
    }
    if !others.defaults.is_empty()
        && let Some(dict) = asked(py, made.getattr(intern!(py, "__dict__")))?
    {
        others.defaults.iter().try_for_each(|name| dict.set_item(name, py.None()))?;
    }
    Ok(())
}

/// Sets an attribute past the class's own `__setattr__`, which a frozen dataclass has.
fn set_attribute(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: three live objects.
    let failed = unsafe { pyo3::ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) } != 0;
    if failed { Err(PyErr::fetch(object.py())) } else { Ok(()) }
}

/// Whether each child of a registered object is trained.
pub fn trained(object: &Bound<'_, PyAny>, class: &Registration, path: &Path) -> PyResult<Vec<bool>> {
    let py = object.py();
    let Some(trainable) = &class.trainable else { return Ok(repeated(true, class.children.len())?) };
    let trainable = trainable.bind(py);
    let names = if trainable.is_callable() { trainable.call1((object,))? } else { trainable.clone() };
    let wrong = |what: String| {
        let (class, place) = (object.get_type().name()?, path.text(py)?);
        Err(PyTypeError::new_err(format!("trainable of {class} at {place} {what}")))
    };
    let iterated = if names.is_instance_of::<PyString>() { None } else { asked(py, names.try_iter())? };
    let Some(iterated) = iterated else {
        return wrong(format!("returns {}, not names of children", names.repr()?));
    };
    let mut trained = repeated(false, class.children.len())?;
    for name in iterated {
        let name = name?;
        let found = among(class.children.iter().map(|child| child.bind(py)), &name)?;
        let Some(i) = found else { return wrong(format!("names {}, which is not a child", name.repr()?)) };
        trained[i] = true;
    }
    Ok(trained)
}

/// A leaf's key path, itself, and whether it may be trained.
pub type Found<'py> = (Bound<'py, PyTuple>, Bound<'py, PyAny>, bool);

/// All leaves of `tree`: their key paths, themselves, and whether they may be trained.
///
/// A child that is not trained is listed as one leaf; `whole` walks those too, without asking what is trained.
pub fn flatten<'py>(tree: &Bound<'py, PyAny>, whole: bool) -> PyResult<Vec<Found<'py>>> {
    let mut leaves = Vec::new();
    visit(
        tree,
        whole,
        &mut Path::default(),
        &mut |path, leaf, trained| {
            leaves.put((path.tuple(leaf.py())?, leaf.clone(), trained))?;
            Ok(leaf.clone())
        },
        None,
    )?;
    Ok(leaves)
}

/// As [`flatten`], for Python.
#[pyfunction(name = "flatten")]
pub fn flat_tree<'py>(tree: &Bound<'py, PyAny>, whole: bool) -> PyResult<Bound<'py, PyList>> {
    let py = tree.py();
    let leaf = |(path, leaf, trained): Found<'py>| {
        lists::tuple(py, [path.into_any(), leaf, PyBool::new(py, trained).to_owned().into_any()])
    };
    list(py, collected(flatten(tree, whole)?.into_iter().map(leaf))?)
}

/// A tree like `tree` whose leaves, in the order of [`flatten`], are `values`; what stands twice with the same values stands
/// twice again. `bare`: as a state has them, registered objects show nothing but their children.
#[pyfunction]
pub fn unflatten<'py>(
    tree: &Bound<'py, PyAny>,
    values: Items<Bound<'py, PyAny>>,
    whole: bool,
    bare: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let mut values = values.0.into_iter();
    let made = visit(
        tree,
        whole,
        &mut Path::default(),
        &mut |_, _, _| values.next().ok_or_else(|| PyValueError::new_err("fewer values than leaves")),
        Some(&mut Rebuild { bare, twins: Twins::new(tree) }),
    )?;
    if values.next().is_some() {
        return Err(PyValueError::new_err("more values than leaves"));
    }
    Ok(made)
}

type Visitor<'a, 'py> = dyn FnMut(&Path, &Bound<'py, PyAny>, bool) -> PyResult<Bound<'py, PyAny>> + 'a;

/// How a tree is rebuilt.
struct Rebuild<'py> {
    /// Whether registered objects show nothing but their children.
    bare: bool,
    twins: Twins<'py>,
}

/// Calls `visitor` on every leaf and, if `how` says so, rebuilds the tree of what it returns.
fn visit<'py>(
    object: &Bound<'py, PyAny>,
    whole: bool,
    path: &mut Path,
    visitor: &mut Visitor<'_, 'py>,
    mut how: Option<&mut Rebuild<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kind = node(object)?;
    let Some(children) = children(object, &kind, path)? else { return visitor(path, object, true) };
    let trained = match &kind {
        Node::Object(class) if !whole => trained(object, class.get(), path)?,
        _ => repeated(true, children.len())?,
    };
    let twin = how.as_deref_mut().is_some_and(|how| how.twins.enter(object));
    let mut values = reserve::list(children.len())?;
    for ((key, child), &train_child) in children.iter().zip(&trained) {
        path.push(key)?;
        let value = if train_child {
            visit(child, whole, path, visitor, how.as_deref_mut())?
        } else {
            visitor(path, child, false)?
        };
        values.push(value);
        path.pop();
    }
    let Some(Rebuild { bare, twins }) = how else { return Ok(object.clone()) };
    let keys = children.into_iter().map(|c| c.0);
    twins.leave(object, twin, values, |values| rebuild(object, &kind, keys, values, *bare, path))
}
