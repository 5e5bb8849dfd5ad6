//! What Python sees: converts, checks and calls; no arithmetic.
use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {}
