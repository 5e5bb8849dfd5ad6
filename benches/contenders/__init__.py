"""Who is measured. A contender's module has a class for each kind of workload that it takes part in."""

from importlib import import_module
from typing import Any

import numpy as np

from ..workloads import Array

# The name in the table: its module here and how its classes are told what to do. Ours and the limits come first.
CONTENDERS: dict[str, tuple[str, str]] = {
    "limit": ("limit", "in_place"),
    "limit, pure": ("limit", "pure"),
    "optirs": ("optirs", "in_place"),
    "optirs, pure": ("optirs", "pure"),
    "C": ("c", ""),
    "numba": ("numba", ""),
    "NumPy": ("numpy", ""),
    "torch for-loop": ("torch", "for-loop"),
    "torch foreach": ("torch", "foreach"),
    "torch fused": ("torch", "fused"),
    "torch compiled": ("torch", "compiled"),
    "jax": ("jax", ""),
    "DeepSpeed": ("deepspeed", ""),
}
OURS = ("limit", "limit, pure", "optirs", "optirs, pure")
PEERS = tuple(name for name in CONTENDERS if name not in OURS)

# Memory in units of parameters, gradients and states, temporaries included: for deciding who fits beside whom.
MEMORY = {"optirs, pure": 2.2, "limit, pure": 1.8, "torch foreach": 3.0, "jax": 2.2}


class MissingError(Exception):
    """Why a contender does not take part."""


class Contender:
    """Takes part in one case."""

    def __init__(self, mode: str, threads: int) -> None:
        self.mode, self.threads = mode, threads

    def run(self, steps: int) -> float | None:
        """Does so many steps; returns the seconds they took if it knows better than whoever waits for it."""
        for _ in range(steps):
            self.step()
        return None

    def step(self) -> None:
        """One step, ended when it returns."""
        raise NotImplementedError


class Stepper(Contender):
    """Updates a model with a rule."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        """Gets ready. The arrays are its own from now on."""
        raise NotImplementedError

    def parameters(self) -> list[Array]:
        """The model as it is now."""
        raise NotImplementedError

    def scale(self, factor: float) -> None:
        """Multiplies the gradients of the following steps: `factor` is a power of two."""
        raise NotImplementedError


class OnArrays(Stepper):
    """Updates NumPy arrays where they lie."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        self.model, self.gradients = model, gradients
        self.prepare(case, rule)

    def prepare(self, case: str, rule: Any) -> None:
        """Gets ready to step `self.model` with `self.gradients`."""
        raise NotImplementedError

    def parameters(self) -> list[Array]:
        return self.model

    def scale(self, factor: float) -> None:
        for g in self.gradients:
            g *= np.float32(factor)


def find(name: str, kind: str) -> type[Contender]:
    """The class of a contender for a kind of workload; `MissingError` if it has none or cannot be imported."""
    try:
        module = import_module(f"{__name__}.{CONTENDERS[name][0]}")
    except ImportError as error:
        raise MissingError(f"not installed: {error}") from error
    if not hasattr(module, kind):
        raise MissingError(f"has no part in {kind}")
    found: type[Contender] = getattr(module, kind)
    return found
