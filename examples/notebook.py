"""The Optimisers.jl notebook by hand, cell by cell: a class of one's own, its gradient, and the training loop.

Run it with `python examples/notebook.py`. It draws the same random numbers as Julia does and prints the same losses.
Where Julia's batches are columns, ours are rows: `x[sample, input]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import optirs


# Cell 1: the model. In Julia: `struct Affine{M, B} W::M; b::B end`, and a method that makes it callable,
# `(m::Affine)(x) = m.W * x .+ m.b`. `@functor Affine` becomes a decorator: it says that the fields are the children of
# the model, so that `setup` and `update` walk into it.
@optirs.functor
@dataclass
class Affine:
    W: np.ndarray  # W[n_out, n_in]
    b: np.ndarray  # b[n_out]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.W.T + self.b  # [sample, n_out]


def random_affine(n_in: int, n_out: int, rng: optirs.Xoshiro) -> Affine:
    # Julia: Affine(rand(rng, Float32, out, in), rand(rng, Float32, out)). Arguments are evaluated in this order.
    return Affine(rng.rand(n_out, n_in), rng.rand(n_out))


# Cell 2: the data. The layer to be found, and what it answers to a hundred random inputs. `optirs.Xoshiro` is Julia's
# generator bit for bit; Julia draws a (3, 100) matrix, one column a sample.
rng = optirs.Xoshiro(12345)
truth = random_affine(3, 2, rng)
x = rng.rand(3, 100).T  # x[sample, input]
y = truth(x)  # y[sample, output]


# Cell 3: the loss, `sum(abs2, model(x) .- y) / size(x, 2)`.
def loss(model: Affine) -> float:
    return float(np.sum((model(x) - y) ** 2) / len(x))


# Cell 4: its gradient. Julia asks Zygote; here two lines of calculus do. The gradient is a tree like the model: a
# dict with the names of the fields stands for the class.
def gradient(model: Affine) -> dict[str, np.ndarray]:
    dy = 2 * (model(x) - y) / len(x)  # d loss / d model(x), [sample, output]
    return {"W": dy.T @ x, "b": dy.sum(axis=0)}


# Cell 5: the optimiser. `setup` makes the tree of states, one Leaf for W and one for b.
model = random_affine(3, 2, optirs.Xoshiro(54321))
state = optirs.setup(optirs.Descent(0.1), model)

# Cell 6: the loop. `update` changes neither of its arguments: it returns the new state and the new model. (Julia's
# `update!` is `optirs.update_`.)
for epoch in range(1, 501):
    state, model = optirs.update(state, model, gradient(model))
    if epoch % 50 == 0:
        print(f"epoch {epoch:3}: loss {loss(model):.8g}")

# Cell 7: the result, beside the truth.
print("W", model.W, "b", model.b, sep="\n")
print("true W", truth.W, "true b", truth.b, sep="\n")

# Cell 8: the same with what the library has: its layer, its loss, its loop.
layer = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(54321))
training = optirs.train(optirs.supervised(optirs.mse), layer, (x, y), optirs.Descent(0.1), epochs=500)
print("largest difference between the two:", np.abs(training.model.W - model.W).max())
