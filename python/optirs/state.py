"""The optimiser's state: made, stepped, adjusted, frozen."""

from collections.abc import Callable
from typing import Any

from . import _core
from ._core import Leaf
from ._untrained import warn_of_model
from .rules import Rule, adjusted, fields
from .trees.ties import parameters
from .trees.tree import KeyPath

RuleFunction = Callable[[KeyPath, Any], Rule | None]
Placed = tuple[tuple[Any, ...], Leaf]
"""A Leaf and the keys that lead to it."""


def setup(rule: Rule | RuleFunction, model: Any) -> Any:
    """The state of training `model` with `rule`: a tree of the model's structure.

    Args:
        rule: A rule, or a function of key path and array that returns each parameter's rule, or None to leave it alone.
        model: A tree of arrays.

    Returns:
        A tree with a `Leaf` in place of every trainable array, one for tied ones, and None in place of every other leaf
        and of every child that is not trained. An object of a registered class stands there with its children; the
        other fields and defaults of its class are None.

    Raises:
        TypeError: If `rule` is neither, or makes no sense for a parameter's type.
        ValueError: If two parameters share elements without being tied. If a hyper-parameter becomes infinite in the
            type of the step, as a rate of 1e39 does in float32, or `epsilon`, `omega`, `delta` or `gamma` becomes zero.

    Warns:
        UserWarning: If nothing in the model is trainable; often a class lacks `@functor`. If tensors of another library
            stand in it, or objects that hold some, such as modules: only NumPy arrays are trained.

    Examples:
        >>> import numpy as np, optirs
        >>> state = optirs.setup(optirs.Adam(), {"W": np.zeros((2, 3), np.float32), "name": "linear"})
        >>> state["W"].state["m"].shape, state["name"]
        ((2, 3), None)

    As `Optimisers.setup` in Julia; `optax.GradientTransformation.init`.
    """
    _check_rule(rule)
    if isinstance(rule, Rule) and (state := _core.setup(rule, model)) is not None:
        return state
    all_leaves, found, index = parameters(model)
    warn_of_model(all_leaves, bool(found))
    chosen = [rule] * len(found) if isinstance(rule, Rule) else [_chosen(rule, p.path, p.array) for p in found]
    items = [(r, p.array, p.path) for r, p in zip(chosen, found, strict=True) if r is not None]
    made = iter(_core.make_leaves(items))
    by_parameter = [None if r is None else next(made) for r in chosen]
    values = [None if i is None else by_parameter[i] for i in index]
    return _core.unflatten(model, values, False, True)


def _check_rule(rule: Any) -> None:
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(f"setup needs a rule, got the class {rule.__name__}: write {rule.__name__}()")
    if not isinstance(rule, Rule) and not callable(rule):
        raise TypeError(f"setup takes (rule, model); the first argument is {type(rule).__name__}")


def _chosen(rule: RuleFunction, path: KeyPath, array: Any) -> Rule | None:
    chosen = rule(path, array)
    if chosen is None or isinstance(chosen, Rule):
        return chosen
    raise TypeError(f"the rule function returned {chosen!r} for {str(path) or 'the top'}, not a rule or None")


def _check_no_rule(state: Any) -> None:
    if isinstance(state, Rule) or (isinstance(state, type) and issubclass(state, Rule)):
        raise TypeError(
            f"update takes (state, model, gradient), and the first is the rule {state!r}: "
            "state = optirs.setup(rule, model) makes the state"
        ) from None


