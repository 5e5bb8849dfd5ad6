//! Settings: threads, instruction set, kept memory.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::loops::simd::{self, Level};
use crate::memory::recycling;
use crate::threads::pool;

/// How many threads share the work of an update.
#[pyfunction]
pub fn get_num_threads() -> usize {
    pool::threads()
}

/// Sets how many threads share the work of an update.
#[pyfunction]
pub fn set_num_threads(py: Python<'_>, n: usize) {
    py.detach(|| pool::set_threads(n));
}

/// Gives memory that is kept for later steps back to the system; returns how many bytes.
#[pyfunction]
pub fn release_memory() -> usize {
    recycling::release()
}

const LEVELS: [(&str, Level); 3] = [("baseline", Level::Baseline), ("avx2", Level::Avx2), ("avx512", Level::Avx512)];

/// The instruction sets that this processor has, slowest first.
#[pyfunction]
pub fn simd_levels() -> Vec<&'static str> {
    LEVELS.iter().filter(|(_, l)| simd::levels().contains(l)).map(|(n, _)| *n).collect()
}

/// Uses this instruction set from now on.
#[pyfunction]
pub fn set_simd(name: &str) -> PyResult<()> {
    match LEVELS.iter().find(|(n, _)| *n == name) {
        Some((_, level)) => {
            simd::set_level(*level);
            Ok(())
        }
        None => Err(PyValueError::new_err(format!("no instruction set {name}"))),
    }
}
