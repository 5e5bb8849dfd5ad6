"""Where Python code runs during a call. A hook changes the world, or the arguments, so that it calls `world.fire`."""

import contextlib
import gc
import itertools
import logging
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import optirs

from . import worlds
from .acts import NONSENSE
from .worlds import World, owner

# --- arrays that act ------------------------------------------------------------------------------


class Late:
    """No array, but something that NumPy makes one of."""

    def __init__(self, world: World, value: Any) -> None:
        self.world, self.value = world, value


class Held(Late):
    """One that keeps its memory: of what it hands out nobody could tell that it is a view, or it reads it itself."""

    def __init__(self, world: World, value: Any) -> None:
        is_view = isinstance(value, np.ndarray) and owner(value) is not value
        super().__init__(world, np.array(value) if is_view else value)


class Array(Late):
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.world.fire()
        return self.value


class Interface(Held):
    @property
    def __array_interface__(self) -> Any:
        self.world.fire()
        self.copy = np.array(self.value)  # whose memory stays, as nobody can tell what a view by this way lies in
        return self.copy.__array_interface__


class Capsule(Held):
    def __dlpack_device__(self) -> Any:
        self.world.fire()
        return 1, 0

    def __dlpack__(self, **options: Any) -> Any:
        self.world.fire()
        return np.array(self.value).__dlpack__()


class Buffer(Held):
    """A buffer for those that ask for one, from Python 3.12 on."""

    def __buffer__(self, flags: int) -> memoryview:
        self.world.fire()
        return memoryview(np.array(self.value))

    def __len__(self) -> int:
        self.world.fire()
        return len(self.value)

    def __getitem__(self, i: Any) -> Any:
        self.world.fire()
        return self.value[i]


class Everything(Held):
    """An object any of whose attributes may act."""

    def __getattribute__(self, name: str) -> Any:
        world, value = object.__getattribute__(self, "world"), object.__getattribute__(self, "value")
        world.fire()
        return object.__getattribute__(self, name) if name.startswith("__") else getattr(value, name)


class Scalar(float):
    world: World

    def __float__(self) -> float:
        self.world.fire()
        return 0.5

    __index__ = __int__ = lambda self: (self.world.fire(), 1)[1]


class Rows(list):  # type: ignore[type-arg]
    world: World

    def __iter__(self) -> Any:
        self.world.fire()
        return super().__iter__()

    def __len__(self) -> int:
        self.world.fire()
        return super().__len__()

    def __getitem__(self, i: Any) -> Any:
        self.world.fire()
        return super().__getitem__(i)


class Subclass(np.ndarray):
    """An array that acts wherever NumPy or others ask it."""

    world: World | None = None

    def _fire(self) -> None:
        world = np.ndarray.__getattribute__(self, "world")
        if world is not None:
            world.fire()

    def __array_finalize__(self, other: Any) -> None:
        world = getattr(other, "world", None)
        if world is not None:
            world.fire()

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self._fire()
        return super().__array_function__(function, types, args, kwargs)

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        self._fire()
        return NotImplemented

    def __array_wrap__(self, array: Any, *args: Any) -> Any:
        self._fire()
        return array

    def __getattribute__(self, name: str) -> Any:
        if name not in ("_fire", "world") and not name.startswith("__array_"):
            np.ndarray.__getattribute__(self, "_fire")()
        return np.ndarray.__getattribute__(self, name)

    def copy(self, *args: Any) -> Any:
        return np.ones(1)

    def __getitem__(self, key: Any) -> Any:
        self._fire()
        return super().__getitem__(key)


def subclass(world: World, value: Any) -> Any:
    try:
        made = np.array(value).view(Subclass)
    except (TypeError, ValueError):
        return value
    made.world = world
    return made


def scalar(world: World, value: Any) -> Any:
    made = Scalar(0.5)
    made.world = world
    return made


def rows(world: World, value: Any) -> Any:
    made = Rows(value.tolist() if isinstance(value, np.ndarray) and value.ndim else [0.5])
    made.world = world
    return made


LATE: list[Callable[[World, Any], Any]] = [
    Array,
    Array,
    Array,
    Interface,
    Capsule,
    Buffer,
    Everything,
    subclass,
    scalar,
    rows,
]

