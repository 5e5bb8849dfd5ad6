//! NumPy's arrays: looked at while Python code may run, opened once no more of it does.
//!
//! An array can change whenever Python code runs: a conversion, a property, a callback, the collector of cycles. What a look
//! at one finds is therefore copied ([`View`], [`Look`]), and an address in it is a number to compare. Elements are reached
//! through [`access`] alone: it looks at all arrays of a call again, and hands their elements to a function that cannot hold
//! a Python object.

pub mod access;
mod create;
mod fields;
mod layout;
pub mod masked;
mod memory;
pub mod numbers;
mod owner;
mod pins;
mod view;

pub use create::{Fresh, array, can_cast, copy_into, descriptor, empty, of_values, swapped};
pub use fields::{is_array, is_exact, numpy};
pub use layout::Layout;
pub use memory::{Memory, MemoryPart, PLACED, Recycling, Request, allocate, placed, too_large};
pub use owner::{learn, refuse_moved, settled};
pub use pins::{Load, Pinned};
pub use view::{Look, View, array_span, same_type, shape_text, span};
