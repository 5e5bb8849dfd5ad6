//! Gradient optimisers with explicit state, in one pass over memory.

pub mod affine;
pub mod losses;
pub mod xoshiro;

#[cfg(feature = "python")]
mod python;
