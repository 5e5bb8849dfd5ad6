//! A model of built-in layers as a flat list, run forward and back in memory that is kept between calls.

use super::affine::Gradient;
use super::dense::Dense;
use super::losses::{Objective, Rows};
use super::workspace::{Kept, Workspace};
use crate::memory::reserve::OutOfMemory;

/// Where the numbers of a network are.
pub trait Weights {
    /// `W[n_out, n_in]` and `b[n_out]` of layer `i`.
    fn layer(&self, i: usize) -> (&[f32], &[f32]);
}

/// Where the gradient of a network goes.
pub trait Gradients {
    /// Those of `W` and `b` of layer `i`.
    fn layer(&mut self, i: usize) -> (&mut [f32], &mut [f32]);
}

/// Layers in sequence, each taking as many columns as the one before it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    layers: Vec<Dense>,
}

impl Network {
    /// A network of at least one layer; `None` if they do not fit each other.
    #[must_use]
    pub fn new(layers: Vec<Dense>) -> Option<Self> {
        let fit = layers.windows(2).all(|pair| pair[0].n_out == pair[1].n_in);
        (fit && !layers.is_empty()).then_some(Self { layers })
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &[Dense] {
        &self.layers
    }

    /// Columns of its input.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.layers[0].n_in
    }

    /// Columns of its output.
    #[must_use]
    pub fn n_out(&self) -> usize {
        self.layers[self.layers.len() - 1].n_out
    }

    /// Memory for batches of up to `batch` rows; `None` where the system has none.
    #[must_use]
    pub fn workspace(&self, batch: usize) -> Option<Workspace> {
        Workspace::new(&self.layers, batch)
    }

    /// The output `[batch, n_out]` for `x[batch, n_in]`.
    ///
    /// # Panics
    /// If the lengths do not fit, or the workspace is another network's or too small.
    #[inline(always)]
    pub fn forward<'a>(&self, weights: &impl Weights, batch: usize, x: &[f32], work: &'a mut Workspace) -> &'a [f32] {
        for (i, layer) in self.layers.iter().enumerate() {
            let len = batch * layer.n_out;
            let (before, rest) = work.kept.split_at_mut(i);
            let Kept { z, y } = &mut rest[0];
            let x = input(x, before, batch * layer.n_in);
            let (w, b) = weights.layer(i);
            let z = layer.activation.needs_input().then(|| &mut z[..len]);
            layer.forward(batch, w, b, x, z, &mut y[..len]);
        }
        &work.kept[self.layers.len() - 1].y[..batch * self.n_out()]
    }

    /// The loss of the network on `x[batch, n_in]`; an error where the loss has no memory.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn loss(
        &self,
        weights: &impl Weights,
        batch: usize,
        x: &[f32],
        objective: Objective<'_>,
        work: &mut Workspace,
    ) -> Result<f64, OutOfMemory> {
        let rows = Rows { batch, n: self.n_out() };
        objective.loss(rows, self.forward(weights, batch, x, work))
    }

    /// The same with the gradient by the output kept in `work`, for [`Self::backward`].
    ///
    /// # Panics
    /// As [`Self::forward`].
    #[inline(always)]
    pub fn pullback(
        &self,
        weights: &impl Weights,
        batch: usize,
        x: &[f32],
        objective: Objective<'_>,
        work: &mut Workspace,
    ) -> Result<f64, OutOfMemory> {
        self.forward(weights, batch, x, work);
        let rows = Rows { batch, n: self.n_out() };
        let len = batch * rows.n;
        objective.pullback(rows, &work.kept[self.layers.len() - 1].y[..len], &mut work.d[0][..len])
    }

    /// Writes the gradient of the loss that [`Self::pullback`] has just computed from the same arguments.
    ///
    /// # Panics
    /// As [`Self::forward`].
    #[inline(always)]
    pub fn backward(
        &self,
        weights: &impl Weights,
        batch: usize,
        x: &[f32],
        work: &mut Workspace,
        out: &mut impl Gradients,
    ) {
        let [mut d, mut dx] = work.d.each_mut();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let (n_in, n_out) = (batch * layer.n_in, batch * layer.n_out);
            let Kept { z, y } = &work.kept[i];
            let y = &y[..n_out];
            let z = if layer.activation.needs_input() { &z[..n_out] } else { y };
            let x = input(x, &work.kept[..i], n_in);
            if i == 0 {
                // The gradient by the rows themselves is not asked for.
                layer.backward_first(batch, x, [z, y], &mut d[..n_out], out.layer(0));
                break;
            }
            let (dw, db) = out.layer(i);
            let gradient = Gradient { dw, db, dx: &mut dx[..n_in] };
            layer.backward(batch, weights.layer(i).0, x, [z, y], &mut d[..n_out], gradient);
            std::mem::swap(&mut d, &mut dx);
        }
    }
}

