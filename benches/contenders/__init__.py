"""Who is measured. A contender's module has a class for each kind of workload that it takes part in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..workloads import Array

STEPS, EVERYTHING = ("Steps",), ("Steps", "Training", "Affine")


@dataclass(frozen=True)
class Entry:
    """Where a contender is found."""

    module: str
    mode: str = ""  # what its classes are told
    kinds: tuple[str, ...] = STEPS  # the classes that its module has, by the kind of workload
    memory: float = 1.2  # temporaries included, in units of parameters, gradients and states

    def make(self, kind: str, threads: int) -> Any:
        """The contender; `MissingError` if it cannot be imported."""
        try:
            module = import_module(f"{__name__}.{self.module}")
        except ImportError as error:
            raise MissingError(f"not installed: {error}") from error
        return getattr(module, kind)(self.mode, threads)


# By the name in the table. Ours and the limits come first.
CONTENDERS = {
    "limit": Entry("limit", "in_place"),
    "limit, pure": Entry("limit", "pure", memory=1.8),
    "optirs": Entry("optirs", "in_place", EVERYTHING),
    "optirs, pure": Entry("optirs", "pure", ("Steps", "Training"), memory=2.2),
    "C": Entry("c"),
    "numba": Entry("numba"),
    "NumPy": Entry("numpy", "", EVERYTHING),
    "torch for-loop": Entry("torch", "for-loop"),
    "torch foreach": Entry("torch", "foreach", EVERYTHING, memory=3.0),
    "torch fused": Entry("torch", "fused"),
    "torch compiled": Entry("torch", "compiled"),
    "jax": Entry("jax", "", EVERYTHING, memory=2.2),
    "DeepSpeed": Entry("deepspeed"),
}
OURS = ("limit", "limit, pure", "optirs", "optirs, pure")
PEERS = tuple(name for name in CONTENDERS if name not in OURS)


class MissingError(Exception):
    """Why a contender does not take part."""


class Contender(ABC):
    """Takes part in one case."""

    def __init__(self, mode: str, threads: int) -> None:
        self.mode, self.threads = mode, threads

    def run(self, steps: int) -> float | None:
        """Does so many steps; returns the seconds they took if it knows better than whoever waits for it."""
        for _ in range(steps):
            self.step()
        return None

    @abstractmethod
    def step(self) -> None:
        """One step, ended when it returns."""


class Stepper(Contender):
    """Updates a model with a rule."""

    @abstractmethod
    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        """Gets ready. The arrays are its own from now on."""

    @abstractmethod
    def parameters(self) -> list[Array]:
        """The model as it is now."""

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Multiplies the gradients of the following steps: `factor` is a power of two."""


class OnArrays(Stepper):
    """Updates NumPy arrays where they lie."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        self.model, self.gradients = model, gradients
        self.prepare(case, rule)

    @abstractmethod
    def prepare(self, case: str, rule: Any) -> None:
        """Gets ready to step `self.model` with `self.gradients`."""

    def parameters(self) -> list[Array]:
        return self.model

    def scale(self, factor: float) -> None:
        for g in self.gradients:
            g *= np.float32(factor)
