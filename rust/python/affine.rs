//! `optirs.affine_forward` and `optirs.affine_gradient`.
use numpy::{PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;

use super::inputs::{Float32, rows, shape_error, shape_text, zeros};
use crate::affine::{self, Gradient, Shape};

type Array<'py> = Bound<'py, PyArrayDyn<f32>>;

/// `x @ W.T + b` in float32, for `W[n_out, n_in]`, `b[n_out]` and `x[n_in]` or `x[batch, n_in]`.
#[pyfunction]
#[pyo3(signature = (W, b, x, /))]
#[expect(non_snake_case, reason = "the matrix has this name in Python")]
pub fn affine_forward<'py>(
    W: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
) -> PyResult<Array<'py>> {
    const CALL: &str = "affine_forward";
    let py = W.py();
    let w = Float32::new("affine_forward: W", W)?;
    let b = Float32::new("affine_forward: b", b)?;
    let x = Float32::new("affine_forward: x", x)?;
    let shape = shape_of(CALL, &w, &x)?;
    if b.shape() != [shape.n_out] {
        return Err(mismatch(CALL, "b", &b, &w, &[shape.n_out]));
    }
    let y = zeros(py, &with_columns(x.shape(), shape.n_out))?;
    // SAFETY: the array is new, so this is the only reference to its elements.
    let out = unsafe { y.as_slice_mut() }?;
    let (w, b, x) = (w.as_slice()?, b.as_slice()?, x.as_slice()?);
    py.detach(|| affine::forward(shape, w, b, x, out));
    Ok(y)
}

/// The gradient `(dW, db, dx)` of `sum(dy * (x @ W.T + b))` in float32; `dy` has the shape of the layer's output.
#[pyfunction]
#[pyo3(signature = (W, x, dy, /))]
#[expect(non_snake_case, reason = "the matrix has this name in Python")]
pub fn affine_gradient<'py>(
    W: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    dy: &Bound<'py, PyAny>,
) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
    const CALL: &str = "affine_gradient";
    let py = W.py();
    let w = Float32::new("affine_gradient: W", W)?;
    let x = Float32::new("affine_gradient: x", x)?;
    let dy = Float32::new("affine_gradient: dy", dy)?;
    let shape = shape_of(CALL, &w, &x)?;
    let expected = with_columns(x.shape(), shape.n_out);
    if dy.shape() != expected {
        let (found, x, w) = (
            shape_text(dy.shape()),
            shape_text(x.shape()),
            shape_text(w.shape()),
        );
        let expected = shape_text(&expected);
        return Err(shape_error(format!(
            "{CALL}: dy has shape {found}, x {x} and W {w} give {expected}"
        )));
    }
    let (dw, db, dx) = (
        zeros(py, w.shape())?,
        zeros(py, &[shape.n_out])?,
        zeros(py, x.shape())?,
    );
    // SAFETY: the arrays are new, so these are the only references to their elements.
    let out = unsafe {
        Gradient {
            dw: dw.as_slice_mut()?,
            db: db.as_slice_mut()?,
            dx: dx.as_slice_mut()?,
        }
    };
    let (w, x, dy) = (w.as_slice()?, x.as_slice()?, dy.as_slice()?);
    py.detach(|| affine::gradient(shape, w, x, dy, out));
    Ok((dw, db, dx))
}

/// The sizes of the call, once `W` is a matrix and `x` has rows that fit it.
fn shape_of(call: &str, w: &Float32<'_>, x: &Float32<'_>) -> PyResult<Shape> {
    let &[n_out, n_in] = w.shape() else {
        let found = shape_text(w.shape());
        return Err(shape_error(format!(
            "{call}: W has shape {found}, it must be (n_out, n_in)"
        )));
    };
    match rows(x.shape()) {
        Some((batch, columns)) if columns == n_in => Ok(Shape { batch, n_in, n_out }),
        _ => {
            let (found, matrix) = (shape_text(x.shape()), shape_text(w.shape()));
            let message = format!(
                "{call}: x has shape {found}, W {matrix} takes ({n_in},) or (batch, {n_in})"
            );
            Err(shape_error(message))
        }
    }
}

fn mismatch(
    call: &str,
    name: &str,
    found: &Float32<'_>,
    w: &Float32<'_>,
    expected: &[usize],
) -> PyErr {
    let (found, w, expected) = (
        shape_text(found.shape()),
        shape_text(w.shape()),
        shape_text(expected),
    );
    shape_error(format!(
        "{call}: {name} has shape {found}, W {w} takes {expected}"
    ))
}

/// The shape of `x` with another number of columns.
fn with_columns(shape: &[usize], columns: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    shape
}
