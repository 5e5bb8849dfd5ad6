//! Random numbers.

pub mod xoshiro;
