//! Gradient optimisers with explicit state, in one pass over memory.

#[cfg(feature = "python")]
mod python;
