//! What a tree holds at several places as one object, and so what is rebuilt of it.

use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use crate::memory::reserve::{Reserve, listed};

type Object<'py> = Bound<'py, PyAny>;

/// A node that is referred to so often, by its parent and by the walk itself, stands nowhere else.
const ALONE: isize = 2;

/// Whether a node, to which the walk itself has one reference, may have several parents.
///
/// References cost nothing to count; a table of all nodes would, and most have one parent.
#[inline]
pub fn may_have_twin(node: &Object<'_>) -> bool {
    // SAFETY: a live object.
    unsafe { pyo3::ffi::Py_REFCNT(node.as_ptr()) > ALONE }
}

/// The nodes of a tree met so far that may stand at another place, and what was made of them.
pub struct Twins<'py> {
    /// The top of the tree, to which its caller has references, too. It cannot stand below itself.
    top: *mut pyo3::ffi::PyObject,
    met: FxHashMap<*mut pyo3::ffi::PyObject, Twin<'py>>,
    /// How many nodes that may stand elsewhere, too, the walk is in.
    within: usize,
}

struct Twin<'py> {
    /// Kept, so that nothing else gets its address.
    _old: Object<'py>,
    children: Vec<Object<'py>>,
    new: Object<'py>,
}

impl<'py> Twins<'py> {
    /// None met of the tree `top`.
    pub fn new(top: &Object<'py>) -> Self {
        Self { top: top.as_ptr(), met: FxHashMap::default(), within: 0 }
    }

    /// Goes down to a node; whether it may stand elsewhere, too, be it as a part of what does.
    pub fn enter(&mut self, node: &Object<'py>) -> bool {
        let twin = self.within > 0 || (node.as_ptr() != self.top && may_have_twin(node));
        self.within += usize::from(twin);
        twin
    }

    /// Goes back up from `old`, of which `enter` said whether it is a `twin`: what stands for it in the new tree. That is what
    /// `make` makes of its new children, or what was made of it before.
    ///
    /// Of other children than before another node is made: the gradient of a layer differs from place to place.
    pub fn leave(
        &mut self,
        old: &Object<'py>,
        twin: bool,
        children: Vec<Object<'py>>,
        make: impl FnOnce(Vec<Object<'py>>) -> PyResult<Object<'py>>,
    ) -> PyResult<Object<'py>> {
        if !twin {
            return make(children);
        }
        self.within -= 1;
        if let Some(twin) = self.met.get(&old.as_ptr())
            && twin.children.len() == children.len()
            && twin.children.iter().zip(&children).all(|(a, b)| a.is(b))
        {
            return Ok(twin.new.clone());
        }
        self.met.make_room(1)?;
        let new = make(listed(children.iter().cloned())?)?;
        self.met.make_room(1)?;
        self.met.entry(old.as_ptr()).or_insert_with(|| Twin { _old: old.clone(), children, new: new.clone() });
        Ok(new)
    }
}
