//! What a tree is made of, place by place: of one in memory, and of one in a file.

use pyo3::exceptions::{PyIndexError, PyRecursionError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};
use rustc_hash::FxHashMap;

use super::super::arrays::View;
use super::super::leaf::Leaf;
use super::super::lists::{Int, Items, ints, list, text, tuple};
use super::super::path::{MAX_DEPTH, Path, append};
use super::super::ties::{Ties, ties};
use super::super::tree::{Children, Node, children, node, trained};
use super::forms::{Container, Form, Forms, Read};
use crate::reserve::{OutOfMemory, Put, Reserve, collected, list as room, repeated};

/// See the module. The lists `at`, `places`, `index` and `transposed` have an entry for each place where an array or a Leaf
/// stands.
#[pyclass(frozen, module = "optirs._core")]
pub struct Outline {
    /// All leaves; empty for a file.
    #[pyo3(get)]
    pub leaves: Py<PyList>,
    /// Which of the leaves stand at the places.
    #[pyo3(get)]
    pub at: Py<PyList>,
    /// The places as text.
    #[pyo3(get)]
    pub places: Py<PyList>,
    /// Which array or Leaf stands there, counted in the order of their first places.
    #[pyo3(get)]
    pub index: Py<PyList>,
    /// Whether transposed.
    #[pyo3(get)]
    pub transposed: Py<PyList>,
    /// The arrays or Leafs; empty for a file.
    #[pyo3(get)]
    pub found: Py<PyList>,
    /// Which of the places is the first one of each of them.
    #[pyo3(get)]
    pub first: Py<PyList>,
    /// Those that may share some elements with another one without being tied.
    #[pyo3(get)]
    pub overlapping: Py<PyList>,
    /// The places where None stands.
    #[pyo3(get)]
    pub none: Py<PyList>,
    /// The nodes that are no leaves: place and kind.
    #[pyo3(get)]
    pub containers: Py<PyList>,
    /// The tree as a file has it; see [`Forms`].
    #[pyo3(get)]
    pub nodes: Py<PyList>,
    /// Pairs of nodes that are one object, the later one first.
    #[pyo3(get)]
    pub same: Py<PyList>,
    keys: Keys,
    /// The key of each place.
    ends: Vec<usize>,
}

#[pymethods]
impl Outline {
    /// The key path of a place.
    pub fn path<'py>(&self, py: Python<'py>, place: usize) -> PyResult<Bound<'py, PyTuple>> {
        let end = self.ends.get(place).ok_or_else(|| PyIndexError::new_err("there is no such place"))?;
        self.keys.path(py, *end)
    }

    /// The key paths of some places, as tuples of a class derived from `tuple`.
    fn paths<'py>(&self, class_: Bound<'py, PyType>, places: Items<usize>) -> PyResult<Items<Bound<'py, PyAny>>> {
        let py = class_.py();
        let new = py.get_type::<PyTuple>().getattr(intern!(py, "__new__"))?;
        collected(places.0.into_iter().map(|place| new.call1((&class_, self.path(py, place)?)))).map(Items)
    }

    // No `__clear__`: a cycle leads through a list or a key, which have one.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let lists = [&self.leaves, &self.at, &self.places, &self.index, &self.transposed, &self.found, &self.first];
        let more = [&self.overlapping, &self.none, &self.containers, &self.nodes, &self.same];
        lists.into_iter().chain(more).try_for_each(|list| visit.call(list))?;
        self.keys.0.iter().try_for_each(|(_, key)| visit.call(key))
    }
}

/// Keys of a tree, each with the one above it: a tuple for each place would be so many objects for the collector of cycles.
struct Keys(Vec<(usize, Option<Py<PyAny>>)>);

/// The top, which has no key.
const TOP: usize = 0;

impl Keys {
    fn new() -> Self {
        Self(vec![(TOP, None)])
    }

