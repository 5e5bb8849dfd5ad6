"""What a file says: where arrays and Leafs stand, and how they are made."""

import contextlib
from collections.abc import Iterator
from typing import Any

from . import _core
from ._agreement import Kind, Side
from ._archive import NONSENSE, Array, File, Json, nonsense
from ._core import Leaf
from ._description import leaf_signatures, side
from ._encoding import NUMBERS, Decoder, finished, signature
from ._structure import WAY_OUT, NotWritten, Tree
from .rules import Rule

LeafKind = tuple[Rule, list[int], list[int], str, bool]
"""What Leafs have in common: rule, shape, strides and dtype of the parameter, and whether frozen."""

_PLAIN = {"code", "shape"}
"""What a kind says of arrays that lie in memory as in the file."""


class Contents:
    """A file of today's format. Arrays and states are taken out of it, so that they are in memory once.

    Raises:
        ValueError: If that makes no sense.
    """

    model: Side | None
    state: Side | None
    metadata: dict[str, Any]
    containers: dict[str, list[tuple[str, Kind]]]
    """The nodes of `model` and `state`: place and kind."""

    def __init__(self, path: str, file: File) -> None:
        self.path, self._file = path, file
        self._decoder = Decoder(self._encoded_array)
        self.model = self.state = None
        self.containers = {}
        with self._sense():
            about = file.about
            self.metadata = {name: self._decoder.value(value) for name, value in about["metadata"].items()}
            self._rules: list[Rule] = [self._rule(encoded) for encoded in about["rules"] or ()]
            self._read(about)

    @contextlib.contextmanager
    def _sense(self) -> Iterator[None]:
        """Makes one error of all that a text raises which makes no sense; it names the file."""
        try:
            yield
        except NotWritten as error:
            raise ValueError(*error.args) from None
        except NONSENSE as error:
            raise nonsense(self.path, error) from error

    def _read(self, about: Json) -> None:
        roots = [root for root in ("model", "state") if about[root] is not None]
        self._trees = {root: Tree(about[root], about["forms"], root, self._decoder) for root in roots}
        self.containers = {root: tree.outline.containers for root, tree in self._trees.items()}
        of = self._file.of
        if "model" in self._trees:
            outline = self._trees["model"].outline
            kinds = [signature(kind) for kind in self._file.kinds]
            self.model = side("file", "array", outline, [kinds[k] for k in of[: len(outline.first)]])
        used = list(range(self._arrays()))
        if "state" in self._trees:
            self._leafs, self._states = about["state"]["leafs"], about["state"]["leafs"]["states"]
            self.state = side("file", "Leaf", self._trees["state"].outline, leaf_signatures(self._leafs))
            if len(self.state.first) != len(self.state.signatures):
                raise ValueError("there are more or less Leafs than stand in the state")
            used += [node for node in self._states if node >= 0]
        if sorted(used) != list(range(len(of))):
            raise ValueError("an array belongs nowhere, or to two places")

    def _arrays(self) -> int:
        """How many of the arrays are the model's, which come first."""
        return 0 if self.model is None else len(self.model.first)

    def arrays(self, chosen: list[int], like: list[Array | None]) -> list[Array]:
        """These arrays of the model; `like` has one of the same type for each, where NumPy cannot name that."""
        raw, of = self._file.arrays, self._file.of
        plain = [kind.keys() == _PLAIN for kind in self._file.kinds]
        with self._sense():
            return [raw[i] if plain[of[i]] else self._array(i, x) for i, x in zip(chosen, like, strict=True)]

    def _array(self, i: int, like: Array | None = None) -> Array:
        """An array that lies otherwise in memory than in the file."""
        x, self._file.arrays[i] = self._file.arrays[i], None
        return finished(x, self._file.kinds[self._file.of[i]], like)

    def leafs(self, chosen: list[int]) -> list[Leaf]:
        """These Leafs.

        Raises:
            ValueError: If a state does not fit its rule.
        """
        with self._sense():
            states = self._made_states()
            states = [states[i] for i in chosen]  # and no other list of them: they are dropped one by one
            kinds, of = [self._leaf_kind(kind) for kind in self._leafs["kinds"]], self._leafs["of"]
            return _core.restore_leaves(kinds, [of[i] for i in chosen], states)

    def _leaf_kind(self, kind: Json) -> LeafKind:
        return self._rules[kind["rule"]], kind["shape"], kind["strides"], kind["dtype"], kind["frozen"]

    def _made_states(self) -> list[Any]:
        """The states of all Leafs."""
        first, count = self._arrays(), len(self._file.of)
        values: list[Any] = [None] * first + self.arrays(list(range(first, count)), [None] * (count - first))
        self._file.arrays[first:] = []
        forms = self._file.about["forms"]
        return _core.build(self._states, forms, [], values, self._decoder.value, _refused)

    def rebuilt_model(self) -> Any:
        """The model, without one like it.

        Raises:
            ValueError: If something in it can only be had from such a one.
        """
        assert self.model is not None
        for first, (dtype, _) in zip(self.model.first, self.model.signatures, strict=True):
            if dtype not in NUMBERS:
                raise ValueError(f"{self.model.places[first]} is an array of {dtype}: {WAY_OUT}")
        count = self._arrays()
        arrays = self.arrays(list(range(count)), [None] * count)
        with self._sense():
            return self._trees["model"].rebuilt(arrays)

    def rebuilt_state(self) -> Any:
        """The state, as `rebuilt_model`."""
        assert self.state is not None
        leafs = self.leafs(list(range(len(self.state.first))))
        with self._sense():
            return self._trees["state"].rebuilt(leafs)

    def _rule(self, encoded: Any) -> Rule:
        rule = self._decoder.value(encoded)
        if not isinstance(rule, Rule):
            raise TypeError(f"{rule!r} is no rule")
        return rule

    def _encoded_array(self, encoded: Json) -> Array:
        raise ValueError("there is an array among the values")


def _refused(form: Any, children: Any, node: int) -> Any:
    raise ValueError(f"the state of a Leaf has {form}")
