//! Layers: `activation(x Wᵀ + b)` on rows, and networks of them.

pub mod activation;
pub mod dense;
pub mod network;
pub mod workspace;
