"""Worlds: models, gradients and rules of all kinds, drawn from one generator of random numbers."""

import contextlib
import contextvars
import itertools
import random
import tempfile
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import optirs
from optirs import rules, schedules

Pair = namedtuple("Pair", "a b")
DTYPES = ["f4"] * 6 + ["f8"] * 3 + ["f2", "c8", "c16", ">f4", ">f8", ">c8", ml_dtypes.bfloat16]
OTHER_DTYPES = ["i4", "?", "u1", "g", "O", "U3", "M8[s]", [("a", "f4")]]
SIZES = [1, 2, 3, 5, 64, 300, 300, 1030, 1030, 5000, 5000, 70_000]


@optirs.functor(trainable=("W",))
@dataclass
class Layer:
    """A class of the user's."""

    W: Any
    b: Any


@optirs.functor(children=("one", "two"), trainable=lambda self: self.chosen)
class Chosen:
    """A class whose instances say what is trained."""

    def __init__(self, one: Any, two: Any) -> None:
        self.one, self.two, self.chosen = one, two, ("one", "two")


class Plain(np.ndarray):
    """A subclass of NumPy's arrays without anything of its own."""


class Sub(dict):  # type: ignore[type-arg]
    """A dict with another name."""


@dataclass(frozen=True)
class Own(optirs.Rule):
    """A rule of the user's own; its code is a hook, see `hooks`."""

    eta: float = 0.1

    def init(self, x: Any) -> Any:
        return {"sum": np.zeros_like(x), "t": 0}

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return {"sum": state["sum"] + dx, "t": state["t"] + 1}, dx * self.eta


def _chain(some: list[Any]) -> Any:
    """Some rules in a chain, those last that must be, without what may not stand there."""
    some.sort(key=lambda rule: any(map(rules.lands, rules.flattened(rule))))
    while True:
        try:
            return optirs.OptimiserChain(*some)
        except ValueError:
            some.pop()


