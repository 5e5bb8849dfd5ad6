//! Trees of Python objects: what a node is, walks over trees, and trees made anew.

pub mod classes;
pub mod differ;
pub mod lookalike;
pub mod node;
pub mod order;
pub mod path;
pub mod rebuild;
pub mod ties;
pub mod twins;
pub mod walk;
