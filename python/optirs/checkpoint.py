"""Models and states in files: saved at once or not at all, and loaded to go on with the same bits."""

import json
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _archive, _core
from ._agreement import same, same_ties, seen_from
from ._archive import Entry
from ._core import Leaf
from ._encoding import NUMBERS, Decoder, Encoder, encode_array
from .rules import Rule
from .ties import Parameter, arrays, parameters
from .tree import leaves

FORMAT = 1
"""The version of what the text of a file means."""


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """What a file holds: a model, a state, and the values saved with them.

    Args:
        model: The model; None if none was saved.
        state: The state; None if none was saved.
        metadata: The values by name.

    Examples:
        >>> import os, tempfile, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> optirs.save(path, model={"w": np.ones(2)}, epoch=3)
        >>> optirs.load(path, like={"w": np.zeros(2)})
        Checkpoint(model=dict, state=None, metadata={'epoch': 3})
    """

    model: Any
    state: Any
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        model, state = (None if tree is None else type(tree).__name__ for tree in (self.model, self.state))
        values = repr(self.metadata)
        if len(values) > 80:
            values = f"{{{', '.join(map(repr, self.metadata))}}}"
        return f"Checkpoint(model={model}, state={state}, metadata={values})"


def save(path: str | os.PathLike[str], *, model: Any = None, state: Any = None, **metadata: Any) -> None:
    """Writes model, state or both to one safetensors file.

    The file is written beside `path`, to the disk, and then renamed: whatever happens, `path` is the old file or the
    new one, whole. A process that is killed may leave a file `.optirs-*.tmp` there. Entries are named by key path, from
    `{"model": model, "state": state}` down and on into a Leaf's state: `model.layers[0].W`, `state.layers[0].W.m`.

    Args:
        path: Where to; a file that is there is replaced.
        model: A tree of arrays. All its arrays are saved, also those that are not trained, tied ones once. Other leaves
            are not: `load` takes them from `like`.
        state: Its state, as `setup` or `update` returns it, or the state of a model that is not saved.
        **metadata: Plain values to save with them: None, bool, int, float, complex, str, bytes, NumPy scalars, rules,
            and lists, tuples and dicts of those.

    Raises:
        TypeError: If there is nothing to save, or something that cannot be; the text names the place.
        ValueError: If two arrays share elements without being tied, the state is not one of the model's, two keys print
            alike, or something else than a file or a folder is at `path`.
        RecursionError: If something contains itself.
        RuntimeError: If an `update_` in another thread uses the state.
        OSError: If the system fails, or a folder is at `path`; a file there is whole even then, and no other is left.

    Examples:
        >>> import os, tempfile, numpy as np, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(optirs.Momentum(0.1), model)
        >>> optirs.save(path, model=model, state=state, epoch=1)
        >>> optirs.load(path, like=model).metadata
        {'epoch': 1}

    `torch.save` and pickle run code when they load; safetensors of Hugging Face keeps arrays alone.
    """
    if model is None and state is None:
        raise TypeError("save needs a model, a state or both: save(path, model=..., state=...)")
    held = [leaf for _, leaf, _ in leaves(state, whole=True) if isinstance(leaf, Leaf)]
    with _core.Hold(held):  # all of one step
        _save(path, model, state, metadata)


def _save(path: str | os.PathLike[str], model: Any, state: Any, metadata: dict[str, Any]) -> None:
    entries: dict[str, Entry] = {}
    table = None if state is None else _StateTable(state, entries)
    about = {
        "format": FORMAT,
        "metadata": {name: Encoder().value(value, ("metadata", name)) for name, value in metadata.items()},
        "rules": table and table.rules,
        "state": table and table.leaves,
        "none": table and table.none,
        "model": None if model is None else _model_table(model, entries),
    }
    if table is not None and model is not None:
        _fitted(table.leaves, table.none, model, "state", "model")
    text = json.dumps(about, separators=(",", ":"), allow_nan=False)
    _archive.write(os.fsdecode(path), entries, text[1:])


def _model_table(model: Any, entries: dict[str, Entry]) -> list[dict[str, Any]]:
    """The arrays of a model: how each is encoded, and the places where it stands."""
    all_leaves, found, _ = arrays(model)
    for path, leaf, _ in all_leaves:
        _expect_part(("model", *path), leaf)
    return [
        encode_array(p.array, ("model", *p.path), entries, foreign=True) | {"places": _places("model", p)}
        for p in found
    ]


