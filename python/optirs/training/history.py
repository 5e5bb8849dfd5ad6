"""What a training has seen: the loss of every step."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from .._plot import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class History(Sequence[float]):
    """The losses of a training, one a step, in order: `len`, indexing, slices, iteration and `numpy.asarray` work.

    Attributes:
        logged: Pairs `(epoch, loss)` of the updated model, as `train(log_every=...)` logs them.

    Examples:
        >>> import numpy as np, optirs
        >>> history = optirs.History([4.0, 2.0, 1.0])
        >>> len(history), history[-1], np.asarray(history).sum()
        (3, 1.0, np.float64(7.0))
    """

    def __init__(self, losses: Iterable[float] = (), logged: Iterable[tuple[int, float]] = ()) -> None:
        self._losses = array("d", map(float, losses))
        self.logged = list(logged)

    def append(self, loss: float) -> None:
        """Adds the loss of one more step."""
        self._losses.append(loss)

    def extend(self, losses: Iterable[float]) -> None:
        """Adds the losses of more steps."""
        if isinstance(losses, np.ndarray) and losses.ndim == 1 and losses.dtype.kind in "biufc":
            # Without a Python object for each of them.
            self._losses.frombytes(losses.astype(np.float64, casting="same_kind", copy=False).tobytes())
        else:
            # All of them first: they may be its own, and one may be no number.
            self._losses.extend(array("d", map(float, losses)))

    def __len__(self) -> int:
        return len(self._losses)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        found = self._losses[index]
        return found.tolist() if isinstance(found, array) else found

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a History is not an array: it cannot be one without a copy")
        return np.array(self._losses, dtype=np.float64 if dtype is None else dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, History):
            return NotImplemented
        return np.array_equal(self, other, equal_nan=True) and self.logged == other.logged

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        last = f", last loss {self[-1]:.8g}" if self else ""
        return f"<History of {len(self)} step{'' if len(self) == 1 else 's'}{last}>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the loss over the steps, logarithmically where all losses are positive.

        Args:
            ax: Matplotlib axes to draw in; by default those of a new `pyplot` figure.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is missing; it comes with the extra `plot`.

        Examples:
            >>> import optirs
            >>> from matplotlib.figure import Figure
            >>> axes = optirs.History([4.0, 2.0, 1.0]).plot(Figure().subplots())
            >>> axes.get_yscale()
            'log'
        """
        if ax is None:
            ax = new_axes()
        ax.plot(range(1, len(self) + 1), self._losses)
        if self and all(loss > 0 for loss in self):
            ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        return ax
