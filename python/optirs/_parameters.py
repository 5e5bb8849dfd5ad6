"""Hyper-parameters: the words for each, its range, and the check, in one place.

A rule writes `eta: Rate = 0.1`; that the field is a number, finite and >= 0, and what its docstring says about it,
follows from the type.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np


class Parameter(Protocol):
    """What a hyper-parameter may be."""

    @property
    def words(self) -> str:
        """What it means, its unit and range."""

    @property
    def fixed(self) -> bool:
        """Whether `adjust` must leave it alone."""

    @property
    def initial(self) -> bool:
        """Whether it acts only when state is made."""

    def read(self, name: str, value: Any) -> Any:
        """`value` as it is kept; an error that begins with `name` if it will not do."""


@dataclass(frozen=True)
class Range:
    """A condition on a number, and how messages and docstrings put it."""

    words: str
    holds: Callable[[float], bool]

    def check(self, name: str, value: float) -> None:
        """Raises unless `value` is in the range."""
        if not self.holds(value):
            raise ValueError(f"{name} must be {self.words}, got {value}")


@dataclass(frozen=True)
class Number:
    """A float."""

    meaning: str
    ranges: tuple[Range, ...]
    fixed: bool = False
    initial: bool = False

    @property
    def words(self) -> str:
        return f"{self.meaning}; {' and '.join(r.words for r in self.ranges)}"

    def read(self, name: str, value: Any) -> float:
        number = as_float(name, value)
        for r in self.ranges:
            r.check(name, number)
        return number


@dataclass(frozen=True)
class Pair:
    """Two floats, each in `each`, and together as `both` says."""

    meaning: str
    each: Range | None = None
    both: str = ""
    holds: Callable[[float, float], bool] = lambda _a, _b: True
    fixed: bool = False
    initial: bool = False

    @property
    def words(self) -> str:
        return f"{self.meaning}; {f'both {self.each.words}' if self.each else self.both}"

    def read(self, name: str, value: Any) -> tuple[float, float]:
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            raise TypeError(f"{name} must be two numbers, got {value!r}{_hint(name, value)}")
        if len(value) != 2:
            raise ValueError(f"{name} must be two numbers, got {value!r}")
        first, second = (as_float(f"{name}[{i}]", v) for i, v in enumerate(value))
        if self.each:
            self.each.check(f"{name}[0]", first)
            self.each.check(f"{name}[1]", second)
        if not self.holds(first, second):
            raise ValueError(f"{name} must satisfy {self.both}, got {(first, second)}")
        return first, second


@dataclass(frozen=True)
class Switch:
    """True or False."""

    words: str
    fixed: bool = False
    initial: bool = False

    def read(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        return bool(value)


@dataclass(frozen=True)
class Count:
    """A whole number >= `least`; where it is `optional`, also None. It follows no schedule."""

    meaning: str
    least: int = 1
    optional: bool = False
    fixed: bool = False
    initial: bool = False

    @property
    def words(self) -> str:
        return f"{self.meaning}; an int >= {self.least}{', or None' * self.optional}"

    def read(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be an int{' or None' * self.optional}, got {value!r}")
        count = int(value)
        if not self.least <= count < 2**53:
            raise ValueError(f"{name} must be {f'>= {self.least}' if count < self.least else '< 2**53'}, got {count}")
        return count


@dataclass(frozen=True)
class Text:
    """A string. It stays as it is."""

    words: str
    fixed: bool = True
    initial: bool = False

    def read(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {value!r}")
        return str(value)


def as_float(name: str, value: Any) -> float:
    """A number as a Python float: whatever is real and has no dimensions, but no truth value and no string."""
    if type(value) is float:  # as nearly always; to ask an abstract class takes longer than all else here
        return value + 0.0  # no -0.0: equal rules give equal bits
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real and (getattr(value, "shape", None) != () or np.asarray(value).dtype.kind not in "fiuV"):
        raise TypeError(f"{name} must be a number, got {value!r}{_hint(name, value)}")
    try:
        return float(value) + 0.0
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {value}") from None


def _hint(name: str, value: Any) -> str:
    """Where a schedule goes, if the value is one."""
    if not callable(value) or isinstance(value, type):
        return ""
    field = name.rpartition(": ")[2].partition("[")[0]
    return f"; what changes with the step goes into Scheduled(rule, {field}=...)"


FINITE = Range("finite", math.isfinite)
NONNEGATIVE = Range(">= 0", lambda x: x >= 0)
POSITIVE = Range("> 0", lambda x: x > 0)
FRACTION = Range("in [0, 1)", lambda x: 0 <= x < 1)
SHARE = Range("in [0, 1]", lambda x: 0 <= x <= 1)
NOT_NAN = Range("not NaN", lambda x: not math.isnan(x))
AMOUNT = (FINITE, NONNEGATIVE)

Rate = Annotated[float, Number("learning rate, in units of x per unit of gradient", AMOUNT)]
StepSize = Annotated[float, Number("learning rate: about the size of a step, in the unit of x", AMOUNT)]
FirstStep = Annotated[
    float, Number("size of the first step, in the unit of x; acts only when state is made", AMOUNT, initial=True)
]
Inertia = Annotated[float, Number("share of the velocity that a step keeps", (FRACTION,))]
Memory = Annotated[float, Number("share of the running means that a step keeps", (FRACTION,))]
Betas = Annotated[tuple[float, float], Pair("shares of the first and of the second moment that a step keeps", FRACTION)]
LionBetas = Annotated[tuple[float, float], Pair("shares of the momentum in the direction, and kept after it", FRACTION)]
Epsilon = Annotated[float, Number("added to a denominator against division by 0, in the unit of the gradient", AMOUNT)]
SquareEpsilon = Annotated[float, Number("added to the mean squares under the roots, in their unit", AMOUNT)]
Decay = Annotated[float, Number("strength of the decay", AMOUNT)]
Factors = Annotated[
    tuple[float, float],
    Pair(
        "factors by which a step shrinks and grows",
        both="0 < ell[0] < 1 < ell[1]",
        holds=lambda less, more: 0 < less < 1 < more,
    ),
]
Limits = Annotated[
    tuple[float, float],
    Pair(
        "least and greatest step, in the unit of x",
        both="0 <= gamma[0] <= gamma[1]",
        holds=lambda least, most: 0 <= least <= most,
    ),
]
Bound = Annotated[float, Number("greatest modulus of an element, in the unit of the gradient", (POSITIVE,))]
NormBound = Annotated[float, Number("greatest norm, in the unit of the gradient", (POSITIVE,))]
Order = Annotated[float, Number("order of the norm; any real number, inf or -inf", (NOT_NAN,))]
Centred = Annotated[bool, Switch("whether to subtract the square of the mean gradient; cannot be adjusted", fixed=True)]
Couple = Annotated[bool, Switch("whether eta multiplies the decay too, as in PyTorch and optax")]
Throw = Annotated[bool, Switch("whether a norm that is not finite is an error; else the gradient becomes NaN")]
Gradients = Annotated[int, Count("how many gradients make a step; cannot be adjusted", fixed=True)]
GroupName = Annotated[str, Text("keeps groups with equal numbers apart, and stands in `metrics`; cannot be adjusted")]
SkipLimit = Annotated[
    int | None, Count("how many steps in a row may be skipped; None for any number", least=0, optional=True)
]
Lower = Annotated[float, Number("least value of an element, in the unit of x; less than `upper`", (NOT_NAN,))]
Upper = Annotated[float, Number("greatest value of an element, in the unit of x", (NOT_NAN,))]
SlowEvery = Annotated[int, Count("after how many steps the slow weights move; cannot be adjusted", fixed=True)]
SlowShare = Annotated[float, Number("share of the way to x that the slow weights go", (SHARE,))]
AverageMemory = Annotated[float, Number("share of the average that a step keeps", (FRACTION,))]
WarmUp = Annotated[bool, Switch("whether a step keeps less of the average at first: at most (1 + t)/(10 + t)")]
FirstSample = Annotated[int, Count("steps before the first that counts; cannot be adjusted", least=0, fixed=True)]
SampleEvery = Annotated[int, Count("after how many steps the next one counts; cannot be adjusted", fixed=True)]