    /// Adds a key below another one; its number.
    fn push(&mut self, above: usize, key: &Bound<'_, PyAny>) -> Result<usize, OutOfMemory> {
        self.0.put((above, Some(key.clone().unbind())))?;
        Ok(self.0.len() - 1)
    }

    fn path<'py>(&self, py: Python<'py>, mut end: usize) -> PyResult<Bound<'py, PyTuple>> {
        let mut keys = Vec::new();
        while let (above, Some(key)) = &self.0[end] {
            keys.put(key.bind(py).clone())?;
            end = *above;
        }
        keys.reverse();
        tuple(py, keys)
    }
}

/// The outline of `tree`, whose arrays are wanted: all of them (`whole`), or those that are trained.
///
/// `layers` are the names of the layers of ours by class.
#[pyfunction]
pub fn outline_of_tree<'py>(
    tree: &Bound<'py, PyAny>,
    root: &str,
    whole: bool,
    layers: Bound<'py, PyDict>,
) -> PyResult<Outline> {
    let mut walk = Walk::new(tree.py(), root, whole, layers, None);
    walk.visit(tree, true, TOP)?;
    walk.outline()
}

/// The same, all of it, of a tree that is to be written in these forms.
pub fn outline_to_write<'py>(
    tree: &Bound<'py, PyAny>,
    root: &str,
    layers: Bound<'py, PyDict>,
    forms: &mut Forms,
    canonical: bool,
) -> PyResult<Outline> {
    let mut walk = Walk::new(tree.py(), root, true, layers, Some(forms));
    walk.canonical = canonical;
    walk.visit(tree, true, TOP)?;
    walk.outline()
}

/// A walk over a tree in memory.
struct Walk<'a, 'py> {
    py: Python<'py>,
    whole: bool,
    layers: Bound<'py, PyDict>,
    forms: Option<&'a mut Forms>,
    /// Whether dicts are taken in the order of their keys' texts.
    canonical: bool,
    path: Path,
    text: String,
    /// How many keys on the way here print as their address, which differs from run to run.
    nameless: usize,
    leaves: Vec<Bound<'py, PyAny>>,
    at: Vec<usize>,
    wanted: Vec<Bound<'py, PyAny>>,
    places: Vec<Bound<'py, PyString>>,
    keys: Keys,
    ends: Vec<usize>,
    none: Vec<Bound<'py, PyString>>,
    containers: Vec<(Bound<'py, PyString>, Bound<'py, PyTuple>)>,
    nodes: Vec<i64>,
    /// The nodes of the places.
    slots: Vec<usize>,
    /// The first node of each object, which is kept so that nothing else gets its address.
    met: FxHashMap<usize, (usize, Bound<'py, PyAny>)>,
    same: Vec<(usize, usize)>,
}

impl<'a, 'py> Walk<'a, 'py> {
    fn new(py: Python<'py>, root: &str, whole: bool, layers: Bound<'py, PyDict>, forms: Option<&'a mut Forms>) -> Self {
        Self {
            py,
            whole,
            layers,
            forms,
            canonical: false,
            path: Path::default(),
            text: root.to_owned(),
            nameless: 0,
            leaves: Vec::new(),
            at: Vec::new(),
            wanted: Vec::new(),
            places: Vec::new(),
            keys: Keys::new(),
            ends: Vec::new(),
            none: Vec::new(),
            containers: Vec::new(),
            nodes: Vec::new(),
            slots: Vec::new(),
            met: FxHashMap::default(),
            same: Vec::new(),
        }
    }

