"""What the bridges add to a step of autograd, JAX and PyTorch: `python benches/bridges.py [library ...]`.

Both sides differentiate the same function of a two-layer network. The library alone has its tensors at hand; the bridge
gets NumPy arrays, takes the model apart, builds it with tensors, and returns the gradient as NumPy arrays. They take
turns, so that a slower spell of the machine hits both. Everybody has one thread: what is measured is work in Python and
copies, not how threads wait for each other. Prints a Markdown table: medians in microseconds.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import numpy as np  # noqa: E402 as the settings come first

import optirs  # noqa: E402

LIBRARIES = {"autograd": "autograd.numpy", "jax": "jax.numpy", "torch": "torch"}
SIZES = {"156 parameters": ((8, 10), (10, 6), 32), "1 M parameters": ((1000, 500), (500, 1000), 8)}
SECONDS = 4


def network(first: tuple[int, int], second: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = (first, second)
    return [{"W": (rng.normal(size=(out, n)) / n**0.5).astype("f"), "b": np.zeros(out, "f")} for n, out in shapes]


def loss_of(xp: Any) -> Callable[..., Any]:
    def loss(model: Any, x: Any) -> Any:
        hidden = xp.tanh(x @ model[0]["W"].T + model[0]["b"])
        return xp.mean((hidden @ model[1]["W"].T + model[1]["b"]) ** 2)

    return loss


def alone(library: str, loss: Callable[..., Any], model: Any, x: Any) -> Callable[[], Any]:
    """A step of the library itself, with the parameters as it would hold them."""
    if library == "autograd":
        from autograd import value_and_grad

        function = value_and_grad(loss)
        return lambda: function(model, x)
    if library == "jax":
        import jax

        function = jax.jit(jax.value_and_grad(loss))
        held, held_x = jax.tree.map(jax.numpy.asarray, (model, x))
        return lambda: jax.block_until_ready(function(held, held_x))
    import torch

    held = [{k: torch.from_numpy(v).requires_grad_() for k, v in layer.items()} for layer in model]
    held_x, tensors = torch.from_numpy(x), [v for layer in held for v in layer.values()]

    def step() -> Any:
        value = loss(held, held_x)
        return float(value.detach()), torch.autograd.grad(value, tensors)

    return step


def medians(steps: list[Callable[[], Any]]) -> list[float]:
    """Of one call of each, in microseconds."""
    for step in steps * 5:
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for step, record in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            record.append(time.perf_counter() - start)
    return [1e6 * statistics.median(record) for record in times]


def main() -> None:
    print("| library | network | alone | with optirs | added |\n|---|---|---|---|---|")
    for library in sys.argv[1:] or LIBRARIES:
        loss = loss_of(importlib.import_module(LIBRARIES[library]))
        for name, (first, second, rows) in SIZES.items():
            model, x = network(first, second), np.ones((rows, first[0]), "f")
            bridge = getattr(optirs, f"with_{library}")(loss)
            bare, bridged = medians([alone(library, loss, model, x), lambda b=bridge, m=model, x=x: b(m, x)])
            print(f"| {library} | {name} | {bare:.0f} | {bridged:.0f} | {bridged - bare:.0f} |", flush=True)


if __name__ == "__main__":
    main()
