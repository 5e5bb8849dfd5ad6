"""What a file says: where arrays and Leafs stand, and how they are made."""

import contextlib
from collections.abc import Iterator
from typing import Any

from .. import _core
from .._core import Leaf, Outline
from ..rules import Rule
from ._agreement import Kind, Side
from ._archive import NONSENSE, Array, File, Json, nonsense
from ._description import leaf_signatures, side
from ._encoding import NUMBERS, Decoder, finished, signature
from ._structure import WAY_OUT, NotWritten, Tree

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
    moved: dict[str, list[tuple[str, Kind]]]
    """The nodes of `model` and `state`, as far as they were asked for, or renamed: place and kind."""

    def __init__(self, path: str, file: File) -> None:
        self.path, self._file = path, file
        self._decoder = Decoder(self._encoded_array)
        self.model = self.state = None
        self.moved = {}
        self._trees: dict[str, Tree] = {}
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
        of = self._file.of
        if "model" in self._trees:
            outline = self._trees["model"].outline
            kinds = [signature(kind) for kind in self._file.kinds]
            self.model = side("file", "array", outline, [kinds[k] for k in of[: len(outline.first)]])
        if "state" in self._trees:
            self._leafs = about["state"]["leafs"]
            self.state = side(
                "file", "Leaf", self._trees["state"].outline, leaf_signatures(self._leafs["kinds"], self._leafs["of"])
            )
            if len(self.state.first) != len(self.state.signatures):
                raise ValueError("there are more or less Leafs than stand in the state")
            states, count = self._leafs["states"], len(self.state.first)
            self._states = _core.States(states, about["forms"], self._decoder.value, count, self._arrays(), len(of))
        elif self._arrays() != len(of):
            raise ValueError("an array belongs nowhere, or to two places")

    def containers(self, root: str) -> list[tuple[str, Kind]]:
        """The nodes of `model` or `state`: place and kind."""
        if root not in self.moved and root in self._trees:
            self.moved[root] = self._trees[root].outline.containers
        return self.moved.get(root, [])

    def has_containers_of(self, outline: Outline) -> bool:
        """Whether the model has the nodes of another one."""
        tree = None if self.moved else self._trees.get("model")
        return tree is not None and tree.outline.has_containers_of(outline)

    def _arrays(self) -> int:
        """How many of the arrays are the model's, which come first."""
        return 0 if self.model is None else len(self.model.first)

    def arrays(self, chosen: list[int], like: list[Array | None]) -> list[Array]:
        """These arrays of the model; `like` has one of the same type for each, where NumPy cannot name that."""
        raw, of, plain = self._file.arrays, self._file.of, self._plain()
        with self._sense():
            if all(plain):
                return [raw[i] for i in chosen]
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
            kinds, of = [self._leaf_kind(kind) for kind in self._leafs["kinds"]], self._leafs["of"]
            of, forms = [of[i] for i in chosen], self._file.about["forms"]
            arrays = self._finished()
            return self._states.restore(kinds, of, chosen, forms, arrays, self._decoder.value, _refused)

    def _leaf_kind(self, kind: Json) -> LeafKind:
        return self._rules[kind["rule"]], kind["shape"], kind["strides"], kind["dtype"], kind["frozen"]

    def _finished(self) -> list[Any]:
        """The arrays of the file, those of the states as they were in memory."""
        arrays, plain = self._file.arrays, self._plain()
        if not all(plain):
            for i in range(self._arrays(), len(arrays)):
                if not plain[self._file.of[i]]:
                    arrays[i] = self._array(i)
        return arrays

    def _plain(self) -> list[bool]:
        """Which kinds of arrays lie in memory as in the file."""
        return [kind.keys() == _PLAIN for kind in self._file.kinds]

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
