"""A model and a state in 64 digits, to tell whether two are equal."""

import hashlib
import json
from typing import Any

from .. import _core
from .._core import Numbers, no_collections
from ._agreement import Signature
from ._archive import Json
from ._description import Rules, described, outlined
from ._encoding import signature
from ._structure import draft


def digest(state: Any, model: Any) -> str:
    """A SHA-256 of a state and a model: equal ones have equal digests, on every platform and in every process.

    All bytes, shapes, types, key paths, ties, frozen flags, counts and rules count, and so do layers, their activations
    and plain values. The order in memory, the order of a dict's keys and the names of the user's classes do not, except
    that of two places tied by a transpose it counts which comes first. Lists and tuples are alike, all NaNs are
    one, and what cannot be written, such as a function, is alike everywhere.

    Args:
        state: A state, or None.
        model: A model, or None.

    Returns:
        64 hex digits.

    Raises:
        TypeError: If there is something that `save` refuses; the text names the place.
        RecursionError: If something contains itself.
        RuntimeError: If an `update_` in another thread uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> x = np.arange(6.0).reshape(2, 3)
        >>> optirs.digest(None, {"x": x}) == optirs.digest(None, {"x": np.asfortranarray(x)})
        True
        >>> optirs.digest(None, {"x": x}) == optirs.digest(None, {"x": x + 1})
        False

    As a checksum of a `state_dict`, whose bytes differ from one `torch.save` to the next.
    """
    if state is None and model is None:
        raise TypeError("digest needs a state, a model or both: digest(state, model)")
    try:
        with no_collections:
            return _digest(state, model)
    except ValueError as error:
        raise TypeError(f"digest: {error}") from error


def _digest(state: Any, model: Any) -> str:
    made = draft(canonical=True)
    outlines = outlined(made, model, state)
    with _core.Hold(outlines["state"].found if state is not None else []):  # all of one step
        about = described(made, outlines, Rules(canonical=True))
        sha = hashlib.sha256(_text(about).encode())
        while chunk := made.inventory.chunk(canonical=True):
            sha.update(chunk)
    return sha.hexdigest()


def _text(about: Json) -> str:
    """What there is to say besides the bytes of arrays, alike for equal trees."""
    kinds: list[Signature] = [signature(kind) for kind in about["arrays"]["kinds"]]
    forms = [_form(form) for form in about["forms"]]
    text: Json = {"arrays": [kinds[k] for k in about["arrays"]["of"].tolist()]}
    if about["model"] is not None:
        text["model"] = _expanded(about["model"]["nodes"], forms)
    if about["state"] is not None:
        leafs = about["state"]["leafs"]
        described = [
            [about["rules"][kind["rule"]], kind["dtype"], kind["shape"], kind["frozen"]] for kind in leafs["kinds"]
        ]
        text["state"] = _expanded(about["state"]["nodes"], forms)
        text["leafs"] = [described[k] for k in leafs["of"].tolist()]
        text["states"] = _expanded(leafs["states"], forms)
    return json.dumps(text, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _expanded(nodes: Numbers, forms: list[Any]) -> list[Any]:
    """Nodes with what they are in place of its number."""
    return [node if node >= 0 else forms[-1 - node] for node in nodes.tolist()]


def _form(form: Any) -> Any:
    """What counts of a form."""
    if form is None or "unknown" in form:
        return form and "unknown"
    if "tuple" in form:
        return {"list": form["tuple"]}
    if "plain" in form:
        return form | {"plain": {name: _form(value) for name, value in form["plain"].items()}}
    return {what: said for what, said in form.items() if what != "class"}
