//! Arrays for the layers and losses: whatever NumPy can read becomes contiguous float32, or float64 where it is wider.
use numpy::{Element, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::marker::PhantomData;

use super::access::{Access, Session, Slice, elements, integers};
use super::create::{converted, plain_array};
use super::fields::{Fields, is_array};
use super::masked::{as_plain, refuse};
use super::owner::moved;
use super::pins::{Load, Pins};
use crate::loops::element::Real;
use crate::memory::reserve::{OutOfMemory, listed};
use crate::nn::losses::values::Values;

/// A C-contiguous, aligned array of float32 or float64, as it was when a call looked at it.
pub struct Numbers<'py, T> {
    array: Bound<'py, PyAny>,
    seen: Lay<T>,
}

/// One of float32.
pub type Float32<'py> = Numbers<'py, f32>;

/// Where such an array lay, and what errors call it.
struct Lay<T> {
    name: Cow<'static, str>,
    address: usize,
    shape: SmallVec<[usize; 2]>,
    of: PhantomData<T>,
}

impl<T: Real> Lay<T> {
    fn slice(&self) -> Slice<'_> {
        Slice { name: &self.name, address: self.address, dtype: T::COMPUTE.dtype(), shape: &self.shape }
    }
}

/// [`Numbers`] that outlive a call.
pub struct Kept<T> {
    array: Py<PyAny>,
    seen: Lay<T>,
}

impl<T> Kept<T> {
    /// The array.
    pub fn array(&self) -> &Py<PyAny> {
        &self.array
    }
}

impl<'py, T: Real + Element> Numbers<'py, T> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: impl Into<Cow<'static, str>>, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let what = what.into();
        refuse(&what, value)?;
        match Self::lay(value) {
            Some((address, shape)) => Ok(Self::of(what, value, address, shape)),
            None => {
                let array = numbers(&what, value)?.0;
                Self::convert(what, array.as_any())
            }
        }
    }

    /// Where `value` lies, and its extents, if it is such an array itself.
    #[inline]
    fn lay(value: &Bound<'py, PyAny>) -> Option<(usize, SmallVec<[usize; 2]>)> {
        let fields = Fields::of(value)?;
        let fits = fields.dtype == Some(T::COMPUTE.dtype()) && fields.is_plain_and_in_c_order();
        fits.then(|| (fields.data as usize, fields.shape.iter().map(|&n| n as usize).collect()))
    }

    #[inline]
    fn of(name: Cow<'static, str>, array: &Bound<'py, PyAny>, address: usize, shape: SmallVec<[usize; 2]>) -> Self {
        Self { array: array.clone(), seen: Lay { name, address, shape, of: PhantomData } }
    }

    /// A copy of `array` in this type.
    fn convert(what: Cow<'static, str>, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        let copy = converted::<T>(&what, array)?;
        match Self::lay(&copy) {
            Some((address, shape)) => Ok(Self::of(what, &copy, address, shape)),
            None => Err(PyTypeError::new_err(format!("{what} cannot be converted"))),
        }
    }

    /// To be kept.
    pub fn keep(self) -> Kept<T> {
        Kept { array: self.array.unbind(), seen: self.seen }
    }

    /// Another handle on the array, to be kept.
    pub fn share(&self) -> Kept<T> {
        let Lay { ref name, address, ref shape, of } = self.seen;
        Kept { array: self.array.clone().unbind(), seen: Lay { name: name.clone(), address, shape: shape.clone(), of } }
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.seen.shape
    }

    /// Where the first element lay: a number to compare.
    pub fn address(&self) -> usize {
        self.seen.address
    }
}

impl<T: Real> Access for Numbers<'_, T> {
    type Open<'a> = &'a [T];

    fn load(&self) -> Load {
        self.seen.slice().load()
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        self.seen.slice().check(&self.array, pins)
    }

    unsafe fn open<'a>(&self, _: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        // SAFETY: the caller's promise.
        Ok(unsafe { elements(&self.array, self.seen.shape.iter().product()) })
    }
}

/// [`Kept`] in a call.
pub struct Again<'a, 'py, T>(&'a Kept<T>, Python<'py>);

impl<T> Kept<T> {
    /// For a call.
    pub fn bind<'py>(&self, py: Python<'py>) -> Again<'_, 'py, T> {
        Again(self, py)
    }
}

impl<T: Real> Access for Again<'_, '_, T> {
    type Open<'a> = &'a [T];

    fn load(&self) -> Load {
        self.0.seen.slice().load()
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        self.0.seen.slice().check(self.0.array.bind(self.1), pins)
    }

    unsafe fn open<'a>(&self, _: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        // SAFETY: the caller's promise.
        Ok(unsafe { elements(self.0.array.bind(self.1), self.0.seen.shape.iter().product()) })
    }
}

/// Numbers in the type in which losses compute with them: float32 where that holds them, else float64.
pub enum Reals<'py> {
    /// Those of float32 and of 16 bits.
    Single(Float32<'py>),
    /// All others: integers too, as NumPy takes them beside floats.
    Double(Numbers<'py, f64>),
}

/// The same, to be kept.
pub enum KeptReals {
    /// As [`Reals::Single`].
    Single(Kept<f32>),
    /// As [`Reals::Double`].
    Double(Kept<f64>),
}

impl KeptReals {
    /// The array.
    pub fn array(&self) -> &Py<PyAny> {
        match self {
            Self::Single(numbers) => numbers.array(),
            Self::Double(numbers) => numbers.array(),
        }
    }

    /// For a call.
    pub fn bind<'py>(&self, py: Python<'py>) -> RealsAgain<'_, 'py> {
        match self {
            Self::Single(numbers) => RealsAgain::Single(numbers.bind(py)),
            Self::Double(numbers) => RealsAgain::Double(numbers.bind(py)),
        }
    }
}

