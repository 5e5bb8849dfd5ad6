//! `optirs.Xoshiro`.
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{Element, PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyBytes, PyTuple};

use super::errors::asked;
use super::memory::lists::Items;
use crate::random::xoshiro::{Uniform, Xoshiro as Core};

/// Julia's random number generator `Xoshiro(seed)`, bit for bit (Julia 1.7 to 1.10).
///
/// It makes a program draw the same numbers in Python and in Julia. The generator is xoshiro256++, seeded with the
/// SHA-256 digest of the seed's little-endian 32-bit words.
///
/// Args:
///     seed: a non-negative integer of any size.
///
/// Raises:
///     ValueError: the seed is negative.
///     TypeError: the seed is not an integer (`bool` is not one here).
///
/// Examples:
///     >>> import optirs
///     >>> rng = optirs.Xoshiro(1234)
///     >>> print(rng.rand(dtype="float64"))
///     0.32597672886359486
///     >>> rng.rand(2, 3).shape
///     (2, 3)
///
/// Source: D. Blackman, S. Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM Trans. Math. Softw. 47 (2021);
/// `Xoshiro.jl` and `XoshiroSimd.jl` of Julia's standard library.
#[pyclass(module = "optirs", frozen)]
pub struct Xoshiro(Mutex<Core>);

#[pymethods]
impl Xoshiro {
    #[new]
    fn new(seed: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Core::from_seed(seed_bytes(seed)?.as_bytes()).into())
    }

    /// Numbers uniform in [0, 1): Julia's `rand(rng, T, shape...)`, element [i, j] being Julia's [i + 1, j + 1].
    ///
    /// Args:
    ///     shape: the extents, as separate integers; none gives a scalar.
    ///     dtype: float32 (the default) or float64. float32 has 24 random bits, float64 has 53.
    ///
    /// Returns:
    ///     A C-contiguous array, or a NumPy scalar.
    ///
    /// Raises:
    ///     ValueError: an extent is negative.
    ///     TypeError: an extent is not an integer, or the dtype is another one.
    ///
    /// Examples:
    ///     >>> import optirs
    ///     >>> optirs.Xoshiro(12345).rand(2, 3)
    ///     array([[0.99747294, 0.32476562, 0.07895434],
    ///            [0.94479054, 0.86689484, 0.33961147]], dtype=float32)
    #[pyo3(signature = (*shape, dtype = None), text_signature = "($self, *shape, dtype='float32')")]
    fn rand<'py>(
        &self,
        py: Python<'py>,
        shape: &Bound<'py, PyTuple>,
        dtype: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = match dtype {
            None => numpy::dtype::<f32>(py),
            Some(dtype) => PyArrayDescr::new(py, dtype)?,
        };
        if wanted.is_equiv_to(&numpy::dtype::<f32>(py)) {
            self.draw::<f32>(shape)
        } else if wanted.is_equiv_to(&numpy::dtype::<f64>(py)) {
            self.draw::<f64>(shape)
        } else {
            let found = wanted.str()?.to_string();
            Err(PyTypeError::new_err(format!("dtype must be float32 or float64, got {found}")))
        }
    }

    /// The four 64-bit words of the generator, `(s0, s1, s2, s3)`. Setting them continues from there.
    ///
    /// Raises:
    ///     ValueError: on setting anything but four integers in [0, 2**64), or all zeros, where the generator stands still.
    ///
    /// Examples:
    ///     >>> import optirs
    ///     >>> rng = optirs.Xoshiro(1)
    ///     >>> state = rng.state
    ///     >>> first = rng.rand()
    ///     >>> rng.state = state
    ///     >>> bool(rng.rand() == first)
    ///     True
    #[getter]
    fn state(&self) -> (u64, u64, u64, u64) {
        let [s0, s1, s2, s3] = self.lock().state;
        (s0, s1, s2, s3)
    }

    #[setter]
    fn set_state(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let words = state_words(state)?;
        self.lock().state = words;
        Ok(())
    }

    /// A generator in the same state, which goes its own way from here.
    fn copy(&self) -> Self {
        (*self.lock()).into()
    }

    fn __copy__(&self) -> Self {
        self.copy()
    }

    fn __deepcopy__(&self, _memo: &Bound<'_, PyAny>) -> Self {
        self.copy()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyAny>, (u8,), (u64, u64, u64, u64)) {
        // Any seed will do: the state follows.
        (slf.get_type().into_any(), (0,), slf.get().state())
    }

    fn __setstate__(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set_state(state)
    }

    fn __eq__(&self, other: &Self) -> bool {
        // One lock at a time: `rng == rng` must not wait for itself.
        let mine = *self.lock();
        mine == *other.lock()
    }

    fn __repr__(&self) -> String {
        let [s0, s1, s2, s3] = self.lock().state;
        format!("<Xoshiro state=({s0:#018x}, {s1:#018x}, {s2:#018x}, {s3:#018x})>")
    }
}

impl From<Core> for Xoshiro {
    fn from(core: Core) -> Self {
        Self(Mutex::new(core))
    }
}

impl Xoshiro {
    /// Never wait for Python while holding it: whoever fills an array holds it without the GIL.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw<'py, T: Uniform + Element + Send>(&self, shape: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = shape.py();
        let numpy = py.import("numpy")?;
        let scalar = shape.is_empty();
        // Julia's memory order; NumPy checks the extents and finds the memory.
        let options = [("order", "F")].into_py_dict(py)?;
        let array = numpy.call_method("empty", (shape, numpy::dtype::<T>(py)), Some(&options))?;
        let array = array.cast_into::<PyArrayDyn<T>>()?;
        // SAFETY: the array is new, so this is the only reference to its elements, and every bit pattern is a number.
        let out = unsafe { array.as_slice_mut() }?;
        py.detach(|| {
            let mut core = self.lock();
            match out {
                [number] if scalar => *number = core.scalar(),
                _ => core.fill(out),
            }
        });
        if scalar {
            return array.get_item(PyTuple::empty(py));
        }
        if array.ndim() == 1 { Ok(array.into_any()) } else { numpy.call_method1("ascontiguousarray", (array,)) }
    }
}

/// The seed as little-endian bytes.
fn seed_bytes<'py>(seed: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = seed.py();
    let not_integer = || {
        let found = seed.get_type().name().map_or_else(|_| "another type".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("the seed must be an integer, got {found}"))
    };
    if seed.is_instance_of::<PyBool>() {
        return Err(not_integer());
    }
    let number = py.import("operator")?.call_method1("index", (seed,));
    let number =
        number.map_err(|error| if error.is_instance_of::<PyMemoryError>(py) { error } else { not_integer() })?;
    if number.lt(0)? {
        return Err(PyValueError::new_err(format!("the seed must not be negative, got {}", number.str()?)));
    }
    let bits: usize = number.call_method0("bit_length")?.extract()?;
    let bytes = number.call_method1("to_bytes", (bits.div_ceil(8), "little"))?;
    Ok(bytes.cast_into()?)
}

fn state_words(state: &Bound<'_, PyAny>) -> PyResult<[u64; 4]> {
    let py = state.py();
    let four = asked(py, state.len())? == Some(4);
    let words: Option<Items<u64>> = if four { asked(py, state.extract())? } else { None };
    match words.and_then(|words| <[u64; 4]>::try_from(words.0).ok()) {
        Some(words) if words != [0; 4] => Ok(words),
        _ => Err(PyValueError::new_err(format!(
            "the state must be four integers in [0, 2**64), not all of them 0, got {}",
            state.repr()?
        ))),
    }
}
