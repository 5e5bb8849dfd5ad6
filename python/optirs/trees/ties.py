"""Parameters and ties: which arrays of a model are one parameter, and which overlap."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import overlapping, refuse_masked, span
from .tensors import Inside, inside
from .tree import KeyPath, is_trained_type, leaves


def tie(a: NDArray[Any], b: NDArray[Any]) -> bool | None:
    """Whether `b` is `a` (False), its full transpose (True), or neither (None)."""
    if a is b:
        return False
    if a.size == 0 or a.dtype != b.dtype or span(a) != span(b):
        return None
    if _lie_alike(a, b):
        return False
    return True if _lie_alike(a, b.T) else None


def _lie_alike(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether shape and strides are the same; the stride of an axis of length 1 leads nowhere, so any will do."""
    return a.shape == b.shape and all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))


@dataclasses.dataclass(slots=True)
class Parameter:
    """An array, once however many places it stands at."""

    path: KeyPath
    array: NDArray[Any]
    places: list[tuple[KeyPath, bool]]
    """Where it stands, and whether transposed."""


Tied = tuple[list[tuple[KeyPath, Any, bool]], list[Parameter], list[int | None]]


def parameters(model: Any) -> Tied:
    """The leaves of `model`, its parameters in order, and for each leaf the index of its parameter.

    Raises:
        ValueError: If two parameters share elements, or one and an array that is not trained (other than the same one).
        TypeError: If one is a masked array that hides elements.
    """
    all_leaves = leaves(model)
    found: list[Parameter] = []
    by_span: dict[tuple[int, int], list[int]] = {}
    index: list[int | None] = []
    for path, leaf, trained in all_leaves:
        if not (trained and _is_trained(leaf)):
            index.append(None)
            continue
        if type(leaf) is not np.ndarray:
            refuse_masked(f"the array at {str(path) or 'the top'}", leaf)
        place = span(leaf)
        candidates = by_span.setdefault(place, [])
        for i in candidates:
            transposed = tie(found[i].array, leaf)
            if transposed is not None:
                break
        else:
            i, transposed = len(found), False
            candidates.append(i)
            found.append(Parameter(path, leaf, []))
        found[i].places.append((path, transposed))
        index.append(i)
    check_overlap(found, list(_bystanders(all_leaves, index)) if None in index else [])
    return all_leaves, found, index


def _is_trained(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and is_trained_type(leaf.dtype)


def parameters_here(model: Any) -> Tied:
    """As `parameters`; in a function that a bridge calls, tensors that stand for arrays are parameters, too."""
    found, call = parameters(model), inside()
    return found if call is None else _with_tensors(found, call)


def _with_tensors(of_numpy: Tied, call: Inside) -> Tied:
    all_leaves, arrays, numbers = of_numpy
    found: list[Parameter] = []
    index: list[int | None] = []
    known: dict[int, int] = {}
    origins: dict[int, tuple[int, bool]] = {}
    for (path, leaf, trained), number in zip(all_leaves, numbers, strict=True):
        if number is not None:
            if number not in known:
                known[number] = len(found)
                found.append(arrays[number])
            index.append(known[number])
        elif trained and call.is_numeric(leaf):
            tensor, transposed = call.origin(leaf)
            i, first = origins.setdefault(id(tensor), (len(found), transposed))
            if i == len(found):
                found.append(Parameter(path, leaf, []))
            found[i].places.append((path, transposed != first))
            index.append(i)
        else:
            index.append(None)
    return all_leaves, found, index


def origins(model: Any, found: list[Parameter]) -> tuple[list[Any], list[tuple[int, bool] | None]]:
    """All leaves of `model`, and for each the parameter that stands there, also where it is not trained.

    The parameter as its index in `found`, which `parameters` found in `model`, and whether it is transposed.
    """
    by_path = {path: (i, transposed) for i, p in enumerate(found) for path, transposed in p.places}
    by_span = {span(p.array): i for i, p in enumerate(found) if _is_trained(p.array) and p.array.size}
    whole = leaves(model, whole=True)

    def origin(path: KeyPath, leaf: Any) -> tuple[int, bool] | None:
        if path in by_path or not _is_trained(leaf):
            return by_path.get(path)
        i = by_span.get(span(leaf))
        transposed = None if i is None else tie(found[i].array, leaf)
        return None if i is None or transposed is None else (i, transposed)

    return [leaf for _, leaf, _ in whole], [origin(path, leaf) for path, leaf, _ in whole]


def _bystanders(
    all_leaves: list[tuple[KeyPath, Any, bool]], index: list[int | None]
) -> Iterator[tuple[KeyPath, NDArray[Any]]]:
    """The arrays that are not trained, and where they stand."""
    for (path, leaf, trained), i in zip(all_leaves, index, strict=True):
        if i is None and not trained:
            below = ((KeyPath((*path, *rest)), x) for rest, x, _ in leaves(leaf, whole=True))
            yield from ((place, x) for place, x in below if isinstance(x, np.ndarray))
        elif i is None and isinstance(leaf, np.ndarray):
            yield path, leaf


def check_overlap(found: list[Parameter], bystanders: list[tuple[KeyPath, NDArray[Any]]]) -> None:
    """Raises if parameters, or one and a bystander that it is not, share elements."""
    arrays = [*((p.path, p.array) for p in found), *bystanders]
    pair = overlapping([x for _, x in arrays], len(found))
    if pair is not None:
        first, second = (arrays[i][0] for i in pair)
        raise ValueError(f"{first} and {second} share memory without being the same array or its transpose")


def trainables(model: Any, path: bool = False) -> list[Any]:
    """The trainable arrays of `model`, tied ones once, in its order.

    In a function that `with_autograd`, `with_jax` or `with_torch` calls, they are the tensors that the model has there,
    and what is computed from them is differentiated.

    Args:
        model: A tree.
        path: Whether to return pairs with the key path of the first place.

    Returns:
        A list of arrays, or of `(KeyPath, array)`. They are the model's own arrays, not copies.

    Raises:
        ValueError: If two of them share elements without being tied.

    Examples:
        >>> import numpy as np, optirs
        >>> W = np.zeros((2, 3))
        >>> [x.shape for x in optirs.trainables({"encoder": W, "decoder": W.T, "name": "tied"})]
        [(2, 3)]

    As `Optimisers.trainables` in Julia.
    """
    _, found, _ = parameters_here(model)
    return [(p.path, p.array) for p in found] if path else [p.array for p in found]
