//! Gradient optimisers with explicit state, in one pass over memory.

pub mod element;
pub mod kernel;
pub mod reduce;
pub mod rule;
pub mod rules;
pub mod simd;

#[cfg(feature = "python")]
mod python;
