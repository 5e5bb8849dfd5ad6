"""The libraries that have a bridge. Tests of JAX and PyTorch run where they are installed: `make peers`."""

import importlib
from typing import Any

import pytest

import optirs

LIBRARIES = {"autograd": "autograd.numpy", "jax": "jax.numpy", "torch": "torch"}
PEER = (pytest.mark.peers, pytest.mark.filterwarnings("default"))  # their warnings are theirs


class Bridge:
    """One of the makers, and the namespace that functions for it are written with."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.xp: Any = importlib.import_module(LIBRARIES[name])
        self.make = getattr(optirs, f"with_{name}")

    def scalar(self, loss: Any) -> Any:
        """A number as the library has it."""
        return self.xp.tensor(loss) if self.name == "torch" else self.xp.array(loss)
