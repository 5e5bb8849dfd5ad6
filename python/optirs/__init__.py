"""Gradient optimisers with explicit state on trees of NumPy arrays.

`setup` makes the state, `update` a step; rules compose with `OptimiserChain`. As Optimisers.jl in Julia.
"""

from typing import TYPE_CHECKING

from . import rules, schedules
from ._core import Leaf, Xoshiro, affine_gradient
from .averages import averaged
from .bridges import with_autograd, with_jax, with_torch
from .files.checkpoint import Checkpoint, load, save
from .files.digest import digest
from .layers import Affine, Chain, Dense
from .layers.forward import affine_forward
from .layers.gradients import supervised
from .layers.losses import binary_crossentropy, crossentropy, huber, mae, mse
from .metrics import metrics
from .rules import *  # noqa: F403
from .state import adjust, adjust_, freeze_, setup, thaw_, update, update_
from .threads import get_num_threads, release_memory, set_num_threads
from .training.callbacks import EarlyStopping, Evaluation, HeldOut
from .training.events import Event
from .training.history import History
from .training.train import NonFiniteLossError, Training, train
from .trees.flat import Restructure, destructure
from .trees.ties import trainables
from .trees.tree import KeyPath, functor, getkeypath, isnumeric

__all__ = [
    "Affine",
    "Chain",
    "Checkpoint",
    "Dense",
    "EarlyStopping",
    "Evaluation",
    "Event",
    "HeldOut",
    "History",
    "KeyPath",
    "Leaf",
    "NonFiniteLossError",
    "Restructure",
    "Training",
    "Xoshiro",
    "adjust",
    "adjust_",
    "affine_forward",
    "affine_gradient",
    "averaged",
    "binary_crossentropy",
    "crossentropy",
    "destructure",
    "digest",
    "freeze_",
    "functor",
    "get_num_threads",
    "getkeypath",
    "huber",
    "isnumeric",
    "load",
    "mae",
    "metrics",
    "mse",
    "release_memory",
    "save",
    "schedules",
    "set_num_threads",
    "setup",
    "supervised",
    "thaw_",
    "train",
    "trainables",
    "update",
    "update_",
    "with_autograd",
    "with_jax",
    "with_torch",
]
__all__ += rules.__all__

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        """The version, looked up on request: that takes tens of milliseconds."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(__name__)
        except PackageNotFoundError:
            raise AttributeError(f"{__name__} is not installed, so it has no version") from None
