"""The roads: calls that lead through the package, each with the arguments that a world gives it."""

import copy
import inspect
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import optirs
from optirs import _core

from .acts import NONSENSE
from .judge import parts
from .worlds import World, owner


@dataclass(frozen=True)
class Road:
    """A call of `function` with what `arguments` takes from the world; `in_place` if it writes to the model, and
    `by_numpy` if not the package but NumPy reads its arrays."""

    function: Callable[..., Any]
    arguments: Callable[[World], tuple[Any, ...]]
    net: bool = False
    in_place: bool = False
    by_numpy: bool = False


def _step(w: World) -> tuple[Any, ...]:
    return w.state, w.model, w.gradient


def _one(w: World) -> tuple[Any, ...]:
    """A rule, an array of the world, its state and a gradient."""
    x = w.rng.choice(w.arrays)
    try:
        state = optirs.init(w.rule, x)
    except (TypeError, ValueError, AttributeError):
        state = None
    return w.rule, state, x, w.array(x.shape, "f4")


def _data(w: World) -> tuple[np.ndarray, np.ndarray]:
    rows, dtype = w.rng.choice([0, 1, 5, 300, 300]), w.rng.choice(["f4", "f4", "f8", "f2", "i4"])
    w.target = w.array((rows, w.n_out), dtype)
    return w.array((rows, w.n_in), w.rng.choice(["f4", "f4", "f8", "f2"])), w.target


def _layer(w: World) -> Any:
    return w.model.layers[0] if isinstance(w.model, optirs.Chain) else w.model


def _affine(w: World) -> tuple[Any, ...]:
    layer, rows = _layer(w), w.rng.choice([1, 4, 300])
    return layer.W, layer.b, w.array((rows, layer.W.shape[1]), "f4")


def _affine_back(w: World) -> tuple[Any, ...]:
    W, _, x = _affine(w)
    return W, x, w.array((x.shape[0], W.shape[0]), "f4")


LOSSES = {name: getattr(optirs, name) for name in ("mse", "mae", "huber", "binary_crossentropy", "crossentropy")}


def _pair(w: World) -> tuple[Any, ...]:
    shape = w.rng.choice([(4, 3), (3,), (0, 3), (1000, 3), (1, 3)])
    yhat = w.array(shape, w.rng.choice(["f4", "f8", "f2"]))
    return yhat, w.array(shape, w.rng.choice(["f4", "f8", "f2", "i4"]))


def _classes(w: World) -> tuple[Any, ...]:
    yhat, _ = _pair(w)
    rows = yhat.shape[:-1]
    return yhat, w.array(rows, w.rng.choice(["i4", "i8", "u1"])) * w.rng.choice([0, 0, 1])


