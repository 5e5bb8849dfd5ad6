"""What Python's collector of cycles finds: states, rules and trainers that lead to each other, and what caches hold."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import optirs
from optirs import MixedPrecision, OptimiserChain, Scheduled, schedules
from optirs._core import Fit, Hold


@pytest.fixture(autouse=True, scope="module")
def by_hand() -> Iterator[None]:
    """Only these tests collect, and only what they made: else each would look at all that pytest has."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


class Trainer:
    """Knows all that a training is made of."""

    def __init__(self) -> None:
        self.lr = 0.1
        self.model: Any = {"w": np.ones(3), "b": [np.zeros(2, np.float16)]}


@dataclass(frozen=True)
class Knowing(optirs.Rule):
    """A rule of one's own that knows whom it works for."""

    trainer: Any = field(compare=False, repr=False)

    def init(self, x: np.ndarray) -> Any:
        return 0

    def apply(self, state: Any, x: np.ndarray, dx: np.ndarray) -> tuple[Any, Any]:
        return state + 1, dx * self.trainer.lr


@dataclass(frozen=True)
class Remembering(Knowing):
    """Its state is whatever stands in a list, and knows the trainer."""

    def init(self, x: np.ndarray) -> Any:
        return [self.trainer]

    def apply(self, state: Any, x: np.ndarray, dx: np.ndarray) -> tuple[Any, Any]:
        return [*state, self.trainer.state], dx


class Adam(optirs.Adam):
    """A built-in rule with an attribute."""


@dataclass(frozen=True)
class Named(optirs.Adam):
    trainer: Any = field(default=None, compare=False)


class Halving(schedules.Exponential):
    """A schedule with an attribute."""


def marked(thing: Any, trainer: Trainer) -> Any:
    object.__setattr__(thing, "trainer", trainer)
    return thing


RULES: dict[str, Callable[[Trainer], optirs.Rule]] = {
    "function": lambda t: Scheduled(optirs.Adam(), eta=lambda step: t.lr),
    "functions": lambda t: Scheduled(optirs.Adam(), beta=(lambda step: t.lr, 0.999)),
    "function in a chain": lambda t: OptimiserChain(
        optirs.ClipNorm(), MixedPrecision(optirs.Adam()).rule, Scheduled(optirs.Descent(), eta=lambda step: t.lr)
    ),
    "function under a copy": lambda t: MixedPrecision(Scheduled(optirs.Lion(), eta=lambda step: t.lr)),
    "schedule": lambda t: Scheduled(optirs.Adam(), eta=marked(Halving(1.0, 0.5, every=2), t)),
    "schedule in a schedule": lambda t: Scheduled(
        optirs.Adam(), eta=schedules.Warmup(marked(Halving(1.0, 0.5, every=2), t), 3)
    ),
    "derived": lambda t: marked(Adam(), t),
    "derived in a chain": lambda t: OptimiserChain(marked(Adam(), t)),
    "derived with a field": lambda t: Named(trainer=t),
    "own": Knowing,
    "own under a copy": lambda t: MixedPrecision(Knowing(t), "float64"),
    "own in a chain": lambda t: OptimiserChain(optirs.Adam(), Knowing(t)),
    "own state": Remembering,
    "own state in a chain": lambda t: OptimiserChain(optirs.ClipNorm(), Remembering(t), optirs.Momentum()),
}


def gone(*refs: weakref.ref[Any]) -> bool:
    gc.collect()
    return all(ref() is None for ref in refs)


def stepped(trainer: Trainer, act: Any) -> None:
    gradient = {"w": np.ones(3), "b": [np.ones(2)]}
    trainer.state, trainer.model = act(trainer.state, trainer.model, gradient)


def no_step(trainer: Trainer) -> None:
    pass


def adjusted(trainer: Trainer) -> None:
    # A leaf that led nowhere leads somewhere now.
    trainer.state = optirs.setup(Scheduled(optirs.Adam(), eta=schedules.Constant(0.1)), trainer.model)
    stepped(trainer, optirs.update)
    optirs.adjust_(trainer.state, eta=lambda step: trainer.lr)


