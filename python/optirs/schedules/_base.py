"""`Schedule`, and what its fields may be."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform, overload

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checked import Checked, checked
from .._parameters import FINITE, POSITIVE, Count, Number
from .._plot import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

S = TypeVar("S", bound="type[Schedule]")

LAST = 2**63 - 1
"""The greatest step."""


class Schedule(Checked):
    """A number for every step: called with a step, or an array of them, which count from 0.

    A schedule is an immutable value, compared by its fields; `repr` is the constructor call. An update and a call
    evaluate the same compiled code, so what is drawn is what is used, bit for bit, on every platform.
    `optirs.Scheduled` makes a rule follow one.

    Examples:
        >>> import numpy as np
        >>> from optirs import schedules
        >>> schedule = schedules.Polynomial(1.0, steps=4)
        >>> schedule(1)
        0.75
        >>> schedule(np.arange(6))
        array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ])
    """

    _prefix: ClassVar[str] = "schedules."
    _kind: ClassVar[str]
    """Its name here, which a class derived from it keeps."""

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: npt.NDArray[np.integer[Any]] | Sequence[int]) -> npt.NDArray[np.float64]: ...
    def __call__(self, step: Any) -> Any:
        """The value at `step`.

        Args:
            step: How many steps have been taken before: 0 for the first update. An int, or an array of integers.

        Returns:
            A float, or a float64 array of the same shape.

        Raises:
            TypeError: If `step` is not a whole number.
            ValueError: If it is negative, or 2**63 or more.
        """
        if isinstance(step, numbers.Integral) and not isinstance(step, bool):
            return _core.schedule_at(self._spec(), _in_range(int(step)))
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" and steps.size:
            raise TypeError(f"a step must be an int or an array of integers, got {_shown(step, steps)}")
        with _core.Pinned("the steps", steps):
            for extreme in (steps.min(), steps.max()) if steps.size else ():
                _in_range(int(extreme))
            flat = np.ascontiguousarray(steps, dtype=np.uint64).ravel()
        return _core.schedule_of(self._spec(), flat).reshape(steps.shape)

    def plot(self, steps: int, ax: Axes | None = None) -> Axes:
        """Draws the value over the steps `0` to `steps - 1`, labelled with the schedule itself.

        Args:
            steps: How many steps to draw, >= 1.
            ax: matplotlib axes to draw in; by default those of a new `pyplot` figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; it comes with the extra `plot`.

        Examples:
            >>> from matplotlib.figure import Figure
            >>> from optirs import schedules
            >>> axes = schedules.Cosine(1.0, steps=80).plot(100, Figure().subplots())
            >>> axes.get_xlabel(), len(axes.lines[0].get_xdata())
            ('step', 100)
        """
        at = np.arange(Count("").read("plot: steps", steps))
        if ax is None:
            ax = new_axes()
        ax.plot(at, self(at), label=repr(self))
        ax.set_xlabel("step")
        ax.set_ylabel("value")
        return ax

    def _spec(self) -> tuple[str, dict[str, Any]]:
        """What the compiled module makes the schedule of."""
        return self._kind, {name: _described(getattr(self, name)) for name in self._parameters}

    def _ends(self, last: int) -> tuple[float, ...]:
        """Values between which all values up to step `last` lie."""
        raise NotImplementedError


@dataclass_transform(frozen_default=True)
def schedule(cls: S) -> S:
    """Makes a class a schedule: a frozen dataclass with checked fields and a full docstring."""
    cls._kind = cls.__name__
    return checked(cls, "Examples:\n")


def extremes(of: Schedule) -> tuple[float, float]:
    """The least and the greatest value, or numbers beyond them."""
    ends = of._ends(LAST)
    return min(ends), max(ends)


def _described(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value._spec()
    return tuple(map(_described, value)) if isinstance(value, tuple) else value


def _in_range(step: int) -> int:
    if not 0 <= step <= LAST:
        raise ValueError(f"a step must be {'>= 0' if step < 0 else '< 2**63'}, got {step}")
    return step


def _shown(step: Any, steps: npt.NDArray[Any]) -> str:
    return f"an array of {steps.dtype}" if isinstance(step, np.ndarray) else repr(step)


class Part:
    """Another schedule."""

    words = "a schedule"
    fixed = initial = False

    def read(self, name: str, value: Any) -> Schedule:
        if isinstance(value, Schedule):
            return value
        if isinstance(value, type) and issubclass(value, Schedule):
            raise TypeError(f"{name} must be a schedule, got the class: write schedules.{value.__name__}(...)")
        if isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a schedule, got {value!r}: write schedules.Constant({value!r})")
        raise TypeError(f"{name} must be a schedule, got {value!r}")


class Many:
    """Several of what `each` reads, as a tuple."""

    fixed = initial = False

    def __init__(self, words: str, each: Any) -> None:
        self.words = words
        self.each = each

    def read(self, name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            raise TypeError(f"{name} must be a list or tuple, got {value!r}")
        return tuple(self.each.read(f"{name}[{i}]", v) for i, v in enumerate(value))


class OrNone:
    """What `inner` reads, or None."""

    fixed = initial = False

    def __init__(self, inner: Number) -> None:
        self.words = f"{inner.words}; or None"
        self.inner = inner

    def read(self, name: str, value: Any) -> float | None:
        return None if value is None else self.inner.read(name, value)


class Boundaries(Many):
    """Steps in strictly increasing order."""

    def __init__(self) -> None:
        super().__init__("the steps at which the next one begins, increasing; ints >= 1", Count(""))

    def read(self, name: str, value: Any) -> tuple[int, ...]:
        steps = super().read(name, value)
        for i in range(1, len(steps)):
            if steps[i] <= steps[i - 1]:
                raise ValueError(f"{name} must increase, got {steps}")
        return steps


def one_more(name: str, things: tuple[Any, ...], boundaries: tuple[int, ...]) -> None:
    """Raises unless the boundaries separate the things."""
    if len(things) != len(boundaries) + 1:
        raise ValueError(f"{name}: {len(things)} need {len(things) - 1} boundaries, got {len(boundaries)}")


Value = Annotated[float, Number("the value", (FINITE,))]
Start = Annotated[float, Number("value at step 0", (FINITE,))]
End = Annotated[float, Number("value at step `steps` and after", (FINITE,))]
Steps = Annotated[int, Count("number of steps from the first value to the last")]
Every = Annotated[int, Count("number of steps in which the value is multiplied by `factor` once")]
Factor = Annotated[float, Number("what the value is multiplied by", (FINITE, POSITIVE))]