def _expect_part(at: tuple[Any, ...], leaf: Any) -> None:
    """Raises where a state stands for a model, or a model of which nothing would be saved."""
    if isinstance(leaf, Leaf):
        raise TypeError(
            f"{_core.path_text(at)} is a Leaf, not a part of a model: write save(path, model=..., state=...)"
        )
    if len(at) == 1 and not isinstance(leaf, np.ndarray):
        raise TypeError(f"model is a {type(leaf).__name__}, of which nothing would be saved: register it with functor")


def _places(root: str, p: Parameter) -> list[list[Any]]:
    """Where an array stands, and whether transposed."""
    return [[_core.path_text((root, *path)), transposed] for path, transposed in p.places]


class _StateTable:
    """The Leafs of a state, tied ones once, and the rules they have."""

    def __init__(self, state: Any, entries: dict[str, Entry]) -> None:
        self.rules: list[Any] = []
        self.none: list[str] = []
        """Where the state has None: a parameter may stand there that has no Leaf."""
        self._index: dict[str, int] = {}
        self._seen: dict[int, tuple[Any, int]] = {}
        self._encoder = Encoder(entries)
        found: dict[int, dict[str, Any]] = {}
        for path, leaf, _ in leaves(state, whole=True):
            at = ("state", *path)
            if leaf is None:
                self.none.append(_core.path_text(at))
                continue
            if not isinstance(leaf, Leaf):
                kind = type(leaf).__name__
                raise TypeError(
                    f"{_core.path_text(at)} is a {kind}, not a Leaf: write save(path, model=..., state=...)"
                )
            if id(leaf) not in found:
                found[id(leaf)] = self._leaf(leaf, at)
            found[id(leaf)]["places"].append(_core.path_text(at))
        self.leaves = list(found.values())

    def _leaf(self, leaf: Leaf, at: tuple[Any, ...]) -> dict[str, Any]:
        rule, shape, strides, dtype, state, frozen = leaf._parts()
        rule = self._rule(rule, (*at, "rule"))
        state = self._encoder.value(state, at)
        return {"rule": rule, "shape": shape, "strides": strides, "dtype": dtype, "frozen": frozen} | {
            "places": [],
            "state": state,
        }

    def _rule(self, rule: Any, at: tuple[Any, ...]) -> int:
        """The place of a rule among the rules."""
        if id(rule) in self._seen:
            return self._seen[id(rule)][1]
        encoded = Encoder().value(rule, at)
        if not _made_again(rule, encoded):
            raise TypeError(
                f"{_core.path_text(at)} is {rule!r}, which cannot be saved: its fields do not make it again"
            )
        index = self._index.setdefault(json.dumps(encoded), len(self.rules))
        if index == len(self.rules):
            self.rules.append(encoded)
        self._seen[id(rule)] = rule, index
        return index


def _made_again(rule: Rule, encoded: Any) -> bool:
    """Whether a rule that was written is read as the same."""
    try:
        return bool(Decoder({}).value(encoded) == rule)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def load(path: str | os.PathLike[str], like: Any) -> Checkpoint:
    """Reads what `save` wrote, as trees of the structure of `like`.

    Nothing in the file is run: a rule is made by a class that the process has already.

    Args:
        path: The file.
        like: A model of the same structure, shapes, dtypes and ties; its values do not matter. Leaves that are no
            arrays, and attributes that are no children, are taken from it. It is left alone.

    Returns:
        A `Checkpoint` with new arrays, of the dtypes, memory orders and ties of the saved ones. Whoever goes on from it
        gets the same bits as if he had never stopped.

    Raises:
        ValueError: If the file is damaged or not one of `save`'s, or does not fit `like`; the text names the place and
            both sides. If a rule in it is of a class that no imported module defines.
        OSError: If it cannot be read.

    Examples:
        >>> import os, tempfile, numpy as np, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> optirs.save(path, model=model, state=optirs.setup(optirs.Adam(), model))
        >>> found = optirs.load(path, like={"w": np.zeros(2)})
        >>> found.model["w"], found.state["w"].rule.eta
        (array([1., 2.]), 0.001)
        >>> optirs.load(path, like={"w": np.zeros(3)})
        Traceback (most recent call last):
            ...
        ValueError: model.w has shape (2,) in the file, (3,) in like
    """
    path = os.fsdecode(path)
    text, entries = _archive.read(path)
    decoder = Decoder(entries)
    try:
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise ValueError(f"{path} has format {about['format']}; this version of optirs reads {FORMAT}")
        model = None if about["model"] is None else _model(about["model"], like, decoder)
        state = None if about["state"] is None else _state(about, like, decoder)
        metadata = {name: decoder.value(value) for name, value in about["metadata"].items()}
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise ValueError(f"{path} has contents that make no sense: {error!r}") from error
    if decoder.unused:
        raise ValueError(f"{path} has an entry that belongs nowhere: {next(iter(decoder.unused))}")
    return Checkpoint(model, state, metadata)


