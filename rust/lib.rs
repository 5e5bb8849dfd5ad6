//! Gradient optimisers with explicit state, in one pass over memory.

pub mod xoshiro;

#[cfg(feature = "python")]
mod python;
