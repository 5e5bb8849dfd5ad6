"""Small networks, data for them, and the definitions of activations and losses in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import optirs

Function = Callable[[np.ndarray], np.ndarray]

ACTIVATIONS: dict[str, Function] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 0.5 * (1 + np.tanh(z / 2)),
    "gelu": lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "softplus": lambda z: np.logaddexp(0, z),
}
"""The activations in float64, by name."""


def softmax_log(z: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax of each row."""
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def huber(d: np.ndarray) -> np.ndarray:
    """Huber's loss of a difference, with delta 1."""
    return np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5)


def binary(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The cross-entropy of a logit and a probability."""
    return np.logaddexp(0, z) * (1 - y) + np.logaddexp(0, -z) * y


LOSSES = {
    "mse": lambda z, y: ((z - y) ** 2).sum(axis=-1),
    "mae": lambda z, y: np.abs(z - y).sum(axis=-1),
    "huber": lambda z, y: huber(z - y).sum(axis=-1),
    "binary_crossentropy": lambda z, y: binary(z, y).sum(axis=-1),
    "crossentropy": lambda z, y: -(y * softmax_log(z)).sum(axis=-1),
}
"""The loss of every sample, for predictions z[batch, n] and targets y[batch, n], in float64, by name."""


def layer(n_in: int, n_out: int, activation: str, seed: int = 0) -> optirs.Dense:
    """A dense layer with random numbers in W and b."""
    rng = np.random.default_rng([n_in, n_out, seed])
    W, b = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((n_out, n_in), (n_out,)))
    return optirs.Dense(W, b, activation)


def problem(name: str, batch: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of a loss."""
    rng = np.random.default_rng(batch * 1009 + n)
    z = rng.uniform(-3, 3, (batch, n)).astype(np.float32)
    if name == "crossentropy":
        return z, np.eye(n, dtype=np.float32)[rng.integers(n, size=batch)]
    y = rng.uniform(0, 1, (batch, n)) if name == "binary_crossentropy" else rng.uniform(-3, 3, (batch, n))
    return z, y.astype(np.float32)


def network(dtype: Any = np.float32) -> optirs.Chain:
    """Three layers in a chain within a chain, from 4 numbers to 3."""
    chain = optirs.Chain(layer(4, 6, "tanh"), optirs.Chain(layer(6, 5, "gelu")), layer(5, 3, "identity"))
    for dense in (chain[0], chain[1][0], chain[2]):
        dense.W, dense.b = dense.W.astype(dtype), dense.b.astype(dtype)
    return chain


def data(loss: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 4 numbers, and targets of a loss."""
    x = np.random.default_rng(rows).uniform(-1, 1, (rows, 4)).astype(np.float32)
    return x, problem(loss, rows, 3)[1]