def update(state: Any, model: Any, grad: Any) -> tuple[Any, Any]:
    """One step: the new state and the new model. The arguments are left alone.

    Args:
        state: What `setup` or the previous `update` returned.
        model: The model.
        grad: A tree like the model; None at a node for no step below. Dicts and objects with some of a class's
            attributes will do for it, lists and tuples are interchangeable, and arrays are converted.

    Returns:
        `(state, model)`. Every array that has a Leaf, and every Leaf, is fresh, and a parameter that also stands
        where it is not trained is the fresh one there, too; all else is shared.

    Raises:
        TypeError: If something is of the wrong kind, or the arguments are in another order.
        ValueError: If structures, shapes or ties differ; the text names the place and both sides. If a schedule comes
            to a value that the type of the step cannot hold. If two rules for the whole step stand in one order here
            and in another there.
        FloatingPointError: If `ClipNorm` or `ClipGlobalNorm` meets a norm that is not finite, or `SkipNonFinite` would
            leave out more steps in a row than its limit.
        RuntimeError: If an `update_` of the same state is under way in another thread, or code of others in the middle
            of the step changes the trees or their arrays; the text names the place.

    Warns:
        UserWarning: If a gradient that is not zero is given for a number, a NumPy scalar, a tensor, or an array of a
            type that is not trained, such as longdouble. The text names the place.

    Examples:
        >>> import numpy as np, optirs
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(optirs.Descent(0.5), model)
        >>> state, new = optirs.update(state, model, {"w": np.array([1.0, 1.0])})
        >>> new["w"], model["w"]
        (array([0.5, 1.5]), array([1., 2.]))

    As `Optimisers.update` in Julia. PyTorch's `optimizer.step()` changes the model in place: see `update_`.
    """
    try:
        return _core.update(state, model, grad, False)
    except TypeError:
        _check_no_rule(state)
        raise


def update_(state: Any, model: Any, grad: Any) -> tuple[Any, Any]:
    """One step in place: as `update`, with the same answer and no new arrays.

    Args:
        state: As in `update`; it gets new values.
        model: As in `update`; its arrays get new values.
        grad: As in `update`. It may share memory with the model.

    Returns:
        Its two arguments.

    Raises:
        TypeError: As `update`.
        ValueError: As `update`, and if an array is read-only. After any error, model and state are as they were.
        FloatingPointError: As `update`.
        RuntimeError: If another update uses the same state.

    Warns:
        UserWarning: As `update`; where it is an error, nothing has been written.

    Examples:
        >>> import numpy as np, optirs
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(optirs.Descent(0.5), model)
        >>> _ = optirs.update_(state, model, {"w": np.array([1.0, 1.0])})
        >>> model["w"]
        array([0.5, 1.5])

    As `Optimisers.update!` in Julia.
    """
    try:
        return _core.update(state, model, grad, True)
    except TypeError:
        _check_no_rule(state)
        raise


def adjust(state: Any, eta: float | None = None, /, **fields: Any) -> Any:
    """A state, or a rule, with other hyper-parameters; the moments are kept.

    Args:
        state: A state, any subtree of one, or a rule.
        eta: The new learning rate.
        **fields: Other hyper-parameters by name. Those that only some rules have are changed there. `centred`, `dtype`,
            `n`, `name`, `k`, `start` and `every` cannot be, and `Rprop`'s `eta` acts at `setup` only.

    Returns:
        The same with changes; a state has its own moments, and tied Leafs stay tied.

    Raises:
        ValueError: If no rule has a field of that name, or a value is out of range or, as `setup` says, not held by the
            type of a step.
        TypeError: If there is nothing to adjust, or a value is not of its type.
        RuntimeError: If an `update_` in another thread uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.adjust(optirs.Adam(), 0.01, beta=(0.8, 0.99))
        Adam(eta=0.01, beta=(0.8, 0.99), epsilon=1e-08)
        >>> state = optirs.setup(optirs.Momentum(), {"w": np.zeros(2)})
        >>> optirs.adjust(state, rho=0.5)["w"].rule
        Momentum(eta=0.01, rho=0.5)

    As `Optimisers.adjust` in Julia.
    """
    if isinstance(state, Rule):
        return _adjusted_rules([state], eta, fields, "adjust")[0]
    leaves, own, rules = _adjusted_leaves(state, eta, fields, "adjust")
    with _core.Hold([leaf for _, leaf in own]):  # all of one step
        changed = zip(own, rules, strict=True)
        new = {id(leaf): leaf._with_rule(rule, path) for (path, leaf), rule in changed}
    return _core.unflatten(state, [new.get(id(leaf), leaf) for leaf in leaves], True, True)