    /// Goes through `object`, which `trains` and has the key `end`, and what is below it.
    fn visit(&mut self, object: &Bound<'py, PyAny>, trains: bool, end: usize) -> PyResult<()> {
        let kind = if trains || self.whole { node(object)? } else { Node::Leaf };
        let Some(mut children) = children(object, &kind, &self.path)? else { return self.leaf(object, trains, end) };
        if self.canonical && matches!(kind, Node::Dict(_)) {
            children = by_text(children)?;
        }
        let trains = match &kind {
            Node::Object(class) if !self.whole => trained(object, class.get(), &self.path)?,
            _ => repeated(true, children.len())?,
        };
        self.container(object, &kind, &children)?;
        let length = self.text.len();
        for ((key, child), trains) in children.iter().zip(trains) {
            append(&mut self.text, key);
            self.path.push(key)?;
            let nameless = matches!(kind, Node::Dict(_)) && is_nameless(key);
            self.nameless += usize::from(nameless);
            let below = self.keys.push(end, key)?;
            self.visit(child, trains, below)?;
            self.nameless -= usize::from(nameless);
            self.path.pop();
            self.text.truncate(length);
        }
        Ok(())
    }

    fn leaf(&mut self, object: &Bound<'py, PyAny>, trains: bool, end: usize) -> PyResult<()> {
        self.leaves.put(object.clone())?;
        let wanted = match View::of(object) {
            Some(view) => self.whole || (trains && view.dtype.is_some()),
            None => object.is_exact_instance_of::<Leaf>(),
        };
        if wanted {
            if self.nameless > 0 && self.forms.is_some() {
                return Err(unnamed(&self.text));
            }
            self.at.put(self.leaves.len() - 1)?;
            self.wanted.put(object.clone())?;
            self.places.put(text(self.py, &self.text)?)?;
            self.ends.put(end)?;
            self.slots.put(self.nodes.len())?;
            self.nodes.put(0)?;
            return Ok(());
        }
        if object.is_none() {
            self.none.put(text(self.py, &self.text)?)?;
        }
        if let Some(forms) = &mut self.forms {
            self.nodes.put(forms.plain(object)?)?;
        }
        Ok(())
    }

    /// Notes a node with children.
    fn container(
        &mut self,
        object: &Bound<'py, PyAny>,
        kind: &Node<'_, 'py>,
        children: &[(Bound<'py, PyAny>, Bound<'py, PyAny>)],
    ) -> PyResult<()> {
        let class = object.get_type();
        let layer = match kind {
            Node::Object(_) => self.layers.get_item(&class)?,
            _ => None,
        };
        let what = kind_of(object, kind, layer.as_ref())?;
        self.containers.put((text(self.py, &self.text)?, what))?;
        let Some(forms) = &mut self.forms else { return Ok(()) };
        if !children.is_empty() || !matches!(kind, Node::Tuple(..)) {
            self.met.make_room(1)?;
            let (first, _) = self.met.entry(object.as_ptr() as usize).or_insert((self.nodes.len(), object.clone()));
            if *first != self.nodes.len() {
                self.same.put((self.nodes.len(), *first))?;
            }
        }
        self.nodes.put(forms.container(object, kind, layer.as_ref(), children)?)?;
        Ok(())
    }

    fn outline(mut self) -> PyResult<Outline> {
        let py = self.py;
        let Ties { index, first, overlapping } = ties(&self.wanted)?;
        if let Some(forms) = &mut self.forms {
            for (&slot, &(i, transposed)) in self.slots.iter().zip(&index) {
                self.nodes[slot] = if transposed { forms.transposed(py, i)? } else { i as i64 };
            }
        }
        Ok(Outline {
            leaves: list(py, self.leaves)?.unbind(),
            at: ints(py, self.at)?.unbind(),
            found: list(py, first.iter().map(|&i| &self.wanted[i]))?.unbind(),
            first: ints(py, first)?.unbind(),
            places: list(py, self.places)?.unbind(),
            index: ints(py, index.iter().map(|(i, _)| *i))?.unbind(),
            transposed: list(py, index.iter().map(|(_, transposed)| *transposed))?.unbind(),
            overlapping: ints(py, overlapping)?.unbind(),
            none: list(py, self.none)?.unbind(),
            containers: pairs(py, self.containers.iter().map(|(place, kind)| [place.as_any(), kind.as_any()]))?,
            nodes: ints(py, self.nodes)?.unbind(),
            same: pairs(py, self.same.iter().map(|&(later, first)| [Int::from(later), Int::from(first)]))?,
            keys: self.keys,
            ends: self.ends,
        })
    }
}

/// The error of an array that no name would find again.
pub fn unnamed(place: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{place} cannot be saved under this name: a key prints like another, or differs by run"
    ))
}

