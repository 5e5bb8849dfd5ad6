"""Models as trees: registration, key paths, leaves."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import _core

C = TypeVar("C", bound=type)
Trainable = Iterable[str] | Callable[[Any], Iterable[str]]

_MADE_IN_PYTHON = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE
_NUMERIC = "efdFD"  # NumPy's letters for float16, float32, float64, complex64 and complex128


class KeyPath(tuple[Any, ...]):
    """Where something stands in a tree: a tuple of keys, printed as one would write it.

    Slices of it, and sums of it and tuples, are key paths too.

    Args:
        keys: The keys from the top down.

    Raises:
        TypeError: If `keys` is a string, or cannot be iterated over.

    Examples:
        >>> import optirs
        >>> path = optirs.KeyPath(("layers", 0, "W"))
        >>> str(path), str(path[:-1] + ("b",))
        ('layers[0].W', 'layers[0].b')
    """

    __slots__ = ()

    def __new__(cls, keys: Iterable[Any] = (), /) -> Self:
        if isinstance(keys, str):
            raise TypeError(f"KeyPath takes a tuple of keys, got the string {keys!r}: write KeyPath(({keys!r},))")
        if type(keys) is not tuple and not isinstance(keys, Iterable):
            raise TypeError(f"KeyPath takes a tuple of keys, got {type(keys).__name__}")
        return super().__new__(cls, keys)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "KeyPath": ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return KeyPath(found) if isinstance(index, slice) else found

    def __add__(self, keys: tuple[Any, ...]) -> "KeyPath":
        # Whatever is no tuple is left to `tuple`, which refuses it.
        return KeyPath(super().__add__(keys))

    def __radd__(self, keys: tuple[Any, ...]) -> "KeyPath":
        return KeyPath(keys + tuple(self)) if isinstance(keys, tuple) else NotImplemented

    def __str__(self) -> str:
        return _core.path_text(tuple(self))

    def __repr__(self) -> str:
        return f"KeyPath({tuple(self)!r})"


@overload
def functor(cls: C, /) -> C: ...
@overload
def functor(*, children: Iterable[str] | None = None, trainable: Trainable | None = None) -> Callable[[C], C]: ...
def functor(
    cls: C | None = None, /, *, children: Iterable[str] | None = None, trainable: Trainable | None = None
) -> C | Callable[[C], C]:
    """Registers a class: its instances are nodes of model trees.

    A class that is not registered is an opaque leaf, and its arrays are not trained. Only the class itself is
    registered, not those derived from it. Models are rebuilt without `__init__` and `__post_init__`; attributes that
    are not children are kept.

    Args:
        cls: The class, when used without parentheses.
        children: The attributes that are walked. Default: the fields of the dataclass.
        trainable: Those of them that are trained, or a function of the instance that returns them. Default: all.

    Returns:
        The class itself.

    Raises:
        TypeError: If there are no `children` and the class is not a dataclass, `trainable` names others, or the class
            derives from a built-in one such as `dict`, whose content is no attribute.

    Examples:
        >>> import numpy as np, optirs
        >>> from dataclasses import dataclass
        >>> @optirs.functor(trainable=("W",))
        ... @dataclass
        ... class Scale:
        ...     W: np.ndarray
        ...     mean: np.ndarray
        >>> [str(path) for path, _ in optirs.trainables(Scale(np.ones(2), np.zeros(2)), path=True)]
        ['W']

    As `Functors.@functor` and `Optimisers.trainable` in Julia.
    """

    def register(cls: C) -> C:
        if not isinstance(cls, type):
            raise TypeError(f"functor registers classes, got {cls!r}")
        _check_plain(cls)
        names = _children(cls, children)
        chosen: Any = trainable
        if trainable is not None and not callable(trainable):
            chosen = _names(cls, "trainable", trainable)
            for name in chosen:
                if name not in names:
                    raise TypeError(f"{cls.__name__}: trainable names {name!r}, which is not a child")
        _core.register(cls, names, _slots(cls), chosen)
        return cls

    return register if cls is None else register(cls)


def _check_plain(cls: type) -> None:
    """Instances are rebuilt of their attributes, which must be all that they hold."""
    base = cls
    while base.__flags__ & _MADE_IN_PYTHON and base.__base__ is not None:
        base = base.__base__
    if base is not object:
        raise TypeError(f"functor: {cls.__name__} derives from {base.__name__}, whose content is no attribute")


def _children(cls: type, children: Iterable[str] | None) -> tuple[str, ...]:
    if children is not None:
        return _names(cls, "children", children)
    if "__dataclass_fields__" not in vars(cls):
        raise TypeError(
            f"{cls.__name__} is not a dataclass: put @functor above @dataclass, or name the children: "
            "@functor(children=(...))"
        )
    return tuple(field.name for field in dataclasses.fields(cls))


def _names(cls: type, what: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{cls.__name__}: {what} must be a sequence of names, got the string {names!r}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{cls.__name__}: {what} must be names, got {name!r}")
    if len(set(names)) != len(names):
        raise TypeError(f"{cls.__name__}: {what} names one twice")
    return names


def _slots(cls: type) -> list[str]:
    """The attributes of instances of `cls` that do not stand in `__dict__`."""
    slots = []
    for base in cls.__mro__:
        own = vars(base).get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                slots.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return slots


def attributes(node: Any) -> dict[str, Any]:
    """What an object holds, in `__dict__` or in slots."""
    slots = {name: getattr(node, name) for name in _slots(type(node)) if hasattr(node, name)}
    return {**getattr(node, "__dict__", {}), **slots}


def isnumeric(x: Any) -> bool:
    """Whether `x` is trainable: a NumPy array of floats or complex numbers.

    Args:
        x: Any object.

    Returns:
        True for arrays of float16, bfloat16, float32, float64, complex64 and complex128, 0-d ones too; False for all
        else, NumPy scalars and integer arrays among it.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.isnumeric(np.zeros(2)), optirs.isnumeric(np.zeros(2, int)), optirs.isnumeric(1.0)
        (True, False, False)
    """
    return isinstance(x, np.ndarray) and (x.dtype.char in _NUMERIC or is_bfloat16(x.dtype))


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether it is bfloat16 of `ml_dtypes`, which has no letter of its own."""
    # The kind first: NumPy works out a name anew each time it is asked for.
    return dtype.kind not in "biufcSUO" and dtype.name == "bfloat16"


