"""Classification of two moons by a network in JAX, whose first layer runs in Rust. Needs the extra `jax`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import optirs


@optirs.functor(trainable=("layers",))
@dataclass
class Network:
    """Layers, and the mean and spread of the data, which are not trained."""

    layers: list
    mean: np.ndarray  # mean[coordinate]
    spread: np.ndarray  # spread[coordinate]

    def __call__(self, x):  # x[sample, coordinate]
        h = (x - self.mean) / self.spread
        for layer in self.layers[:-1]:
            h = jnp.tanh(layer(h))
        return self.layers[-1](h)[:, 0]  # a logit a sample


def layer(rng, n_in, n_out):
    return optirs.Affine((rng.normal(size=(n_out, n_in)) / n_in**0.5).astype("f"), np.zeros(n_out, "f"))


def loss(model, x, label):
    return jnp.mean(jax.nn.softplus(model(x)) - label * model(x))  # cross-entropy of logits


rng = np.random.default_rng(1)
angle = rng.uniform(0, np.pi, 400)
label = rng.integers(0, 2, 400)
moons = np.stack([np.cos(angle), np.sin(angle)], axis=1)
x = np.where(label[:, None], [1.0, 0.5] - moons, moons) + 0.1 * rng.normal(size=(400, 2))
x, label = x.astype("f"), label.astype("f")

model = Network([layer(rng, 2, 16), layer(rng, 16, 16), layer(rng, 16, 1)], x.mean(axis=0), x.std(axis=0))
# Compiled once; the layers are callbacks to Rust in the compiled program.
training = optirs.train(optirs.with_jax(loss), model, (x, label), optirs.Adam(0.02), epochs=200)

right = np.mean((np.asarray(training.model(x)) > 0) == (label > 0))
print(f"loss {training.history[0]:.3f}, then {training.history[-1]:.4f}; {right:.1%} of the samples are right")
assert right > 0.98
