"""Files of format 1: their text has tables of arrays and Leafs, and does not know the structure."""

import ast
import re
from typing import Any

import numpy as np

from .. import _core
from .._core import Leaf
from ..trees.tree import KeyPath
from ._agreement import Listed, Side, Signature
from ._archive import CODES, Array, Json
from ._contents import Contents
from ._encoding import finished, signature
from ._structure import WAY_OUT


class Contents1(Contents):
    """What such a file says."""

    def _read(self, about: Json) -> None:
        self._by_name = {name: i for i, name in enumerate(self._file.names)}
        if about["model"] is not None:
            self._kinds = [self._kind(encoded) for encoded in about["model"]]
            self.model = _side("array", about["model"], [signature(kind) for _, kind in self._kinds], [])
        if about["state"] is not None:
            self._leafs = {"kinds": about["state"], "of": list(range(len(about["state"])))}
            table = [leaf | {"places": [[place, False] for place in leaf["places"]]} for leaf in about["state"]]
            signatures: list[Signature] = [(leaf["dtype"], tuple(leaf["shape"])) for leaf in table]
            self.state = _side("Leaf", table, signatures, about["none"])

    def _kind(self, encoded: Json) -> tuple[int, Json]:
        """Which entry is meant, and of what kind it is."""
        name, dtype = encoded["$array"], encoded["dtype"]
        if name not in self._by_name:
            raise ValueError(f"there is no entry {name}")
        kind = self._file.kinds[self._by_name[name]]
        if CODES.get(dtype, kind["code"]) != kind["code"]:
            raise ValueError(f"the entry {name} is {kind['code']}, not {dtype}")
        more = {key: value for key, value in encoded.items() if key in ("order", "swapped")}
        return self._by_name[name], kind | more | ({} if dtype in CODES else {"dtype": dtype})

    def arrays(self, chosen: list[int], like: list[Array | None]) -> list[Array]:
        return [self._entry(*self._kinds[i], x) for i, x in zip(chosen, like, strict=True)]

    def _entry(self, i: int, kind: Json, like: Array | None = None) -> Array:
        x, self._file.arrays[i] = self._file.arrays[i], None
        if x is None:
            raise ValueError("an array belongs to two places")
        if kind.get("dtype") == "complex128":
            x = x.view(np.dtype("<c16")).reshape(x.shape[:-1])
        return finished(x, kind, like)

    def _encoded_array(self, encoded: Json) -> Array:
        return self._entry(*self._kind(encoded))

    def leafs(self, chosen: list[int]) -> list[Leaf]:
        with self._sense():
            made = [self._decoder.value(leaf["state"]) for leaf in self._leafs["kinds"]]
            made = [made[i] for i in chosen]  # and no other list of them: they are dropped one by one
            return _core.restore_leaves(
                [self._leaf_kind(self._leafs["kinds"][i]) for i in chosen], [*range(len(chosen))], made
            )

    def rebuilt_model(self) -> Any:
        raise ValueError(f"{self.path} was written by an earlier version, without the structure: {WAY_OUT}")

    def rebuilt_state(self) -> Any:
        return self.rebuilt_model()


def _side(noun: str, table: list[Json], signatures: list[Signature], none: list[str]) -> Side:
    """The arrays or Leafs of a table, each of which has its places."""
    places = [(place, i, transposed) for i, entry in enumerate(table) for place, transposed in entry["places"]]
    texts = [place for place, _, _ in places]
    first = [i for i, (_, entry, _) in enumerate(places) if i == 0 or places[i - 1][1] != entry]
    listed = Listed(
        texts,
        [i for _, i, _ in places],
        [transposed for _, _, transposed in places],
        first,
        none,
        lambda wanted: [KeyPath(_path(texts[i])) for i in wanted],
    )
    return Side("file", noun, listed, signatures)


def _path(place: str) -> tuple[Any, ...]:
    """The key path of a place below its root; a key that is no literal is its text."""
    keys: list[Any] = []
    for name, key in _KEY.findall(place):
        try:
            keys.append(name or ast.literal_eval(key))
        except (ValueError, SyntaxError):
            keys.append(key)
    return tuple(keys[1:])


_KEY = re.compile(r"(?:^|\.)(\w+)|\[((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\[\]'\"])*)\]")
"""A name, or a key in brackets, in which there may be strings."""
