"""A copy of the parameter in another precision."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from .._core import Pinned
from .._rounding import store
from ._apply import computed, init, step
from ._base import Array, Rule, expect_rule, spec

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class MixedPrecision(Rule):
    """Steps a copy of the parameter in another precision, and rounds the parameter from it.

        master = dtype(x) at the start;  master = step of rule(master, dtype(gradient));  x = round(master)

    So steps that are lost in the rounding of a 16-bit parameter add up. A complex parameter has a complex copy with
    parts of `dtype`.

    Args:
        rule: The rule, or the whole chain, that steps the copy.
        dtype: The precision of the copy: float16, bfloat16, float32 or float64, as NumPy or ml_dtypes names it; kept as
            a string; cannot be adjusted (default 'float32').

    Raises:
        TypeError: If `rule` is not a rule, or `dtype` no dtype.
        ValueError: If `dtype` is another one, or `rule` a `MixedPrecision` itself.

    State:
        The tuple `(master, state of rule)`.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.MixedPrecision(optirs.Descent(1.0))
        >>> x = np.array([1.0], np.float16)
        >>> master, inner = optirs.init(rule, x)
        >>> (master, inner), dx = optirs.apply(rule, (master, inner), x, np.array([2.0**-12], np.float16))
        >>> master.dtype, float(master[0]), float(x[0] - dx[0])
        (dtype('float32'), 0.999755859375, 1.0)

    References:
        Micikevicius et al., Mixed precision training, ICLR 2018, arXiv 1710.03740. Optimisers.jl, `MixedPrecision`.

    Note: Elsewhere
        Optimisers.jl writes `MixedPrecision{Float32}(rule)`. PyTorch and optax leave it to the caller.
    """

    rule: Rule
    dtype: str = "float32"

    _builtin: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if expect_rule(f"{name}: rule", self.rule)._master is not None:
            raise ValueError(f"{name}: rule is a MixedPrecision itself")
        object.__setattr__(self, "dtype", _canonical(name, self.dtype))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}(rule={self.rule!r}, dtype={self.dtype!r})"

    @property
    def _master(self) -> str:
        return self.dtype

    def _spec(self) -> tuple[Any, ...] | None:
        inner = spec(self.rule)
        return None if inner is None else ("MixedPrecision", inner, self.dtype)

    def _inside(self) -> tuple[Rule, ...]:
        return (self.rule,)

    def _states(self, state: tuple[Array, Any]) -> tuple[Any, ...]:
        return state[1:]

    def _adjustable(self) -> list[str]:
        return self.rule._adjustable()

    def _adjusted(self, values: dict[str, Any]) -> Self:
        return self.replace(rule=self.rule._adjusted(values))

    def _schedulable(self, name: str) -> list[Any]:
        return self.rule._schedulable(name)

    def _check_held(self, _dtype: str) -> None:
        self.rule._check_held(self.dtype)

    def _resolved(self, counts: Iterator[int]) -> Rule:
        return self.replace(rule=self.rule._resolved(counts))

    def init(self, x: Array) -> tuple[Array, Any]:
        """The copy of the parameter `x`, and the state of the rule for it."""
        with Pinned("the parameter", x):
            master = x.astype(self._copy_dtype(x))
        return master, init(self.rule, master)

    def apply(self, state: tuple[Array, Any], x: Array, dx: Array) -> tuple[tuple[Array, Any], Array | None]:
        """`((new copy, new state), dx)`, where `dx` is the difference that the rounded copy makes to `x`."""
        state, new = self._advance(state, x, dx)
        with Pinned("the parameter", x), np.errstate(over="ignore", invalid="ignore"):
            return state, None if new is None else computed(x) - computed(new)

    def _advance(self, state: tuple[Array, Any], x: Array, dx: Array) -> tuple[tuple[Array, Any], Array | None]:
        """`((new copy, new state), new x)`, and `None` for a parameter that stays."""
        master, inner = state
        inner, stepped = step(self.rule, inner, master, dx)
        if stepped is None:
            return (master, inner), None
        new = np.empty_like(x)
        store(stepped, new)
        return (stepped, inner), new

    def _copy_dtype(self, x: Array) -> np.dtype[Any]:
        """The dtype of the copy of `x`."""
        if x.dtype.kind != "c":
            return _real(self.dtype)
        if self.dtype not in ("float32", "float64"):
            raise TypeError(f"{type(self).__name__}: a complex parameter has no copy in {self.dtype}")
        return np.dtype("complex64" if self.dtype == "float32" else "complex128")


def _real(name: str) -> np.dtype[Any]:
    """The dtype of that name; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _canonical(rule: str, dtype: Any) -> str:
    """The name of a dtype, however it is given."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    try:
        if dtype is None:  # float64 to NumPy
            raise TypeError
        name = np.dtype(dtype).name
    except TypeError:
        kind = ValueError if isinstance(dtype, str) else TypeError
        raise kind(f"{rule}: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}") from None
    if name not in DTYPES:
        raise ValueError(f"{rule}: dtype must be one of {', '.join(DTYPES)}, got {name}")
    return str(name)
