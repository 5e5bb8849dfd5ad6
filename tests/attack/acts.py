"""What code of others does in the middle of a call. Each act takes the world; what NumPy refuses, is refused."""

import contextlib
import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import optirs

from .judge import judge_error
from .worlds import World, owner

NONSENSE: list[Any] = [
    None, True, 0, -1, 3, 2**40, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.5, float("nan"), float("inf"), 1e308, 1j,
    "", "text", "Adam", "float32", "\ud800", b"bytes", (), (1,), (1.0, 2.0), (float("nan"),) * 2, (1, 2, 3), [], [1.0],
    {}, {"W": None}, {1: 2}, set(), object(), type, len, lambda *a: None, np.float32(1), np.zeros(3),
    np.zeros((2, 3), "f4"),
    np.zeros(0), np.array(1.0), np.array(["x"]), np.array([None]), np.zeros((1,) * 30, "f4"), slice(1), range(3),
    Exception("e"),
]  # fmt: skip


def _some_array(world: World) -> np.ndarray:
    met = [x for x in world.args if isinstance(x, np.ndarray)] if world.rng.random() < 0.7 else []
    return world.rng.choice(met or world.arrays)


@contextlib.contextmanager
def _touching(world: World, x: np.ndarray) -> Iterator[np.ndarray]:
    """The content of `x` counts as changed from here on, unless NumPy refuses to change it."""
    before = id(x) in world.changed
    world.changed.add(id(x))
    try:
        yield x
    except Exception:
        if not before and not isinstance(x, np.ma.MaskedArray):  # which changes first, and raises for its mask then
            world.changed.discard(id(x))
        raise


def _resize(world: World, x: np.ndarray, shape: tuple[int, ...]) -> None:
    if world.spares_viewed and id(x) in world.viewed:
        return
    with _touching(world, x):
        x.resize(shape, refcheck=False)
    world.gone |= {id(y) for y in world.arrays if y is not x and owner(y) is x}


