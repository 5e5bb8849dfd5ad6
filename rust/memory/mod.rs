//! Memory: buffers and where they start, collections that may be refused, and which arrays share memory.

pub mod buffer;
pub mod meet;
pub mod placement;
pub mod recycling;
pub mod reserve;
pub mod strides;
