"""A copy of the parameter in another precision."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ._base import Array, Compiled, Rule, expect_rule

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class MixedPrecision(Compiled):
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

    def _spec(self, of: Callable[[Rule], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        inner = of(self.rule)
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

    def _resolved(self, counts: Iterator[int]) -> Rule:
        return self.replace(rule=self.rule._resolved(counts))


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