/// A list of pairs.
fn pairs<'py, T: IntoPyObject<'py>>(py: Python<'py>, pairs: impl Iterator<Item = [T; 2]>) -> PyResult<Py<PyList>> {
    let pairs = collected(pairs.map(|pair| tuple(py, pair)))?;
    list(py, pairs).map(Bound::unbind)
}

/// Children in the order of their keys' texts.
pub fn by_text<'py>(children: Children<'py>) -> PyResult<Children<'py>> {
    let text_of = |key: &Bound<'py, PyAny>| {
        let mut text = String::new();
        append(&mut text, key);
        text
    };
    let mut texts = room(children.len())?;
    texts.extend(children.into_iter().enumerate().map(|(i, (key, child))| (text_of(&key), i, key, child)));
    texts.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let mut children = room(texts.len())?;
    children.extend(texts.into_iter().map(|(.., key, child)| (key, child)));
    Ok(children)
}

/// Whether a key prints as its address.
fn is_nameless(key: &Bound<'_, PyAny>) -> bool {
    if key.is_exact_instance_of::<PyString>() {
        return false;
    }
    let py = key.py();
    let repr = intern!(py, "__repr__");
    let plain = py.import("builtins").and_then(|b| b.getattr("object")?.getattr(repr));
    plain.is_ok_and(|plain| key.get_type().getattr(repr).is_ok_and(|own| own.is(&plain)))
}

/// What two trees compare of a node: what it is, and what its children or its activation are called.
fn kind_of<'py>(
    object: &Bound<'py, PyAny>,
    kind: &Node<'_, 'py>,
    layer: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let py = object.py();
    match kind {
        Node::Leaf => tuple(py, [intern!(py, "leaf")]),
        Node::Dict(_) => tuple(py, [intern!(py, "dict")]),
        Node::List(_) => tuple(py, [intern!(py, "list")]),
        Node::Tuple(_, None) => tuple(py, [intern!(py, "tuple")]),
        Node::Tuple(_, Some(fields)) => tuple(py, [intern!(py, "namedtuple").as_any(), fields]),
        Node::Object(class) => match layer {
            Some(name) => {
                let activation = object.getattr_opt(intern!(py, "activation"))?;
                let activation = activation.unwrap_or_else(|| py.None().into_bound(py));
                tuple(py, [intern!(py, "layer").as_any(), name, &activation])
            }
            None => {
                let children = tuple(py, class.get().children.iter().map(|c| c.bind(py)))?;
                tuple(py, [intern!(py, "class").as_any(), &children])
            }
        },
    }
}

/// The outline of a tree that a file has; `key` decodes the key of a dict.
#[pyfunction]
pub fn outline_of_file<'py>(
    nodes: &Bound<'py, PyList>,
    forms: &Bound<'py, PyList>,
    root: &str,
    key: &Bound<'py, PyAny>,
) -> PyResult<Outline> {
    let py = nodes.py();
    let forms = Read::all(forms, key)?;
    let mut at = Descent::new(root);
    let (mut places, mut ends, mut none, mut containers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut index, mut transposed, mut first): (Vec<usize>, Vec<bool>, Vec<usize>) = Default::default();
    for node in nodes.iter() {
        let form = forms.at(&node)?;
        at.go(py, &form)?;
        let (array, is_transposed) = match form {
            Form::Array(array) => (array, false),
            Form::Transposed(array) => (array, true),
            Form::Container(container) => {
                containers.put((text(py, &at.text)?, container.kind.clone()))?;
                continue;
            }
            Form::None => {
                none.put(text(py, &at.text)?)?;
                continue;
            }
            Form::Value(_) | Form::Unknown(_) => continue,
        };
        if array == first.len() {
            first.put(places.len())?;
        } else if array > first.len() {
            return Err(nonsense("arrays are not counted in the order of their first places"));
        }
        places.put(text(py, &at.text)?)?;
        ends.put(at.end)?;
        index.put(array)?;
        transposed.put(is_transposed)?;
    }
    at.check_end()?;
    let empty = || PyList::empty(py).unbind();
    Ok(Outline {
        leaves: empty(),
        at: empty(),
        found: empty(),
        first: ints(py, first)?.unbind(),
        places: list(py, places)?.unbind(),
        index: ints(py, index)?.unbind(),
        transposed: list(py, transposed)?.unbind(),
        overlapping: empty(),
        none: list(py, none)?.unbind(),
        containers: pairs(py, containers.iter().map(|(place, kind)| [place.as_any(), kind.as_any()]))?,
        nodes: nodes.clone().unbind(),
        same: empty(),
        keys: at.keys,
        ends,
    })
}

