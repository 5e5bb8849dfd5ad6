"""`Rule`, and what the built-in rules have in common."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self, TypeGuard, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._checked import Checked, checked, own_fields
from .._parameters import Count

Array = NDArray[Any]
R = TypeVar("R", bound="Rule")
T = TypeVar("T", bound="type[BuiltIn]")
E = TypeVar("E", bound=Exception)


class Rule:
    """What turns a gradient into a step. Subclass it for a rule of your own.

    A rule is a value: it holds hyper-parameters and nothing that changes. What it remembers between steps is the state,
    which `init` makes and `apply` takes and returns. A frozen dataclass is the natural form: then `replace` and
    `optirs.adjust` work on its fields. Neither method may change its arguments; arrays arrive read-only. A 16-bit
    parameter and its gradient arrive as float32, in which they are computed.

    Examples:
        >>> import numpy as np, optirs
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class DecayDescent(optirs.Rule):
        ...     eta: float = 0.1
        ...     def init(self, x):
        ...         return 1
        ...     def apply(self, state, x, dx):
        ...         return state + 1, dx * (self.eta / state ** 0.5)
        >>> rule = optirs.OptimiserChain(optirs.WeightDecay(0.5), DecayDescent())
        >>> x = np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> state, dx = optirs.apply(rule, state, x, np.array([0.5, 0.0]))
        >>> state, dx
        ((None, 2), array([0.1, 0.1]))
    """

    def init(self, x: Array) -> Any:
        """The state before the first step of the parameter `x`: any object."""
        raise NotImplementedError(f"{type(self).__name__} must define init(self, x) -> state")

    def apply(self, state: Any, x: Array, dx: Array) -> tuple[Any, Any]:
        """`(new state, dx)`: what the gradient `dx` becomes, to be subtracted from `x`; `None` for no step."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(self, state, x, dx) -> (state, dx)")

    def replace(self, **values: Any) -> Self:
        """A copy with other hyper-parameters: `rule.replace(eta=0.1)`.

        Raises:
            TypeError: If there is no such field, or a value is not of its type.
            ValueError: If a value is out of range.
        """
        names = own_fields(self)
        for name in values:
            if name not in names:
                raise TypeError(f"{type(self).__name__} has no field {name!r}; it has {', '.join(names) or 'none'}")
        return dataclasses.replace(self, **values) if values else self  # type: ignore[type-var]

    @property
    def _master(self) -> str | None:
        """The precision of the copy that it steps instead of the parameter, which it rounds by itself, if it does."""
        return None

    def _spec(self, _of: Callable[["Rule"], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        """What the compiled module makes the rule of; `_of` says that of the rules inside. `None` if it cannot."""
        return None

    def _inside(self) -> tuple["Rule", ...] | None:
        """The rules that it is made of, first to last; `None` for one that stands by itself."""
        return None

    def _states(self, state: Any) -> tuple[Any, ...]:
        """The states, in its own, of the rules that it is made of."""
        raise NotImplementedError

    def _adjustable(self) -> list[str]:
        """The names of the hyper-parameters that `adjust` may change, here and in the rules inside."""
        return own_fields(self)

    def _adjusted(self, values: dict[str, Any]) -> Self:
        """A copy where those of `values` that are adjustable here, and in the rules inside, have changed."""
        return self.replace(**{name: values[name] for name in self._adjustable() if name in values})

    def _schedulable(self, name: str) -> list[Any]:
        """The values, here and in the rules inside, of the hyper-parameter of that name, where it can be scheduled."""
        value = getattr(self, name, None)
        return [value] if name in self._adjustable() and not isinstance(value, bool | np.bool_) else []

    def _resolved(self, _counts: Iterator[int]) -> "Rule":
        """The rule of one step, without schedules, whose step counts come from outside inwards, first to last."""
        return self


class Compiled(Rule):
    """A rule that the compiled module takes apart: one of its own, or what holds rules."""

    _builtin: ClassVar[bool]

    def init(self, x: Array) -> Any:
        """The state before the first step of the parameter `x`; see `optirs.init`."""
        return _core.init(plain(self), x)

    def apply(self, state: Any, x: Array, dx: Array) -> tuple[Any, Any]:
        """`(new state, dx)`; see `optirs.apply`."""
        result: tuple[Any, Any] = _core.apply(plain(self), state, x, dx)
        return result


class BuiltIn(Checked, Compiled):
    """A rule that is compiled. Its fields are checked as their types say."""

    _whole_step: ClassVar[bool] = False
    """Whether it looks at all parameters of a step together."""
    _lands: ClassVar[bool] = False
    """Whether it decides where the parameter lands, when all steps have been subtracted."""

    def _spec(self, _of: Callable[[Rule], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        base = parent(self)
        assert base is not None
        values = {name: getattr(self, name) for name in self._parameters}
        optional = {name for name, parameter in self._parameters.items() if getattr(parameter, "optional", False)}
        return base.__name__, {
            name: -1 if value is None and name in optional else value for name, value in values.items()
        }

    def _adjustable(self) -> list[str]:
        fixed = {name for name, parameter in self._parameters.items() if parameter.fixed}
        return [name for name in own_fields(self) if name not in fixed]

    def _schedulable(self, name: str) -> list[Any]:
        parameter = self._parameters.get(name)
        follows_none = parameter is not None and (parameter.initial or isinstance(parameter, Count))
        return [] if follows_none else super()._schedulable(name)


@dataclass_transform(frozen_default=True)
def builtin(cls: T) -> T:
    """Makes a class a built-in rule: a frozen dataclass with checked fields and a full docstring."""
    cls._builtin = True
    return checked(cls, "State:\n")


def parent(rule: Rule) -> type[Any] | None:
    """The built-in class that `rule` is of or derives from, if any."""
    # A plain loop: `setup` comes here for each new rule, and a generator takes three times as long.
    for c in type(rule).__mro__:
        if "_builtin" in c.__dict__:
            return c
    return None


def spec(rule: Rule) -> tuple[Any, ...] | None:
    """What the compiled module makes `rule` of; `None` if any part is a rule in Python.

    `('Adam', {'eta': 0.001, ...})`, `('OptimiserChain', (spec, ...))` or `('MixedPrecision', spec, 'float32')`. A
    subclass of a built-in rule that overrides neither `init` nor `apply` is its parent.
    """
    return rule._spec(spec) if is_built_in(expect_rule("rule", rule)) else None


def described(rule: Rule) -> tuple[Any, ...]:
    """As `spec`, with `("", rule)` for a rule in Python."""
    found = rule._spec(described) if is_built_in(expect_rule("rule", rule)) else None
    return ("", rule) if found is None else found


def own_rules(rule: Rule) -> list[Rule]:
    """The rules in `rule` that are none of the built-in ones, in their order."""
    return [each for each in flattened(rule) if not is_built_in(each)]


def is_built_in(rule: Rule) -> bool:
    """Whether `rule` does what a built-in class does: it is of one, or overrides neither `init` nor `apply` of one."""
    own, base = type(rule), parent(rule)
    return base is not None and own.init is base.init and own.apply is base.apply


def inside(rule: Rule) -> tuple[Rule, ...] | None:
    """The rules that a built-in one is made of, first to last; `None` for a rule that stands by itself."""
    return rule._inside() if is_built_in(rule) else None


def flattened(rule: Rule) -> Iterator[Rule]:
    """The rules inside that stand by themselves, in their order; `rule` alone if it does."""
    made_of = inside(rule)
    if made_of is None:
        yield rule
        return
    for each in made_of:
        yield from flattened(each)


def lands(rule: Rule) -> bool:
    """Whether `rule`, which stands by itself, decides where the parameter lands. A rule of one's own never does."""
    return is_built_in(rule) and isinstance(rule, BuiltIn) and rule._lands


def is_for_whole_step(rule: Rule) -> "TypeGuard[BuiltIn]":
    """Whether `rule`, which stands by itself, looks at all parameters of a step together."""
    return is_built_in(rule) and isinstance(rule, BuiltIn) and rule._whole_step


def with_states(rule: Rule, state: Any) -> Iterator[tuple[Rule, Any]]:
    """`rule` and its state, and then in their order those inside, with theirs."""
    yield rule, state
    made_of = inside(rule)
    if made_of is not None:
        for each, own in zip(made_of, rule._states(state), strict=True):
            yield from with_states(each, own)


def own(rule: Rule) -> str:
    """The class of the first rule in `rule` that is none of the built-in ones."""
    return type(own_rules(rule)[0]).__name__


def fields(rule: Rule) -> tuple[str, ...]:
    """The names of the hyper-parameters of `rule`, and of the rules inside, that `adjust` may change."""
    return tuple(dict.fromkeys(expect_rule("rule", rule)._adjustable()))


def adjusted(rule: R, **values: Any) -> R:
    """A copy where every rule inside that has a field of that name gets the value; the others stay as they are."""
    expect_rule("rule", rule)
    return rule._adjusted(values)


def resolved(rule: Rule, counts: tuple[int, ...]) -> Rule:
    """The rule of one step: every `Scheduled` in it, at its own count of steps, becomes the rule that it stands for."""
    return rule._resolved(iter(counts))


def plain(rule: Compiled) -> Rule:
    """`rule` as its built-in class, without what a subclass adds or overrides."""
    base = parent(rule)
    assert base is not None
    copy: Rule = object.__new__(base)
    for field in dataclasses.fields(base):
        object.__setattr__(copy, field.name, getattr(rule, field.name))
    return copy


def expect_rule(what: str, rule: Any) -> Rule:
    """`rule`, if it is one; `what` begins the message if it is not."""
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(f"{what} must be a rule, got the class {rule.__name__}: write {rule.__name__}(...)")
    raise TypeError(f"{what} must be a rule, got {rule!r}")


def placeless(error: E) -> E:
    """Marks an error of optirs' own about one parameter: an update puts the place into its text."""
    error._placeless = True  # type: ignore[attr-defined]
    return error
