//! `loss` and `loss_pullback`: the losses of `optirs.losses` by name.
use numpy::{PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::inputs::{Float32, as_array, int64, rows, shape_error, shape_text, zeros};
use crate::losses::{self, Pointwise};

/// Row sums of probabilities may be off by this much: float16 targets are rounded to three digits.
const SUM_TOLERANCE: f64 = 1e-3;

/// The loss called `name` of `yhat` against `y`.
#[pyfunction]
#[pyo3(signature = (name, yhat, y, /))]
pub fn loss(py: Python<'_>, name: &str, yhat: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<f64> {
    let problem = Problem::new(name, yhat, y)?;
    let (yhat, target) = (problem.yhat.as_slice()?, problem.target()?);
    Ok(py.detach(|| target.loss(problem.batch, problem.columns, yhat)))
}

/// The loss called `name`, and its gradient by `yhat`.
#[pyfunction]
#[pyo3(signature = (name, yhat, y, /))]
pub fn loss_pullback<'py>(
    py: Python<'py>,
    name: &str,
    yhat: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
) -> PyResult<(f64, Bound<'py, PyArrayDyn<f32>>)> {
    let problem = Problem::new(name, yhat, y)?;
    let dyhat = zeros(py, problem.yhat.shape())?;
    // SAFETY: the array is new, so this is the only reference to its elements.
    let out = unsafe { dyhat.as_slice_mut() }?;
    let (yhat, target) = (problem.yhat.as_slice()?, problem.target()?);
    let loss = py.detach(|| {
        target.gradient(problem.batch, problem.columns, yhat, out);
        target.loss(problem.batch, problem.columns, yhat)
    });
    Ok((loss, dyhat))
}

/// Arguments that have been checked: `yhat[batch, columns]` and what it is compared with.
struct Problem<'py> {
    yhat: Float32<'py>,
    batch: usize,
    columns: usize,
    kind: Kind<'py>,
}

enum Kind<'py> {
    Pointwise(Pointwise, Float32<'py>),
    Classes(Vec<usize>),
    Rows(Float32<'py>),
}

impl<'py> Problem<'py> {
    fn new(name: &str, yhat: &Bound<'py, PyAny>, y: &Bound<'py, PyAny>) -> PyResult<Self> {
        let yhat = Float32::new(&format!("{name}: yhat"), yhat)?;
        let Some((batch, columns)) = rows(yhat.shape()) else {
            let found = shape_text(yhat.shape());
            return Err(shape_error(format!("{name}: yhat has shape {found}, it must be (n,) or (batch, n)")));
        };
        let kind = match name {
            "mse" => pointwise(Pointwise::Mse, name, &yhat, y),
            "mae" => pointwise(Pointwise::Mae, name, &yhat, y),
            "huber" => pointwise(Pointwise::Huber, name, &yhat, y),
            "binary_crossentropy" => pointwise(Pointwise::BinaryCrossentropy, name, &yhat, y),
            "crossentropy" => classes_or_rows(name, &yhat, columns, y),
            _ => Err(PyValueError::new_err(format!("there is no loss called {name:?}"))),
        }?;
        Ok(Self { yhat, batch, columns, kind })
    }

    fn target(&self) -> PyResult<Target<'_>> {
        Ok(match &self.kind {
            Kind::Pointwise(loss, y) => Target::Pointwise(*loss, y.as_slice()?),
            Kind::Classes(classes) => Target::Crossentropy(losses::Target::Classes(classes)),
            Kind::Rows(rows) => Target::Crossentropy(losses::Target::Rows(rows.as_slice()?)),
        })
    }
}

/// The plain data of a [`Problem`], which can leave the GIL behind.
#[derive(Clone, Copy)]
enum Target<'a> {
    Pointwise(Pointwise, &'a [f32]),
    Crossentropy(losses::Target<'a>),
}

impl Target<'_> {
    fn loss(self, batch: usize, columns: usize, yhat: &[f32]) -> f64 {
        match self {
            Self::Pointwise(loss, y) => loss.loss(batch, yhat, y),
            Self::Crossentropy(target) => losses::crossentropy(columns, yhat, target),
        }
    }

    fn gradient(self, batch: usize, columns: usize, yhat: &[f32], out: &mut [f32]) {
        match self {
            Self::Pointwise(loss, y) => loss.gradient(batch, yhat, y, out),
            Self::Crossentropy(target) => losses::crossentropy_gradient(columns, yhat, target, out),
        }
    }
}

fn pointwise<'py>(loss: Pointwise, name: &str, yhat: &Float32<'py>, y: &Bound<'py, PyAny>) -> PyResult<Kind<'py>> {
    let y = Float32::new(&format!("{name}: y"), y)?;
    if y.shape() != yhat.shape() {
        let (left, right) = (shape_text(yhat.shape()), shape_text(y.shape()));
        return Err(shape_error(format!("{name}: yhat has shape {left}, y has {right}")));
    }
    if loss == Pointwise::BinaryCrossentropy {
        check_unit(name, y.as_slice()?)?;
    }
    Ok(Kind::Pointwise(loss, y))
}

/// Class numbers where `y` has one entry a row, probabilities where it has the shape of `yhat`.
fn classes_or_rows<'py>(name: &str, yhat: &Float32<'py>, columns: usize, y: &Bound<'py, PyAny>) -> PyResult<Kind<'py>> {
    let array = as_array(y)?;
    let one_a_row = &yhat.shape()[..yhat.shape().len() - 1];
    if array.shape() == yhat.shape() {
        let rows = Float32::new(&format!("{name}: y"), y)?;
        check_unit(name, rows.as_slice()?)?;
        check_row_sums(name, columns, rows.as_slice()?)?;
        return Ok(Kind::Rows(rows));
    }
    if array.shape() != one_a_row {
        let (left, right) = (shape_text(yhat.shape()), shape_text(array.shape()));
        let classes = shape_text(one_a_row);
        return Err(shape_error(format!(
            "{name}: yhat has shape {left}, y has {right}; it must be {classes} (class numbers) or {left} (one-hot)"
        )));
    }
    if !b"iu".contains(&array.dtype().kind()) {
        let found = array.dtype().str()?.to_string();
        return Err(PyTypeError::new_err(format!("{name}: class numbers must be integers, got {found}")));
    }
    int64(&array)?
        .into_iter()
        .map(|class| class_number(name, class, columns))
        .collect::<PyResult<_>>()
        .map(Kind::Classes)
}

fn class_number(name: &str, class: i64, columns: usize) -> PyResult<usize> {
    usize::try_from(class)
        .ok()
        .filter(|&class| class < columns)
        .ok_or_else(|| PyValueError::new_err(format!("{name}: class number {class} is not in 0 <= class < {columns}")))
}

fn check_unit(name: &str, targets: &[f32]) -> PyResult<()> {
    match targets.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        None => Ok(()),
        Some(value) => Err(PyValueError::new_err(format!("{name}: targets must lie in [0, 1], got {value}"))),
    }
}

fn check_row_sums(name: &str, columns: usize, targets: &[f32]) -> PyResult<()> {
    for (i, row) in targets.chunks_exact(columns.max(1)).enumerate() {
        let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(PyValueError::new_err(format!(
                "{name}: row {i} of the one-hot targets sums to {sum}, not to 1"
            )));
        }
    }
    Ok(())
}
