//! Gradient optimisers with explicit state, in one pass over memory.

pub mod affine;
pub mod buffer;
pub mod doubledouble;
pub mod drive;
pub mod dtype;
pub mod element;
pub mod fit;
pub mod held;
pub mod job;
pub mod kernel;
pub mod layers;
pub mod losses;
pub mod math;
pub mod measure;
pub mod meet;
pub mod placement;
pub mod pool;
pub mod program;
pub mod reduce;
pub mod reserve;
pub mod rule;
pub mod rules;
pub mod schedules;
pub mod simd;
pub mod step;
pub mod stream;
pub mod strides;
pub mod transfer;
pub mod xoshiro;

#[cfg(feature = "python")]
mod python;