# --- nodes that act -------------------------------------------------------------------------------


class Key(str):
    """A key that acts when it is looked up."""

    world: World

    def __hash__(self) -> int:
        self.world.fire()
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        self.world.fire()
        return str.__eq__(self, other) is True

    def __repr__(self) -> str:
        self.world.fire()
        return str.__repr__(self)


class Node(dict):  # type: ignore[type-arg]
    """A dict whose methods act."""

    world: World | None = None

    def _fire(self) -> None:
        if self.world is not None:
            self.world.fire()


class Nodes(list):  # type: ignore[type-arg]
    """A list whose methods act."""

    world: World | None = None
    _fire = Node._fire


def _acting(cls: Any, name: str) -> None:
    original = getattr(cls, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._fire()
        return original(self, *args, **kwargs)

    setattr(cls, name, method)


for _cls in (Node, Nodes):
    for _name in (
        "__iter__",
        "__len__",
        "__getitem__",
        "__setitem__",
        "__contains__",
        "__reduce_ex__",
        "copy",
        "__repr__",
    ):
        _acting(_cls, _name)
for _name in ("items", "keys", "values", "get", "__eq__"):
    _acting(Node, _name)


class Attributes:
    """A gradient whose attributes act."""

    def __init__(self, world: World, given: dict[str, Any]) -> None:
        self._world, self._given = world, given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._world.fire()
        return self._given[name]


@optirs.functor(children=("W", "b"), trainable=lambda self: (self.world.fire(), ("W", "b"))[1])
class Acting:
    """A class of a model whose attributes act."""

    def __init__(self, world: World, W: Any, b: Any) -> None:
        self.world, self._W, self._b = world, W, b

    W = property(lambda self: (self.world.fire(), self._W)[1], lambda self, x: setattr(self, "_W", x))
    b = property(lambda self: (self.world.fire(), self._b)[1], lambda self, x: setattr(self, "_b", x))

    def __copy__(self) -> Any:
        self.world.fire()
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new


def acting_node(world: World, node: Any) -> Any:
    """`node` as one that acts."""
    made: Any
    if isinstance(node, dict):
        made = Node(node)
        if node and world.rng.random() < 0.5:
            first = next(iter(node))
            if isinstance(first, str):
                key = Key(first)
                key.world = world
                made = {key: node[first], **{k: v for k, v in node.items() if k is not first}}
                return made
    elif isinstance(node, list):
        made = Nodes(node)
    elif isinstance(node, worlds.Layer):
        return Acting(world, node.W, node.b)
    else:
        return node
    made.world = world
    return made


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with every node below it changed."""
    if type(value) in (dict, worlds.OrderedDict, worlds.Sub):
        value = type(value)((key, _rebuilt(child, change)) for key, child in value.items())
    elif type(value) in (list, tuple):
        value = type(value)(_rebuilt(child, change) for child in value)
    elif isinstance(value, worlds.Layer | optirs.Affine | optirs.Dense | optirs.Chain):
        made = object.__new__(type(value))
        vars(made).update((name, _rebuilt(child, change)) for name, child in vars(value).items())
        value = made
    return change(value)


# --- rules that act -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActingRule(optirs.Rule):
    """A rule of the user's own. It acts after it has read its arguments: a view of freed memory is NumPy's matter."""

    world: Any
    eta: float = 0.1

    def init(self, x: Any) -> Any:
        state = {"sum": np.zeros(x.shape, x.dtype)}
        self.world.fire()
        return state

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        result = {"sum": state["sum"] + dx}, np.array(dx) * self.eta
        self.world.fire()
        return result

    def replace(self, **values: Any) -> Any:
        self.world.fire()
        return super().replace(**values)

    def __hash__(self) -> int:
        self.world.fire()
        return 1

    def __eq__(self, other: object) -> bool:
        self.world.fire()
        return self is other

    def __repr__(self) -> str:
        self.world.fire()
        return "ActingRule()"


def acting_rule(world: World) -> Any:
    rng = world.rng

    def function(t: int) -> Any:
        world.fire()
        return rng.choice([0.1, 0.1, np.float32(0.1), -1.0, float("nan"), None, 1e300]) if world.armed else 0.1

    inner: Any = rng.choice(
        [optirs.Adam(), optirs.Descent(), optirs.OptimiserChain(optirs.ClipNorm(), optirs.Momentum())]
    )
    made = rng.choice(
        [
            lambda: ActingRule(world),
            lambda: optirs.OptimiserChain(optirs.ClipNorm(), ActingRule(world), optirs.Descent()),
            lambda: optirs.MixedPrecision(ActingRule(world)),
            lambda: optirs.Scheduled(ActingRule(world), eta=lambda t: (world.fire(), 0.1)[1]),
            lambda: optirs.Scheduled(inner, eta=function),
            lambda: optirs.Scheduled(optirs.WeightDecay(), lambda_=function),
        ]
    )()
    world.rules.append(made)
    return made


# --- what runs between instructions ---------------------------------------------------------------


class Garbage:
    """A cycle that acts when the collector finds it."""

    def __init__(self, world: World) -> None:
        self.self, self.world = self, world

    def __del__(self) -> None:
        self.world.fire()


def garbage(world: World) -> None:
    thresholds = gc.get_threshold()
    world.undo.append(lambda: gc.set_threshold(*thresholds))
    gc.collect()
    for _ in range(3):
        Garbage(world)
    gc.set_threshold(world.rng.choice([3, 10, 30, 90]), 1, 1)


def collector(world: World) -> None:
    thresholds = gc.get_threshold()

    def callback(*_: Any) -> None:
        world.fire()

    gc.callbacks.append(callback)
    gc.set_threshold(world.rng.choice([3, 10, 30, 90]), 1, 1)
    world.undo += [lambda: gc.callbacks.remove(callback), lambda: gc.set_threshold(*thresholds)]


def weak(world: World) -> None:
    """Callbacks of weak references to what is dropped during the call."""
    watched = [
        x for x in (*world.rules, *world.arrays, *world.nodes) if hasattr(x, "__weakref__") or isinstance(x, np.ndarray)
    ]
    kept = [weakref.ref(x, lambda _: world.fire()) for x in watched]
    world.undo.append(kept.clear)


def profile(world: World) -> None:
    """At every call of a function that Python code makes."""
    ticks, at = itertools.count(), world.rng.randrange(60)

    def tick(*_: Any) -> None:
        if next(ticks) > at:
            world.fire()

    sys.setprofile(tick)
    world.undo.append(lambda: sys.setprofile(None))


def alarm(world: World) -> None:
    """A signal, which is answered where the package asks for one."""
    old = signal.signal(signal.SIGALRM, lambda *_: world.fire())
    signal.setitimer(signal.ITIMER_REAL, world.rng.choice([1e-5, 1e-4, 1e-3]))
    world.undo += [lambda: signal.signal(signal.SIGALRM, old), lambda: signal.setitimer(signal.ITIMER_REAL, 0)]


def log(world: World) -> None:
    logger, handler = logging.getLogger("optirs"), logging.Handler()
    handler.emit = lambda record: world.fire()  # type: ignore[method-assign]
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    world.undo += [lambda: logger.removeHandler(handler), lambda: logger.setLevel(level)]


def thread(world: World) -> None:
    """Another thread acts meanwhile. It frees nothing: what is freed under a loop that runs is NumPy's matter."""
    stop, interval = threading.Event(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def run() -> None:
        while not stop.is_set() and world.fired < 50:
            with contextlib.suppress(BaseException):
                world.fire()
            time.sleep(1e-5)

    other = threading.Thread(target=run, daemon=True)
    other.start()
    world.undo += [lambda: sys.setswitchinterval(interval), lambda: other.join(5), stop.set]  # taken from the end


# --- the table ------------------------------------------------------------------------------------


def late_gradient(world: World) -> None:
    """Some leaves of the gradient act when they are converted."""
    late, rng = world.rng.choice(LATE), world.rng

    def change(leaf: Any) -> Any:
        return late(world, leaf) if isinstance(leaf, np.ndarray) and rng.random() < 0.6 else leaf

    world.gradient = _rebuilt(world.gradient, change)


def late_model(world: World) -> None:
    """Some leaves of the model act."""
    rng = world.rng

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or rng.random() < 0.5:
            return leaf
        made = subclass(world, leaf)
        return world.known(made) if isinstance(made, np.ndarray) else made

    world.model = _rebuilt(world.model, change)


def acting_gradient(world: World) -> None:
    """Some containers of the gradient act."""
    rng = world.rng

    def change(node: Any) -> Any:
        if isinstance(node, dict) and rng.random() < 0.4 and all(isinstance(key, str) for key in node):
            return Attributes(world, node)
        return acting_node(world, node) if rng.random() < 0.6 else node

    world.gradient = _rebuilt(world.gradient, change)


def acting_model(world: World) -> None:
    """Some containers of the model act."""
    world.model = _rebuilt(world.model, lambda node: acting_node(world, node) if world.rng.random() < 0.6 else node)


def properties(world: World) -> None:
    """The model has an object whose attributes act when they are read."""
    rng, dtype = world.rng, world.rng.choice(["f4", "f8"])
    made = Acting(world, world.array((64, 3), dtype), world.array((1030,), dtype))
    world.model = rng.choice([made, {"a": made, "b": world.array((5,), dtype)}, [world.array((300,), dtype), made]])
    try:
        world.state = optirs.setup(world.rule, world.model)
    except (TypeError, ValueError):
        world.rule = optirs.Adam()
        world.state = optirs.setup(world.rule, world.model)
    world.gradient = world.gradient_of(world.model)


def acting_state(world: World) -> None:
    """Some containers of the state act."""
    world.state = _rebuilt(world.state, lambda node: acting_node(world, node) if world.rng.random() < 0.6 else node)


def late_argument(world: World) -> None:
    """An argument of the call acts when it is converted."""
    arrays = [i for i, arg in enumerate(world.args) if isinstance(arg, np.ndarray | list | tuple | float)]
    if arrays:
        i = world.rng.choice(arrays)
        world.args[i] = world.rng.choice(LATE)(world, world.args[i])


def nonsense(world: World) -> None:
    """An argument is something else."""
    if world.args:
        i = world.rng.randrange(len(world.args))
        world.args[i] = world.rng.choice(
            [*NONSENSE, world.model, world.state, world.rule, world.gradient, *world.arrays]
        )


def nonsense_leaf(world: World) -> None:
    """A node or leaf of a tree is something else."""
    rng = world.rng
    which = rng.choice(["model", "state", "gradient"])
    change = lambda node: rng.choice([*NONSENSE, *world.arrays]) if rng.random() < 0.2 else node  # noqa: E731
    setattr(world, which, _rebuilt(getattr(world, which), change))


def nonsense_field(world: World) -> None:
    """A field of a frozen rule or schedule is something else."""
    for rule in world.rules:
        if world.rng.random() < 0.5 and (names := list(getattr(rule, "__dict__", ()))):
            object.__setattr__(rule, world.rng.choice(names), world.rng.choice([*NONSENSE, *world.rules]))


BEFORE: dict[str, Callable[[World], None]] = {
    "properties": properties,
    "late gradient": late_gradient,
    "late model": late_model,
    "acting gradient": acting_gradient,
    "acting model": acting_model,
    "acting state": acting_state,
    "nonsense leaf": nonsense_leaf,
    "nonsense field": nonsense_field,
}
"""Hooks that are put into the world before the arguments of a call are taken from it."""

TREES = {"properties", "late gradient", "acting gradient", "acting model", "acting state", "nonsense leaf"}
"""Those that only calls with trees meet."""

OFTEN = {
    "acting rule",
    "late gradient",
    "late model",
    "late argument",
    "acting gradient",
    "collector",
    "profile",
    "properties",
}
"""Those that act in most calls: they are chosen more often."""

ANYWHERE = {"garbage", "collector", "alarm", "profile", "thread"}
"""Those that act between any two instructions, also of NumPy's. Nobody can look at a view and read it in one there, so
what others are views of keeps its memory."""

AFTER: dict[str, Callable[[World], None]] = {
    "late argument": late_argument,
    "nonsense argument": nonsense,
    "garbage": garbage,
    "collector": collector,
    "weak references": weak,
    "log": log,
    "alarm": alarm,
    "profile": profile,
    "thread": thread,
    "none": lambda world: None,
}
"""Hooks that are put around the arguments, or run beside the call."""
