//! Gradient optimisers with explicit state, in one pass over memory.

pub mod loops;
pub mod matrix;
pub mod memory;
pub mod nn;
pub mod program;
pub mod random;
pub mod rules;
pub mod step;
pub mod threads;

#[cfg(feature = "python")]
mod python;
