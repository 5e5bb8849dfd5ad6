"""What the rules for the whole step have seen, as numbers by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import _core
from ._core import Leaf
from .rules import ClipGlobalNorm, Rule, Scheduled, SkipNonFinite, flattened, inside, is_for_whole_step, plain
from .state import leafs


def metrics(state: Any) -> dict[str, float]:
    """What the rules for the whole step say of the last one, by name.

    Args:
        state: A state, or any subtree of one.

    Returns:
        `"ClipGlobalNorm.norm"`, `"SkipNonFinite.skipped"` and `"SkipNonFinite.consecutive"`, as far as there are such
        rules; those that have a name as `"ClipGlobalNorm[decoder].norm"`. Where the Leafs of a group disagree, since
        some of them did not take part in every step, the norm is that of the group's last step, and a count the
        greatest. A file does not say which Leafs took part last: after `load`, where they disagree, the norm is that of
        the first one that is not frozen.

    Raises:
        ValueError: If two groups have one name: give their rules different ones.
        TypeError: If there is no state, such as for a model.
        RuntimeError: If an `update_` in another thread uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.ClipGlobalNorm(10.0, name="all"), optirs.Descent(0.5))
        >>> model = {"a": np.zeros(1), "b": np.zeros(1)}
        >>> state = optirs.setup(rule, model)
        >>> state, model = optirs.update(state, model, {"a": np.array([3.0]), "b": np.array([4.0])})
        >>> optirs.metrics(state)
        {'ClipGlobalNorm[all].norm': 5.0}

    In PyTorch, `clip_grad_norm_` returns the norm; optax keeps counts in the state of `apply_if_finite`.
    """
    values: dict[str, float] = {}
    for name, members in _groups(state).items():
        _check_one_group(members)
        if isinstance(members[0].rule, ClipGlobalNorm):
            latest = max(members, key=lambda member: (member.stamp, not member.frozen))
            values[f"{name}.norm"] = latest.state["norm"]
        else:
            for count in ("skipped", "consecutive"):
                values[f"{name}.{count}"] = float(max(member.state[count] for member in members))
    return values


def not_taken(state: Any) -> set[str]:
    """The norms in `metrics` that no step has taken yet: they are 0.0, which says nothing."""
    groups = _groups(state).items()
    norms = {name: members for name, members in groups if isinstance(members[0].rule, ClipGlobalNorm)}
    new = [name for name, members in norms.items() if not any(m.stamp or m.state["norm"] for m in members)]
    return {f"{name}.norm" for name in new}


def _groups(state: Any) -> dict[str, list["_Member"]]:
    """The rules for the whole step in the Leafs of a state, by their names in `metrics`."""
    _, own = leafs(state, "metrics")
    by_name: dict[str, list[_Member]] = {}
    with _core.Hold([leaf for _, leaf in own]):  # all of one step
        for path, leaf in own:
            for member in _members_of(path, leaf):
                by_name.setdefault(member.name, []).append(member)
    return by_name


@dataclass
class _Member:
    """A rule for the whole step in a Leaf."""

    rule: ClipGlobalNorm | SkipNonFinite
    """As it was at the last step, whatever schedules it follows."""
    state: dict[str, Any]
    path: tuple[Any, ...]
    leaf: Leaf
    place: int
    """Which of the rules for the whole step in the Leaf it is."""
    stamp: int = 0
    """Of a norm: the greater, the later the step; 0 where that is not known."""

    @property
    def name(self) -> str:
        """How it is called in `metrics`."""
        own = self.rule.name
        return f"{type(self.rule).__name__}[{own}]" if own else type(self.rule).__name__

    @property
    def frozen(self) -> bool:
        return self.leaf.frozen

    def follows_the_schedule_of(self, other: "_Member") -> bool:
        """Whether both are one and the same rule, maybe at different steps."""
        return self.place == other.place and bool(self.leaf.rule == other.leaf.rule)

    def __str__(self) -> str:
        return f"{self.rule!r} at {_core.path_text(self.path) or 'the top'}"


def _members_of(path: tuple[Any, ...], leaf: Leaf) -> list[_Member]:
    """The rules for the whole step in a Leaf."""
    if not any(map(is_for_whole_step, flattened(leaf.rule))):
        return []  # its state is not asked
    found = enumerate(_in_rule(leaf.rule, leaf.state))
    members = [
        _Member(rule, state, path, leaf, place)
        for place, (rule, state) in found
        if isinstance(rule, ClipGlobalNorm | SkipNonFinite)  # all of them, for the type checker
    ]
    norms = [member for member in members if isinstance(member.rule, ClipGlobalNorm)]
    for member, stamp in zip(norms, _core.stamps(leaf), strict=True):
        member.stamp = stamp
    return members


def _in_rule(rule: Rule, state: Any) -> Iterator[tuple[Rule, dict[str, Any]]]:
    """The rules for the whole step in `rule`, as they were at its last step, with their states."""
    made_of = inside(rule)
    if made_of is None:
        if is_for_whole_step(rule):
            yield plain(rule), state
        return
    for each, own in zip(made_of, rule._states(state), strict=True):
        for found, its in _in_rule(each, own):
            yield rule._at_last_step(found, state) if isinstance(rule, Scheduled) else found, its


def _check_one_group(members: list[_Member]) -> None:
    """Raises if rules of one name are not equal; but those that one rule makes by its schedule are one group."""
    first = members[0]
    for other in members[1:]:
        if other.rule != first.rule and not other.follows_the_schedule_of(first):
            raise ValueError(
                f"metrics: {first} and {other} are two groups of one name: tell them apart by another name, as "
                f"{type(first.rule).__name__}(..., name='encoder') has it"
            )
