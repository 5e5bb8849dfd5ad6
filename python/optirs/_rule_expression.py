"""Rules written as text, `Adam` or `Scheduled(Adam(), eta=schedules.Cosine(0.1, 500))`: read, never evaluated."""

from __future__ import annotations

import ast
from typing import Any

from .rules import RULES, Rule, Scheduled
from .schedules import SCHEDULES

LONGEST = 1000
"""Characters; deeply nested text would exhaust the stack of Python's parser."""

NAMES: dict[str, type[Any]] = {
    **RULES,
    "Scheduled": Scheduled,
    **{f"schedules.{name}": schedule for name, schedule in SCHEDULES.items()},
}
"""What may be called."""


def parse_rule(text: str) -> Rule:
    """The rule that `text` names: alone, or called with literals, other rules, and schedules.

    Raises:
        ValueError: the text is anything else, or the rule refuses its arguments.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a rule of more than {LONGEST} characters")
    try:
        node = ast.parse(text.strip(), mode="eval").body
        rule = _made(node)
        if not isinstance(rule, Rule):
            raise ValueError(f"not a rule, but a schedule: {rule!r}")
        return rule
    except SyntaxError as error:
        raise ValueError(f"not a rule: {text!r} ({error.msg})") from error
    except (TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _made(node: ast.expr) -> Any:
    """A rule or a schedule."""
    if not isinstance(node, ast.Call):
        node = ast.Call(node, [], [])
    values = [_value(argument) for argument in node.args]
    options: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** has no place in a rule")
        options[keyword.arg] = _value(keyword.value)
    return _named(node.func)(*values, **options)


def _named(node: ast.expr) -> type[Any]:
    name = ast.unparse(node)
    if name not in NAMES:
        raise ValueError(f"there is no rule {name!r}; there are {', '.join(NAMES)}")
    return NAMES[name]


def _value(node: ast.expr) -> Any:
    if isinstance(node, (ast.Call, ast.Name, ast.Attribute)):
        return _made(node)
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(map(_value, node.elts))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"not a number, a literal or a rule: {ast.unparse(node)}") from error
