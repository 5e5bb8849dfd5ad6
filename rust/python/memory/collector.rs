//! When the collector of cycles rests: while arrays are looked at, and while very many objects are made, none of which is a
//! cycle.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};

/// The collector looks at new objects again and again, and at all others the more there are: several times at each.
///
/// Blocks may nest and run in several threads: the first one stops the collector, if it runs, the last one starts it. All of it
/// is C code, so that no signal's handler runs in the middle.
#[pyclass(module = "optirs._core")]
#[derive(Default)]
pub struct NoCollections {
    blocks: usize,
    stopped: bool,
}

#[pymethods]
impl NoCollections {
    fn __enter__(&mut self) {
        self.blocks += 1;
        if self.blocks == 1 {
            // SAFETY: the lock is held.
            self.stopped = unsafe { ffi::PyGC_Disable() } != 0;
        }
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) {
        match self.blocks {
            0 => {} // of a block that began before a fork
            1 => self._forked(),
            n => self.blocks = n - 1,
        }
    }

    /// There is no block: in a child of a fork there is but the thread that forked; what others had begun does not end.
    fn _forked(&mut self) {
        self.blocks = 0;
        if std::mem::take(&mut self.stopped) {
            // SAFETY: the lock is held.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// As long as there is one, the collector of cycles rests: it runs code of others, which may change arrays between a look at
/// them and their opening.
pub struct Rest {
    was_enabled: bool,
}

impl Rest {
    #[inline]
    pub fn begin(_: Python<'_>) -> Self {
        // SAFETY: the lock is held.
        Self { was_enabled: unsafe { ffi::PyGC_Disable() } != 0 }
    }

    /// It may run again.
    #[inline]
    pub fn end(&mut self) {
        if std::mem::take(&mut self.was_enabled) {
            // SAFETY: the lock is held.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.end();
    }
}

/// Adds `no_collections` to the module.
pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let one = Bound::new(py, NoCollections::default())?;
    if let Some(register) = py.import("os")?.getattr_opt("register_at_fork")? {
        let forked = [("after_in_child", one.getattr("_forked")?)];
        register.call((), Some(&forked.into_py_dict(py)?))?;
    }
    module.add("no_collections", one)
}