def _model(table: list[dict[str, Any]], like: Any, decoder: Decoder) -> Any:
    """A model like `like`, with the arrays of the file."""
    all_leaves, found, index = arrays(like)
    first = {place: encoded for encoded in table for place, _ in encoded["places"]}
    made = []
    for p in found:
        places = _places("model", p)
        at = places[0][0]
        if at not in first:
            raise ValueError(f"like has an array at {at}, the file has none")
        encoded = first[at]
        transposed = dict(encoded["places"])  # as against the first place in the file, which may be another in `like`
        same_ties(at, seen_from(at, encoded["places"]), places)
        same(at, "dtype", encoded["dtype"], p.array.dtype.name if p.array.dtype.name in NUMBERS else str(p.array.dtype))
        x = decoder.array(encoded, like=p.array)
        same(at, "shape", x.T.shape if transposed[at] else x.shape, p.array.shape)
        made.append([x.T if transposed[place] else x for place, _ in places])
        for place, _ in places:
            del first[place]
    if first:
        raise ValueError(f"the file has an array at {next(iter(first))}, like has none")
    by_parameter = [iter(values) for values in made]
    values = [leaf if i is None else next(by_parameter[i]) for (_, leaf, _), i in zip(all_leaves, index, strict=True)]
    return _core.unflatten(like, values, True, False)


def _state(about: dict[str, Any], like: Any, decoder: Decoder) -> Any:
    """A state for `like`, with the Leafs of the file."""
    fitted, index = _fitted(about["state"], about["none"], like, "file", "like")
    rules = [decoder.value(encoded) for encoded in about["rules"]]
    for rule in rules:
        if not isinstance(rule, Rule):
            raise TypeError(f"{rule!r} is no rule")
    items = [(rules[f["rule"]], f["shape"], f["strides"], f["dtype"], f["frozen"]) for f in fitted if f is not None]
    states = (decoder.value(f["state"]) for f in fitted if f is not None)  # one at a time: they are copied
    restored = iter(_core.restore_leaves(items, states))
    made = [None if f is None else next(restored) for f in fitted]
    return _core.unflatten(like, [None if i is None else made[i] for i in index], False, True)


def _fitted(
    table: list[dict[str, Any]], none: list[str], model: Any, one: str, other: str
) -> tuple[list[dict[str, Any] | None], list[int | None]]:
    """The Leaf in the table of each parameter of `model`, if it has one, and each leaf's index among them."""
    _, found, index = parameters(model)
    by_place = {place: leaf for leaf in table for place in leaf["places"]}
    fitted = []
    unknown = set[str]()
    for p in found:
        transposed = dict(_places("state", p))
        places = [[place, False] for place in transposed]
        at = places[0][0]
        leaf = by_place.get(at)
        fitted.append(leaf)
        if leaf is None:
            unknown.update(transposed)
            continue
        same_ties(at, seen_from(at, [[place, False] for place in leaf["places"]]), places, one, other)
        first = leaf["places"][0]
        if transposed[first]:  # what the rule remembers lies as the array does there
            raise ValueError(f"{at} is the transpose of {first}, which comes first in the {one}, but not in {other}")
        same(at, "shape", tuple(leaf["shape"]), p.array.shape, one, other)
        same(at, "dtype", leaf["dtype"], p.array.dtype.name, one, other)
        for place, _ in places:
            del by_place[place]
    if by_place:
        raise ValueError(f"the {one} has a Leaf at {next(iter(by_place))}, where {other} has no parameter")
    if unknown := unknown.difference(none):
        raise ValueError(f"{other} has a parameter at {min(unknown)}, where the {one} has neither a Leaf nor None")
    return fitted, index
