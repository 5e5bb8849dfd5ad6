//! What a tree is made of, place by place: of one in memory, and of one in a file.

use pyo3::exceptions::{PyIndexError, PyRecursionError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString, PyTuple, PyType};
use rustc_hash::FxHashMap;

use super::forms::{Container, Form, Forms, Read};
use super::numbers::Numbers;
use super::texts::Texts;
use crate::memory::reserve::{OutOfMemory, Put, Reserve, collected, list as room, listed, repeated};
use crate::python::array::View;
use crate::python::leaf::Leaf;
use crate::python::memory::lists::{Int, Items, ints, list, text, tuple};
use crate::python::tree::node::{Children, Node, children, node, trained};
use crate::python::tree::path::{MAX_DEPTH, Path, append};
use crate::python::tree::ties::{Ties, ties};

/// See the module. `at`, `places`, `index`, `transposed` and `ends` have an entry for each place where an array or a Leaf
/// stands. Python gets lists of them where it asks, which it does where something differs, or is wrong.
#[pyclass(frozen, module = "optirs._core")]
pub struct Outline {
    /// All leaves; empty for a file.
    leaves: Vec<Py<PyAny>>,
    /// Which of the leaves stand at the places.
    at: Vec<usize>,
    /// The places as text.
    pub places: Texts,
    /// Which array or Leaf stands there, counted in the order of their first places.
    index: Vec<usize>,
    /// Whether transposed.
    transposed: Vec<bool>,
    /// The arrays or Leafs; empty for a file.
    pub found: Vec<Py<PyAny>>,
    /// Which of the places is the first one of each of them.
    pub first: Vec<usize>,
    /// Those that may share some elements with another one without being tied.
    overlapping: Vec<usize>,
    /// The places where None stands.
    none: Texts,
    /// The nodes that are no leaves: place and kind.
    containers: Texts,
    kinds: Vec<Py<PyTuple>>,
    /// The tree as a file has it; see [`Forms`].
    pub nodes: Vec<i64>,
    /// Pairs of nodes that are one object, the later one first.
    same: Vec<(usize, usize)>,
    keys: Keys,
    /// The key of each place.
    ends: Vec<usize>,
    /// Whether there are keys of which two may print alike.
    pub doubtful: bool,
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

    /// How many arrays or Leafs there are.
    fn __len__(&self) -> usize {
        self.first.len()
    }

    /// Whether the places of another tree are the same, and stand for the same arrays; those of Leafs have no transposes.
    fn agrees(&self, other: &Self, leafs: bool) -> bool {
        self.index == other.index
            && self.first == other.first
            && (leafs || self.transposed == other.transposed)
            && self.places == other.places
    }

    /// Whether another tree has the same nodes that are no leaves.
    fn has_containers_of(&self, py: Python<'_>, other: &Self) -> PyResult<bool> {
        if self.containers != other.containers {
            return Ok(false);
        }
        for (a, b) in self.kinds.iter().zip(&other.kinds) {
            if !a.is(b) && !a.bind(py).eq(b.bind(py))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first place where a Leaf stands.
    fn leaf_place<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        let is_leaf = |object: &Py<PyAny>| object.bind(py).is_exact_instance_of::<Leaf>();
        self.found.iter().position(is_leaf).map(|i| text(py, self.places.get(self.first[i]))).transpose()
    }

    /// Whether each leaf is a Leaf or None.
    fn is_state(&self, py: Python<'_>) -> bool {
        self.at.len() + self.none.len() == self.leaves.len()
            && self.found.iter().all(|object| object.bind(py).is_exact_instance_of::<Leaf>())
    }

    /// A place that two arrays or Leafs have.
    fn repeated<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        if self.doubtful { self.places.repeated(py) } else { Ok(None) }
    }