def adjust_(state: Any, eta: float | None = None, /, **fields: Any) -> Any:
    """As `adjust`, in place: the Leafs of `state` get new hyper-parameters. Returns `state`.

    Args:
        state: A state or any subtree of one, such as `state["decoder"]`.
        eta: The new learning rate.
        **fields: Other hyper-parameters by name.

    Raises:
        ValueError: As `adjust`; nothing is changed then.
        TypeError: As `adjust`, and for a rule, which never changes.
        RuntimeError: If an update uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> state = optirs.setup(optirs.Descent(), {"encoder": np.zeros(2), "decoder": np.zeros(2)})
        >>> _ = optirs.adjust_(state["decoder"], 0.01)
        >>> state["encoder"].rule, state["decoder"].rule
        (Descent(eta=0.1), Descent(eta=0.01))

    As `Optimisers.adjust!` in Julia.
    """
    if isinstance(state, Rule):
        raise TypeError("adjust_: a rule does not change: use adjust, which returns a new one")
    _, own, rules = _adjusted_leaves(state, eta, fields, "adjust_")
    _core.set_rules([leaf for _, leaf in own], rules, [path for path, _ in own])
    return state


def _adjusted_leaves(
    state: Any, eta: Any, changes: dict[str, Any], what: str
) -> tuple[list[Any], list[Placed], list[Rule]]:
    """All leaves of the tree, its Leafs (tied ones once), and their new rules; `what` is the function asked."""
    leaves, own = leafs(state, what)
    return leaves, own, _adjusted_rules([leaf.rule for _, leaf in own], eta, changes, what)


def _adjusted_rules(rules: list[Rule], eta: Any, changes: dict[str, Any], what: str) -> list[Rule]:
    if eta is not None:
        if "eta" in changes:
            raise TypeError(f"{what}: eta is given twice")
        changes = {"eta": eta, **changes}
    known = [fields(rule) for rule in rules]
    names = dict.fromkeys(name for some in known for name in some)
    for name in changes:
        if name not in names:
            there = f"there are: {', '.join(names)}" if names else "there are none"
            raise ValueError(f"{what}: no rule here has a field {name!r} that can be adjusted; {there}")
    new: dict[int, Rule] = {}  # leaves that share a rule share the new one
    for rule, own in zip(rules, known, strict=True):
        if id(rule) not in new:
            new[id(rule)] = adjusted(rule, **{n: v for n, v in changes.items() if n in own})
    return [new[id(rule)] for rule in rules]


def leafs(state: Any, what: str) -> tuple[list[Any], list[Placed]]:
    """All leaves of the tree, and its Leafs with their paths, tied ones once."""
    found = _core.flatten(state, True)
    first: dict[int, Placed] = {}
    for path, leaf, _ in found:
        if isinstance(leaf, Leaf):
            first.setdefault(id(leaf), (path, leaf))
    if not first and any(leaf is not None for _, leaf, _ in found):
        raise TypeError(f"{what} takes a state, as setup returns it; this {type(state).__name__} holds no Leaf")
    return [leaf for _, leaf, _ in found], list(first.values())


def freeze_(state: Any) -> Any:
    """Makes updates skip every Leaf of `state`, until `thaw_`. Returns `state`.

    Args:
        state: A state or any subtree of one.

    Raises:
        TypeError: For anything else, such as a model.
        RuntimeError: If an update uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> state = optirs.setup(optirs.Descent(), {"encoder": np.zeros(2), "decoder": np.zeros(2)})
        >>> _ = optirs.freeze_(state["encoder"])
        >>> state["encoder"].frozen, state["decoder"].frozen
        (True, False)

    As `Optimisers.freeze!` in Julia.
    """
    return _set_frozen(state, True, "freeze_")


def thaw_(state: Any) -> Any:
    """Undoes `freeze_`. Returns `state`.

    Args:
        state: A state or any subtree of one.

    Raises:
        TypeError: For anything else, such as a model.
        RuntimeError: If an update uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> state = optirs.freeze_(optirs.setup(optirs.Descent(), {"w": np.zeros(2)}))
        >>> optirs.thaw_(state)["w"].frozen
        False

    As `Optimisers.thaw!` in Julia.
    """
    return _set_frozen(state, False, "thaw_")


def _set_frozen(state: Any, frozen: bool, what: str) -> Any:
    _, own = leafs(state, what)
    _core.set_frozen([leaf for _, leaf in own], frozen)
    return state
