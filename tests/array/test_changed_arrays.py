"""Arrays that change in the middle of a call, by code of others that runs in it: none is read or written after that."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from changing import MOVED, STEPS, Late, Own, array

import optirs

Act = Callable[[np.ndarray], object]

ACTS: dict[str, Act] = {
    "resize": lambda x: x.resize(1, refcheck=False),
    "grow": lambda x: x.resize(4 * x.size, refcheck=False),
    "shape": lambda x: setattr(x, "shape", (x.size, 1, 1)),
    "dtype": lambda x: setattr(x, "dtype", "u1"),
    "order": lambda x: setattr(x, "dtype", x.dtype.newbyteorder()),
    "strides": lambda x: setattr(x, "strides", tuple(0 for _ in x.strides)),
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=ACTS)
def act(request: pytest.FixtureRequest) -> Act:
    return ACTS[request.param]


RULES = [
    optirs.Descent(),
    optirs.Adam(),
    optirs.OptimiserChain(optirs.Momentum(), optirs.ClipNorm(1.0), optirs.Descent()),
    optirs.MixedPrecision(optirs.Momentum()),
    optirs.AccumGrad(2),
]


@STEPS
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("what", ["parameter", "gradient", "strided"])
def test_a_step(step: Any, rule: Any, what: str, act: Act) -> None:
    model: dict[str, Any] = {"a": array(6, 8), "b": array(6)}
    if what == "strided":
        if act in (ACTS["dtype"], ACTS["shape"]):
            pytest.skip("NumPy refuses that for an array in this order")
        model["a"] = np.asfortranarray(array(6, 8))
    state = optirs.setup(rule, {"a": array(6, 8), "b": array(6)})
    gradient: dict[str, Any] = {"a": array(6, 8), "b": None}
    victim = gradient["a"] if what == "gradient" else model["a"]
    gradient["b"] = Late(array(6), lambda: act(victim))
    before = state["b"].state, model["b"].copy()
    name = "gradient" if what == "gradient" else "parameter"
    with pytest.raises(RuntimeError, match=f"^{name} at a was changed while it was in use: "):
        step(state, model, gradient)
    assert (model["b"] == before[1]).all()
    assert repr(state["b"].state) == repr(before[0])


@STEPS
def test_a_gradient_that_is_a_parameter(step: Any) -> None:
    x = np.ones(4_000_000)
    model = {"a": x, "b": np.ones(2)}
    state = optirs.setup(optirs.Descent(), model)
    gradient = {"a": x, "b": Late(np.ones(2), lambda: x.resize(1, refcheck=False))}
    with pytest.raises(RuntimeError, match=r"at a was changed .*: its shape was \(4000000,\) and is \(1,\) now"):
        step(state, model, gradient)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_parameter_that_becomes_read_only(order: Any) -> None:
    model = {"a": np.array(array(6, 8), order=order), "b": array(6)}
    state = optirs.setup(optirs.Momentum(), {"a": array(6, 8), "b": array(6)})
    lock = Late(array(6), lambda: model["a"].setflags(write=False))
    with pytest.raises(RuntimeError, match="parameter at a was changed while it was in use: it is read-only now"):
        optirs.update_(state, model, {"a": array(6, 8), "b": lock})
    assert (model["b"] == 0.5).all()
    assert not state["a"].state["velocity"].any()


@STEPS
def test_a_rule_of_ones_own(step: Any, act: Act) -> None:
    model = {"a": array(6, 8), "b": array(6)}

    @dataclass(frozen=True)
    class Acts(optirs.Rule):
        def init(self, x: Any) -> None:
            return None

        def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
            act(model["a"])
            return None, dx

    state = optirs.setup(lambda path, x: Acts() if path == ("b",) else optirs.Momentum(), model)
    with pytest.raises(RuntimeError, match="parameter at a was changed"):
        step(state, model, {"a": array(6, 8), "b": array(6)})
    assert (model["b"] == 0.5).all()


@STEPS
def test_a_schedule(step: Any, act: Act) -> None:
    model = {"a": array(6, 8)}
    on: list[bool] = []
    rule = optirs.Scheduled(optirs.Descent(), eta=lambda t: (on and act(model["a"]), 0.5)[1])
    state = optirs.setup(rule, model)
    on.append(True)
    with pytest.raises(RuntimeError, match="parameter at a was changed"):
        step(state, model, {"a": array(6, 8)})


@pytest.mark.parametrize("victim", range(2))
def test_apply(victim: int, act: Act) -> None:
    x, dx = np.ones((30, 100)), np.zeros((30, 100))
    on: list[bool] = []
    rule = optirs.Scheduled(optirs.WeightDecay(), lambda_=lambda t: (on and act((x, dx)[victim]), 0.5)[1])
    state = optirs.init(rule, x)
    on.append(True)
    with pytest.raises(RuntimeError, match="was changed while it was in use"):
        optirs.apply(rule, state, x, dx)


CALLS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "affine_forward": (optirs.affine_forward, [(8, 16), (8,), (32, 16)]),
    "affine_gradient": (optirs.affine_gradient, [(8, 16), (32, 16), (32, 8)]),
    "Affine": (lambda W, b, x: optirs.Affine(W, b)(x), [(8, 16), (8,), (32, 16)]),
    "Dense": (lambda W, b, x: optirs.Dense(W, b, "tanh")(x), [(8, 16), (8,), (32, 16)]),
    "Dense.pullback": (lambda W, b, x: optirs.Dense(W, b, "tanh").pullback(x), [(8, 16), (8,), (32, 16)]),
    "back": (lambda W, x, dy: optirs.Dense(W, array(8)).pullback(x)[1](dy), [(8, 16), (32, 16), (32, 8)]),
    "Chain": (lambda W, b, x: optirs.Chain(optirs.Affine(W, b))(x), [(8, 16), (8,), (32, 16)]),
    "supervised": (
        lambda W, b, x, y: optirs.supervised(optirs.mse)(optirs.Chain(optirs.Dense(W, b)), x, y),
        [(8, 16), (8,), (32, 16), (32, 8)],
    ),
    "supervised.loss": (
        lambda W, b, x, y: optirs.supervised(optirs.mse).loss(optirs.Dense(W, b), x, y),
        [(8, 16), (8,), (32, 16), (32, 8)],
    ),
    **{
        f"{loss.__name__}{road}": (loss.pullback if road else loss, [(32, 2), (32, 2)])
        for loss in (optirs.mse, optirs.mae, optirs.huber, optirs.binary_crossentropy, optirs.crossentropy)
        for road in ("", ".pullback")
    },
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8], ids=str)
def test_calls(name: str, dtype: Any, act: Act) -> None:
    """One argument acts on another when it is converted: what comes out is of them as they were, or an error."""
    call, shapes = CALLS[name]
    expected = call(*(array(*shape) for shape in shapes))
    for late in range(len(shapes)):
        for victim in set(range(len(shapes))) - {late}:
            arguments: list[Any] = [array(*shape) for shape in shapes]
            arguments[victim] = changed = np.full(shapes[victim], 0.5).astype(dtype)
            arguments[late] = Late(array(*shapes[late]), lambda changed=changed: act(changed))
            try:
                found = call(*arguments)
            except (RuntimeError, ValueError, TypeError):
                continue
            if dtype != np.int8 and victim < late:
                assert repr(found)[:40] == repr(expected)[:40]


@pytest.mark.parametrize("late", range(3))
def test_the_argument_is_named(late: int) -> None:
    names, shapes = ["W", "b", "x"], [(8, 16), (8,), (32, 16)]
    for victim in range(late):
        arguments: list[Any] = [array(*shape) for shape in shapes]
        changed = arguments[victim]
        arguments[late] = Late(arguments[late], lambda changed=changed: changed.resize(1, refcheck=False))
        with pytest.raises(RuntimeError, match=f"affine_forward: {names[victim]} was changed while it was in use"):
            optirs.affine_forward(*arguments)


@pytest.mark.parametrize("victim", ["x", "y"])
def test_the_training_loop(victim: str, act: Act, started: list[bool]) -> None:
    x, y = array(64, 4), array(64, 2)
    model = optirs.Chain(optirs.Dense(array(8, 4), array(8), "tanh"), optirs.Affine(array(2, 8), array(2)))

    class Callback:
        def on_epoch_end(self, event: Any) -> None:
            if event.epoch == 3:
                act({"x": x, "y": y}[victim])

    with pytest.raises(RuntimeError, match=f"{victim} was changed while it was in use: "):
        optirs.train(
            optirs.supervised(optirs.mse), model, (x, y), optirs.Momentum(), epochs=9, batch_size=16,
            callbacks=[Callback()],
        )  # fmt: skip
    assert started[0]


def test_threads_that_lock_a_strided_parameter() -> None:
    """A step is whole also where it is written back to: it takes place, or an error says why not."""
    model = {"a": np.asfortranarray(array(300, 400)), "b": array(6)}
    state = optirs.setup(optirs.Momentum(0.1), {"a": array(300, 400), "b": array(6)})
    gradient = {"a": array(300, 400), "b": array(6)}
    stop = threading.Event()

    def lock() -> None:
        while not stop.is_set():
            model["a"].flags.writeable = False
            model["a"].flags.writeable = True

    thread = threading.Thread(target=lock)
    thread.start()
    steps = 0
    try:
        for _ in range(300):
            with contextlib.suppress(RuntimeError, ValueError):
                optirs.update_(state, model, gradient)
                steps += 1
            assert len(np.unique(model["a"])) == 1
            assert model["a"][0, 0] == model["b"][0]
            velocity = [state[name].state["velocity"] for name in "ab"]
            assert velocity[0][0, 0] == velocity[1][0]
    finally:
        stop.set()
        thread.join()
    assert steps


@STEPS
@pytest.mark.parametrize("what", ["parameter", "gradient"])
@pytest.mark.parametrize("order", ["view", "part", "transpose", "class"])
def test_views_of_an_array_that_is_resized(step: Any, what: str, order: str) -> None:
    """A view stays as it was when the array that has its memory is resized, and must not be followed all the same."""
    view: Callable[[np.ndarray], Any] = {
        "view": lambda x: x[:],
        "part": lambda x: x[10:-10:2],
        "transpose": lambda x: x.T,
        "class": lambda x: x.view(type("Derived", (np.ndarray,), {}))[1:],
    }[order]
    owner = np.ones((300, 200))
    of_views, plain = view(owner), np.ones(view(owner).shape)
    model = {"a": of_views if what == "parameter" else plain.copy(), "b": np.ones(3)}
    state = optirs.setup(optirs.Momentum(), {"a": plain, "b": np.ones(3)})
    late = Late(np.ones(3), lambda: owner.resize(1, refcheck=False))
    gradient = {"a": of_views if what == "gradient" else plain, "b": late}
    if what == "gradient" and order in ("part", "transpose"):  # which was copied before
        step(state, model, gradient)
        return
    with pytest.raises(RuntimeError, match="in use: the memory that it is a view of was resized or released"):
        step(state, model, gradient)
    assert (model["b"] == 1).all()


def test_tied_gradients_of_an_array_that_is_resized() -> None:
    W = np.ones((300, 200))
    model = {"a": W, "b": W.T, "c": np.ones(3)}
    state = optirs.setup(optirs.Momentum(), model)
    g = np.ones((200, 300))
    late = Late(np.ones((300, 200)), lambda: g.resize(1, refcheck=False))
    for gradient in ({"a": late, "b": g, "c": None}, {"a": g.T, "b": None, "c": Late(np.ones(3), late.act)}):
        with pytest.raises((RuntimeError, ValueError)):
            optirs.update_(state, model, gradient)
        g = np.ones((200, 300))
        assert (W == 1).all()


def test_rules_of_ones_own_under_a_schedule_and_in_a_chain() -> None:
    @dataclass(frozen=True)
    class Own(optirs.Rule):
        eta: float = 0.1

        def init(self, x: Any) -> None:
            return None

        def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
            return None, x * self.eta

    @dataclass(frozen=True)
    class Acts(Own):
        def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
            if on:
                array.resize(1, refcheck=False)
            return None, dx

    on: list[bool] = []
    scheduled = optirs.Scheduled(Own(), eta=lambda t: (on and array.resize((0,), refcheck=False), 0.1)[1])
    for rule in (scheduled, optirs.OptimiserChain(Acts(), Own()), optirs.OptimiserChain(Acts(), optirs.WeightDecay())):
        for road in (optirs.update, optirs.update_):
            array = np.ones(5_000_000)
            on.clear()
            state = optirs.setup(rule, {"a": array})
            on.append(True)
            with pytest.raises((RuntimeError, ValueError)):
                road(state, {"a": array}, {"a": np.ones(5_000_000)})


def test_views_that_are_in_order() -> None:
    """Views of views, of other classes, of foreign memory, that overlap themselves or turn back, are arrays as any."""
    owner = np.ones((6, 8))
    views = [
        owner[:], owner[1:][2:].T, owner[::-1, ::-2], owner.view(np.ndarray)[2:4], owner.real,
        np.frombuffer(bytearray(64)), np.lib.stride_tricks.as_strided(owner, (3, 3), (64, 8)), np.ones(3)[None][0],
        np.ones(4, complex).real, np.ones(2, [("a", "f8"), ("b", "f4")])["a"], np.broadcast_to(1.0, (3,)),
        np.ndarray((2,), buffer=owner, offset=8), owner[:0], owner.reshape(-1)[5:6],
    ]  # fmt: skip
    for view in views:
        x = np.ones(view.shape, view.dtype)
        _, new = optirs.update(optirs.setup(optirs.Descent(1.0), {"a": x}), {"a": x}, {"a": view})
        assert (new["a"] == 1 - view).all()


def stale(n: int = 100_000) -> np.ndarray:
    """A view of memory that was given back."""
    owner = np.ones(2 * n)
    view = owner[:n]
    owner.resize(1, refcheck=False)
    return view


@dataclass(frozen=True)
class Resizes(optirs.Rule):
    """A rule that resizes what its parameter lies in."""

    owners: tuple[Any, ...] = ()

    def init(self, x: Any) -> None:
        return None

    def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
        self.owners[0].resize(1, refcheck=False)
        return None, dx


@STEPS
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("order", ["view", "class"])
def test_a_rule_that_resizes_its_own_parameter(step: Any, mixed: bool, order: str) -> None:
    owner = np.ones(500_000)
    x = owner[:] if order == "view" else owner.view(type("Derived", (np.ndarray,), {}))
    rule: Any = Resizes((owner,))
    state = optirs.setup(optirs.MixedPrecision(rule, "float64") if mixed else rule, {"a": x})
    with pytest.raises(RuntimeError, match=f"parameter at a {MOVED}"):
        step(state, {"a": x}, {"a": np.ones(500_000)})
    owner = np.ones(500_000)
    rule = optirs.MixedPrecision(Resizes((owner,)), "float64")
    with pytest.raises(RuntimeError, match=MOVED):
        optirs.apply(rule, optirs.init(rule, owner[:]), owner[:], np.ones(500_000))


def test_gradients_in_memory_that_was_given_back() -> None:
    x, n = np.ones(100_000), np.zeros(1)
    for rule in (optirs.Descent(), Own(), optirs.MixedPrecision(optirs.Descent())):
        for model in ({"a": x.copy()}, {"a": x.copy().astype("f4"), "n": n}):
            state = optirs.setup(rule, model)
            with pytest.raises(RuntimeError, match=f"gradient at a {MOVED}"):
                optirs.update_(state, model, {"a": stale()})
            with pytest.raises((RuntimeError, TypeError), match=MOVED):
                optirs.update_(state, model, {"a": Late(stale(), lambda: None)})
    W = x.reshape(100, 1000)
    tied = {"a": W, "b": W.T}
    with pytest.raises(RuntimeError, match=MOVED):
        optirs.update_(optirs.setup(optirs.Descent(), tied), tied, {"a": stale().reshape(100, 1000), "b": W.T.copy()})
    odd = {"a": np.ones(3), "b": np.ones(100_000, np.longdouble)}
    with pytest.raises(RuntimeError, match=MOVED):
        optirs.update(optirs.setup(optirs.Descent(), odd), odd, {"a": np.ones(3), "b": stale()})


def test_operands_of_an_iterator_are_arrays_as_any() -> None:
    """They have memory of their own and a base to which it is written back."""
    flags: Any = [["readwrite", "updateifcopy"]]
    with np.nditer(np.ones(4, ">f8"), op_flags=flags, op_dtypes=["f8"], casting="unsafe") as iterator:
        (operand,) = iterator.operands
        assert operand.flags.owndata
        assert operand.base is not None
        assert optirs.mse(operand, np.ones(4)) == 0


@pytest.mark.parametrize("at", range(1, 6))
def test_flat_vectors_of_an_array_that_a_property_resizes(at: int) -> None:
    owner = np.ones(200_000).view(type("Derived", (np.ndarray,), {}))
    asked: list[bool] = []

    @optirs.functor(children=("x",))
    class Acts:
        def __init__(self) -> None:
            self.x = np.ones(3)

        @property
        def x(self) -> Any:
            asked.append(True)
            if len(asked) == at:
                owner.resize(1, refcheck=False)
            return self._x

        @x.setter
        def x(self, value: Any) -> None:
            self._x = value

    try:
        flat, _ = optirs.destructure([owner, Acts()])
    except (RuntimeError, ValueError, TypeError):
        return
    assert flat.size in (4, 200_003)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_rows_of_an_array_that_is_resized(shuffle: bool, own: bool, started: list[bool]) -> None:
    owner = np.ones((4000, 50), np.float32)
    x, y = owner[:], np.ones((4000, 2), np.float32)
    model = optirs.Affine(np.ones((2, 50), np.float32), np.zeros(2, np.float32))
    gradient: Any = optirs.supervised(optirs.mse)
    if own:
        gradient = lambda *a: optirs.supervised(optirs.mse)(*a)  # noqa: E731

    def callback(event: Any) -> None:
        if event.step == 3:
            owner.resize(1, refcheck=False)

    with pytest.raises(RuntimeError, match=MOVED):
        optirs.train(
            gradient, model, (x, y), optirs.Descent(1e-6), epochs=9, batch_size=16, shuffle=shuffle, rng=0,
            callbacks=[callback],
        )  # fmt: skip


def test_a_tie_in_the_other_byte_order() -> None:
    w = np.ones(3)
    state = optirs.setup(optirs.Descent(), [w, w])
    with pytest.raises(ValueError, match="are one parameter in the state, but different arrays in the model"):
        optirs.update(state, [w, w.view(">f8")], [w, None])


class Hides(np.ndarray):
    """An array that is resized when its class is asked for."""

    count = 0

    @property
    def __class__(self) -> type:
        Hides.count -= 1
        if Hides.count == 0:
            self.resize((2, 3), refcheck=False)
        return np.ndarray


@pytest.mark.parametrize("at", range(1, 12))
def test_targets_that_change_when_their_class_is_asked_for(at: int) -> None:
    y = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]].copy().view(Hides)
    Hides.count = at
    try:
        assert np.isfinite(optirs.crossentropy(np.zeros((4, 3), np.float32), y))
    except (ValueError, RuntimeError):
        pass
    finally:
        Hides.count = 0


def test_what_ends_a_program_is_no_wrong_type() -> None:
    class Count:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    x = np.ones(2)
    state = {"m": x, "v": x, "t": Count()}
    with pytest.raises(KeyboardInterrupt):
        optirs.apply(optirs.Adam(), state, x, x)


class Key:
    """A key that raises when it is printed."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