    /// A tree's leaves, with other arrays or Leafs. There is one transpose of each, as what stands twice is one object.
    fn filled<'py>(
        &self,
        py: Python<'py>,
        values: Items<Bound<'py, PyAny>>,
        bare: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let Items(values) = values;
        let none = py.None();
        let mut leaves = if bare { repeated(&none, self.leaves.len())? } else { listed(&self.leaves)? };
        let mut transposes: FxHashMap<usize, Py<PyAny>> = FxHashMap::default();
        if !bare {
            for (&i, _) in self.index.iter().zip(&self.transposed).filter(|(_, transposed)| **transposed) {
                let x = values.get(i).ok_or_else(|| PyIndexError::new_err("there are not so many arrays"))?;
                transposes.make_room(1)?;
                transposes.insert(i, x.getattr(intern!(py, "T"))?.unbind());
            }
        }
        for ((&at, i), &transposed) in self.at.iter().zip(&self.index).zip(&self.transposed) {
            let found = if transposed && !bare { transposes.get(i) } else { values.get(*i).map(Bound::as_unbound) };
            leaves[at] = found.ok_or_else(|| PyIndexError::new_err("there are not so many arrays"))?;
        }
        list(py, leaves)
    }

    #[getter]
    fn places<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.places.list(py)
    }

    #[getter]
    fn index<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        ints(py, self.index.iter().copied())
    }

    #[getter]
    fn transposed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.transposed)
    }

    #[getter]
    fn found<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.found)
    }

    #[getter]
    fn first<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        ints(py, self.first.iter().copied())
    }

    #[getter]
    fn overlapping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        ints(py, self.overlapping.iter().copied())
    }

    #[getter]
    fn none<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.none.list(py)
    }

    #[getter]
    fn containers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pair = |(place, kind): (&str, &Py<PyTuple>)| tuple(py, [text(py, place)?.as_any(), kind.bind(py)]);
        list(py, collected(self.containers.iter().zip(&self.kinds).map(pair))?)
    }

    #[getter]
    fn nodes(&self) -> PyResult<Numbers> {
        Ok(listed(self.nodes.iter().copied())?.into())
    }

    #[getter]
    fn same<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pair = |&(later, first): &(usize, usize)| tuple(py, [Int::from(later), Int::from(first)]);
        list(py, collected(self.same.iter().map(pair))?)
    }

    // No `__clear__`: a cycle leads through an object in a tree or a key, which have one.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.leaves.iter().chain(&self.found).try_for_each(|object| visit.call(object))?;
        self.kinds.iter().try_for_each(|kind| visit.call(kind))?;
        self.keys.0.iter().try_for_each(|(_, key)| visit.call(key))
    }
}

/// Keys of a tree, each with the one above it: a tuple for each place would be as many objects for the collector of cycles.
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
    leaves: Vec<Py<PyAny>>,
    at: Vec<usize>,
    wanted: Vec<Bound<'py, PyAny>>,
    places: Texts,
    keys: Keys,
    ends: Vec<usize>,
    doubtful: bool,
    none: Texts,
    containers: Texts,
    kinds: Vec<Py<PyTuple>>,
    /// The kinds that depend on nothing but the type of node, or on the class that is registered, by its address.
    known: FxHashMap<(&'static str, usize), Bound<'py, PyTuple>>,
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
            places: Texts::default(),
            keys: Keys::new(),
            ends: Vec::new(),
            doubtful: false,
            none: Texts::default(),
            containers: Texts::default(),
            kinds: Vec::new(),
            known: FxHashMap::default(),
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
            append(&mut self.text, key)?;
            self.path.push(key)?;
            let plain = key.is_exact_instance_of::<PyString>() || key.is_exact_instance_of::<PyInt>();
            let nameless = !plain && matches!(kind, Node::Dict(_)) && is_nameless(key);
            self.doubtful |= !plain;
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
        self.leaves.put(object.clone().unbind())?;
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
            self.places.push(&self.text)?;
            self.ends.put(end)?;
            self.slots.put(self.nodes.len())?;
            self.nodes.put(0)?;
            return Ok(());
        }
        if object.is_none() {
            self.none.push(&self.text)?;
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
        let what = self.kind_of(object, kind, layer.as_ref())?;
        self.containers.push(&self.text)?;
        self.kinds.put(what.unbind())?;
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
        let transposed = listed(index.iter().map(|(_, transposed)| *transposed))?;
        let index = listed(index.iter().map(|(i, _)| *i))?;
        Ok(Outline {
            leaves: self.leaves,
            at: self.at,
            found: listed(first.iter().map(|&i| self.wanted[i].clone().unbind()))?,
            first,
            places: self.places,
            index,
            transposed,
            overlapping,
            none: self.none,
            containers: self.containers,
            kinds: self.kinds,
            nodes: self.nodes,
            same: self.same,
            keys: self.keys,
            ends: self.ends,
            doubtful: self.doubtful,
        })
    }

    /// What two trees compare of a node: what it is, and what its children or its activation are called.
    fn kind_of(
        &mut self,
        object: &Bound<'py, PyAny>,
        kind: &Node<'_, 'py>,
        layer: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let py = self.py;
        let (what, class) = match kind {
            Node::Leaf => ("leaf", 0),
            Node::Dict(_) => ("dict", 0),
            Node::List(_) => ("list", 0),
            Node::Tuple(_, None) => ("tuple", 0),
            Node::Tuple(_, Some(fields)) => {
                return tuple(py, [intern!(py, "namedtuple").as_any(), fields]);
            }
            Node::Object(_) if layer.is_some() => ("layer", 0),
            Node::Object(class) => ("class", class.as_ptr() as usize), // which lives as long as the tree
        };
        if let Some(name) = layer {
            let activation = object.getattr_opt(intern!(py, "activation"))?;
            let activation = activation.unwrap_or_else(|| py.None().into_bound(py));
            return tuple(py, [intern!(py, "layer").as_any(), name, &activation]);
        }
        if let Some(known) = self.known.get(&(what, class)) {
            return Ok(known.clone());
        }
        let name = text(py, what)?.into_any();
        let made = match kind {
            Node::Object(class) => {
                let children = tuple(py, class.get().children.iter().map(|c| c.bind(py)))?;
                tuple(py, [&name, children.as_any()])?
            }
            _ => tuple(py, [name])?,
        };
        self.known.make_room(1)?;
        self.known.insert((what, class), made.clone());
        Ok(made)
    }
}

