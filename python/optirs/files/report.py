"""What of a file was loaded into a model, and what was not."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..trees.tree import KeyPath

_SHOWN = 20
"""So many places of each kind are printed."""


@dataclass(frozen=True)
class Report:
    """What `load` did with the arrays of a file: key paths, tied places once. Printed, it says why.

    Of a file without a model it is about the Leafs of the state.

    Args:
        loaded: What was taken from the file.
        missing: What `like` has and the file has not.
        unexpected: What the file has, under the names that it has there, and `like` has not.
        mismatched: What both have, and is different.

    Examples:
        >>> import os, tempfile, numpy as np, optirs
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> optirs.save(path, model={"a": np.ones(2), "b": np.ones(2)})
        >>> report = optirs.load(path, like={"a": np.ones(3), "c": np.ones(1)}, strict=False).report
        >>> print(report)
        0 loaded, 1 missing, 1 unexpected, 1 mismatched
        missing: c
        unexpected: b
        mismatched: a (model.a has shape (2,) in the file, (3,) in like)
    """

    loaded: list[KeyPath] = field(default_factory=list)
    missing: list[KeyPath] = field(default_factory=list)
    unexpected: list[KeyPath] = field(default_factory=list)
    mismatched: list[KeyPath] = field(default_factory=list)
    _reasons: dict[KeyPath, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        kinds = {name: getattr(self, name) for name in ("loaded", "missing", "unexpected", "mismatched")}
        lines = [", ".join(f"{len(paths)} {name}" for name, paths in kinds.items())]
        lines += [f"{name}: {self._listed(paths)}" for name, paths in kinds.items() if paths and name != "loaded"]
        return "\n".join(lines)

    def _listed(self, paths: Iterable[KeyPath]) -> str:
        shown = [self._shown(path) for path in paths]
        more = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        return ", ".join(shown[:_SHOWN] + more)

    def _shown(self, path: KeyPath) -> str:
        text = str(path) or "the top"
        return f"{text} ({self._reasons[path]})" if path in self._reasons else text
