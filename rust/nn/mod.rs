//! Neural networks: layers, losses, and the training loop without Python.

pub mod activation;
pub mod affine;
pub mod dense;
pub mod fit;
pub mod losses;
pub mod network;
pub mod workspace;
