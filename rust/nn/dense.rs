//! The dense layer on rows, `y = activation(z)` with `z = x Wᵀ + b`, and its gradient.

use super::activation::Activation;
use super::affine::{self, Gradient, Shape};

/// What a layer is, without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Columns of `x` and `W`.
    pub n_in: usize,
    /// Columns of `y`, rows of `W`.
    pub n_out: usize,
    /// What is applied to `z`.
    pub activation: Activation,
}

impl Dense {
    fn shape(self, batch: usize) -> Shape {
        Shape { batch, n_in: self.n_in, n_out: self.n_out }
    }

    /// Writes `y[batch, n_out]`, and `z` where it is wanted.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[inline(always)]
    pub fn forward(self, batch: usize, w: &[f32], b: &[f32], x: &[f32], z: Option<&mut [f32]>, y: &mut [f32]) {
        affine::forward(self.shape(batch), w, b, x, y);
        if let Some(z) = z {
            z.copy_from_slice(y);
        }
        self.activation.forward(y);
    }

    /// Writes the gradient of `sum(dy * y)`; `d` holds `dy`, and the gradient by `z` afterwards. `z` may be `y` unless
    /// the activation needs its input.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn backward(self, batch: usize, w: &[f32], x: &[f32], [z, y]: [&[f32]; 2], d: &mut [f32], out: Gradient<'_>) {
        self.activation.backward(z, y, d);
        affine::gradient(self.shape(batch), w, x, d, out);
    }

    /// The same where `y` is not at hand.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn backward_from_input(self, batch: usize, w: &[f32], x: &[f32], z: &[f32], d: &mut [f32], out: Gradient<'_>) {
        self.activation.backward_from_input(z, d);
        affine::gradient(self.shape(batch), w, x, d, out);
    }

    /// The same without the gradient by `x`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[inline(always)]
    pub fn backward_first(
        self,
        batch: usize,
        x: &[f32],
        [z, y]: [&[f32]; 2],
        d: &mut [f32],
        (dw, db): (&mut [f32], &mut [f32]),
    ) {
        self.activation.backward(z, y, d);
        affine::parameter_gradient(self.shape(batch), x, d, dw, db);
    }
}
