"""A rule whose hyper-parameters change with the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np

from ..schedules import Schedule
from ..schedules._base import extremes
from ._base import Compiled, Rule, adjusted, expect_rule, fields, placeless

Setting = Schedule | Callable[[int], Any] | tuple[Schedule | Callable[[int], Any] | float, ...]
"""What a hyper-parameter follows. In a tuple, numbers stay."""


@dataclass(frozen=True, init=False, repr=False)
class Scheduled(Compiled):
    """A rule whose hyper-parameters follow schedules.

        step of rule.replace(eta=schedule(t), ...);  t = t + 1

    Each step is that of the rule adjusted before it. `t` counts the steps that the rule has passed on, from 0: it stays
    where a leaf is frozen or has no gradient, and behind or around an `AccumGrad` only every n-th gradient counts. It
    is part of the state, so a copied, pickled or loaded state goes on where it was.

    Around a chain, every rule in it that has the field follows the schedule. The rule's own value of a scheduled field
    is replaced by that of step 0.

    Args:
        rule: The rule. `Scheduled` goes wherever it could: in a chain, in or around `MixedPrecision`.
        **schedules: For each hyper-parameter one of `optirs.schedules`, or a function from `t` to its value, which must
            depend on nothing else; for one that is a tuple, such as `beta`, also a tuple of schedules, functions and
            numbers. Whatever `adjust` can change can be scheduled, but switches cannot.

    Raises:
        TypeError: If `rule` is not a rule, or there is no schedule, or what is given is none.
        ValueError: If the rule has no such hyper-parameter, or it is scheduled already, or a schedule goes where the
            rule's values may not. A function is found out at the step where it does, before anything is written.

    State:
        The tuple `(t, state of rule)`.

    Examples:
        >>> import numpy as np, optirs
        >>> from optirs import Scheduled, schedules
        >>> rule = Scheduled(optirs.Descent(), eta=schedules.Warmup(schedules.Constant(0.5), steps=2))
        >>> x, state = np.zeros(1), optirs.init(rule, np.zeros(1))
        >>> for _ in range(4):
        ...     state, dx = optirs.apply(rule, state, x, np.ones(1))
        ...     print(*state, dx)
        1 None [0.]
        2 None [0.25]
        3 None [0.5]
        4 None [0.5]

        `adjust` changes what is not scheduled, and replaces schedules by others:

        >>> rule = Scheduled(optirs.Adam(), eta=schedules.Cosine(0.1, steps=100))
        >>> rule = optirs.adjust(rule, beta=(0.8, 0.99), eta=schedules.Constant(0.01))

    References:
        ParameterSchedulers.jl, `Scheduler`.

    Note: Elsewhere
        A schedule as a learning rate, or `optax.inject_hyperparams`, in optax. A `torch.optim.lr_scheduler`, called
        after each step; here there is nothing to call.
    """

    rule: Rule
    schedules: tuple[tuple[str, Setting], ...]
    """Pairs of a field and what it follows, in the order of the rule's fields."""

    _builtin: ClassVar[bool] = True

    def __init__(self, rule: Rule, /, **schedules: Setting) -> None:
        name = type(self).__name__
        known = fields(expect_rule(f"{name}: the first argument", rule))
        if not schedules:
            raise TypeError(f"{name} needs a schedule: {name}(rule, eta=schedules.Cosine(...))")
        for field in schedules:
            _check_field(name, rule, field, known)
        chosen = tuple((field, _setting(f"{name}: {field}", schedules[field])) for field in known if field in schedules)
        object.__setattr__(self, "schedules", chosen)
        object.__setattr__(self, "rule", _at(rule, chosen, 0))
        for together in _judged_together(chosen):
            _check_extremes(name, self.rule, together)

    def __repr__(self) -> str:
        schedules = "".join(f", {field}={setting!r}" for field, setting in self.schedules)
        return f"{type(self).__qualname__}({self.rule!r}{schedules})"

    def replace(self, **values: Any) -> Self:
        """A copy with another rule or other schedules: `scheduled.replace(eta=schedules.Constant(0.1))`."""
        return type(self)(values.pop("rule", self.rule), **(dict(self.schedules) | values)) if values else self

    @property
    def _master(self) -> str | None:
        return self.rule._master

    def _spec(self, of: Callable[[Rule], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        inner = of(self.rule)
        if inner is None:
            return None
        described: dict[str, tuple[Any, ...]] = {}
        for field, setting in self.schedules:
            parts = setting if isinstance(setting, tuple) else (setting,)
            if any(callable(part) and not isinstance(part, Schedule) for part in parts):
                return "Scheduled", inner, None
            described[field] = tuple(_described(part) for part in parts)
        return "Scheduled", inner, described

    def _inside(self) -> tuple[Rule, ...]:
        return (self.rule,)

    def _states(self, state: tuple[int, Any]) -> tuple[Any, ...]:
        return state[1:]

    def _adjustable(self) -> list[str]:
        return self.rule._adjustable()

    def _adjusted(self, values: dict[str, Any]) -> Self:
        own = dict(self.schedules)
        changed = {field: values[field] for field in own if field in values}
        for field, value in changed.items():
            if not _is_setting(value):
                raise ValueError(f"{field} is scheduled, by {own[field]!r}: give another schedule, not {value!r}")
        rule = self.rule._adjusted({field: value for field, value in values.items() if field not in own})
        if changed:
            return type(self)(rule, **(own | changed))
        copy = object.__new__(type(self))  # nothing new to check
        object.__setattr__(copy, "rule", rule)
        object.__setattr__(copy, "schedules", self.schedules)
        return copy

    def _schedulable(self, name: str) -> list[Any]:
        return [setting for field, setting in self.schedules if field == name] or self.rule._schedulable(name)

    def _resolved(self, counts: Iterator[int]) -> Rule:
        t = next(counts)
        return _at(self.rule._resolved(counts), self.schedules, t)

    def _at_last_step(self, rule: Rule, state: tuple[int, Any]) -> Rule:
        """`rule`, which stands inside, with the values of the last step; before the first one, of that."""
        known = fields(rule)
        own = tuple((field, setting) for field, setting in self.schedules if field in known)
        return _at(rule, own, max(state[0] - 1, 0))


def _at(rule: Rule, schedules: tuple[tuple[str, Setting], ...], t: int) -> Rule:
    """`rule` with the values of step `t`."""
    values = {field: _value(setting, t) for field, setting in schedules}
    try:
        return adjusted(rule, **values)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise placeless(kind(f"{error}, by its schedule at step {t}")) from error


def _value(setting: Any, t: int) -> Any:
    if isinstance(setting, tuple):
        return tuple(_value(part, t) for part in setting)
    return setting(t) if callable(setting) else setting


def _check_field(name: str, rule: Rule, field: str, known: tuple[str, ...]) -> None:
    """Raises unless `rule` has a hyper-parameter of that name that can be scheduled."""
    possible = [f for f in known if rule._schedulable(f)]
    if field not in possible:
        there = f"there are: {', '.join(possible)}" if possible else "there are none"
        raise ValueError(f"{name}: no field {field!r} that can be scheduled in {rule!r}; {there}")
    for value in rule._schedulable(field):
        if _is_setting(value):
            raise ValueError(f"{name}: {field} is scheduled already, by {value!r}")


def _is_setting(value: Any) -> bool:
    """Whether a hyper-parameter can follow it."""
    if isinstance(value, tuple | list):
        return any(map(_is_setting, value))
    return callable(value) and not isinstance(value, type | Rule)


def _setting(name: str, value: Any) -> Setting:
    """What is given for a field, checked."""
    if not _is_setting(value):
        hint = "; set what does not change in the rule itself" if np.isscalar(value) else ""
        raise TypeError(f"{name} must be a schedule or a function of the step, got {value!r}{hint}")
    return tuple(value) if isinstance(value, list) else value


def _judged_together(chosen: tuple[tuple[str, Setting], ...]) -> list[dict[str, Setting]]:
    """The scheduled fields one by one, but those together of which the range of one depends on the other."""
    bounds = {field: setting for field, setting in chosen if field in ("lower", "upper")}
    rest = [{field: setting} for field, setting in chosen if field not in bounds]
    return [*rest, bounds] if bounds else rest


def _check_extremes(name: str, rule: Rule, chosen: dict[str, Setting]) -> None:
    """Raises if schedules, alone or together, go where the rule's values may not. Functions are not asked."""
    parts = {field: setting if isinstance(setting, tuple) else (setting,) for field, setting in chosen.items()}
    if any(callable(part) and not isinstance(part, Schedule) for some in parts.values() for part in some):
        return
    reached = {field: product(*map(_ends, some)) for field, some in parts.items()}
    for ends in product(*reached.values()):
        values = {f: end if isinstance(chosen[f], tuple) else end[0] for f, end in zip(chosen, ends, strict=True)}
        try:
            adjusted(rule, **values)
        except ValueError as error:
            *others, last = map(repr, chosen.values())
            go = f"{', '.join(others)} and {last} go" if others else f"{last} goes"
            raise ValueError(f"{name}: {error}; {go} so far") from error


def _ends(part: Any) -> tuple[float, ...]:
    """The extremes of a schedule; a number itself."""
    return extremes(part) if isinstance(part, Schedule) else (part,)


def _described(part: Any) -> tuple[str, dict[str, Any]]:
    """A schedule, or a number that stays, for the compiled module."""
    return part._spec() if isinstance(part, Schedule) else ("Constant", {"value": float(part)})
