//! The loops over elements: element types, instruction sets, and arithmetic that has the same bits everywhere.

pub mod doubledouble;
pub mod dtype;
pub mod element;
pub mod kernel;
pub mod math;
pub mod norm;
pub mod simd;
pub mod stream;
