//! `dense_pullback` and `dense_gradient`: one dense layer, forward and back.
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::affine::{Array, mismatch, shape_of, with_columns};
use crate::nn::activation::Activation;
use crate::nn::affine::{Gradient, Shape};
use crate::nn::dense::Dense;
use crate::nn::workspace::Floats;
use crate::python::array::access::run;
use crate::python::array::numbers::{Float32, shape_error, shape_text};
use crate::python::array::{empty, too_large};

/// The names of all activations.
#[pyfunction]
pub fn activations() -> Vec<&'static str> {
    Activation::ALL.iter().map(|a| a.name()).collect()
}

/// The activation that Python calls `name`.
pub fn activation(name: &Bound<'_, PyAny>) -> PyResult<Activation> {
    let Ok(text) = name.cast::<PyString>() else {
        let kind = name.get_type().name()?;
        return Err(PyTypeError::new_err(format!("Dense: activation must be a name, got {kind}")));
    };
    // Not `to_string`, where Python handles signals: what a handler raises would be lost.
    let text = text.to_str()?;
    Activation::from_name(text).ok_or_else(|| {
        let all = activations().join(", ");
        PyValueError::new_err(format!("Dense: there is no activation {text:?}; there are: {all}"))
    })
}

/// `(y, z)`: `z = x @ W.T + b`, and the activation of it.
#[pyfunction]
#[pyo3(signature = (W, b, name, x, /))]
#[expect(non_snake_case, reason = "the matrix has this name in Python")]
pub fn dense_pullback<'py>(
    W: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
    name: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
) -> PyResult<(Array<'py>, Array<'py>)> {
    const CALL: &str = "Dense";
    let py = W.py();
    let w = Float32::new("Dense: W", W)?;
    let b = Float32::new("Dense: b", b)?;
    let x = Float32::new("Dense: x", x)?;
    let shape = shape_of(CALL, &w, &x)?;
    if b.shape() != [shape.n_out] {
        return Err(mismatch(CALL, "b", &b, &w, &[shape.n_out]));
    }
    let layer = dense(shape, activation(name)?);
    let mut extents = [0; 2];
    let columns = with_columns(x.shape(), shape.n_out, &mut extents);
    let (y, z) = (empty(py, columns)?, empty(py, columns)?);
    run(py, &(w, b, x, &y, &z), |(w, b, x, out, kept)| layer.forward(shape.batch, w, b, x, Some(kept), out))?;
    Ok((y.into_array(), z.into_array()))
}

/// `(dW, db, dx)` of `sum(dy * y)`, from the `z` that `dense_pullback` returned.
#[pyfunction]
#[pyo3(signature = (W, name, x, z, dy, /))]
#[expect(non_snake_case, reason = "the matrix has this name in Python")]
pub fn dense_gradient<'py>(
    W: &Bound<'py, PyAny>,
    name: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    z: &Bound<'py, PyAny>,
    dy: &Bound<'py, PyAny>,
) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
    const CALL: &str = "Dense";
    let py = W.py();
    let w = Float32::new("Dense: W", W)?;
    let x = Float32::new("Dense: x", x)?;
    let z = Float32::new("Dense: z", z)?;
    let dy = Float32::new("Dense: dy", dy)?;
    let shape = shape_of(CALL, &w, &x)?;
    let mut extents = [0; 2];
    let output = with_columns(x.shape(), shape.n_out, &mut extents);
    if z.shape() != output {
        let (found, expected) = (shape_text(z.shape()), shape_text(output));
        return Err(shape_error(format!(
            "{CALL}: the output had shape {found}, that of x as it is now has {expected}"
        )));
    }
    if dy.shape() != output {
        let (found, expected) = (shape_text(dy.shape()), shape_text(output));
        return Err(shape_error(format!("{CALL}: dy has shape {found}, the output has {expected}")));
    }
    let layer = dense(shape, activation(name)?);
    let (dw, db, dx) = (empty(py, w.shape())?, empty(py, &[shape.n_out])?, empty(py, x.shape())?);
    let len: usize = z.shape().iter().product();
    let mut d = Floats::new(len).ok_or_else(|| too_large(len.saturating_mul(size_of::<f32>())))?;
    run(py, &((&w, &x, z, dy), (&dw, &db, &dx)), |((w, x, z, dy), (dw, db, dx))| {
        d.copy_from_slice(dy);
        layer.backward_from_input(shape.batch, w, x, z, &mut d, Gradient { dw, db, dx });
    })?;
    Ok((dw.into_array(), db.into_array(), dx.into_array()))
}

fn dense(shape: Shape, activation: Activation) -> Dense {
    Dense { n_in: shape.n_in, n_out: shape.n_out, activation }
}
