//! From a rule in Python to a compiled one.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyTuple};

use super::schedules::read as schedule;
use crate::chain::{Followed, Program, Spec};
use crate::dtype::DType;
use crate::rule::Value;

/// The rules compiled last. Leaves of one rule share its program, also when they are adjusted or unpickled one by one: an
/// update then prepares the scalars of a step once for all of them.
static LAST: Mutex<Vec<(Py<PyAny>, Arc<Program>)>> = Mutex::new(Vec::new());
/// More rules than a model usually has.
const KEPT: usize = 16;

/// The compiled form of `rule`; `None` where a rule of the user's own is in it.
pub fn program(py: Python<'_>, rule: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Program>>> {
    let known = |last: &Vec<(Py<PyAny>, Arc<Program>)>| last.iter().find(|l| l.0.is(rule)).map(|l| l.1.clone());
    // Nobody waits for the lock: after a fork its holder may not exist.
    if let Some(program) = LAST.try_lock().ok().and_then(|last| known(&last)) {
        return Ok(Some(program));
    }
    let program = compiled(py, rule)?;
    let mut old = None;
    if let (Some(program), Ok(mut last)) = (&program, LAST.try_lock()) {
        old = if last.len() == KEPT { Some(last.remove(0)) } else { None };
        last.push((rule.clone().unbind(), program.clone()));
    }
    drop(old); // which may run Python code, so not under the lock
    Ok(program)
}

fn compiled(py: Python<'_>, rule: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Program>>> {
    static SPEC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let described = SPEC.import(py, "optirs.rules", "spec")?.call1((rule,))?;
    if described.is_none() {
        return Ok(None);
    }
    let program = Program::new(&spec(&described)?).map_err(PyValueError::new_err)?;
    Ok(Some(Arc::new(program)))
}

/// What scheduled fields follow; `None` where functions in Python are among it.
fn scheduled(described: &Bound<'_, PyAny>) -> PyResult<Option<Followed>> {
    if described.is_none() {
        return Ok(None);
    }
    let fields = described.cast::<PyDict>()?.iter();
    let read = |(name, schedules): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let schedules = schedules.try_iter()?.map(|s| schedule(&s?)).collect::<PyResult<_>>()?;
        Ok((name.extract()?, schedules))
    };
    fields.map(read).collect::<PyResult<_>>().map(Some)
}

/// Reads what `optirs.rules.spec` returned.
fn spec(described: &Bound<'_, PyAny>) -> PyResult<Spec> {
    let parts = described.cast::<PyTuple>()?;
    let name: String = parts.get_item(0)?.extract()?;
    let body = parts.get_item(1)?;
    match name.as_str() {
        "OptimiserChain" => Ok(Spec::Chain(body.try_iter()?.map(|r| spec(&r?)).collect::<PyResult<_>>()?)),
        "MixedPrecision" => {
            let dtype: String = parts.get_item(2)?.extract()?;
            let dtype = DType::from_name(&dtype).ok_or_else(|| PyValueError::new_err(format!("no type {dtype}")))?;
            Ok(Spec::Mixed(Box::new(spec(&body)?), dtype))
        }
        "Scheduled" => Ok(Spec::Scheduled(Box::new(spec(&body)?), scheduled(&parts.get_item(2)?)?)),
        _ => {
            let fields = body.cast::<PyDict>()?;
            let fields = fields.iter().map(|(k, v)| Ok((k.extract()?, value(&v)?))).collect::<PyResult<_>>()?;
            Ok(Spec::Rule(name, fields))
        }
    }
}

fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        Ok(Value::Flag(value.extract()?))
    } else if value.is_instance_of::<PyFloat>() {
        Ok(Value::Float(value.extract()?))
    } else if value.is_instance_of::<PyTuple>() {
        Ok(Value::Pair(value.extract::<(f64, f64)>()?.into()))
    } else {
        Ok(Value::Count(value.extract()?))
    }
}
