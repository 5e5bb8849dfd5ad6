//! Threads: the pool, its queue of requests, teams that share tasks, and slices that a team writes in parts.

pub mod parts;
pub mod pool;
mod queue;
mod team;
