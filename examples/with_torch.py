"""An autoencoder with tied weights in PyTorch, trained by optirs. Needs the extra `torch`."""

import numpy as np
import torch

import optirs

rng = np.random.default_rng(1)
basis = rng.normal(size=(3, 20))
x = (np.tanh(rng.normal(size=(500, 3))) @ basis).astype("f")  # x[sample, feature]: of 3 numbers, 20 are made


def reconstruction(model, x):
    """The mean square error. `model` has tensors where there were arrays; `x` is a tensor, too."""
    code = model["encoder"](x)  # the layer of this library, in Rust: PyTorch differentiates through it
    return torch.nn.functional.mse_loss(code @ model["decoder"].T + model["offset"], x)


W = (rng.normal(size=(3, 20)) / 20**0.5).astype("f")
model = {
    "encoder": optirs.Affine(W, np.zeros(3, "f")),
    "decoder": W.T,  # the same array: one parameter, with one gradient, for ever
    "offset": np.zeros(20, "f"),
}
training = optirs.train(optirs.with_torch(reconstruction), model, (x,), optirs.Adam(0.01), epochs=600)

print(f"error {training.history[0]:.3f}, then {training.history[-1]:.2g}")
assert training.history[-1] < training.history[0] / 1000
assert np.shares_memory(training.model["decoder"], training.model["encoder"].W)
