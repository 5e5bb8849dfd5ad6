//! `optirs.affine_forward` and `optirs.affine_gradient`.
use pyo3::prelude::*;

use crate::nn::affine::{self, Gradient, Shape};
use crate::python::array::access::run;
use crate::python::array::empty;
use crate::python::array::numbers::{Float32, rows, shape_error, shape_text};

/// An array of the layers.
pub type Array<'py> = Bound<'py, PyAny>;

/// The affine layer on rows, `y = x @ W.T + b`, in float32.
///
/// Args:
///     W: weights, `(n_out, n_in)`.
///     b: bias, `(n_out,)`.
///     x: rows, `(batch, n_in)`, or one row, `(n_in,)`.
///
/// C-contiguous float32 arrays are read directly, others through a converted copy. The GIL is released; the result
/// does not depend on the number of threads.
///
/// Returns:
///     A new array, `(batch, n_out)` or `(n_out,)`.
///
/// Raises:
///     ValueError: shapes that do not fit.
///     TypeError: an argument is not an array of real numbers.
///
/// Examples:
///     >>> import optirs
///     >>> optirs.affine_forward([[1.0, 2.0]], [0.5], [[1.0, 1.0], [2.0, 0.0]])
///     array([[3.5],
///            [2.5]], dtype=float32)
///
/// Source: `W * x .+ b` of the Optimisers.jl notebook, where batches are columns.
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
    let y = empty(py, with_columns(x.shape(), shape.n_out, &mut [0; 2]))?;
    run(py, &(w, b, x, &y), |(w, b, x, out)| affine::forward(shape, w, b, x, out))?;
    Ok(y.into_array())
}

/// The gradient of `sum(dy * (x @ W.T + b))` in float32: `dW = dy.T @ x`, `db` = sum of the rows of `dy`, `dx = dy @ W`.
///
/// Args:
///     W: weights, `(n_out, n_in)`.
///     x: rows, `(batch, n_in)`, or one row, `(n_in,)`.
///     dy: gradient by the output, `(batch, n_out)` or `(n_out,)`.
///
/// Returns:
///     `(dW, db, dx)`, new arrays in the shapes of `W`, `b` and `x`. An empty batch gives zeros.
///
/// Raises:
///     ValueError: shapes that do not fit.
///     TypeError: an argument is not an array of real numbers.
///
/// Examples:
///     >>> import optirs
///     >>> optirs.affine_gradient([[1.0, 2.0]], [3.0, 4.0], [10.0])
///     (array([[30., 40.]], dtype=float32), array([10.], dtype=float32), array([10., 20.], dtype=float32))
///
/// Source: the reverse of `affine_forward`, as Zygote derives it for the Optimisers.jl notebook.
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
    let mut extents = [0; 2];
    let expected = with_columns(x.shape(), shape.n_out, &mut extents);
    if dy.shape() != expected {
        let (found, x, w) = (shape_text(dy.shape()), shape_text(x.shape()), shape_text(w.shape()));
        let expected = shape_text(expected);
        return Err(shape_error(format!("{CALL}: dy has shape {found}, x {x} and W {w} give {expected}")));
    }
    let (dw, db, dx) = (empty(py, w.shape())?, empty(py, &[shape.n_out])?, empty(py, x.shape())?);
    run(py, &((&w, &x, dy), (&dw, &db, &dx)), |((w, x, dy), (dw, db, dx))| {
        affine::gradient(shape, w, x, dy, Gradient { dw, db, dx });
    })?;
    Ok((dw.into_array(), db.into_array(), dx.into_array()))
}

/// The sizes of the call, once `W` is a matrix and `x` has rows that fit it.
pub fn shape_of(call: &str, w: &Float32<'_>, x: &Float32<'_>) -> PyResult<Shape> {
    let &[n_out, n_in] = w.shape() else {
        let found = shape_text(w.shape());
        return Err(shape_error(format!("{call}: W has shape {found}, it must be (n_out, n_in)")));
    };
    match rows(x.shape()) {
        Some((batch, columns)) if columns == n_in => Ok(Shape { batch, n_in, n_out }),
        _ => {
            let (found, matrix) = (shape_text(x.shape()), shape_text(w.shape()));
            let message = format!("{call}: x has shape {found}, W {matrix} takes ({n_in},) or (batch, {n_in})");
            Err(shape_error(message))
        }
    }
}

/// The error for an argument whose shape does not go with that of `W`.
pub fn mismatch(call: &str, name: &str, found: &Float32<'_>, w: &Float32<'_>, expected: &[usize]) -> PyErr {
    let (found, w, expected) = (shape_text(found.shape()), shape_text(w.shape()), shape_text(expected));
    shape_error(format!("{call}: {name} has shape {found}, W {w} takes {expected}"))
}

/// The shape of `x` with another number of columns.
pub fn with_columns<'a>(shape: &[usize], columns: usize, extents: &'a mut [usize; 2]) -> &'a [usize] {
    match *shape {
        [batch, _] => {
            *extents = [batch, columns];
            extents
        }
        _ => {
            extents[0] = columns;
            &extents[..1]
        }
    }
}
