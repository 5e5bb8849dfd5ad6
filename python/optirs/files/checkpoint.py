"""Models and states in files: saved at once or not at all, and loaded to go on with the same bits."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core
from .._core import Leaf, Outline, no_collections
from ..trees.tree import KeyPath
from . import _archive
from ._agreement import Kind, Match, Side, differing, matched
from ._contents import Contents
from ._description import (
    Rules,
    arrays_of,
    check_ties,
    described,
    leaf_signatures,
    outlined,
    parameters_of,
    side,
)
from ._encoding import Encoder
from ._format1 import Contents1
from ._renaming import Rename, rename_places
from ._structure import LAYERS, draft
from .report import Report


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """What a file holds: a model, a state, and the values saved with them.

    Args:
        model: The model; None if none was saved.
        state: The state; None if none was saved.
        metadata: The values by name.
        report: What of the file was loaded into `like`, and what was not.

    Examples:
        >>> import os, tempfile, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> optirs.save(path, model={"w": np.ones(2)}, epoch=3)
        >>> optirs.load(path)
        Checkpoint(model=dict, state=None, metadata={'epoch': 3})
    """

    model: Any
    state: Any
    metadata: dict[str, Any]
    report: Report = field(default_factory=Report)

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
    `{"model": model, "state": state}` down and on into a Leaf's state: `model.layers[0].W`, `state.layers[0].W.m`; of
    more than 10^5 arrays those of one type are one entry.

    Args:
        path: Where to; a file that is there is replaced.
        model: A tree of arrays. All its arrays are saved, also those that are not trained, tied ones once; beside them
            the kinds of its nodes and its plain values, as far as they can be written.
        state: Its state, as `setup` or `update` returns it, or the state of a model that is not saved.
        **metadata: Plain values to save with them: None, bool, int, float, complex, str, bytes, NumPy scalars, rules,
            and lists, tuples and dicts of those.

    Raises:
        TypeError: If there is nothing to save, or something that cannot be; the text names the place.
        ValueError: If two arrays share elements without being tied, the state is not one of the model's, two keys print
            alike, or something else than a file or a folder is at `path`.
        RecursionError: If something contains itself.
        RuntimeError: If an `update_` in another thread uses the state, or one changes the shape of an array.
        OSError: If the system fails, or a folder is at `path`; a file there is whole even then, and no other is left.

    Examples:
        >>> import os, tempfile, numpy as np, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(optirs.Momentum(0.1), model)
        >>> optirs.save(path, model=model, state=state, epoch=1)
        >>> optirs.load(path).metadata
        {'epoch': 1}

    `torch.save` and pickle run code when they load; safetensors of Hugging Face keeps arrays alone.
    """
    if model is None and state is None:
        raise TypeError("save needs a model, a state or both: save(path, model=..., state=...)")
    path = os.fsdecode(path)
    _archive.check_replaceable(path)
    with no_collections:
        _save(path, model, state, metadata)


def _save(path: str, model: Any, state: Any, metadata: dict[str, Any]) -> None:
    made = draft()
    outlines = outlined(made, model, state)
    with _core.Hold(outlines["state"].found if state is not None else []):  # all of one step
        about = {
            "format": _archive.FORMAT,
            "metadata": {name: Encoder().value(value, ("metadata", name)) for name, value in metadata.items()},
            **described(made, outlines, Rules()),
        }
        if state is not None and model is not None:
            kinds, of = about["state"]["leafs"]["kinds"], about["state"]["leafs"]["of"].tolist()
            leafs = side("state", "Leaf", outlines["state"], leaf_signatures(kinds, of))
            matched(leafs, parameters_of("model", model)[0], strict=True, differing={})
        _archive.write(path, about, made.inventory)


def load(
    path: str | os.PathLike[str], like: Any = None, *, strict: bool = True, rename: Rename | None = None
) -> Checkpoint:
    """Reads what `save` wrote, as trees of the structure of `like`, or of the one that the file has.

    Nothing in the file is run: a rule is made by a class that the process has already. Without `like`, trees of dicts,
    `OrderedDict`s, lists, tuples, the layers of this package, arrays of numbers and plain values are made again; what
    stood twice as one object does so again.

    Args:
        path: The file.
        like: A model of the same structure, shapes, dtypes and ties; its values do not matter. Leaves that are no
            arrays, and attributes that are no children, are taken from it. It is left alone. A file needs it that has
            objects of the user's classes, functions and other values that cannot be written.
        strict: Whether what differs from `like` is an error. If not, what fits is loaded and the rest stays as in
            `like`; the report says what, and the state of it is None.
        rename: From old to new key paths, a dict or a function of text such as `layers[0].W`, from the model down. In a
            dict a path stands for all below it, too. The state follows.

    Returns:
        A `Checkpoint` with new arrays, of the dtypes, memory orders and ties of the saved ones. Whoever goes on from it
        gets the same bits as if he had never stopped.

    Raises:
        ValueError: If the file is damaged or not one of `save`'s, or does not fit `like`; the text names the place and
            both sides. If `like` is needed, or a rule in it is of a class that no imported module defines.
        TypeError: If `rename` is neither a dict nor a function, makes something else than text, or there is no `like`.
        OSError: If it cannot be read.

    Warns:
        UserWarning: If parameters are left without a Leaf though the file has a state; `setup` makes one.

    Examples:
        >>> import os, tempfile, numpy as np, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> optirs.save(path, model=model, state=optirs.setup(optirs.Adam(), model))
        >>> found = optirs.load(path)
        >>> found.model["w"], found.state["w"].rule.eta
        (array([1., 2.]), 0.001)
        >>> optirs.load(path, like={"w": np.zeros(3)})
        Traceback (most recent call last):
            ...
        ValueError: model.w has shape (2,) in the file, (3,) in like
        >>> optirs.load(path, like={"v": np.zeros(2)}, rename={"w": "v"}).model
        {'v': array([1., 2.])}
    """
    path = os.fsdecode(path)
    if rename is not None and like is None:
        raise TypeError("load: rename says where things stand in like, and there is none")
    with no_collections:
        found = _archive.read(path)
        file = (Contents1 if found.about["format"] == 1 else Contents)(path, found)
        del found
        if like is None:
            return _rebuilt(file)
        if rename is not None:
            rename_places(file, rename)
        return _loaded(file, like, strict)