def _train(model: Any, x: Any, y: Any, rule: Any, w: World, **options: Any) -> Any:
    rng = w.rng
    data: Any = (x, y)
    if rng.random() < 0.2:
        data = [(x, y), (x, y)]
    elif rng.random() < 0.2:
        data = _Batches(w, [(x, y)])
    elif rng.random() < 0.2:
        data = _Table(w, x) if hasattr(x, "shape") else x, y
    callbacks: list[Any] = []
    if rng.random() < 0.6:
        callbacks = [rng.choice([_called, _called, _Hooks, _stopping])(w, x, y)]
    loss = rng.choice([*LOSSES.values(), *[optirs.mse] * 5])  # which takes targets of any size
    gradient: Any = optirs.supervised(loss)
    if rng.random() < 0.3:
        inner = gradient

        def gradient(*batch: Any) -> Any:
            answer = inner(*batch)
            w.fire()
            return answer

    if isinstance(data, tuple):
        options |= {
            "batch_size": rng.choice([None, 1000, *[1 + len(w.target) // 4] * 2]),
            "shuffle": rng.random() < 0.5,
        }
    options |= {"epochs": 3, "log_every": rng.choice([None, None, 1, 2]), "callbacks": callbacks}
    return optirs.train(gradient, model, data, rule, **options)


def _called(w: World, *_: Any) -> Any:
    return lambda event: w.fire()


def _stopping(_: World, x: Any, y: Any) -> Any:
    return optirs.EarlyStopping(optirs.HeldOut(optirs.supervised(optirs.mse), (x, y)), patience=2)


class _Hooks:
    def __init__(self, world: World, *_: Any) -> None:
        self.world = world

    def on_step_end(self, event: Any) -> None:
        self.world.fire()

    def on_epoch_end(self, event: Any) -> None:
        self.world.fire()


class _Batches:
    def __init__(self, world: World, batches: list[Any]) -> None:
        self.world, self.batches = world, batches

    def __iter__(self) -> Any:
        for batch in self.batches:
            self.world.fire()
            yield batch


class _Table:
    """Rows of an array that act when they are taken, so that a batch may be gone when it is there."""

    def __init__(self, world: World, value: Any) -> None:
        self.world, self.value, self.shape = world, value, value.shape

    def __getitem__(self, at: Any) -> Any:
        if id(self.value) in self.world.gone:
            raise ValueError("the array is gone")
        rows = self.value[at]
        self.world.fire()
        return rows


def _layer_back(layer: Any, x: Any, dy: Any) -> Any:
    _, back = layer.pullback(x)
    return back(dy)


def _restructure(model: Any, gradient: Any) -> Any:
    flat, restructure = optirs.destructure(model)
    return restructure(flat), restructure.gradient(gradient)


def _files(state: Any, model: Any, w: World) -> Any:
    path = w.folder() / "file"
    optirs.save(path, state=state, model=model)
    found = optirs.load(path, like=model if w.rng.random() < 0.5 else None)
    if w.rng.random() < 0.5:
        data = bytearray(path.read_bytes())
        for _ in range(w.rng.choice([1, 1, 3])):
            at = w.rng.randrange(min(len(data), w.rng.choice([16, 3000, 10**9])))
            data[at] = w.rng.choice(
                [data[at] ^ 1, data[at] ^ 0x10, ord("0"), ord("-"), ord("9"), ord("["), ord("}"), ord(",")]
            )
        path.write_bytes(data)
        optirs.load(path, like=model, strict=w.rng.random() < 0.5)
    return found


def _random_state(state: Any, w: World) -> Any:
    rng = optirs.Xoshiro(1)
    rng.state = state
    return rng.rand(3), pickle.loads(pickle.dumps(rng)), repr(rng)


def _training_alone(model: Any, x: Any, y: Any, w: World) -> Any:
    """The compiled loop, used as it is not meant to be."""
    with w.calm():  # what is copied NumPy reads
        models = copy.deepcopy(model), copy.deepcopy(model)
    pairs = [(optirs.setup(optirs.Adam(), m), m) for m in models]
    fit = _core.Fit.start("mse", pairs, x, y, w.rng.choice([1, 2, 1000, 2**62]))
    if isinstance(fit, str):
        return fit
    for _ in range(3):
        order = w.rng.choice(
            [None, None, np.arange(len(x)), np.zeros(len(x), "i8"), np.full(len(x), 2**62), NONSENSE[0]]
        )
        w.rng.choice(
            [
                lambda order=order: fit.run(w.rng.choice([0, 1, 3]), order, w.rng.choice([0.0, 1e-9, 0.01])),
                lambda: fit.run(1, None, w.rng.choice([-1.0, float("nan"), 1e300])),
                lambda: fit.losses(w.rng.choice([0, 5, 2**62])),
                lambda: fit.restart(pairs),
                lambda: fit.restart([(w.state, w.model), pairs[0]]),
                fit.accept,
                lambda: optirs.update_(*pairs[0], None),
                lambda: optirs.adjust_(pairs[0][0], 0.5),
            ]
        )()
        w.fire()
    return fit.current, fit.good, fit.failed


NOT_CALLED = {"set_num_threads", "set_simd", "release_memory"}  # settings, whose values matter to later rounds
PRIVATE = [x for name, x in vars(_core).items() if callable(x) and not name.startswith("__") and name not in NOT_CALLED]


def _private(function: Any, *arguments: Any) -> Any:
    """A function or class of the compiled module, and the methods of what it returns."""
    made = function(*arguments)
    if type(made).__module__.startswith("optirs"):
        for name in dir(made):
            attribute = getattr(made, name, None)
            if callable(attribute) and not name.startswith("__"):
                for some in ((), arguments[:1], arguments[:2], arguments):
                    try:
                        attribute(*some)
                    except (TypeError, ValueError, OverflowError):
                        continue
    return made


def _private_arguments(w: World) -> tuple[Any, ...]:
    function = w.rng.choice(PRIVATE)
    try:
        count = len(inspect.signature(function).parameters)
    except ValueError:
        count = w.rng.randrange(5)
    leaves = [leaf for leaf in _leaves(w.state) if leaf is not None]
    names = ["Adam", "mse", "relu", "float32", "state", "crossentropy"]
    pool = [
        *NONSENSE,
        w.model,
        w.state,
        w.gradient,
        w.rule,
        *w.arrays,
        *leaves,
        leaves,
        w.arrays,
        [w.rule],
        names,
        *names,
    ]
    return function, *(w.rng.choice(pool) for _ in range(count))


def _leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return [leaf for child in state for leaf in _leaves(child)]
    return [state] if type(state) is optirs.Leaf else []


def _restored(leaf: Any, w: World) -> Any:
    """A Leaf made of parts of which one is something else."""
    function, parts = leaf.__reduce__()
    parts = list(parts)
    if w.rng.random() < 0.1:
        return repr(function(*parts)), function(*parts).state
    parts[w.rng.randrange(len(parts))] = w.rng.choice([*NONSENSE, w.rule, [2**62] * 3, [-1], [0, 2**62], (None, None)])
    return repr(function(*parts)), function(*parts).state


def _some_leaf(w: World) -> Any:
    return w.rng.choice([*_leaves(w.state), optirs.setup(optirs.Adam(), np.ones(3))])


ROADS: dict[str, Road] = {
    "update": Road(optirs.update, _step),
    "update_": Road(optirs.update_, _step, in_place=True),
    "update twice": Road(lambda s, m, g: optirs.update(*optirs.update(s, m, g), g), _step),
    "gradients": Road(_core.gradients, _step),
    "setup": Road(optirs.setup, lambda w: (w.rule, w.model)),
    "setup by function": Road(lambda rule, m: optirs.setup(lambda path, x: rule, m), lambda w: (w.rule, w.model)),
    "init": Road(optirs.init, lambda w: (w.rule, w.rng.choice(w.arrays))),
    "apply": Road(optirs.apply, _one),
    "adjust": Road(optirs.adjust, lambda w: (w.state, 0.5)),
    "adjust_": Road(optirs.adjust_, lambda w: (w.state, 0.5), in_place=True),
    "adjust a rule": Road(optirs.adjust, lambda w: (w.rule, w.rng.choice(NONSENSE))),
    "freeze_": Road(lambda s: (optirs.freeze_(s), optirs.thaw_(s)), lambda w: (w.state,), in_place=True),
    "metrics": Road(optirs.metrics, lambda w: (w.state,)),
    "averaged": Road(optirs.averaged, lambda w: (w.state, w.model)),
    "digest": Road(optirs.digest, lambda w: (w.state, w.model)),
    "files": Road(_files, lambda w: (w.state, w.model, w)),
    "pickle": Road(lambda *both: pickle.loads(pickle.dumps(both)), lambda w: (w.state, w.model), by_numpy=True),
    "deepcopy": Road(lambda *both: copy.deepcopy(both), lambda w: (w.state, w.model), by_numpy=True),
    "copy": Road(copy.copy, lambda w: (w.state,)),
    "equality": Road(lambda a, b: (a == b, repr(a), repr(b)), lambda w: (w.state, copy.deepcopy(w.state))),
    "restore": Road(_restored, lambda w: (_some_leaf(w), w)),
    "trainables": Road(lambda m: optirs.trainables(m, path=True), lambda w: (w.model,)),
    "destructure": Road(_restructure, lambda w: (w.model, w.gradient)),
    "schedule": Road(lambda s, t: s(t), lambda w: (w.schedule(), w.rng.choice([0, 5, np.arange(9), *NONSENSE]))),
    "schedule of a rule": Road(lambda s, r: optirs.Scheduled(r, eta=s), lambda w: (w.schedule(), w.rule)),
    "random": Road(
        lambda *shape: optirs.Xoshiro(1).rand(*shape), lambda w: (w.rng.choice([0, 1, 3]), w.rng.choice([0, 2, 5]))
    ),
    "random state": Road(_random_state, lambda w: ((1, 2, 3, w.rng.choice(NONSENSE)), w)),
    "seed": Road(lambda seed: optirs.Xoshiro(seed).rand(2), lambda w: (w.rng.choice(NONSENSE),)),
    "private": Road(_private, _private_arguments),
    "affine_forward": Road(optirs.affine_forward, _affine, net=True),
    "affine_gradient": Road(optirs.affine_gradient, _affine_back, net=True),
    "layer": Road(lambda layer, x: layer(x), lambda w: (w.model, _data(w)[0]), net=True),
    "layer backwards": Road(_layer_back, lambda w: (w.model, *_data(w)), net=True),
    "supervised": Road(
        lambda loss, m, x, y: optirs.supervised(loss)(m, x, y), lambda w: (_loss(w), w.model, *_data(w)), net=True
    ),
    "supervised loss": Road(
        lambda loss, m, x, y: optirs.supervised(loss).loss(m, x, y), lambda w: (_loss(w), w.model, *_data(w)), net=True
    ),
    "train": Road(_train, lambda w: (w.model, *_data(w), w.rule, w), net=True),
    "train simply": Road(_train, lambda w: (w.model, *_data(w), optirs.Momentum(), w), net=True),
    "compiled training": Road(_training_alone, lambda w: (w.model, *_data(w), w), net=True),
    "crossentropy of classes": Road(optirs.crossentropy, _classes),
    **{name: Road(loss, _pair) for name, loss in LOSSES.items()},
    **{f"{name} backwards": Road(loss.pullback, _pair) for name, loss in LOSSES.items()},
}
"""The roads by name, which `--roads` chooses from."""


def _half_a_step(w: World) -> None:
    """Steps one parameter and leaves out the others, as an act changes something."""
    arrays = [x for x in parts(w.model)[0] if x.flags.writeable and x.size and x.dtype.kind in "fc"]
    for x in arrays[:1]:
        x -= 0.5
    while w.armed and w.fired < w.first:
        w.fire()
    raise ValueError("the second half is not gone")


def _past_a_parameter(w: World) -> None:
    """Writes to all of what parameters are views of."""
    for x in parts(w.model)[0]:
        whole = owner(x)
        if whole is not None and whole.flags.writeable and whole.dtype.kind in "fc":
            whole -= 0.5


FAULTS: dict[str, Road] = {
    "a crash": Road(lambda: os.kill(os.getpid(), signal.SIGSEGV), lambda w: ()),
    "an exit": Road(lambda: os._exit(3), lambda w: ()),
    "a hang": Road(lambda: time.sleep(3600), lambda w: ()),
    "half a step": Road(_half_a_step, lambda w: (w,), in_place=True),
    "a write past a parameter": Road(_past_a_parameter, lambda w: (w,), in_place=True),
}
"""What must be found, for the test of the fuzzer itself."""

OFTEN = ("update", "update_", "apply", "affine_", "layer", "supervised", "train", "mse", "crossentropy")
"""Beginnings of the names of roads that take pointers: they are gone more often."""


def _loss(w: World) -> Any:
    return w.rng.choice(list(LOSSES.values()))
