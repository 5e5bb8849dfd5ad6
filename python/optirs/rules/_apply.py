"""A rule on one array: what it remembers at first, and what it makes of a gradient."""

from typing import Any

import numpy as np

from .. import _core
from .._gradient import with_large_ints
from .._rounding import cast
from ._base import Array, Rule, expect_rule, is_built_in, placeless

_COMPUTE: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}


def init(rule: Rule, x: Any) -> Any:
    """The state of `rule` before the first step of the parameter `x`.

    Args:
        rule: Any rule.
        x: The parameter, an array.

    Returns:
        `None`, a `dict` of arrays and counts, a tuple of such for a chain, or what a rule of your own makes.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.init(optirs.Momentum(), np.zeros(3))
        {'velocity': array([0., 0., 0.])}
    """
    expect_rule("init: the first argument", rule)
    x = _parameter(rule, x)
    if is_built_in(rule):
        return _core.init(rule, x if rule._master is not None else computed(x))
    return _apart(rule.init(_shown(rule, x)), x)


def apply(rule: Rule, state: Any, x: Any, dx: Any) -> tuple[Any, Any]:
    """What `rule` makes of the gradient `dx` of the parameter `x`. Pure: nothing is changed.

    Args:
        rule: Any rule.
        state: What `init` or the previous `apply` returned.
        x: The parameter.
        dx: The gradient, of the same shape; real where `x` is.

    Returns:
        `(new state, dx)`, where `dx` is to be subtracted from `x`; it is `None` where nothing is, as while `AccumGrad`
        collects. For a 16-bit parameter it is float32.

    Raises:
        ValueError: If the shapes differ.
        TypeError: If `x` is not an array of floats, or `dx` is complex and `x` is not.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.apply(optirs.Descent(0.5), None, np.zeros(2), np.array([1.0, 2.0]))
        (None, array([0.5, 1. ]))
    """
    expect_rule("apply: the first argument", rule)
    x = _parameter(rule, x)
    dx = _gradient(rule, x, dx, "the gradient")
    if is_built_in(rule):
        result: tuple[Any, Any] = _core.apply(rule, state, x if rule._master is not None else computed(x), dx)
        return result
    state, step = _pair(rule, rule.apply(_locked(state), _shown(rule, x), _locked(dx)))
    state, dx = _apart(state, x, dx), step
    return state, None if dx is None else _gradient(rule, x, dx, "its dx")


def _parameter(rule: Rule, x: Any) -> Array:
    """`x` as an array of a type that rules compute with."""
    array: Array = _core.as_plain(f"{_name(rule)}: the parameter", x)
    if array.dtype.name not in _COMPUTE:
        raise TypeError(f"{_name(rule)}: the parameter must be an array of floats, got {array.dtype}")
    return array


def _gradient(rule: Rule, x: Array, dx: Any, what: str) -> Array:
    """`dx` as an array like `x`, in the type in which the step is computed."""
    try:
        array: Array = _core.as_plain(f"{_name(rule)}: {what}", dx)
    except TypeError as error:
        raise placeless(error) from None
    except ValueError:  # rows of different lengths, or a state of several parts
        array = np.empty((), object)
    if not isinstance(dx, np.ndarray):
        try:
            array = with_large_ints(array)
        except ValueError as error:
            raise placeless(ValueError(f"{_name(rule)}: {what} {error}")) from None
    to = _COMPUTE[x.dtype.name] if what == "its dx" else _computing(rule, x)
    if array.dtype.name not in _COMPUTE and array.dtype.kind not in "iu":
        found = type(dx).__name__ if array.dtype.hasobject else array.dtype
        hint = "; write apply(rule, state, x, dx)" if what == "the gradient" and _like_a_state(dx) else ""
        raise placeless(TypeError(f"{_name(rule)}: {what} must be an array of numbers, got {found}{hint}"))
    if array.dtype.kind == "c" and to.kind != "c":
        raise placeless(TypeError(f"{_name(rule)}: {what} is {array.dtype}, the parameter is {x.dtype}"))
    if array.shape != x.shape:
        raise placeless(ValueError(f"{_name(rule)}: {what} has shape {array.shape}, the parameter has {x.shape}"))
    return cast(f"{_name(rule)}: {what}", array, to)


def _computing(rule: Rule, x: Array) -> np.dtype[Any]:
    """The type in which `rule` computes a step of `x`: that of the copy that it steps, if it does."""
    master = rule._master
    if master is None:
        return _COMPUTE[x.dtype.name]
    if x.dtype.kind != "c":
        return _COMPUTE[master]
    return np.dtype(np.complex128 if master == "float64" else np.complex64)


def _like_a_state(dx: Any) -> bool:
    """Whether a gradient looks as if it was put where the state goes, and the other way round."""
    return dx is None or isinstance(dx, dict | tuple)


def _pair(rule: Rule, result: Any) -> tuple[Any, Any]:
    """What `apply` of a rule must return."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise placeless(TypeError(f"{_name(rule)}.apply must return (state, dx), got {type(result).__name__}"))
    return result


def computed(x: Array) -> Array:
    """`x` in the type in which it is computed."""
    return cast("the parameter", x, _COMPUTE[x.dtype.name])


def _shown(rule: Rule, x: Array) -> Array:
    """`x` as a rule in Python sees it."""
    view: Array = _locked(x if rule._master is not None else computed(x))
    return view


def _locked(value: Any) -> Any:
    """`value` with its arrays, also those in plain containers, as read-only views."""
    if isinstance(value, np.ndarray):
        _core.refuse_moved("the state", value)
        view = np.asarray(value).view()
        view.flags.writeable = False
        return view
    if type(value) in (list, tuple):
        return type(value)(_locked(v) for v in value)
    if type(value) is dict:
        return {key: _locked(v) for key, v in value.items()}
    return value


def _apart(state: Any, *arrays: Array) -> Any:
    """`state` with copies of those of its arrays that may share memory with `arrays`, which may change later."""
    if isinstance(state, np.ndarray):
        plain = np.asarray(state)
        if not any(np.may_share_memory(plain, array) for array in arrays):
            return state
        with _core.Pinned("the state", state):
            return np.array(state, subok=True)
    if type(state) in (list, tuple):
        return type(state)(_apart(s, *arrays) for s in state)
    if type(state) is dict:
        return {key: _apart(s, *arrays) for key, s in state.items()}
    return state


def _name(rule: Rule) -> str:
    return type(rule).__name__
