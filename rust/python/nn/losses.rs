//! `loss` and `loss_pullback`: the losses of `optirs.layers.losses` by name.
use numpy::{Element, PyArrayDescrMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::loops::element::Real;
use crate::memory::reserve::collected;
use crate::nn::losses::crossentropy::Target;
use crate::nn::losses::pointwise::Pointwise;
use crate::nn::losses::values::Values;
use crate::nn::losses::{Objective, Rows};
use crate::python::array::access::run;
use crate::python::array::masked::refuse;
use crate::python::array::numbers::{Numbers, Precision, Reals, as_array, int64, rows, shape_error, shape_text};
use crate::python::array::{empty, is_array};

/// Rows of probabilities may sum to 1 within this, whatever their type: they may have been written down in three digits.
const LEAST_TOLERANCE: f64 = 1e-3;
/// Whatever their type, what is off by more than this are no probabilities.
const MOST_TOLERANCE: f64 = 0.05;

/// The loss called `name` of `yhat` against `y`.
#[pyfunction]
#[pyo3(signature = (name, yhat, y, /))]
pub fn loss(py: Python<'_>, name: &str, yhat: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<f64> {
    let (yhat, rows) = prediction(name, yhat)?;
    let targets = Targets::new(name, yhat.shape(), y)?;
    match targets.beside(yhat)? {
        Reals::Single(yhat) => value(py, rows, &yhat, &targets),
        Reals::Double(yhat) => value(py, rows, &yhat, &targets),
    }
}

fn value<T: Real + Element>(py: Python<'_>, rows: Rows, yhat: &Numbers<'_, T>, targets: &Targets<'_>) -> PyResult<f64> {
    let kind = &targets.kind;
    Ok(run(py, &(yhat, &targets.numbers), |(yhat, y)| kind.objective(y).loss(rows, yhat))??)
}

/// The loss called `name`, and its gradient by `yhat`: float64 if one of both is, else float32.
#[pyfunction]
#[pyo3(signature = (name, yhat, y, /))]
pub fn loss_pullback<'py>(
    py: Python<'py>,
    name: &str,
    yhat: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
) -> PyResult<(f64, Bound<'py, PyAny>)> {
    let (yhat, rows) = prediction(name, yhat)?;
    let targets = Targets::new(name, yhat.shape(), y)?;
    match targets.beside(yhat)? {
        Reals::Single(yhat) => pullback(py, rows, &yhat, &targets),
        Reals::Double(yhat) => pullback(py, rows, &yhat, &targets),
    }
}

fn pullback<'py, T: Real + Element>(
    py: Python<'py>,
    rows: Rows,
    yhat: &Numbers<'_, T>,
    targets: &Targets<'_>,
) -> PyResult<(f64, Bound<'py, PyAny>)> {
    let dyhat = empty::<T>(py, yhat.shape())?;
    let kind = &targets.kind;
    let loss =
        run(py, &(yhat, &targets.numbers, &dyhat), |(yhat, y, out)| kind.objective(y).pullback(rows, yhat, out))??;
    Ok((loss, dyhat.into_array()))
}

fn prediction<'py>(name: &str, yhat: &Bound<'py, PyAny>) -> PyResult<(Reals<'py>, Rows)> {
    let yhat = Reals::new(format!("{name}: yhat"), yhat)?;
    let Some((batch, n)) = rows(yhat.shape()) else {
        let found = shape_text(yhat.shape());
        return Err(shape_error(format!("{name}: yhat has shape {found}, it must be (n,) or (batch, n)")));
    };
    Ok((yhat, Rows { batch, n }))
}

/// Targets that fit a prediction.
pub struct Targets<'py> {
    /// What they are.
    pub kind: Kind,
    /// Those that are no classes.
    pub numbers: Option<Reals<'py>>,
}

/// A loss and what its targets are, but for numbers in an array.
pub enum Kind {
    /// One an element.
    Pointwise(Pointwise),
    /// Class numbers, one a row.
    Classes(Vec<usize>),
    /// Probabilities, one a class, and whether the loss is one of float64 for their sake.
    Rows(bool),
}

impl Kind {
    /// The loss with its targets; `y` are [`Targets::numbers`].
    pub fn objective<'a>(&'a self, y: Option<Values<'a>>) -> Objective<'a> {
        let numbers = y.unwrap_or(Values::Single(&[]));
        match self {
            Self::Pointwise(loss) => Objective::Pointwise(*loss, numbers),
            Self::Classes(classes) => Objective::Crossentropy(Target::Classes(classes)),
            Self::Rows(_) => Objective::Crossentropy(Target::Rows(numbers)),
        }
    }
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

    /// The prediction in the type in which the loss of both is computed.
    fn beside(&self, yhat: Reals<'py>) -> PyResult<Reals<'py>> {
        let double = match self.kind {
            Kind::Pointwise(_) => self.numbers.as_ref().is_some_and(Reals::is_double),
            Kind::Classes(_) => false,
            Kind::Rows(double) => double,
        };
        if double { yhat.double().map(Reals::Double) } else { Ok(yhat) }
    }
}

fn pointwise<'py>(loss: Pointwise, yhat: &[usize], y: &Bound<'py, PyAny>) -> PyResult<Targets<'py>> {
    let name = loss.name();
    let py = y.py();
    let y = Reals::new(format!("{name}: y"), y)?;
    if y.shape() != yhat {
        let (left, right) = (shape_text(yhat), shape_text(y.shape()));
        return Err(shape_error(format!("{name}: yhat has shape {left}, y has {right}")));
    }
    if loss == Pointwise::BinaryCrossentropy {
        check_unit(py, name, &y)?;
    }
    Ok(Targets { kind: Kind::Pointwise(loss), numbers: Some(y) })
}

