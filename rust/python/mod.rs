//! What Python sees: converts, checks and calls; no arithmetic.
use pyo3::prelude::*;

mod affine;
mod inputs;
mod losses;
mod xoshiro;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::affine::{affine_forward, affine_gradient};
    #[pymodule_export]
    use super::losses::{loss, loss_pullback};
    #[pymodule_export]
    use super::xoshiro::Xoshiro;
}