def getkeypath(model: Any, path: Iterable[Any]) -> Any:
    """What stands in `model` at `path`.

    Args:
        model: A tree.
        path: Keys from the top down: a `KeyPath` or any sequence.

    Returns:
        The node or leaf there.

    Raises:
        KeyError: If there is none; the text names the part of the path that exists.
        TypeError: If `path` is a string, or cannot be iterated over.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.getkeypath({"layers": [np.zeros(2)]}, ("layers", 0)).shape
        (2,)
    """
    if isinstance(path, str):
        raise TypeError(f"getkeypath takes a KeyPath or a tuple of keys, got the string {path!r}")
    if not isinstance(path, Iterable):
        raise TypeError(f"getkeypath takes a KeyPath or a tuple of keys, got {type(path).__name__}")
    at = KeyPath()
    for key in path:
        model = _child(model, key, at)
        at = KeyPath((*at, key))
    return model


def _child(node: Any, key: Any, at: KeyPath) -> Any:
    children = _core.registered(type(node))
    missing = KeyError(f"{type(node).__name__} at {str(at) or 'the top'} has no {key!r}")
    if children is not None:
        if key not in children:
            raise missing
        return getattr(node, key)
    if isinstance(node, tuple) and key in getattr(node, "_fields", ()):
        return getattr(node, key)
    if not isinstance(node, (dict, list, tuple)):
        raise missing
    try:
        return node[key]
    except (LookupError, TypeError):
        raise missing from None


def leaves(tree: Any, *, whole: bool = False) -> list[tuple[KeyPath, Any, bool]]:
    """All leaves: key path, leaf, and whether it may be trained. A child that is not is one leaf, unless `whole`."""
    return [(KeyPath(path), leaf, trained) for path, leaf, trained in _core.flatten(tree, whole)]


