//! The gradient of a parameter: checked, converted, and summed over its places.

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::entry::{Entry, Names};
use crate::loops::dtype::DType;
use crate::python::array::access::Seen;
use crate::python::array::{Layout, Look, MemoryPart, descriptor, is_exact};
use crate::python::errors::{moved, noted};
use crate::python::leaf::Leaf;
use crate::python::tree::order::a_leaf;

/// A gradient ready to be read: gapless, in the order of the leaf.
pub struct Gradient<'a, 'py> {
    /// Where it lay when it was looked at.
    pub address: usize,
    /// The type of its elements.
    pub dtype: DType,
    /// The array.
    pub array: Held<'a, 'py>,
    /// Where it is copied to before anything is written, if something that is written shares its memory.
    pub copy: Option<MemoryPart>,
}

impl Gradient<'_, '_> {
    /// Where the step reads it.
    pub fn read_at(&self) -> usize {
        self.copy.as_ref().map_or(self.address, |copy| copy.ptr as usize)
    }

    /// How it lay when it was looked at; `layout` is the leaf's.
    #[inline]
    pub fn seen<'s>(&self, layout: &'s Layout) -> Seen<'s> {
        Seen::Laid { address: self.address, dtype: self.dtype, layout }
    }
}

/// An array that keeps what is read alive.
pub enum Held<'a, 'py> {
    /// The caller's.
    Given(&'a Bound<'py, PyAny>),
    /// One made for the step.
    Made(Bound<'py, PyAny>),
}

impl<'py> Held<'_, 'py> {
    /// The array.
    #[inline]
    pub fn array(&self) -> &Bound<'py, PyAny> {
        match self {
            Self::Given(array) => array,
            Self::Made(array) => array,
        }
    }
}

impl<'a, 'py> Entry<'a, 'py> {
    /// The type in which the parameter is stepped: the master's, if there is one.
    pub fn working(&self) -> DType {
        self.guard.get().moments.program.working(self.leaf().dtype)
    }

    /// The gradient of the step: the sum over the parameter's places; `None` where there is no step.
    #[inline(always)]
    pub fn gradient(&self, py: Python<'py>, names: &Names) -> PyResult<Option<Gradient<'a, 'py>>> {
        let Some((g, transposed, _)) = self.gradient else { return Ok(None) };
        let inner = self.guard.get();
        let alone = !transposed && self.others.is_empty();
        let gradient = match if alone { self.as_is(g) } else { None } {
            Some(gradient) => gradient,
            None => self.converted(py, names)?,
        };
        Ok((!inner.frozen).then_some(gradient))
    }

    /// The gradient where it lies, if the driver can read it there: it converts real types to real ones, complex to complex.
    #[inline]
    fn as_is(&self, g: &'a Bound<'py, PyAny>) -> Option<Gradient<'a, 'py>> {
        // Others may be masked, which takes Python code to see.
        let look = Look::at(g, &self.leaf().layout).filter(|_| is_exact(g))?;
        let dtype = look.dtype?;
        let fits = look.laid && dtype.is_complex() == self.leaf().dtype.is_complex();
        fits.then_some(Gradient { address: look.address, dtype, array: Held::Given(g), copy: None })
    }

    /// The gradient converted, summed and laid out by NumPy.
    #[cold]
    fn converted(&self, py: Python<'py>, names: &Names) -> PyResult<Gradient<'a, 'py>> {
        let wanted = self.working().compute().dtype(); // also where a rule of the user's own gets it
        let layout = &self.leaf().layout;
        let (dtype, parameter) = (descriptor(py, wanted)?, descriptor(py, self.leaf().dtype)?);
        let helpers = py.import(intern!(py, "optirs._gradient"))?;
        let convert = helpers.getattr(intern!(py, "converted"))?;
        let parts = PyList::empty(py);
        for &(g, transposed, place) in self.gradient.iter().chain(&self.others) {
            if g.is_exact_instance_of::<Leaf>() {
                return Err(a_leaf("gradient", &names.of(place)?, "third"));
            }
            let part = convert.call1((g, &dtype, &parameter, &layout.shape, transposed));
            match part {
                Ok(part) => parts.append(part)?,
                Err(error) => {
                    let place = names.of(place)?;
                    return Err(placed(py, moved(py, error, "gradient", &place), &place));
                }
            }
        }
        let total = helpers.call_method1(intern!(py, "total"), (parts, dtype, &layout.shape, &layout.strides));
        let array = match total {
            Ok(array) => array,
            Err(error) => return Err(moved(py, error, "gradient", &names.of(self.place)?)),
        };
        match Look::at(&array, layout) {
            Some(Look { address, dtype: Some(dtype), laid: true, .. }) => {
                Ok(Gradient { address, dtype, array: Held::Made(array), copy: None })
            }
            // It was laid out so a moment ago.
            _ => Err(PyRuntimeError::new_err(format!(
                "gradient at {} was changed while it was in use",
                names.of(self.place)?
            ))),
        }
    }
}

/// An error whose text starts with what is wrong, with the place put before it.
fn placed(py: Python<'_>, error: PyErr, place: &str) -> PyErr {
    if !error.is_instance_of::<PyValueError>(py) && !error.is_instance_of::<PyTypeError>(py) {
        return noted(py, error, format!("for the gradient at {place}"));
    }
    let text = format!("gradient at {place} {}", error.value(py));
    let placed = PyErr::from_type(error.get_type(py), text);
    placed.set_cause(py, error.cause(py));
    placed
}
