//! Errors: answers that may fail, and errors that name the parameter that they are about.

use pyo3::exceptions::{PyException, PyFloatingPointError, PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

/// What was asked of an object; `None` where that says, by an ordinary error, that it is none. What ends a program does not.
pub fn asked<T>(py: Python<'_>, answer: PyResult<T>) -> PyResult<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_ordinary(py, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error is about what was asked: neither what ends a program, as Ctrl-C, nor a lack of memory.
pub fn is_ordinary(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py)
}

/// What stands before the place of a parameter in the text of an error.
const PLACE: &str = ", for the parameter at ";

/// The error of a refused norm.
pub fn refused(place: &str, reason: &str) -> PyErr {
    PyFloatingPointError::new_err(format!("{reason}{PLACE}{place}"))
}

/// The error of a hyper-parameter whose value a step cannot use.
pub fn unusable(place: &str, reason: &str) -> PyErr {
    PyValueError::new_err(format!("{reason}{PLACE}{place}"))
}

/// The same where the place is for others to say: [`at`] puts it into the text.
pub fn placeless(py: Python<'_>, reason: String) -> PyErr {
    let error = PyValueError::new_err(reason);
    match error.value(py).setattr(intern!(py, "_placeless"), true) {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// An error of a rule in Python with the place: in its text where it is ours, as a note where it is not.
pub fn at(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    let value = error.value(py);
    if error.is_instance_of::<PyFloatingPointError>(py)
        && let Some((reason, _)) = value.to_string().split_once(PLACE)
    {
        return refused(place, reason);
    }
    let placeless = match asked(py, value.hasattr(intern!(py, "_placeless"))) {
        Ok(answer) => answer.unwrap_or(false),
        Err(interrupt) => return interrupt,
    };
    if placeless {
        // The same error, so that it keeps its traceback and its cause.
        let text = value.to_string();
        let reason = text.split_once(PLACE).map_or(&text[..], |(reason, _)| reason);
        let named = (format!("{reason}{PLACE}{place}"),);
        if value.setattr(intern!(py, "args"), named).is_ok() {
            return error;
        }
    }
    noted(py, error, format!("for the parameter at {place}"))
}

/// The refusal of an array that lies in memory that was given back, with the place in its text; any other error as it is.
pub fn moved(py: Python<'_>, error: PyErr, what: &str, place: &str) -> PyErr {
    let text = error.value(py).to_string();
    match text.strip_prefix("the ").and_then(|text| text.strip_prefix(what)?.strip_prefix(" was changed")) {
        Some(rest) if error.is_instance_of::<PyRuntimeError>(py) => {
            PyRuntimeError::new_err(format!("{what} at {place} was changed{rest}"))
        }
        _ => error,
    }
}

/// An error with a note, unless that cannot be added: that is no reason to hide the error itself.
pub fn noted(py: Python<'_>, error: PyErr, note: String) -> PyErr {
    let done = error.value(py).call_method1("add_note", (note,));
    asked(py, done).map_or_else(|interrupt| interrupt, |_| error)
}