WAYS: dict[str, Callable[[Trainer], Any]] = {
    "setup": no_step,
    "update": lambda t: stepped(t, optirs.update),
    "update_": lambda t: stepped(t, optirs.update_),
    "frozen": lambda t: optirs.freeze_(t.state),
    "no gradient": lambda t: setattr(t, "state", optirs.update(t.state, t.model, None)[0]),
    "views": lambda t: setattr(t, "views", [leaf.state for leaf in (t.state["w"], t.state["b"][0])]),
    "rule function": lambda t: setattr(t, "state", optirs.setup(lambda path, x: t.state["w"].rule, t.model)),
    "adjust_": adjusted,
    "flat": lambda t: setattr(t, "flat", optirs.destructure(t.model)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_state_that_leads_to_its_trainer(rule: str, way: str) -> None:
    trainer = Trainer()
    trainer.state = optirs.setup(RULES[rule](trainer), trainer.model)
    WAYS[way](trainer)
    leaf = trainer.state["w"]
    trainer.rule = leaf.rule
    refs = weakref.ref(trainer), weakref.ref(leaf), weakref.ref(leaf.rule)
    assert gc.is_tracked(leaf)
    assert leaf.rule in gc.get_referents(leaf)
    gc.collect()
    assert refs[0]() is trainer
    assert refs[1]() is leaf
    assert repr(leaf.state)
    del trainer, leaf
    assert gone(*refs)


def test_what_a_leaf_shows_to_the_collector() -> None:
    trainer = Trainer()
    plain = optirs.setup(optirs.Adam(), trainer.model)["w"]
    assert gc.get_referents(plain) == [type(plain), plain.rule]
    trainer.state = optirs.setup(Remembering(trainer), trainer.model)
    leaf = trainer.state["w"]
    assert any(r is leaf.rule for r in gc.get_referents(leaf))
    assert any(r is leaf.state for r in gc.get_referents(leaf))


@pytest.mark.parametrize(
    "rule",
    [
        optirs.Adam(),
        OptimiserChain(optirs.ClipNorm(), OptimiserChain(optirs.AdamW())),
        MixedPrecision(optirs.Momentum()),
        Scheduled(optirs.Adam(), eta=schedules.Warmup(schedules.Piecewise((0.1, 0.2), (3,)), 5)),
        Scheduled(optirs.Adam(), beta=(schedules.Constant(0.1), 0.9)),
    ],
)
def test_leaves_of_plain_rules_are_left_out(rule: optirs.Rule) -> None:
    # A thousand of them would be looked at in every collection.
    model = {"w": np.ones(3), "b": [np.zeros(2)]}
    state = optirs.setup(rule, model)
    assert not gc.is_tracked(state["w"])
    state, _ = optirs.update(state, model, model)
    assert not gc.is_tracked(state["w"])


@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
@pytest.mark.parametrize("around", [lambda rule: rule, OptimiserChain, MixedPrecision])
def test_a_state_that_holds_its_own_tree(act: Any, around: Any) -> None:
    trainer = Trainer()
    trainer.state = optirs.setup(around(Remembering(trainer)), trainer.model)
    for _ in range(3):
        stepped(trainer, act)
    refs = weakref.ref(trainer), weakref.ref(trainer.state["w"])
    del trainer
    assert gone(*refs)


class Dropping:
    """Says when it goes."""

    def __init__(self, leaf: Any, seen: list[Any]) -> None:
        self.leaf, self.seen = leaf, seen

    def __del__(self) -> None:
        self.seen.append((self.leaf.rule, self.leaf.state))


def test_finalisers_see_leaves_as_they_were() -> None:
    trainer, seen = Trainer(), []
    trainer.state = optirs.setup(Knowing(trainer), trainer.model)
    trainer.last = Dropping(trainer.state["w"], seen)
    ref = weakref.ref(trainer)
    del trainer
    assert gone(ref)
    (rule, state), *rest = seen
    assert type(rule) is Knowing
    assert state == 0
    assert not rest


class Watching:
    """A callback that keeps what it sees."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step_end(self, event: Any) -> None:
        self.trainer.event = event


@pytest.mark.parametrize("rule", ["function", "own", "derived"])
def test_trainings(rule: str) -> None:
    trainer = Trainer()
    trainer.model = optirs.Affine(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))
    data = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    trainer.gradient = optirs.supervised(optirs.mse)
    trainer.stopping = optirs.EarlyStopping(optirs.HeldOut(trainer.gradient, data), patience=2)
    hooks = [trainer.stopping, Watching(trainer)]
    trainer.training = optirs.train(
        trainer.gradient, trainer.model, data, RULES[rule](trainer), epochs=5, callbacks=hooks
    )
    trainer.state = trainer.training.state
    refs = [weakref.ref(thing) for thing in (trainer, trainer.training, trainer.state.W, trainer.stopping, *hooks)]
    del trainer, hooks
    assert gone(*refs)


def test_compiled_trainings() -> None:
    trainer = Trainer()
    trainer.model = optirs.Affine(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))
    data = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    trainer.training = optirs.train(
        optirs.supervised(optirs.mse), trainer.model, data, marked(Adam(), trainer), epochs=5
    )
    refs = [weakref.ref(thing) for thing in (trainer, trainer.training, trainer.training.state.W)]
    del trainer
    assert gone(*refs)


def test_what_a_compiled_training_holds() -> None:
    trainer = Trainer()
    model = optirs.Affine(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))
    pair = optirs.setup(marked(Adam(), trainer), model), model
    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    trainer.fit = Fit.start("mse", [pair, optirs.update(*pair, None)], x, y, 4)
    assert trainer.fit.run(3, None, 1.0)
    held = gc.get_referents(trainer.fit)
    assert all(any(h is thing for h in held) for thing in (pair[0], pair[0].W, model.W, x, y))
    trainer.hold = Hold([pair[0].W])
    assert any(h is pair[0].W for h in gc.get_referents(trainer.hold))
    refs = [weakref.ref(thing) for thing in (trainer, pair[0].W)]
    del trainer, pair, held
    assert gone(*refs)


@pytest.mark.parametrize("callbacks", [(), (lambda event: None,)], ids=["compiled", "Python"])
def test_errors_of_trainings(callbacks: tuple[Any, ...]) -> None:
    trainer = Trainer()
    trainer.model = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    x = np.full((4, 1), 1e30, np.float32)
    try:
        optirs.train(
            optirs.supervised(optirs.mse), trainer.model, (x, x), marked(Adam(), trainer), epochs=5, callbacks=callbacks
        )
    except optirs.NonFiniteLossError as error:
        trainer.error, trainer.state = error, error.state
    refs = weakref.ref(trainer), weakref.ref(trainer.state.W), weakref.ref(trainer.error.history)
    del trainer
    assert gone(*refs)


def test_pullbacks() -> None:
    trainer = Trainer()
    layers = [optirs.Affine.random(2, 2), optirs.Dense.glorot(2, 2, "tanh")]
    trainer.model = optirs.Chain(*layers)
    trainer.backs = [layer.pullback(np.ones((3, 2)))[1] for layer in (*layers, trainer.model)]
    for layer in layers:
        layer.trainer = trainer
    refs = [weakref.ref(thing) for thing in (trainer, trainer.model, *layers)]
    del trainer, layers, layer
    assert gone(*refs)


@pytest.mark.parametrize("rule", [optirs.Adam, optirs.Momentum, lambda: Scheduled(optirs.Adam(), eta=lambda t: 0.1)])
def test_no_cache_keeps_a_rule(rule: Any) -> None:
    rule = rule()
    kept = weakref.ref(rule)
    model = [np.ones(3)]
    state = optirs.setup(rule, model)
    state, model = optirs.update(state, model, model)
    assert optirs.apply(rule, optirs.init(rule, model[0]), *2 * model)
    del rule, state
    assert kept() is None  # no collection is needed


def test_leaves_share_what_is_compiled_of_their_rule() -> None:
    # Adjusted one by one, they have one rule again, which is compiled once.
    model = [np.ones(3) for _ in range(5)]
    state = optirs.adjust(optirs.setup(optirs.Adam(), model), 0.5)
    assert len({id(leaf.rule) for leaf in state}) == 1


class Array(np.ndarray):
    """One that can be referred to weakly."""


def used() -> list[weakref.ref[Any]]:
    """What took part in an update and a training."""
    trainer = Trainer()
    x, g = np.ones(3).view(Array), np.ones(3).view(Array)
    trainer.f = lambda model, batch: (trainer.lr, [g])
    state, model = optirs.update(optirs.setup(optirs.Adam(), [x]), [x], [g])
    optirs.update_(state, model, [g])
    optirs.train(trainer.f, [x], [(1,)], optirs.Descent(0.1))
    optirs.destructure([x])[1].gradient([g])
    return [weakref.ref(thing) for thing in (trainer, trainer.f, x, g, state[0])]


def test_no_cache_keeps_what_took_part() -> None:
    assert gone(*used())


def registered() -> list[weakref.ref[Any]]:
    """A class whose registration leads to itself, and a node of it."""
    trainer = Trainer()

    @optirs.functor(children=("a", "b"), trainable=lambda node: ("a",) if (trainer, Node) else ())
    class Node:
        def __init__(self) -> None:
            self.a, self.b = np.ones(2), np.zeros(2)
            self.next = trainer

    node = Node()
    state, new = optirs.update(optirs.setup(optirs.Adam(), node), node, {"a": np.ones(2)})
    assert new.a[0] != 1
    assert state.b is None
    return [weakref.ref(thing) for thing in (Node, trainer, node, new)]


def test_registered_classes_go() -> None:
    assert gone(*registered())


def test_another_class_where_one_was_is_not_registered() -> None:
    def made(registered: bool) -> Any:
        cls = type("Node", (), {"__init__": lambda self: setattr(self, "a", np.ones(2))})
        return optirs.functor(children=("a",))(cls) if registered else cls

    for _ in range(50):
        assert len(optirs.trainables([made(True)()])) == 1
        gc.collect()
        assert optirs.trainables([made(False)()]) == []
        gc.collect()


def test_registering_anew_replaces_what_was() -> None:
    class Node:
        def __init__(self) -> None:
            self.a, self.b = np.ones(2), np.zeros(2)

    class Below(Node):
        pass

    for children in (("a",), ("a", "b"), ("b",)):
        optirs.functor(children=children)(Node)
        assert [str(path) for path, _ in optirs.trainables(Node(), path=True)] == list(children)
        assert optirs.trainables(Below()) == []


class Meta(type):
    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError("sealed")

    def __getattr__(cls, name: str) -> Any:
        raise AssertionError(name)


def test_classes_with_a_metaclass_of_their_own() -> None:
    class Sealed(metaclass=Meta):
        def __init__(self) -> None:
            self.a = np.ones(2)

    optirs.functor(children=("a",))(Sealed)
    assert len(optirs.trainables([Sealed(), "text"])) == 1


@dataclass(frozen=True)
class Linked(optirs.Rule):
    """Its state is whatever it is given."""

    state: Any = field(compare=False, repr=False)

    def init(self, x: np.ndarray) -> Any:
        return self.state

    def apply(self, state: Any, x: np.ndarray, dx: np.ndarray) -> tuple[Any, Any]:
        return state, dx


@pytest.mark.parametrize(
    "link", [lambda leaf: leaf, lambda leaf: (leaf,), lambda leaf: {"leaf": [leaf]}], ids=["leaf", "tuple", "dict"]
)
@pytest.mark.parametrize("cyclic", [False, True])
def test_long_chains_of_leaves(link: Any, cyclic: bool) -> None:
    x, end = np.ones(1), Trainer()
    leaf: Any = end
    for _ in range(30_000):
        # Not through the rule as well: the leaf is the only one that holds the next.
        rule = Linked(link(leaf))
        leaf = optirs.setup(rule, x)
        object.__setattr__(rule, "state", None)
    if cyclic:
        end.first = leaf
    ref = weakref.ref(end)
    gc.collect()
    del leaf, end, rule
    assert gone(ref)


def test_collections_while_others_step() -> None:
    failures: list[BaseException] = []
    over = threading.Event()

    def step(act: Any, name: str) -> None:
        try:
            for _ in range(15):
                trainer = Trainer()
                trainer.model = {"w": np.ones(300_000, np.float32), "b": [np.zeros(2, np.float16)]}
                trainer.state = optirs.setup(RULES[name](trainer), trainer.model)
                for _ in range(3):
                    gradient = {"w": np.ones(300_000, np.float32), "b": [np.ones(2)]}
                    trainer.state, trainer.model = act(trainer.state, trainer.model, gradient)
                    assert type(trainer.state["w"].rule).__module__
        except BaseException as error:
            failures.append(error)

    def collect() -> None:
        while not over.is_set():
            gc.collect()

    collector = threading.Thread(target=collect)
    threads = [
        threading.Thread(target=step, args=(act, name))
        for act in (optirs.update, optirs.update_)
        for name in ("function", "own state in a chain")
    ]
    for thread in (collector, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    collector.join()
    assert not failures