/// Class numbers where `y` has one entry a row, probabilities where it has the shape of `yhat`.
fn classes_or_rows<'py>(name: &str, yhat: &[usize], y: &Bound<'py, PyAny>) -> PyResult<Targets<'py>> {
    let what = format!("{name}: y");
    refuse(&what, y)?;
    let array = as_array(&what, y)?;
    let (one_a_row, columns) = (&yhat[..yhat.len() - 1], yhat[yhat.len() - 1]);
    if array.shape() == yhat {
        let given = if is_array(y) { y } else { array.as_any() }; // not a view of it, which would outlive its memory
        let rows = Reals::new(what, given)?;
        if rows.shape() != yhat {
            let (left, right) = (shape_text(yhat), shape_text(rows.shape()));
            return Err(shape_error(format!("{name}: yhat has shape {left}, y has {right}")));
        }
        let precision = Precision::of(&array)?.unwrap_or(Precision::Other);
        check_unit(array.py(), name, &rows)?;
        check_row_sums(array.py(), name, columns, &rows, tolerance(precision, columns))?;
        let double = rows.is_double();
        // Rounded to 16 bits they may sum to 1 so roughly that the sum shows in the gradient: float64 looks at it.
        let rough = matches!(precision, Precision::Float16 | Precision::BFloat16);
        let numbers = if rough { Reals::Double(rows.double()?) } else { rows };
        return Ok(Targets { kind: Kind::Rows(double), numbers: Some(numbers) });
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
    let classes = int64(&what, &array)?;
    let class = |(i, class): (usize, i64)| {
        usize::try_from(class).ok().filter(|&class| class < columns).ok_or_else(|| {
            // An unsigned number beyond the signed ones has become a negative one.
            let (at, class) = (place(one_a_row, i), if kind == b'u' { class as u64 as i128 } else { class.into() });
            PyValueError::new_err(format!("{name}: class number {class}{at} is not in 0 <= class < {columns}"))
        })
    };
    let classes = collected(classes.into_iter().enumerate().map(class))?;
    Ok(Targets { kind: Kind::Classes(classes), numbers: None })
}

/// Where in targets of this shape element `i` stands.
fn place(shape: &[usize], i: usize) -> String {
    match *shape {
        [] => String::new(),
        [_, columns] => format!(" at y[{}, {}]", i / columns, i % columns),
        _ => format!(" at y[{i}]"),
    }
}

fn check_unit(py: Python<'_>, name: &str, targets: &Reals<'_>) -> PyResult<()> {
    let outside = |x: f32| !(0.0..=1.0).contains(&x);
    let found = run(py, targets, |values| match values {
        Values::Single(values) => values.iter().position(|&x| outside(x)).map(|i| (i, values[i].to_string())),
        // As float32: a sum of shares may come to 1.0000000000000002.
        Values::Double(values) => values.iter().position(|&x| outside(x as f32)).map(|i| (i, values[i].to_string())),
    })?;
    let Some((i, value)) = found else { return Ok(()) };
    let at = place(targets.shape(), i);
    Err(PyValueError::new_err(format!("{name}: targets must lie in [0, 1], got {value}{at}")))
}

/// How far the sum of a row of `columns` probabilities may be from 1.
///
/// Rounding once moves the sum by half a unit in the last place of 1 at most, as each entry is moved by that part of itself;
/// in float16 also by half the least number an entry. To divide by a sum that was rounded, or to mix rows, does it a few times
/// more.
fn tolerance(precision: Precision, columns: usize) -> f64 {
    let (unit, least) = match precision {
        Precision::BFloat16 => (f64::powi(2.0, -8), 0.0),
        Precision::Float16 => (f64::powi(2.0, -11), f64::powi(2.0, -24)),
        Precision::Float32 | Precision::Other => (0.0, 0.0),
    };
    (8.0 * unit + columns as f64 * least).clamp(LEAST_TOLERANCE, MOST_TOLERANCE)
}

fn check_row_sums(py: Python<'_>, name: &str, columns: usize, targets: &Reals<'_>, tolerance: f64) -> PyResult<()> {
    let off = run(py, targets, |targets| match targets {
        Values::Single(targets) => off_one(columns, targets, tolerance),
        Values::Double(targets) => off_one(columns, targets, tolerance),
    })?;
    off.map_or(Ok(()), |(i, sum)| {
        Err(PyValueError::new_err(format!(
            "{name}: row {i} of the one-hot targets sums to {sum}, not to 1 within {tolerance}: divide rows by their sums"
        )))
    })
}

/// The first row whose sum is not 1 within `tolerance`, and that sum.
fn off_one<T: Real>(columns: usize, targets: &[T], tolerance: f64) -> Option<(usize, f64)> {
    let sums = targets.chunks_exact(columns.max(1)).map(|row| row.iter().map(|value| value.to_f64()).sum::<f64>());
    sums.enumerate().find(|(_, sum)| (sum - 1.0).abs() > tolerance)
}
