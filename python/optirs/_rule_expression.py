"""Rules written as text, `Adam` or `OptimiserChain(ClipNorm(1.0), Adam(0.01))`: read, never evaluated."""

from __future__ import annotations

import ast
from typing import Any

from .rules import RULES, Rule

LONGEST = 1000
"""Characters; deeply nested text would exhaust the stack of Python's parser."""


def parse_rule(text: str) -> Rule:
    """The rule that `text` names: a name from `optirs.RULES`, alone or called with literals and other rules.

    Raises:
        ValueError: the text is anything else, or the rule refuses its arguments.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a rule of more than {LONGEST} characters")
    try:
        node = ast.parse(text.strip(), mode="eval").body
        return _rule(node)
    except SyntaxError as error:
        raise ValueError(f"not a rule: {text!r} ({error.msg})") from error
    except (TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _rule(node: ast.expr) -> Rule:
    if not isinstance(node, ast.Call):
        node = ast.Call(node, [], [])
    values = [_value(argument) for argument in node.args]
    options: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** has no place in a rule")
        options[keyword.arg] = _value(keyword.value)
    rule: Rule = _named(node.func)(*values, **options)
    return rule


def _named(node: ast.expr) -> type[Any]:
    name = node.id if isinstance(node, ast.Name) else ast.unparse(node)
    if name not in RULES:
        raise ValueError(f"there is no rule {name!r}; there are {', '.join(RULES)}")
    return RULES[name]


def _value(node: ast.expr) -> Any:
    if isinstance(node, (ast.Call, ast.Name)):
        return _rule(node)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"not a number, a literal or a rule: {ast.unparse(node)}") from error