/// Where the `i`-th node of a file's tree stands, as text.
#[pyfunction]
pub fn place_in_file<'py>(
    nodes: &Bound<'py, PyList>,
    forms: &Bound<'py, PyList>,
    root: &str,
    key: &Bound<'py, PyAny>,
    i: usize,
) -> PyResult<String> {
    let forms = Read::all(forms, key)?;
    let mut at = Descent::new(root);
    for node in nodes.iter().take(i.saturating_add(1)) {
        at.go(nodes.py(), &forms.at(&node)?)?;
    }
    Ok(at.text)
}

/// Where a reader of nodes is.
struct Descent<'a, 'py> {
    text: String,
    keys: Keys,
    /// The key of the node.
    end: usize,
    /// The nodes whose children are not all read.
    open: Vec<Open<'a, 'py>>,
    began: bool,
}

struct Open<'a, 'py> {
    container: &'a Container<'py>,
    /// The child to come.
    next: usize,
    /// How long the node's text is, and its key.
    text: usize,
    end: usize,
}

impl<'a, 'py> Descent<'a, 'py> {
    fn new(root: &str) -> Self {
        Self { text: root.to_owned(), keys: Keys::new(), end: TOP, open: Vec::new(), began: false }
    }

    /// Goes to the next node, which has this form.
    fn go(&mut self, py: Python<'py>, form: &Form<'a, 'py>) -> PyResult<()> {
        while self.open.last().is_some_and(|open| open.next == open.container.len()) {
            self.open.pop();
        }
        if self.began {
            let Some(parent) = self.open.last_mut() else { return Err(nonsense("a tree goes on behind its end")) };
            self.text.truncate(parent.text);
            parent.container.append_key(py, parent.next, &mut self.text)?;
            self.end = self.keys.push(parent.end, &parent.container.key(py, parent.next)?)?;
            parent.next += 1;
        }
        self.began = true;
        if let Form::Container(container) = form {
            if self.open.len() > MAX_DEPTH {
                return Err(deep());
            }
            self.open.push(Open { container, next: 0, text: self.text.len(), end: self.end });
        }
        Ok(())
    }

    /// Raises unless the node where it is was the last one.
    fn check_end(&self) -> PyResult<()> {
        let complete = self.began && self.open.iter().all(|open| open.next == open.container.len());
        if complete { Ok(()) } else { Err(nonsense("a tree ends too early")) }
    }
}

/// The error of a tree in a file that no walk could go through.
pub fn deep() -> PyErr {
    PyRecursionError::new_err(format!("a tree nests deeper than {MAX_DEPTH} levels"))
}

/// The error of a file that `save` did not write.
pub fn nonsense(what: &str) -> PyErr {
    PyValueError::new_err(what.to_owned())
}

/// The class of an object, as a key that nothing else equals.
pub fn address(class: &Bound<'_, PyType>) -> usize {
    class.as_ptr() as usize
}
