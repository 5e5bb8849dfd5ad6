//! Layers, losses and trainings for Python.

pub mod affine;
pub mod dense;
pub mod fit;
pub mod fit_parameters;
pub mod losses;
pub mod network;