def _rebuilt(file: Contents) -> Checkpoint:
    """What the file holds, in the structure that it has."""
    model = None if file.model is None else file.rebuilt_model()
    state = None if file.state is None else file.rebuilt_state()
    if file.model is not None and file.state is not None:
        matched(file.state, parameters_of("the model", model)[0], strict=True, differing={})
    of = file.state if file.model is None else file.model
    loaded = [] if of is None else _paths(of, range(len(of.signatures)))
    return Checkpoint(model, state, file.metadata, Report(loaded))


def _loaded(file: Contents, like: Any, strict: bool) -> Checkpoint:
    """What the file holds, in the structure of `like`."""
    outline = _core.outline_of_tree(like, "model", True, LAYERS)
    check_ties(outline)
    theirs = arrays_of("like", "array", outline)
    nodes = _differing(file, outline, theirs, strict)
    model = state = None
    report = Report()
    if file.model is not None:
        match = matched(file.model, theirs, strict=strict, differing=nodes)
        report = _report(file.model, theirs, match)
        model = _filled(like, outline, file, match)
    if file.state is not None:
        theirs, outline = parameters_of("like", like)
        nodes = {_of_state(place): how for place, how in nodes.items()}
        match = matched(file.state, theirs, strict=strict, differing=nodes)
        if file.model is None:
            report = _report(file.state, theirs, match)
        state = _with_leafs(like, outline, file, match)
        if left := len(match.missing) + len(match.mismatched):
            parameters = "1 parameter of like has" if left == 1 else f"{left} parameters of like have"
            warnings.warn(
                f"load: {parameters} no state in the file that fits, and None for a Leaf: optirs.setup makes one",
                UserWarning,
                stacklevel=3,
            )
    return Checkpoint(model, state, file.metadata, report)


def _differing(file: Contents, outline: Outline, theirs: Side, strict: bool) -> dict[str, str]:
    """The nodes of `like` that are others in the file, and how: in its model, else in its state."""
    if file.model is not None:
        if file.has_containers_of(outline):
            return {}
        mine = file.containers("model")
        return differing(mine, outline.containers, (file.model.places, theirs.places), strict)
    mine = [(place, _of_any_activation(kind)) for place, kind in file.containers("state")]
    other = [(_of_state(place), _of_any_activation(kind)) for place, kind in outline.containers]
    found = differing(mine, other, ([], []), strict)
    return {f"model{place.removeprefix('state')}": how for place, how in found.items()}


def _of_state(place: str) -> str:
    return f"state{place.removeprefix('model')}"


def _of_any_activation(kind: Kind) -> Kind:
    """A node as states have it, in which layers have no activation."""
    return kind[:2] if kind[0] == "layer" else kind


def _filled(like: Any, outline: Outline, file: Contents, match: Match) -> Any:
    """A model like `like`, with the arrays of the file, and copies of its own where there is none."""
    chosen = match.chosen
    found = outline.found
    pairs = [(a, x) for a, x in zip(chosen, found, strict=True) if a is not None]
    arrays = file.arrays([a for a, _ in pairs], [x for _, x in pairs])
    if len(arrays) < len(chosen):
        loaded = iter(arrays)
        own = zip(chosen, found, strict=True)
        with _core.Pinned("load: an array of like", *found):
            arrays = [np.array(x, order="K") if a is None else next(loaded) for a, x in own]
    for i in match.flipped:
        arrays[i] = arrays[i].T
    return _core.unflatten(like, outline.filled(arrays, False), True, False)


def _with_leafs(like: Any, outline: Outline, file: Contents, match: Match) -> Any:
    """A state for `like`, with the Leafs of the file."""
    made: list[Leaf | None] = [*file.leafs([a for a in match.chosen if a is not None])]
    if len(made) < len(match.chosen):
        leafs = iter(made)
        made = [None if a is None else next(leafs) for a in match.chosen]
    return _core.unflatten(like, outline.filled(made, True), False, True)


def _report(mine: Side, theirs: Side, match: Match) -> Report:
    """What of the file was loaded, and what was not."""
    differ = list(match.mismatched)
    unexpected = mine.paths(match.unexpected)
    mismatched = _paths(theirs, differ)
    reasons = dict(zip(mismatched, match.mismatched.values(), strict=True))
    loaded = _paths(theirs, [i for i, a in enumerate(match.chosen) if a is not None])
    return Report(loaded, _paths(theirs, match.missing), unexpected, mismatched, reasons)


def _paths(side: Side, wanted: Iterable[int]) -> list[KeyPath]:
    """The key paths of some arrays, of each its first place."""
    first = side.first
    return side.paths([first[i] for i in wanted])
