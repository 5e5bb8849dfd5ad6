//! What keeps a call within the memory that there is: lists that may be refused, spare memory, the stack, and the collector.

pub mod arena;
pub mod collector;
pub mod lists;
pub mod spare;
pub mod stack;
