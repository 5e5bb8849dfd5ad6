"""Layers: callable models with a gradient of their own. Batches are rows."""

from ._base import Layer as Layer
from .affine import Affine
from .chain import Chain
from .dense import Dense

__all__ = ["Affine", "Chain", "Dense"]
