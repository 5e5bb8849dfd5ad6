//! Schedules: read from Python, evaluated for Python, and put into the programs of an update.

use std::sync::Arc;

use pyo3::exceptions::{PyRecursionError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use smallvec::SmallVec;

use super::program::compiled;
use super::{Counts, Inner, Moments};
use crate::loops::dtype::Compute;
use crate::memory::reserve::{collected, listed};
use crate::program::Program;
use crate::program::contract::Hyper;
use crate::program::schedules::Schedule;
use crate::python::array::access::integers;
use crate::python::array::of_values;
use crate::python::memory::lists::Items;
use crate::python::tree::path::too_deep;
use crate::python::update::entry::{Entry, Names};
use crate::python::update::gradient::Gradient;
use crate::python::update::{at, placeless};

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

/// Gives each entry that is stepped, and whose rule follows a function in Python, the hyper-parameters of this step. Leaves of
/// one rule at one step share them, unless many others come between them.
pub fn schedule<'py>(
    py: Python<'py>,
    entries: &mut [Entry<'_, 'py>],
    gradients: &[Option<Gradient<'_, 'py>>],
    names: &Names,
) -> PyResult<()> {
    const KNOWN: usize = 4;
    type Known = (Py<PyAny>, Counts, Compute, Arc<[Hyper]>);
    let mut known: SmallVec<[Known; KNOWN]> = SmallVec::new();
    for (entry, gradient) in entries.iter_mut().zip(gradients) {
        let Inner { rule, moments: Moments { program, counts, .. }, .. } = entry.guard.get();
        if !program.asks_python || gradient.is_none() {
            continue;
        }
        let compute = entry.working().compute();
        if let Some((.., given)) = known.iter().find(|(r, c, t, _)| r.is(rule) && c == counts && *t == compute) {
            entry.given = Some(given.clone());
            continue;
        }
        let given = match given(py, rule.bind(py), program, counts, compute) {
            Ok(given) => given,
            Err(error) => return Err(at(py, error, &names.of(entry.place)?)),
        };
        if known.len() == KNOWN {
            known.remove(0);
        }
        known.push((rule.clone_ref(py), counts.clone(), compute, given.clone()));
        entry.given = Some(given);
    }
    Ok(())
}

/// The hyper-parameters of the next step, which is in `compute`.
fn given(
    py: Python<'_>,
    rule: &Bound<'_, PyAny>,
    own: &Program,
    counts: &[u64],
    compute: Compute,
) -> PyResult<Arc<[Hyper]>> {
    let rules = py.import(intern!(py, "optirs.rules"))?;
    let timers = PyTuple::new(py, own.timers(counts))?;
    let rule = rules.call_method1(intern!(py, "resolved"), (rule, timers))?;
    let names = |program: &Program| -> Vec<_> { program.links.iter().map(|link| link.entry.name).collect() };
    let made = compiled(py, &rule)?;
    if names(&made) != names(own) || made.is_scheduled() {
        return Err(PyValueError::new_err("a rule turned into another one"));
    }
    match made.refusal(compute, None) {
        Some(reason) => Err(placeless(py, reason)),
        None => Ok(made.links.iter().map(|link| link.hyper).collect()),
    }
}