@STEPS
def test_what_ends_a_program_goes_before_the_words_of_an_error(step: Any) -> None:
    assert str(optirs.KeyPath(("a", Key(ValueError)))) == "a[?]"
    key = Key(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        str(optirs.KeyPath(("a", key)))
    model = {key: np.ones(2)}
    state = optirs.setup(optirs.Descent(), model)
    for wrong in (np.ones(3), ["text"], {"c": 1}):
        with pytest.raises(KeyboardInterrupt):
            step(state, model, {key: wrong})
    with pytest.raises(KeyboardInterrupt):
        step(state, {key: np.ones(2, np.float32)}, model)
    with pytest.raises(KeyboardInterrupt):
        optirs.setup(optirs.Descent(1e39), {key: np.ones(2, np.float32)})


CHANGES: dict[str, tuple[str, Callable[[Any, Any], object]]] = {
    "the model is cleared": ("the model was changed during the update, at a$", lambda model, _: model.clear()),
    "a list is cleared": (r"the model was changed during the update, at a\[0\]$", lambda model, _: model["a"].clear()),
    "an array is another": (
        r"the model was changed during the update, at a\[0\]$",
        lambda model, _: model["a"].insert(0, np.ones(2)),
    ),
    "the state is cleared": ("the state was changed during the update, at the top$", lambda _, state: state.clear()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_trees_that_change_during_an_update(change: str) -> None:
    words, act = CHANGES[change]
    model: dict[str, Any] = {"a": [np.ones(2)], "b": np.ones(2)}
    state = optirs.setup(optirs.Descent(), model)
    gradient = {"a": [np.ones(2)], "b": Late(np.ones(2), lambda: act(model, state))}
    with pytest.raises(RuntimeError, match=words):
        optirs.update(state, model, gradient)
