"""Gradient optimisers with explicit state on trees of NumPy arrays.

`setup` makes the state, `update` a step; rules compose with `OptimiserChain`. As Optimisers.jl in Julia.
"""

from . import rules
from ._core import Leaf, Xoshiro, affine_forward, affine_gradient
from .flat import Restructure, destructure
from .gradients import supervised
from .history import History
from .layers import Affine, Chain, Dense
from .losses import binary_crossentropy, crossentropy, huber, mae, mse
from .rules import *  # noqa: F403
from .state import adjust, adjust_, freeze_, setup, thaw_, update, update_
from .threads import get_num_threads, release_memory, set_num_threads
from .train import Event, NonFiniteLossError, Training, train
from .tree import KeyPath, functor, getkeypath, isnumeric, trainables

__all__ = [
    "Affine",
    "Chain",
    "Dense",
    "Event",
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
    "binary_crossentropy",
    "crossentropy",
    "destructure",
    "freeze_",
    "functor",
    "get_num_threads",
    "getkeypath",
    "huber",
    "isnumeric",
    "mae",
    "mse",
    "release_memory",
    "set_num_threads",
    "setup",
    "supervised",
    "thaw_",
    "train",
    "trainables",
    "update",
    "update_",
]
__all__ += rules.__all__
