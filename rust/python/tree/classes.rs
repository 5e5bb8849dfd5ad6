//! Which classes are registered.
//!
//! A registration is an attribute of its class, and goes with it: what it holds, such as a function that says what is trained,
//! may lead back to the class. Walks do not ask classes for attributes, which may run anybody's code; they look here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyType, PyWeakrefMethods, PyWeakrefReference};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::node::Registration;

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