class World:
    """What a round is about, and the acts that wait for their moment in it."""

    def __init__(self, name: str) -> None:
        self.name, self.rng = name, random.Random(name)
        self.numbers = np.random.default_rng(self.rng.getrandbits(64))
        self.arrays: list[np.ndarray] = []  # what acts may change
        self.nodes: list[Any] = []  # containers, likewise
        self.rules: list[Any] = []  # rules and schedules, likewise
        self.acts: list[Callable[[World], object]] = []  # what happens when a hook fires
        self.undo: list[Callable[[], object]] = []  # hooks that are not objects of the world are taken away again
        self.armed = self.busy = False
        self.fired = 0
        self.first = self.rng.choice([1, 1, 1, 2, 3, 5])  # the call of a hook at which the acts begin
        self.failures: list[BaseException] = []  # of what acts called, where that is none of the accepted ones
        self.viewed: set[int] = set()  # arrays that own the memory of others, which are views of it
        self.spares_viewed = False  # whether those keep their memory, as NumPy itself may be reading a view
        self.gone: set[int] = set()  # the views whose memory acts have given back: nobody may read them
        self.changed: set[int] = set()  # the arrays whose content or memory acts have changed
        self.restructured = False  # whether an act has changed containers
        self.stepped = False  # whether an act has stepped the model, or changed a state
        self.args: list[Any] = []

    def fire(self) -> None:
        """What every hook calls."""
        if not self.armed or self.busy:
            return
        self.fired += 1
        if self.fired < self.first or self.fired > self.first + 20:
            return
        self.busy = True
        try:
            for act in self.acts:
                # In a context of its own: CPython 3.11 crashes where the collector, while a context variable is set,
                # runs code that sets one.
                contextvars.copy_context().run(act, self)
        finally:
            self.busy = False

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """No hook fires meanwhile."""
        armed, self.armed = self.armed, False
        try:
            yield
        finally:
            self.armed = armed

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("there is one world")

    def folder(self) -> Path:
        """A folder for files, which goes when the round ends."""
        folder = tempfile.TemporaryDirectory()
        self.undo.append(folder.cleanup)
        return Path(folder.name)

    # --- arrays ------------------------------------------------------------------------------------------------------

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of some layout with small numbers in it."""
        rng, dtype = self.rng, np.dtype(dtype)
        values = self.numbers.normal(size=shape)
        if dtype.kind == "c":
            values = values + 1j * self.numbers.normal(size=shape)
        x = np.asarray(values).astype(dtype)
        how = "own" if rng.random() < 0.4 else rng.choice(list(LAYOUTS))
        return self.known(LAYOUTS[how](self, x))

    def known(self, x: np.ndarray) -> np.ndarray:
        """`x`, which acts may change from here on, as they may what it is a view of."""
        self.arrays.append(x)
        whole = owner(x)
        if whole is not None and whole is not x:
            self.viewed.add(id(whole))
            if all(whole is not y for y in self.arrays):
                self.arrays.append(whole)
        return x

    def shape(self) -> tuple[int, ...]:
        rng = self.rng
        if rng.random() < 0.15:
            return rng.choice([(), (0,), (2, 0, 3), (1, 1, 1), (1,) * 12])
        n = rng.choice(SIZES)
        return rng.choice([(n,), (n,), (n, 1), (1, n), (max(n // 3, 1), 3), (2, max(n // 4, 1), 2)])

    # --- rules -------------------------------------------------------------------------------------------------------

    def schedule(self) -> Any:
        rng, s = self.rng, schedules
        return rng.choice(
            [
                lambda: s.Constant(0.1),
                lambda: s.Step(0.1, 0.5, 3),
                lambda: s.Exponential(0.1, 0.9, 2, 0.01),
                lambda: s.Polynomial(0.1, 5),
                lambda: s.Cosine(0.1, 5),
                lambda: s.Warmup(s.Constant(0.1), 3),
                lambda: s.OneCycle(0.1, 10),
                lambda: s.Piecewise([0.1, 0.2], [3]),
                lambda: s.Sequence([s.Constant(0.1), s.Step(0.1, 0.5, 3)], [3]),
            ]
        )()

    def rule(self, depth: int = 0) -> Any:
        rng = self.rng
        simple = [
            r for name, r in optirs.RULES.items() if name not in ("OptimiserChain", "MixedPrecision", "AccumGrad")
        ]
        kind = rng.random() if depth < 3 else 0.0
        if kind < 0.5:
            rule = rng.choice(simple)()
            if hasattr(rule, "eta") and rng.random() < 0.5:  # a step that is seen in every type
                rule = type(rule)(eta=rng.choice([0.5, 1.0]))
        elif kind < 0.58:
            rule = optirs.AccumGrad(rng.choice([1, 2, 3]))
        elif kind < 0.8:
            rule = _chain([self.rule(depth + 1) for _ in range(rng.choice([0, 1, 2, 2, 3]))])
        elif kind < 0.9:
            inner = optirs.Adam(0.1) if rng.random() < 0.5 else optirs.OptimiserChain(optirs.ClipNorm(), optirs.Lion())
            schedule = self.schedule()
            self.rules.append(schedule)
            rule = optirs.Scheduled(inner, eta=schedule if rng.random() < 0.5 else lambda t: 0.1 / (t + 1))
        elif kind < 0.95:
            rule = Own()
        elif depth == 0:
            rule = optirs.MixedPrecision(self.rule(3), rng.choice(["float32", "float64", "float16", "bfloat16"]))
        else:
            rule = optirs.Momentum()
        self.rules.append(rule)
        return rule

    # --- trees -------------------------------------------------------------------------------------------------------

    def leaf(self) -> Any:
        rng = self.rng
        kind = rng.random()
        if kind < 0.85 or not self.arrays:
            return self.array(self.shape(), rng.choice(DTYPES))
        if kind < 0.9:
            return np.zeros(3).astype(rng.choice(OTHER_DTYPES[:3]))
        if kind < 0.93:
            x = rng.choice(self.arrays)
            return self.known(rng.choice([x, x.T, x[1:] if x.ndim else x]))
        return rng.choice([None, 3, 1.5, "text", abs, np.float32(2), object(), [], {}, ()])

    def tree(self, depth: int = 0) -> Any:
        rng = self.rng
        kind = rng.random() if depth else 0.3 + 0.7 * rng.random()
        if depth > 2 or kind < 0.3:
            return self.leaf()
        children = [self.tree(depth + 1) for _ in range(rng.choice([1, 2, 2, 3]))]
        keys = rng.sample(["a", "b", "x y", 1, ("k", 2), None], len(children))
        two = (children * 2)[:2]
        node = rng.choice(
            [
                lambda: dict(zip(keys, children, strict=True)),
                lambda: dict(zip(keys, children, strict=True)),
                lambda: OrderedDict(zip(keys, children, strict=True)),
                lambda: Sub(zip(keys, children, strict=True)),
                lambda: children,
                lambda: children,
                lambda: tuple(children),
                lambda: Pair(*two),
                lambda: Layer(*two),
                lambda: Chosen(*two),
                lambda: self.net(),
            ]
        )()
        self.nodes.append(node)
        return node

    def net(self) -> Any:
        """Layers of the package."""
        rng = self.rng
        sizes = [rng.choice([1, 2, 3, 17, 64]) for _ in range(rng.choice([2, 2, 3]))]
        self.n_in, self.n_out = sizes[0], sizes[-1]
        dtype = rng.choice(["f4", "f4", "f4", "f8", "f2"])
        made = []
        for n_in, n_out in itertools.pairwise(sizes):
            W, b = self.array((n_out, n_in), dtype), self.array((n_out,), dtype)
            name = rng.choice(["identity", "relu", "tanh", "sigmoid", "gelu", "softplus"])
            made.append(optirs.Affine(W, b) if rng.random() < 0.3 else optirs.Dense(W, b, name))
        self.nodes += made
        net = made[0] if len(made) == 1 and rng.random() < 0.7 else optirs.Chain(*made)
        self.nodes.append(net)
        return net

    def gradient_of(self, model: Any) -> Any:
        """A gradient that fits, with some places left out."""
        rng = self.rng
        if rng.random() < 0.05:
            return None
        if isinstance(model, np.ndarray) and model.dtype.kind in "fcV":
            kind = rng.random()
            if kind < 0.1:
                return model
            dtype = model.dtype if model.dtype.kind == "c" else rng.choice(["f4", "f8", "f2", "i4", ">f8"])
            if model.dtype == bool or model.dtype.names:
                return None
            g = self.array(model.shape, dtype)
            return g.tolist() if kind < 0.15 and g.size < 400 else g
        if isinstance(model, dict):
            made: Any = {key: self.gradient_of(child) for key, child in model.items()}
        elif isinstance(model, list | tuple):
            made = [self.gradient_of(child) for child in model]
            made = tuple(made) if rng.random() < 0.5 else made
        elif (names := optirs._core.registered(type(model))) is not None:
            made = {name: self.gradient_of(getattr(model, name, None)) for name in names}
            if rng.random() < 0.4:
                made = type("Gradient", (), {})()
                for name in names:
                    setattr(made, name, self.gradient_of(getattr(model, name, None)))
        else:
            return None
        self.nodes.append(made)
        return made


def owner(x: np.ndarray) -> np.ndarray | None:
    """The array whose memory `x` lies in, which may be `x`, through views of any kind; `None` if it is no array's."""
    at: Any = x
    while at is not None:
        if isinstance(at, np.ndarray) and at.flags.owndata:
            return at
        at = at.obj if isinstance(at, memoryview) else getattr(at, "base", None)
    return None