/// [`KeptReals`] in a call.
pub enum RealsAgain<'a, 'py> {
    /// As [`Reals::Single`].
    Single(Again<'a, 'py, f32>),
    /// As [`Reals::Double`].
    Double(Again<'a, 'py, f64>),
}

impl<'py> Reals<'py> {
    /// Takes `value` itself where it is such an array already, else a converted copy; `what` names it in errors.
    pub fn new(what: impl Into<Cow<'static, str>>, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let what = what.into();
        refuse(&what, value)?;
        if let Some((address, shape)) = Numbers::<f32>::lay(value) {
            return Ok(Self::Single(Numbers::of(what, value, address, shape)));
        }
        if let Some((address, shape)) = Numbers::<f64>::lay(value) {
            return Ok(Self::Double(Numbers::of(what, value, address, shape)));
        }
        let (array, precision) = numbers(&what, value)?;
        Ok(match precision {
            Precision::Other => Self::Double(Numbers::convert(what, array.as_any())?),
            _ => Self::Single(Numbers::convert(what, array.as_any())?),
        })
    }

    /// The arrays, to be kept.
    pub fn keep(self) -> KeptReals {
        match self {
            Self::Single(numbers) => KeptReals::Single(numbers.keep()),
            Self::Double(numbers) => KeptReals::Double(numbers.keep()),
        }
    }

    /// The same numbers as float64.
    pub fn double(self) -> PyResult<Numbers<'py, f64>> {
        match self {
            Self::Single(numbers) => {
                numbers.check(&mut Pins::none(numbers.array.py()))?;
                Numbers::convert(numbers.seen.name.clone(), &numbers.array)
            }
            Self::Double(numbers) => Ok(numbers),
        }
    }

    /// Whether they are float64.
    pub fn is_double(&self) -> bool {
        matches!(self, Self::Double(_))
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Single(numbers) => numbers.shape(),
            Self::Double(numbers) => numbers.shape(),
        }
    }
}

macro_rules! values {
    ($name:ty) => {
        impl Access for $name {
            type Open<'a> = Values<'a>;

            fn load(&self) -> Load {
                match self {
                    Self::Single(numbers) => numbers.load(),
                    Self::Double(numbers) => numbers.load(),
                }
            }

            fn check(&self, pins: &mut Pins) -> PyResult<()> {
                match self {
                    Self::Single(numbers) => numbers.check(pins),
                    Self::Double(numbers) => numbers.check(pins),
                }
            }

            unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
                // SAFETY: the caller's promise.
                unsafe {
                    Ok(match self {
                        Self::Single(numbers) => Values::Single(numbers.open(session)?),
                        Self::Double(numbers) => Values::Double(numbers.open(session)?),
                    })
                }
            }
        }
    };
}

values!(Reals<'_>);
values!(RealsAgain<'_, '_>);

/// How exactly an array's elements are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// bfloat16: to 8 binary digits.
    BFloat16,
    /// float16: to 11, or to multiples of 2^-24.
    Float16,
    /// float32: to 24.
    Float32,
    /// float64, longdouble, integers and bools.
    Other,
}

impl Precision {
    /// That of an array; `None` if it is none of real numbers.
    pub fn of(array: &Bound<'_, PyUntypedArray>) -> PyResult<Option<Self>> {
        let dtype = array.dtype();
        Ok(match (dtype.kind(), dtype.itemsize()) {
            (b'f', 2) => Some(Self::Float16),
            (b'f', 4) => Some(Self::Float32),
            (b'f' | b'i' | b'u' | b'b', _) => Some(Self::Other),
            _ if dtype.getattr("name")?.extract::<String>()? == "bfloat16" => Some(Self::BFloat16),
            _ => None,
        })
    }
}

/// `value` as an array of real numbers, and how exact they are.
fn numbers<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyUntypedArray>, Precision)> {
    let array = as_array(what, value)?;
    match Precision::of(&array)? {
        Some(precision) => Ok((array, precision)),
        None => Err(not_numbers(what, value, &array)?),
    }
}

/// Integers, called `what`, as int64, row by row.
pub fn int64(what: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<Vec<i64>> {
    let converted = converted::<i64>(what, array.as_any())?;
    let copied = integers(&converted, |all: &[i64]| listed(all.iter().copied()));
    Ok(copied.ok_or_else(|| moved(what))??)
}

/// `numpy.asarray(value)`; `what` names it in errors.
pub fn as_array<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = if is_array(value) { plain_array(what, value) } else { as_plain(what, value) };
    Ok(array?.cast_into()?)
}

/// `(2, 3)`, as Python writes a shape.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A row is a batch of one: `(batch, columns)` of a shape with one or two dimensions, else `None`.
pub fn rows(shape: &[usize]) -> Option<(usize, usize)> {
    match *shape {
        [columns] => Some((1, columns)),
        [batch, columns] => Some((batch, columns)),
        _ => None,
    }
}

/// The error for arrays that cannot go together.
pub fn shape_error(message: String) -> PyErr {
    PyValueError::new_err(message)
}

/// The error for an array of strings, objects, complex numbers and so on.
fn not_numbers(what: &str, value: &Bound<'_, PyAny>, array: &Bound<'_, PyUntypedArray>) -> PyResult<PyErr> {
    // A list of complex numbers is better told by its elements, None by its own name.
    let found = if array.ndim() > 0 || value.cast::<PyUntypedArray>().is_ok() {
        format!("an array of {}", array.dtype().str()?)
    } else {
        value.get_type().name()?.to_string()
    };
    Ok(PyTypeError::new_err(format!("{what} must be an array of real numbers, got {found}")))
}
