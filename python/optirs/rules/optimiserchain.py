"""Rules in sequence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from ._base import Compiled, Rule, expect_rule, flattened, is_for_whole_step, lands, plain


@dataclass(frozen=True, init=False, repr=False)
class OptimiserChain(Compiled):
    """Rules in sequence: each gets what the one before it made of the gradient, and the last one's `dx` is the step.

        dx = gradient;  for each rule: dx = what the rule makes of dx;  x = x - dx

    Chains may hold chains. An empty one passes the gradient on as it is. When a rule passes nothing on, as `AccumGrad`
    does while it collects, the rules after it do not run and their state stays.

    Args:
        *rules: The rules, first to last.

    Raises:
        TypeError: If one of them is not a rule.
        ValueError: If one of them is a `MixedPrecision`, which goes around a chain; if another rule stands behind one
            that decides where the parameter lands (`Box`, `Lookahead`, `Ema`, `Swa`); or if two equal rules look at the
            whole step (`ClipGlobalNorm`, `SkipNonFinite`). Chains inside are asked, too.

    State:
        A tuple with the state of each rule.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.ClipGrad(1.0), optirs.Descent(0.5))
        >>> state = optirs.init(rule, np.zeros(2))
        >>> optirs.apply(rule, state, np.zeros(2), np.array([0.4, -3.0]))
        ((None, None), array([ 0.2, -0.5]))

    References:
        Optimisers.jl, `OptimiserChain`.

    Note: Elsewhere
        `optax.chain`, with the signs of the updates the other way round. PyTorch has none.
    """

    rules: tuple[Rule, ...]

    _builtin: ClassVar[bool] = True

    def __init__(self, *rules: Rule) -> None:
        name = type(self).__name__
        if len(rules) == 1 and isinstance(rules[0], list | tuple):
            raise TypeError(f"{name} takes the rules one by one: {name}(*rules)")
        for i, rule in enumerate(rules):
            if expect_rule(f"{name}: rules[{i}]", rule)._master is not None:
                raise ValueError(f"{name}: rules[{i}] is a MixedPrecision, which goes around a chain, never inside")
        object.__setattr__(self, "rules", rules)
        _check_order(name, [each for rule in rules for each in flattened(rule)])

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(map(repr, self.rules))})"

    def replace(self, **values: Any) -> Self:
        """A copy with other rules: `chain.replace(rules=[...])`."""
        if unknown := values.keys() - {"rules"}:
            raise TypeError(f"{type(self).__name__} has no field {min(unknown)!r}; it has rules")
        return type(self)(*values["rules"]) if values else self

    def _spec(self, of: Callable[[Rule], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        specs = tuple(map(of, self.rules))
        return None if None in specs else ("OptimiserChain", specs)

    def _inside(self) -> tuple[Rule, ...]:
        return self.rules

    def _states(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        return state

    def _adjustable(self) -> list[str]:
        return [name for rule in self.rules for name in rule._adjustable()]

    def _adjusted(self, values: dict[str, Any]) -> Self:
        return self.replace(rules=[rule._adjusted(values) for rule in self.rules])

    def _schedulable(self, name: str) -> list[Any]:
        return [value for rule in self.rules for value in rule._schedulable(name)]

    def _resolved(self, counts: Iterator[int]) -> Rule:
        return self.replace(rules=[rule._resolved(counts) for rule in self.rules])


def _check_order(name: str, rules: list[Rule]) -> None:
    """Raises unless what lands comes last, and what looks at the whole step is there once. `rules` are flattened."""
    for first, second in pairwise(rules):
        if lands(first) and not lands(second):
            raise ValueError(
                f"{name}: {second!r} stands behind {first!r}, which decides where the parameter lands: behind it come "
                "only others that do (Box, Lookahead, Ema, Swa)"
            )
    seen: dict[Rule, Rule] = {}
    for rule in filter(is_for_whole_step, rules):
        if plain(rule) in seen:
            raise ValueError(
                f"{name}: {seen[plain(rule)]!r} and {rule!r} are equal, and each looks at the whole step: give one of "
                "them another name"
            )
        seen[plain(rule)] = rule