def tie(a: NDArray[Any], b: NDArray[Any]) -> bool | None:
    """Whether `b` is `a` (False), its full transpose (True), or neither (None)."""
    if a is b:
        return False
    if a.size == 0 or a.dtype != b.dtype or _address(a) != _address(b):
        return None
    if a.shape == b.shape and a.strides == b.strides:
        return False
    return True if a.shape == b.shape[::-1] and a.strides == b.strides[::-1] else None


def _address(x: NDArray[Any]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


@dataclasses.dataclass
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
    """
    return _tied(leaves(model), lambda leaf, trained: trained and isnumeric(leaf))


def arrays(tree: Any) -> Tied:
    """As `parameters`, with all arrays of whatever type, also those that are not trained."""
    return _tied(leaves(tree, whole=True), lambda leaf, _: isinstance(leaf, np.ndarray))


def _tied(all_leaves: list[tuple[KeyPath, Any, bool]], wanted: Callable[[Any, bool], bool]) -> Tied:
    found: list[Parameter] = []
    by_address: dict[int, list[int]] = {}
    index: list[int | None] = []
    for path, leaf, trained in all_leaves:
        if not wanted(leaf, trained):
            index.append(None)
            continue
        candidates = by_address.setdefault(_address(leaf), [])
        known = next(((i, t) for i in candidates if (t := tie(found[i].array, leaf)) is not None), None)
        if known is None:
            candidates.append(len(found))
            found.append(Parameter(path, leaf, []))
            known = len(found) - 1, False
        found[known[0]].places.append((path, known[1]))
        index.append(known[0])
    _check_overlap(found, list(_bystanders(all_leaves, index)))
    return all_leaves, found, index


def origins(model: Any, found: list[Parameter]) -> tuple[list[Any], list[tuple[int, bool] | None]]:
    """All leaves of `model`, and for each the parameter that stands there, also where it is not trained.

    The parameter as its index in `found`, which `parameters` found in `model`, and whether it is transposed.
    """
    by_path = {path: (i, transposed) for i, p in enumerate(found) for path, transposed in p.places}
    by_address = {_address(p.array): i for i, p in enumerate(found) if p.array.size}
    whole = leaves(model, whole=True)

    def origin(path: KeyPath, leaf: Any) -> tuple[int, bool] | None:
        if path in by_path or not isnumeric(leaf):
            return by_path.get(path)
        i = by_address.get(_address(leaf))
        transposed = None if i is None else tie(found[i].array, leaf)
        return None if i is None or transposed is None else (i, transposed)

    return [leaf for _, leaf, _ in whole], [origin(path, leaf) for path, leaf, _ in whole]


def _span(x: NDArray[Any]) -> tuple[int, int]:
    """The addresses of the first byte and of the one behind the last."""
    if x.flags.forc:
        low = _address(x)
        return low, low + x.nbytes
    return np.lib.array_utils.byte_bounds(x)


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


def _check_overlap(found: list[Parameter], bystanders: list[tuple[KeyPath, NDArray[Any]]]) -> None:
    arrays = [*((p.path, p.array) for p in found), *bystanders]
    spans = sorted((*_span(x), i) for i, (_, x) in enumerate(arrays) if x.size)
    open_: list[tuple[int, int, int]] = []
    for low, high, i in spans:
        open_ = [o for o in open_ if o[1] > low]
        for _, _, j in open_:
            (first, x), (second, y) = arrays[min(i, j)], arrays[max(i, j)]
            if min(i, j) >= len(found) or (max(i, j) >= len(found) and tie(x, y) is not None):
                continue
            if np.shares_memory(x, y):
                raise ValueError(f"{first} and {second} share memory without being the same array or its transpose")
        open_.append((low, high, i))


def trainables(model: Any, path: bool = False) -> list[Any]:
    """The trainable arrays of `model`, tied ones once, in its order.

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
    _, found, _ = parameters(model)
    return [(p.path, p.array) for p in found] if path else [p.array for p in found]
