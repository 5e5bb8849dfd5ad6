"""Models as trees: registration, key paths, leaves."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Self, SupportsIndex, TypeVar, overload

import numpy as np

from .. import _core
from ._printing import print_states
from .tensors import inside

C = TypeVar("C", bound=type)
Trainable = Iterable[str] | Callable[[Any], Iterable[str]]

_MADE_IN_PYTHON = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE
_NUMERIC = "efdFD"  # NumPy's letters for float16, float32, float64, complex64 and complex128


class KeyPath(tuple[Any, ...]):
    """Where something stands in a tree: a tuple of keys, printed as one would write it.

    Slices of it, and sums of it and tuples, are key paths too.

    Examples:
        >>> import optirs
        >>> path = optirs.KeyPath(("layers", 0, "W"))
        >>> str(path), str(path[:-1] + ("b",))
        ('layers[0].W', 'layers[0].b')
    """

    __slots__ = ()

    def __new__(cls, keys: Iterable[Any] = (), /) -> Self:
        """The path of these keys.

        Args:
            keys: The keys from the top down.

        Raises:
            TypeError: If `keys` is a string, or cannot be iterated over.
        """
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
    are not children are kept. In a state they are None or missing; where the class's own `__repr__` or `__str__` fails
    for that, the children are printed instead.

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
        print_states(cls)
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


def others(cls: type, children: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What instances hold or show beside their children.

    That is what the class says they have, fields of a dataclass or of attrs and slots; and what it has a value for.
    """
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else getattr(cls, "__attrs_attrs__", ())
    declared = [name for name in (*(field.name for field in fields), *_slots(cls)) if name not in children]
    values = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    known = {*declared, *children}
    defaults = [
        name
        for name, value in values.items()
        if not (name in known or name.startswith(("__", "_optirs_")) or hasattr(value, "__get__"))  # such as methods
    ]
    return list(dict.fromkeys(declared)), defaults if cls.__dictoffset__ else []


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
        else, NumPy scalars and integer arrays among it. In a function that `with_autograd`, `with_jax` or `with_torch`
        calls also for the tensors that stand for such arrays, and for what is computed from them.

    Examples:
        >>> import numpy as np, optirs
        >>> optirs.isnumeric(np.zeros(2)), optirs.isnumeric(np.zeros(2, int)), optirs.isnumeric(1.0)
        (True, False, False)
    """
    if isinstance(x, np.ndarray):
        return is_trained_type(x.dtype)
    call = inside()
    return call is not None and call.is_numeric(x)


def is_trained_type(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy's arrays of this type are trainable."""
    return dtype.char in _NUMERIC or is_bfloat16(dtype)


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
        RecursionError: If it is longer than trees may be deep.
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
    at: list[Any] = []
    for key in path:
        if len(at) == _core.MAX_DEPTH:
            head = KeyPath(at[:6])
            raise RecursionError(f"the structure at {head}... nests deeper than {len(at)} levels, or contains itself")
        child = _child(model, key)
        if child is _MISSING:
            raise KeyError(f"{type(model).__name__} at {str(KeyPath(at)) or 'the top'} has no {key!r}")
        model = child
        at.append(key)
    return model


_MISSING = object()


def _child(node: Any, key: Any) -> Any:
    children = _core.registered(type(node))
    if children is None and isinstance(node, tuple):
        children = list(getattr(node, "_fields", ()))
    if children and key in children:
        return getattr(node, key)
    if not isinstance(node, (dict, list, tuple)):
        return _MISSING
    try:
        # Past `__missing__`, which may add a key.
        return dict.get(node, key, _MISSING) if isinstance(node, dict) else node[key]
    except (LookupError, TypeError):
        return _MISSING


def leaves(tree: Any, *, whole: bool = False) -> list[tuple[KeyPath, Any, bool]]:
    """All leaves: key path, leaf, and whether it may be trained. A child that is not is one leaf, unless `whole`."""
    made = tuple.__new__  # they are tuples of keys: nothing is to be checked
    return [(made(KeyPath, path), leaf, trained) for path, leaf, trained in _core.flatten(tree, whole)]