/// What a layer reads: the output of the last one before it, or `x`.
fn input<'a>(x: &'a [f32], before: &'a [Kept], len: usize) -> &'a [f32] {
    before.last().map_or(x, |kept| &kept.y[..len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::activation::Activation;
    use crate::nn::losses::pointwise::Pointwise;
    use crate::nn::losses::values::Values;

    struct Numbers(Vec<(Vec<f32>, Vec<f32>)>);

    impl Weights for Numbers {
        fn layer(&self, i: usize) -> (&[f32], &[f32]) {
            (&self.0[i].0, &self.0[i].1)
        }
    }

    impl Gradients for Numbers {
        fn layer(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
            let (dw, db) = &mut self.0[i];
            (dw, db)
        }
    }

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    fn dense(n_in: usize, n_out: usize, activation: Activation) -> Dense {
        Dense { n_in, n_out, activation }
    }

    #[test]
    fn gradients_are_finite_differences() {
        for &activation in Activation::ALL {
            let layers = vec![dense(3, 4, activation), dense(4, 5, activation), dense(5, 2, Activation::Identity)];
            let network = Network::new(layers).unwrap();
            let layers = || network.layers().iter().enumerate();
            let mut weights =
                Numbers(layers().map(|(i, l)| (numbers(l.n_out * l.n_in, i), numbers(l.n_out, i + 9))).collect());
            let mut out = Numbers(layers().map(|(_, l)| (vec![0.0; l.n_out * l.n_in], vec![0.0; l.n_out])).collect());
            let (batch, x, y) = (6, numbers(18, 1), numbers(12, 2));
            let objective = Objective::Pointwise(Pointwise::Mse, Values::Single(&y));
            // Room for more rows than there are, as in the last batch of an epoch.
            let mut work = network.workspace(batch + 3).unwrap();
            let loss = network.pullback(&weights, batch, &x, objective, &mut work).unwrap();
            network.backward(&weights, batch, &x, &mut work, &mut out);
            assert_eq!(Ok(loss), network.loss(&weights, batch, &x, objective, &mut work));
            for i in 0..network.layers().len() {
                for j in 0..out.0[i].0.len() {
                    let (h, at) = (4e-3, weights.0[i].0[j]);
                    let mut moved = |to: f32| {
                        weights.0[i].0[j] = to;
                        network.loss(&weights, batch, &x, objective, &mut work).unwrap()
                    };
                    let finite = (moved(at + h) - moved(at - h)) / f64::from(2.0 * h);
                    moved(at);
                    let found = f64::from(out.0[i].0[j]);
                    assert!((found - finite).abs() < 3e-3, "{activation:?} {i} {j}: {found} {finite}");
                }
            }
        }
    }

    #[test]
    fn layers_must_fit() {
        let layer = |n_in, n_out| dense(n_in, n_out, Activation::Relu);
        assert!(Network::new(vec![layer(3, 4), layer(5, 2)]).is_none());
        assert!(Network::new(vec![]).is_none());
        assert!(Network::new(vec![layer(3, 4)]).unwrap().workspace(usize::MAX / 2).is_none());
    }
}
