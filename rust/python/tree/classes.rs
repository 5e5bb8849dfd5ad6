//! Which classes are registered.
//!
//! A registration is an attribute of its class, and goes with it: what it holds, such as a function that says what is trained,
//! may lead back to the class. Walks do not ask classes for attributes, which may run code of others; they look here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType, PyWeakrefMethods, PyWeakrefReference};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::memory::reserve::listed;
use crate::python::memory::lists::Items;

/// How instances of a class are walked and rebuilt.
#[pyclass(frozen, module = "optirs._core", weakref)]
pub struct Registration {
    /// The attributes that are children.
    pub children: Vec<Py<PyString>>,
    /// Attributes outside `__dict__`, copied when an instance is rebuilt.
    pub slots: Vec<Py<PyString>>,
    /// The names of the trainable children, or a function of the instance that returns them; `None`: all.
    pub trainable: Option<Py<PyAny>>,
    others: PyOnceLock<Others>,
}

/// What instances of a class hold or show beside their children.
pub struct Others {
    /// What the class says they have: fields and slots.
    pub declared: Vec<Py<PyString>>,
    /// What they show where it is not set on them.
    pub defaults: Vec<Py<PyString>>,
}

impl Registration {
    /// The attributes of `class` that are no children. Asked for late: `dataclass` may come after `functor`.
    pub fn others(&self, class: &Bound<'_, PyType>) -> PyResult<&Others> {
        let py = class.py();
        self.others.get_or_try_init(py, || {
            let children = PyTuple::new(py, &self.children)?;
            let found = py.import("optirs.trees.tree")?.call_method1("others", (class, children))?;
            let (declared, defaults) = found.extract()?;
            Ok(Others { declared, defaults })
        })
    }
}

#[pymethods]
impl Registration {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.trainable) // no `__clear__`: a cycle leads through the class, which has one
    }

    /// A class that is pickled whole, as by cloudpickle, is not registered where it arrives: None stands for this there.
    fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyType>, ()) {
        (py.None().bind(py).get_type(), ())
    }
}

/// A class that was registered. Another one may lie where it was by now.
struct Known {
    class: Py<PyWeakrefReference>,
    registration: Py<PyWeakrefReference>,
    /// The registration itself, where the class takes no attributes: it is one that lives as long as the process.
    _kept: Option<Py<Registration>>,
}

/// The registered classes by where they lie.
static KNOWN: Mutex<FxHashMap<usize, Known>> = Mutex::new(FxHashMap::with_hasher(FxBuildHasher));

/// No Python code runs while it is held.
fn known() -> MutexGuard<'static, FxHashMap<usize, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a class, or registers it anew.
pub fn add(class: &Bound<'_, PyType>, registration: Registration) -> PyResult<()> {
    let py = class.py();
    let registration = Bound::new(py, registration)?;
    // Past the class's own metaclass.
    let set = py.get_type::<PyType>().getattr(intern!(py, "__setattr__"))?;
    let kept = match set.call1((class, intern!(py, "_optirs_registration"), &registration)) {
        Ok(_) => None,
        Err(error) if error.is_instance_of::<PyTypeError>(py) => Some(registration.clone().unbind()),
        Err(error) => return Err(error),
    };
    let new = Known {
        class: PyWeakrefReference::new(class)?.unbind(),
        registration: PyWeakrefReference::new(&registration)?.unbind(),
        _kept: kept,
    };
    let mut classes = known();
    let gone: Vec<Known> =
        classes.extract_if(|_, known| known.class.bind(py).upgrade().is_none()).map(|k| k.1).collect();
    let old = classes.insert(class.as_ptr() as usize, new);
    drop(classes);
    drop((gone, old)); // which may run Python code
    Ok(())
}

/// The registration of `class`, if it is registered itself.
pub fn find<'py>(class: &Bound<'py, PyType>) -> Option<Bound<'py, Registration>> {
    let py = class.py();
    let classes = known();
    let found = classes.get(&(class.as_ptr() as usize))?;
    found.class.bind(py).upgrade()?;
    found.registration.bind(py).upgrade()?.cast_into().ok()
}

/// Registers `cls` with these children.
#[pyfunction]
pub fn register(
    cls: &Bound<'_, PyType>,
    children: Vec<Py<PyString>>,
    slots: Vec<Py<PyString>>,
    trainable: Option<Py<PyAny>>,
) -> PyResult<()> {
    add(cls, Registration { children, slots, trainable, others: PyOnceLock::new() })
}

/// The registered children of `cls`, or None.
#[pyfunction]
pub fn registered(cls: &Bound<'_, PyType>) -> PyResult<Option<Items<Py<PyString>>>> {
    let names = |class: Bound<'_, Registration>| listed(class.get().children.iter().map(|c| c.clone_ref(cls.py())));
    Ok(find(cls).map(names).transpose()?.map(Items))
}