def resize(world: World) -> None:
    x = _some_array(world)
    _resize(world, x, world.rng.choice([(0,), (1,), (max(x.size // 2, 1),), (x.size * 4,), (3, 5)]))


def resize_owner(world: World) -> None:
    """Resizes what others are views of."""
    if owners := [x for x in world.arrays if id(x) in world.viewed]:
        x = world.rng.choice(owners)
        _resize(world, x, world.rng.choice([(0,), (1,), (x.size * 4,)]))


def vanish(world: World) -> None:
    """Frees the memory of every array that owns some."""
    for x in world.arrays:
        if x.flags.owndata and world.rng.random() < 0.7:
            _resize(world, x, (0,))


def reshape(world: World) -> None:
    x = _some_array(world)
    if id(x) not in world.gone:  # NumPy may copy it, before it refuses
        with _touching(world, x):
            x.shape = world.rng.choice([(-1,), (x.size, 1), (1, x.size), x.shape[::-1], (1,) * 8 + x.shape])


def retype(world: World) -> None:
    with _touching(world, _some_array(world)) as x:
        x.dtype = world.rng.choice(["u1", "f2", "f4", "f8", "c16", "i4", ">f4", "V1", [("a", "u1")]])


def restride(world: World) -> None:
    with _touching(world, _some_array(world)) as x:
        x.strides = world.rng.choice([(0,) * x.ndim, x.strides[::-1], (x.itemsize,) * x.ndim])


def lock(world: World) -> None:
    """Forbids to write to an array, or allows it: what it holds stays."""
    _some_array(world).flags.writeable = world.rng.random() < 0.3


def misalign(world: World) -> None:
    _some_array(world).flags.aligned = world.rng.random() < 0.5


def overwrite(world: World) -> None:
    x = _some_array(world)
    if id(x) not in world.gone:
        with _touching(world, x):
            x[...] = world.rng.choice([0, np.nan, np.inf, 1e30])


def swap_bytes(world: World) -> None:
    x = _some_array(world)
    if id(x) not in world.gone:
        with _touching(world, x):
            x.byteswap(inplace=True)


def _some_node(world: World) -> Any:
    world.restructured = True
    return world.rng.choice(world.nodes)


def tree(world: World) -> None:
    """Changes one container."""
    rng, node = world.rng, _some_node(world)
    child = rng.choice([None, 1.0, "text", node, *world.arrays[:5], *world.nodes[:3]])
    if isinstance(node, dict):
        key = rng.choice([*node, "new", 7])
        rng.choice([lambda: node.__setitem__(key, child), lambda: node.pop(key), node.clear, node.popitem])()
    elif isinstance(node, list):
        at = rng.randrange(len(node) + 1)
        rng.choice(
            [
                lambda: node.insert(at, child),
                lambda: node.pop(at),
                node.clear,
                node.reverse,
                lambda: node.extend(node[:9]),
            ]
        )()
    elif hasattr(node, "__dict__"):
        name = rng.choice([*vars(node), "new"])
        rng.choice([lambda: object.__setattr__(node, name, child), lambda: object.__delattr__(node, name)])()


def grow(world: World) -> None:
    """Changes the sizes of all containers, so that lists behind them move."""
    world.restructured = True
    for node in world.nodes:
        if isinstance(node, list):
            node.extend([None] * 1000)
        elif isinstance(node, dict):
            node.update({f"new {i}": None for i in range(100)})


def shrink(world: World) -> None:
    world.restructured = True
    for node in world.nodes:
        if isinstance(node, list | dict):
            node.clear()


def forget(world: World) -> None:
    """Drops what holds the objects of the call alive."""
    shrink(world)
    for node in world.nodes:
        if hasattr(node, "__dict__"):
            for name in vars(node):
                object.__setattr__(node, name, None)
    world.arrays[1:], world.nodes[1:], world.args[:] = [], [], []
    world.model = world.state = world.gradient = world.data = world.other = None
    gc.collect()


def rule_field(world: World) -> None:
    """Sets a field of a frozen rule or schedule."""
    rng = world.rng
    rule = rng.choice(world.rules)
    if names := list(vars(rule)):
        object.__setattr__(rule, rng.choice(names), rng.choice([*NONSENSE, *world.rules]))


def nested(world: World) -> None:
    """Another call on the same objects."""
    changing: list[Callable[[], object]] = [
        lambda: optirs.update_(world.state, world.model, world.gradient),
        lambda: optirs.update_(world.state, world.model, None),
        lambda: optirs.adjust_(world.state, 0.5),
        lambda: optirs.freeze_(world.state),
        lambda: optirs.thaw_(world.state),
        lambda: world.other(*world.args) if callable(world.other) else None,
    ]
    calls: list[Callable[[], object]] = [
        *changing,
        lambda: optirs.update(world.state, world.model, world.gradient),
        lambda: optirs.setup(world.rule, world.model),
        lambda: optirs.adjust(world.state, 0.5),
        lambda: optirs.digest(world.state, world.model),
        lambda: optirs.save(world.folder() / "nested", state=world.state, model=world.model),
        lambda: optirs.destructure(world.model),
        lambda: optirs.trainables(world.model, path=True),
        lambda: copy.deepcopy(world.state),
        lambda: pickle.dumps(world.state),
        lambda: repr(world.state),
        lambda: world.state == copy.copy(world.state),
        lambda: optirs.train(optirs.supervised(optirs.mse), world.net(), _rows(world), optirs.Adam(), epochs=2),
    ]
    call = world.rng.choice(calls)
    world.stepped = world.stepped or call in changing
    try:
        call()
    except BaseException as error:
        judge_error(world, error)


def _rows(world: World) -> Any:
    return np.ones((4, world.n_in), "f4"), np.ones((4, world.n_out), "f4")


def collect(world: World) -> None:
    gc.collect()


def release(world: World) -> None:
    optirs.release_memory()


def threads(world: World) -> None:
    optirs.set_num_threads(world.rng.choice([1, 2, 3]))


def simd(world: World) -> None:
    optirs._core.set_simd(world.rng.choice(optirs._core.simd_levels()))


ERRORS = [ValueError, TypeError, KeyError, OSError, RuntimeError, MemoryError, RecursionError, StopIteration]


def fail(world: World) -> None:
    raise world.rng.choice(ERRORS)("an act")


def leave(world: World) -> None:
    raise world.rng.choice([KeyboardInterrupt, SystemExit, GeneratorExit])


def fail_oddly(world: World) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

        __repr__ = __str__

        def add_note(self, note: str) -> None:
            raise ValueError("no notes")

    raise Odd


def nothing(world: World) -> None:
    pass


GROUPS: dict[str, list[Callable[[World], object]]] = {
    "memory": [resize, resize, resize_owner, vanish, vanish, reshape, retype, restride],
    "flags": [lock, misalign, overwrite, swap_bytes],
    "tree": [tree, tree, grow, shrink, forget],
    "rules": [rule_field],
    "nested": [nested],
    "system": [collect, release, threads, simd],
    "errors": [fail, leave, fail_oddly],
    "none": [nothing],
}
"""The acts by groups, which `--acts` chooses from."""


def gently(act: Callable[[World], object]) -> Callable[[World], object]:
    """`act`, where what it does may be refused."""
    if act in GROUPS["errors"]:
        return act

    def done(world: World) -> None:
        try:
            act(world)
        except BaseException as error:
            judge_error(world, error)

    return done
