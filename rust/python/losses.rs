//! `loss` and `loss_pullback`: the losses of `optirs.losses` by name.
use numpy::{PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::inputs::{Float32, as_array, empty, int64, rows, shape_error, shape_text};
use crate::losses::{Objective, Pointwise, Rows, Target};

/// Row sums of probabilities may be off by this much: float16 targets are rounded to three digits.
const SUM_TOLERANCE: f64 = 1e-3;

/// The loss called `name` of `yhat` against `y`.
#[pyfunction]
#[pyo3(signature = (name, yhat, y, /))]
pub fn loss(py: Python<'_>, name: &str, yhat: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<f64> {
    let (yhat, rows) = prediction(name, yhat)?;
    let targets = Targets::new(name, yhat.shape(), y)?;
    let (yhat, objective) = (yhat.as_slice()?, targets.objective()?);
    Ok(py.detach(|| objective.loss(rows, yhat)))
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
    let (yhat, rows) = prediction(name, yhat)?;
    let targets = Targets::new(name, yhat.shape(), y)?;
    let dyhat = empty(py, yhat.shape())?;
    // SAFETY: the array is new, so this is the only reference to its elements.
    let out = unsafe { dyhat.as_slice_mut() }?;
    let (yhat, objective) = (yhat.as_slice()?, targets.objective()?);
    let loss = py.detach(|| objective.pullback(rows, yhat, out));
    Ok((loss, dyhat))
}

fn prediction<'py>(name: &str, yhat: &Bound<'py, PyAny>) -> PyResult<(Float32<'py>, Rows)> {
    let yhat = Float32::new(&format!("{name}: yhat"), yhat)?;
    let Some((batch, n)) = rows(yhat.shape()) else {
        let found = shape_text(yhat.shape());
        return Err(shape_error(format!("{name}: yhat has shape {found}, it must be (n,) or (batch, n)")));
    };
    Ok((yhat, Rows { batch, n }))
}

/// Targets that fit a prediction.
pub enum Targets<'py> {
    /// One an element.
    Pointwise(Pointwise, Float32<'py>),
    /// Class numbers, one a row.
    Classes(Vec<usize>),
    /// Probabilities, one a class.
    Rows(Float32<'py>),
}

impl<'py> Targets<'py> {
    /// Checks `y` as the target of the loss called `name` for a prediction of shape `yhat`, of one or two dimensions.
    pub fn new(name: &str, yhat: &[usize], y: &Bound<'py, PyAny>) -> PyResult<Self> {
        if name == "crossentropy" {
            return classes_or_rows(name, yhat, y);
        }
        match Pointwise::ALL.iter().find(|loss| loss.name() == name) {
            Some(&loss) => pointwise(loss, yhat, y),
            None => Err(PyValueError::new_err(format!("there is no loss called {name:?}"))),
        }
    }

    /// The plain data, which can leave the GIL behind.
    pub fn objective(&self) -> PyResult<Objective<'_>> {
        Ok(match self {
            Self::Pointwise(loss, y) => Objective::Pointwise(*loss, y.as_slice()?),
            Self::Classes(classes) => Objective::Crossentropy(Target::Classes(classes)),
            Self::Rows(rows) => Objective::Crossentropy(Target::Rows(rows.as_slice()?)),
        })
    }
}

fn pointwise<'py>(loss: Pointwise, yhat: &[usize], y: &Bound<'py, PyAny>) -> PyResult<Targets<'py>> {
    let name = loss.name();
    let y = Float32::new(&format!("{name}: y"), y)?;
    if y.shape() != yhat {
        let (left, right) = (shape_text(yhat), shape_text(y.shape()));
        return Err(shape_error(format!("{name}: yhat has shape {left}, y has {right}")));
    }
    if loss == Pointwise::BinaryCrossentropy {
        check_unit(name, &y)?;
    }
    Ok(Targets::Pointwise(loss, y))
}

/// Class numbers where `y` has one entry a row, probabilities where it has the shape of `yhat`.
fn classes_or_rows<'py>(name: &str, yhat: &[usize], y: &Bound<'py, PyAny>) -> PyResult<Targets<'py>> {
    let array = as_array(y)?;
    let (one_a_row, columns) = (&yhat[..yhat.len() - 1], yhat[yhat.len() - 1]);
    if array.shape() == yhat {
        let rows = Float32::new(&format!("{name}: y"), y)?;
        check_unit(name, &rows)?;
        check_row_sums(name, columns, rows.as_slice()?)?;
        return Ok(Targets::Rows(rows));
    }
    if array.shape() != one_a_row {
        let (left, right) = (shape_text(yhat), shape_text(array.shape()));
        let classes = shape_text(one_a_row);
        return Err(shape_error(format!(
            "{name}: yhat has shape {left}, y has {right}; it must be {classes} (class numbers) or {left} (one-hot)"
        )));
    }
    let kind = array.dtype().kind();
    if !b"iu".contains(&kind) {
        let found = array.dtype().str()?.to_string();
        return Err(PyTypeError::new_err(format!("{name}: class numbers must be integers, got {found}")));
    }
    let classes = int64(&array)?;
    let class = |(i, class): (usize, i64)| {
        usize::try_from(class).ok().filter(|&class| class < columns).ok_or_else(|| {
            // An unsigned number beyond the signed ones has become a negative one.
            let (at, class) = (place(one_a_row, i), if kind == b'u' { class as u64 as i128 } else { class.into() });
            PyValueError::new_err(format!("{name}: class number {class}{at} is not in 0 <= class < {columns}"))
        })
    };
    classes.into_iter().enumerate().map(class).collect::<PyResult<_>>().map(Targets::Classes)
}

/// Where in targets of this shape element `i` stands.
fn place(shape: &[usize], i: usize) -> String {
    match *shape {
        [] => String::new(),
        [_, columns] => format!(" at y[{}, {}]", i / columns, i % columns),
        _ => format!(" at y[{i}]"),
    }
}

fn check_unit(name: &str, targets: &Float32<'_>) -> PyResult<()> {
    let mut elements = targets.as_slice()?.iter().enumerate();
    match elements.find(|(_, value)| !(0.0..=1.0).contains(*value)) {
        None => Ok(()),
        Some((i, value)) => {
            let at = place(targets.shape(), i);
            Err(PyValueError::new_err(format!("{name}: targets must lie in [0, 1], got {value}{at}")))
        }
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
