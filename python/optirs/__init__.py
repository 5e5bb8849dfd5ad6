"""Gradient optimisers with explicit state on trees of NumPy arrays."""

from ._core import Xoshiro as Xoshiro
from ._core import affine_forward as affine_forward
from ._core import affine_gradient as affine_gradient
from .gradients import supervised as supervised
from .history import History as History
from .layers import Affine as Affine
from .losses import binary_crossentropy as binary_crossentropy
from .losses import crossentropy as crossentropy
from .losses import huber as huber
from .losses import mae as mae
from .losses import mse as mse
from .train import Event as Event
from .train import NonFiniteLossError as NonFiniteLossError
from .train import Training as Training
from .train import train as train
