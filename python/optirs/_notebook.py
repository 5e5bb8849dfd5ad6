"""The Optimisers.jl notebook as an experiment: fit one affine layer to another. `python -m optirs` prints it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._core import Xoshiro
from .layers import Affine
from .layers.gradients import supervised
from .layers.losses import mse
from .training.events import Event
from .training.train import Training, train

SEED_TRUTH, SEED_MODEL = 12345, 54321
ROWS, N_IN, N_OUT = 100, 3, 2
EPOCHS, LOG_EVERY = 500, 50

JULIA = "Julia 1.8.2"
"""Where the values below come from: the output of the Optimisers.jl notebook, run on Julia 1.8.2."""

JULIA_LOSS = {
    50: 0.03181389,
    100: 0.009836106,
    150: 0.0034513818,
    200: 0.001299851,
    250: 0.00050675025,
    300: 0.00020071033,
    350: 8.006227e-05,
    400: 3.2037726e-05,
    450: 1.283851e-05,
    500: 5.148223e-06,
}
JULIA_W = ((0.99506706, 0.32216284, 0.077527404), (0.94032687, 0.8622485, 0.33671075))
JULIA_B = (0.077655435, 0.14226691)


@dataclass(frozen=True)
class Experiment:
    """The layer to be found, the data it made, and the layer to begin with."""

    truth: Affine
    x: Any
    y: Any
    model: Affine

    def loss(self, model: Affine) -> float:
        """The loss of `model` on the data."""
        return mse(model(self.x), self.y)

    def train(self, rule: Any, epochs: int, callback: Callable[[Event], None]) -> Training:
        """Full-batch training, one step an epoch."""
        return train(supervised(mse), self.model, (self.x, self.y), rule, epochs=epochs, callbacks=[callback])


def experiment(seed: int = SEED_MODEL) -> Experiment:
    """Draws everything in the order in which the notebook does."""
    rng = Xoshiro(SEED_TRUTH)
    truth = Affine.random(N_IN, N_OUT, rng=rng)
    # Julia's batches are columns: rand(rng, Float32, 3, 100). Ours are rows.
    x = rng.rand(N_IN, ROWS).T.copy()
    return Experiment(truth, x, truth(x), Affine.random(N_IN, N_OUT, rng=Xoshiro(seed)))
