//! Schedules, read from Python and evaluated for Python.

use pyo3::exceptions::{PyRecursionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::memory::reserve::{collected, listed};
use crate::program::schedules::Schedule;
use crate::python::array::access::integers;
use crate::python::array::of_values;
use crate::python::memory::lists::Items;
use crate::python::tree::path::too_deep;

/// The value of a schedule, as its `_spec` describes it, at `step`.
#[pyfunction]
pub fn schedule_at(described: &Bound<'_, PyAny>, step: u64) -> PyResult<f64> {
    Ok(read(described, 0)?.at(step))
}

/// The values of a schedule at each of `steps`.
#[pyfunction]
pub fn schedule_of<'py>(
    py: Python<'py>,
    described: &Bound<'py, PyAny>,
    steps: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let schedule = read(described, 0)?;
    let values = integers(steps, |steps: &[u64]| listed(steps.iter().map(|&step| schedule.at(step))));
    of_values(py, &values.ok_or_else(|| PyValueError::new_err("the steps are no uint64"))??)
}

/// Reads what `_spec` of a schedule returned: its name and its fields; `depth` is how many schedules it is in.
pub fn read(described: &Bound<'_, PyAny>, depth: usize) -> PyResult<Schedule> {
    if too_deep(depth) {
        return Err(PyRecursionError::new_err("schedules nest too deep"));
    }
    let parts = described.cast::<PyTuple>()?;
    let (name, fields): (String, _) = (parts.get_item(0)?.extract()?, parts.get_item(1)?);
    let fields = fields.cast::<PyDict>()?;
    let field = |name: &str| fields.as_any().get_item(name);
    let float = |name: &str| field(name)?.extract::<f64>();
    let whole = |name: &str| field(name)?.extract::<u64>();
    let boundaries = || field("boundaries")?.extract::<Items<u64>>().map(|items| items.0);
    Ok(match name.as_str() {
        "Constant" => Schedule::Constant { value: float("value")? },
        "Step" => Schedule::Step { start: float("start")?, factor: float("factor")?, every: whole("every")? },
        "Exponential" => Schedule::Exponential {
            start: float("start")?,
            factor: float("factor")?,
            every: whole("every")?,
            limit: field("limit")?.extract()?,
        },
        "Polynomial" => Schedule::Polynomial {
            start: float("start")?,
            steps: whole("steps")?,
            end: float("end")?,
            power: float("power")?,
        },
        "Cosine" => Schedule::Cosine { start: float("start")?, steps: whole("steps")?, end: float("end")? },
        "Warmup" => Schedule::Warmup {
            schedule: Box::new(read(&field("schedule")?, depth + 1)?),
            steps: whole("steps")?,
            start: float("start")?,
        },
        "OneCycle" => Schedule::OneCycle {
            peak: float("peak")?,
            steps: whole("steps")?,
            pct_start: float("pct_start")?,
            div_factor: float("div_factor")?,
            final_div_factor: float("final_div_factor")?,
        },
        "Piecewise" => {
            let (values, boundaries) = (field("values")?.extract::<Items<f64>>()?.0, boundaries()?);
            one_more(values.len(), &boundaries)?;
            Schedule::Piecewise { values: values.into(), boundaries: boundaries.into() }
        }
        "Sequence" => {
            let schedules = collected(field("schedules")?.try_iter()?.map(|s| read(&s?, depth + 1)))?;
            let boundaries = boundaries()?;
            one_more(schedules.len(), &boundaries)?;
            Schedule::Sequence { schedules: schedules.into(), boundaries: boundaries.into() }
        }
        _ => return Err(PyValueError::new_err(format!("no schedule {name}"))),
    })
}

/// There must be one interval more than there are boundaries between them.
fn one_more(intervals: usize, boundaries: &[u64]) -> PyResult<()> {
    if intervals == boundaries.len() + 1 { Ok(()) } else { Err(PyValueError::new_err("too few or many boundaries")) }
}