/// The error of an array that no name would find again.
pub fn unnamed(place: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{place} cannot be saved under this name: a key prints like another, or differs by run"
    ))
}

/// Children in the order of their keys' texts. A stable sort would ask for room.
pub fn by_text<'py>(children: Children<'py>) -> PyResult<Children<'py>> {
    let mut texts = room(children.len())?;
    for (i, (key, child)) in children.into_iter().enumerate() {
        let mut text = String::new();
        append(&mut text, &key)?;
        texts.push((text, i, key, child));
    }
    texts.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    Ok(listed(texts.into_iter().map(|(.., key, child)| (key, child)))?)
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
    let nodes = numbers(nodes)?;
    let mut at = Descent::new(root);
    let (mut places, mut none, mut containers) = (Texts::default(), Texts::default(), Texts::default());
    let (mut ends, mut kinds) = (Vec::new(), Vec::new());
    let (mut index, mut transposed, mut first): (Vec<usize>, Vec<bool>, Vec<usize>) = Default::default();
    for &node in &nodes {
        let form = forms.at(node)?;
        at.go(py, &form)?;
        let (array, is_transposed) = match form {
            Form::Array(array) => (array, false),
            Form::Transposed(array) => (array, true),
            Form::Container(container) => {
                containers.push(&at.text)?;
                kinds.put(container.kind.clone().unbind())?;
                continue;
            }
            Form::None => {
                none.push(&at.text)?;
                continue;
            }
            Form::Value(_) | Form::Unknown(_) => continue,
        };
        if array == first.len() {
            first.put(places.len())?;
        } else if array > first.len() {
            return Err(nonsense("arrays are not counted in the order of their first places"));
        }
        places.push(&at.text)?;
        ends.put(at.end)?;
        index.put(array)?;
        transposed.put(is_transposed)?;
    }
    at.check_end()?;
    Ok(Outline {
        leaves: Vec::new(),
        at: Vec::new(),
        found: Vec::new(),
        first,
        places,
        index,
        transposed,
        overlapping: Vec::new(),
        none,
        containers,
        kinds,
        nodes,
        same: Vec::new(),
        keys: at.keys,
        ends,
        doubtful: true,
    })
}

/// The nodes that a file has.
pub fn numbers(nodes: &Bound<'_, PyList>) -> PyResult<Vec<i64>> {
    let number = |node: Bound<'_, PyAny>| {
        let node = node.cast_into_exact::<PyInt>().map_err(|_| nonsense("a node is no number"))?;
        node.extract()
    };
    collected(nodes.iter().map(number))
}

/// Where the `i`-th node of a file's tree stands, as text.
#[pyfunction]
pub fn place_in_file<'py>(
    outline: &Outline,
    forms: &Bound<'py, PyList>,
    root: &str,
    key: &Bound<'py, PyAny>,
    i: usize,
) -> PyResult<Bound<'py, PyString>> {
    let py = forms.py();
    let forms = Read::all(forms, key)?;
    let mut at = Descent::new(root);
    for &node in outline.nodes.iter().take(i.saturating_add(1)) {
        at.go(py, &forms.at(node)?)?;
    }
    text(py, &at.text)
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
            self.open.put(Open { container, next: 0, text: self.text.len(), end: self.end })?;
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