def _misaligned(_world: World, x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)
    moved = raw[1:].view(x.dtype).reshape(x.shape) if x.dtype.isbuiltin == 1 and x.size else x
    moved[...] = x
    return moved


def _strided(_world: World, x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, axis=0)[::2] if x.ndim else x


def _read_only(_world: World, x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def _memmap(world: World, x: np.ndarray) -> np.ndarray:
    if not x.size:
        return x
    mapped = np.memmap(world.folder() / "mapped", dtype=x.dtype, mode="w+", shape=x.shape)
    mapped[...] = x
    return mapped


def _within(_world: World, x: np.ndarray) -> np.ndarray:
    """In the middle of a larger array."""
    if x.dtype.isbuiltin != 1:
        return x
    whole = np.full(x.size + 32, 7, x.dtype)
    part = whole[16 : 16 + x.size].reshape(x.shape)
    part[...] = x
    return part


def _through_memoryview(_world: World, x: np.ndarray) -> np.ndarray:
    return np.asarray(memoryview(x)) if x.dtype.isbuiltin == 1 and x.size else x


LAYOUTS: dict[str, Callable[[World, np.ndarray], np.ndarray]] = {
    "own": lambda w, x: x,
    "fortran": lambda w, x: np.asfortranarray(x),
    "reversed": lambda w, x: x[::-1] if x.ndim else x,
    "strided": _strided,
    "transposed": lambda w, x: np.ascontiguousarray(x.T).T,
    "broadcast": lambda w, x: np.broadcast_to(x.reshape(-1)[:1].reshape(()) if x.size else x, x.shape),
    "misaligned": _misaligned,
    "read-only": _read_only,
    "subclass": lambda w, x: x.view(Plain).copy(),  # a copy owns its memory
    "masked": lambda w, x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "matrix": lambda w, x: x.view(np.matrix) if x.ndim == 2 else x,
    "memmap": _memmap,
    "within": _within,
    "own view": lambda w, x: x[...],
    "view of a view": lambda w, x: x.view(Plain)[...].view(np.ndarray),
    "subclass view": lambda w, x: x.view(Plain),
    "memoryview": _through_memoryview,
    "as_strided": lambda w, x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides),
}
