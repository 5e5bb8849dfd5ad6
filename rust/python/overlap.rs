//! Parameters that share elements without being tied.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arrays::numpy;
use super::entry::{Entry, Names};

/// Refuses parameters that share elements without being tied, and returns what the update writes, sorted.
pub fn check_overlap(py: Python<'_>, entries: &[Entry], names: &Names) -> PyResult<Vec<(usize, usize)>> {
    let mut spans: Vec<(usize, usize, usize)> = Vec::with_capacity(entries.len());
    for (i, e) in entries.iter().enumerate() {
        let (low, high) = e.view.span(e.leaf.dtype.size());
        if low < high {
            spans.push((low, high, i));
        }
    }
    spans.sort_unstable();
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    for &span in &spans {
        open.retain(|o| o.1 > span.0);
        for other in &open {
            let (a, b) = (&entries[other.2.min(span.2)], &entries[other.2.max(span.2)]);
            if shares(py, a, b)? {
                let (a, b) = (names.of(a.place), names.of(b.place));
                let text = format!("{a} and {b} share memory without being the same parameter or its transpose");
                return Err(PyValueError::new_err(text));
            }
        }
        open.push(span);
    }
    Ok(spans.into_iter().map(|s| (s.0, s.1)).collect())
}

fn shares(py: Python<'_>, a: &Entry, b: &Entry) -> PyResult<bool> {
    numpy(py)?.call_method1("shares_memory", (a.array, b.array))?.is_truthy()
}
