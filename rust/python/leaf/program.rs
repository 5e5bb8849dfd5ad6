//! From a rule in Python to a compiled one.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use super::schedules::read as schedule;
use crate::loops::dtype::DType;
use crate::program::contract::Value;
use crate::program::{Followed, Program, Spec};
use crate::python::errors::asked;
use crate::python::tree::path::too_deep;

/// The rules compiled last, none of which is kept alive by it. Leaves of one rule share its program, also when they are
/// adjusted or unpickled one by one: an update then prepares the scalars of a step once for all of them.
static LAST: Mutex<Vec<Known>> = Mutex::new(Vec::new());
/// More rules than a model usually has.
const KEPT: usize = 16;

/// A rule that was compiled: where it lies, whether it is still there, and its program.
type Known = (usize, Py<PyWeakrefReference>, Arc<Program>);

/// The compiled form of `rule`.
pub fn program(py: Python<'_>, rule: &Bound<'_, PyAny>) -> PyResult<Arc<Program>> {
    let at = rule.as_ptr() as usize;
    let known = |last: &Vec<Known>| {
        let same = last.iter().find(|known| known.0 == at && known.1.bind(py).upgrade().is_some());
        same.map(|known| known.2.clone())
    };
    // No thread waits for the lock: after a fork its holder may not exist.
    if let Some(program) = LAST.try_lock().ok().and_then(|last| known(&last)) {
        return Ok(program);
    }
    let program = compiled(py, rule)?;
    // A rule of the user's own may be of a class that has no weak references.
    if let Some(there) = asked(py, PyWeakrefReference::new(rule))?
        && let Ok(mut last) = LAST.try_lock()
    {
        if last.len() == KEPT {
            last.remove(0);
        }
        last.push((at, there.unbind(), program.clone()));
    }
    Ok(program)
}

/// As [`program`], of a rule that is not asked for again.
pub fn compiled(py: Python<'_>, rule: &Bound<'_, PyAny>) -> PyResult<Arc<Program>> {
    static DESCRIBED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let described = DESCRIBED.import(py, "optirs.rules", "described")?.call1((rule,))?;
    let mut program = Program::new(&spec(&described, 0)?).map_err(PyValueError::new_err)?;
    program.plain = is_plain(rule, 0)?;
    Ok(Arc::new(program))
}

/// Whether a compiled rule, or a part of it, is of classes of this package alone and holds nothing but numbers and names. One
/// that is too deep to tell, such as one that was made to hold itself, is not.
fn is_plain(part: &Bound<'_, PyAny>, depth: usize) -> PyResult<bool> {
    let py = part.py();
    if too_deep(depth) {
        return Ok(false);
    }
    if let Ok(tuple) = part.cast_exact::<PyTuple>() {
        return all_plain(tuple.iter(), depth);
    }
    let is_number = part.is_exact_instance_of::<PyFloat>() || part.is_exact_instance_of::<PyInt>();
    if is_number || part.is_none() || part.is_exact_instance_of::<PyBool>() || part.is_exact_instance_of::<PyString>() {
        return Ok(true);
    }
    // The marks of a rule and of a schedule, which a class derived from one does not have itself.
    let own = part.get_type().getattr(intern!(py, "__dict__"))?;
    if !own.contains(intern!(py, "_builtin"))? && !own.contains(intern!(py, "_kind"))? {
        return Ok(false);
    }
    all_plain(part.getattr(intern!(py, "__dict__"))?.cast::<PyDict>()?.values().iter(), depth)
}

fn all_plain<'py>(mut parts: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> PyResult<bool> {
    parts.try_fold(true, |plain, part| Ok(plain && is_plain(&part, depth + 1)?))
}

/// What scheduled fields follow; `None` where functions in Python are among it.
fn scheduled(described: &Bound<'_, PyAny>) -> PyResult<Option<Followed>> {
    if described.is_none() {
        return Ok(None);
    }
    let read = |(name, schedules): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let schedules = schedules.try_iter()?.map(|s| schedule(&s?, 0)).collect::<PyResult<_>>()?;
        Ok((name.extract()?, schedules))
    };
    items(described)?.into_iter().map(read).collect::<PyResult<_>>().map(Some)
}

/// The items of a dict, all at once: to read one may run Python code, and pyo3's iterator panics where that changes the dict.
fn items<'py>(dict: &Bound<'py, PyAny>) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    Ok(dict.cast::<PyDict>()?.iter().collect())
}

/// Reads what `optirs.rules.described` returned; `depth` is how many rules it is in.
fn spec(described: &Bound<'_, PyAny>, depth: usize) -> PyResult<Spec> {
    if too_deep(depth) {
        return Err(PyRecursionError::new_err("rules nest too deep"));
    }
    let parts = described.cast::<PyTuple>()?;
    let name: String = parts.get_item(0)?.extract()?;
    let body = parts.get_item(1)?;
    match name.as_str() {
        "" => Ok(Spec::Own),
        "OptimiserChain" => Ok(Spec::Chain(body.try_iter()?.map(|r| spec(&r?, depth + 1)).collect::<PyResult<_>>()?)),
        "MixedPrecision" => {
            let dtype: String = parts.get_item(2)?.extract()?;
            // A complex copy of a real parameter makes no sense: what is complex follows from the parameter.
            let real = DType::from_name(&dtype).filter(|dtype| !dtype.is_complex());
            let real = real.ok_or_else(|| PyValueError::new_err(format!("MixedPrecision: dtype is {dtype:?}")))?;
            Ok(Spec::Mixed(Box::new(spec(&body, depth + 1)?), real))
        }
        "Scheduled" => Ok(Spec::Scheduled(Box::new(spec(&body, depth + 1)?), scheduled(&parts.get_item(2)?)?)),
        _ => {
            let (mut fields, mut label) = (Vec::new(), String::new());
            for (key, given) in items(&body)? {
                let key: String = key.extract()?;
                if key == "name" {
                    label = given.extract()?;
                    continue;
                }
                let read = value(&given).map_err(|_| unreadable(&name, &key, &given))?;
                fields.push((key, read));
            }
            Ok(Spec::Rule(name, fields, label))
        }
    }
}

/// The error of a field that was set past its check.
fn unreadable(rule: &str, field: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let given = match asked(given.py(), given.repr()) {
        Ok(text) => text.map_or_else(|| "?".into(), |text| text.to_string()),
        Err(interrupt) => return interrupt,
    };
    PyTypeError::new_err(format!("{rule}: {field} must be a number, a switch or two numbers, got {given}"))
}

fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        Ok(Value::Flag(value.extract()?))
    } else if value.is_instance_of::<PyFloat>() {
        Ok(Value::Float(value.extract()?))
    } else if value.is_instance_of::<PyTuple>() {
        Ok(Value::Pair(value.extract::<(f64, f64)>()?.into()))
    } else if value.is_instance_of::<PyInt>() && value.extract::<i64>().is_ok_and(|n| n == -1) {
        Ok(Value::Count(u64::MAX)) // no limit
    } else {
        Ok(Value::Count(value.extract()?))
    }
}
