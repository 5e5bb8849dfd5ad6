"""The compiled training loop against the loop in Python, which runs where a callback sees every step: the same bits."""

import logging
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import LOSSES, data, layer, network
from problems import DTYPES, VARIANTS, make
from trainings import FALLING, Doubling, bits, both, outcome

import optirs

CASES = [(name, i) for name in VARIANTS for i in range(len(VARIANTS[name]))]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_rule(started: list[bool], name: str, variant: int) -> None:
    rule = make(name, VARIANTS[name][variant])
    both(started, "mse", network(), data("mse", 20), rule, epochs=5, batch_size=7, log_every=2)


@pytest.mark.parametrize(("name", "variant"), [("Descent", 0), ("Adam", 0), ("RAdam", 0), ("AMSGrad", 0)])
@pytest.mark.parametrize("hidden", [1, 40, 400])
def test_steps_small_and_larger(started: list[bool], hidden: int, name: str, variant: int) -> None:
    # The loops of a small step are found once; of a larger one the jobs are looked at each time.
    model = optirs.Chain(layer(4, hidden, "tanh"), layer(hidden, 3, "identity"))
    both(started, "mse", model, data("mse", 20), make(name, VARIANTS[name][variant]), epochs=4, batch_size=8)


ONE_LOOP = optirs.Adam(0.1)
OTHER_WAYS = [
    optirs.OptimiserChain(optirs.ClipGrad(0.1), optirs.Adam(0.1)),
    optirs.OptimiserChain(optirs.ClipNorm(0.1), optirs.Descent(0.1)),
    optirs.OptimiserChain(optirs.AccumGrad(2), optirs.Descent(0.1)),
    optirs.MixedPrecision(optirs.Adam(0.1)),
    None,
]


@pytest.mark.parametrize("other", OTHER_WAYS, ids=lambda rule: repr(rule)[:24])
@pytest.mark.parametrize("first", ["W", "b"])
def test_parameters_that_take_different_ways(started: list[bool], other: optirs.Rule | None, first: str) -> None:
    def rule(path: optirs.KeyPath, _: np.ndarray) -> optirs.Rule | None:
        return ONE_LOOP if path[-1] == first else other

    both(started, "mse", network(), data("mse", 20), rule, epochs=5, batch_size=7)


@pytest.mark.parametrize("wide", ["W", "b"])
def test_parameters_of_different_types(started: list[bool], wide: str) -> None:
    model = network()
    for dense in (model[0], model[1][0], model[2]):
        setattr(dense, wide, getattr(dense, wide).astype(np.float64))
    both(started, "mse", model, data("mse", 20), ONE_LOOP, epochs=5, batch_size=7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_size", [None, 1, 7, 20, 10**30])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_loss(started: list[bool], loss: str, batch_size: int | None, shuffle: bool) -> None:
    options = {"batch_size": batch_size, "shuffle": shuffle, "rng": 5 if shuffle else None, "epochs": 4, "log_every": 3}
    both(started, loss, network(), data(loss, 20), optirs.Adam(0.01), **options)
    if loss == "crossentropy":
        x, y = data(loss, 20)
        both(started, loss, network(), (x, y.argmax(axis=1)), optirs.Adam(0.01), **options)


@given(
    case=st.sampled_from(CASES),
    loss=st.sampled_from(sorted(LOSSES)),
    rows=st.integers(1, 30),
    batch_size=st.integers(1, 31),
    seed=st.none() | st.integers(0, 9),
    epochs=st.integers(0, 4),
    log_every=st.none() | st.integers(1, 3),
    scale=st.sampled_from([1.0, 1.0, 1e19, math.inf]),
    frozen=st.lists(st.sampled_from(["W", "b"]), max_size=1),
)
def test_any_training(
    case: tuple[str, int],
    loss: str,
    rows: int,
    batch_size: int,
    seed: int | None,
    epochs: int,
    log_every: int | None,
    scale: float,
    frozen: list[str],
) -> None:
    model, (x, y) = network(), data(loss, rows)
    x[rows // 2] *= scale  # beyond some row the loss, or a norm, may be too large
    state = optirs.setup(make(case[0], VARIANTS[case[0]][case[1]]), model)
    for name in frozen:
        optirs.freeze_(getattr(state[0], name))
    options = {"batch_size": batch_size, "shuffle": seed is not None, "rng": seed, "epochs": epochs}
    fast = outcome(loss, model, (x, y), state=state, log_every=log_every, **options)
    slow = outcome(loss, model, (x, y), state=state, log_every=log_every, callbacks=[lambda event: None], **options)
    assert repr(fast) == repr(slow)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(started: list[bool], dtype: str) -> None:
    model = network(DTYPES[dtype])
    for rule in (
        optirs.Adam(0.01),
        optirs.OptimiserChain(optirs.ClipNorm(0.1), optirs.Momentum(0.1)),
        optirs.MixedPrecision(optirs.Adam(0.01)),
        optirs.MixedPrecision(optirs.Momentum(0.01), "float64"),
        optirs.MixedPrecision(optirs.Momentum(0.01), "float16"),
    ):
        both(started, "mse", model, data("mse", 20), rule, epochs=5, batch_size=7, log_every=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_beyond_16_bits(started: list[bool], dtype: str) -> None:
    # They are of the size of 1e6 and of 1e-9, which float16 does not hold.
    for scale in (2e3, 1e-4):
        x, y = (scale * array for array in data("mse", 20))
        model = optirs.Affine(np.zeros((y.shape[1], x.shape[1]), DTYPES[dtype]), np.zeros(y.shape[1], DTYPES[dtype]))
        adam = optirs.Adam(0.01, epsilon=1e-20)
        for rule in (adam, optirs.MixedPrecision(adam)):
            both(started, "mse", model, (x, y), rule, epochs=3, batch_size=7)
            new = optirs.train(optirs.supervised(optirs.mse), model, (x, y), rule).model
            assert started.pop() is True
            np.testing.assert_allclose(np.abs(new.W.astype(float)), 0.01, rtol=5e-3)


def test_ties(started: list[bool]) -> None:
    square = layer(4, 4, "tanh")
    shared = optirs.Chain(square, layer(4, 4, "tanh", 1), square, square)
    x = data("mse", 20)[0]
    both(started, "mse", shared, (x, x), optirs.Adam(0.01), epochs=4, batch_size=7)
    half = optirs.Dense(square.W.astype(np.float16), square.b.astype(np.float16), "tanh")
    for rule in (optirs.Adam(0.01), optirs.MixedPrecision(optirs.Adam(0.01))):
        both(started, "mse", optirs.Chain(half, half), (300 * x, x), rule, epochs=4, batch_size=7)
    wide = optirs.Dense(square.W.astype(float), square.b.astype(float), "tanh")
    both(started, "mse", optirs.Chain(wide, wide), (x, x), optirs.Adam(0.01), epochs=4, compiled=False)
    transposed = optirs.Chain(square, optirs.Dense(square.W.T, square.b.copy()))
    both(started, "mse", transposed, (x, x), optirs.Adam(0.01), epochs=4, compiled=False)


def test_parts_that_are_not_trained(started: list[bool]) -> None:
    model, pair = network(), data("mse", 20)
    chosen = optirs.setup(lambda path, _: optirs.Adam(0.1) if path[-1] == "b" else None, model)
    both(started, "mse", model, pair, state=chosen, epochs=3)
    both(started, "mse", model, pair, lambda path, _: optirs.Descent(0.1) if path[1] == 0 else optirs.Lion(), epochs=3)
    frozen = optirs.setup(optirs.Adam(0.1), model)
    optirs.freeze_(frozen[1])
    both(started, "mse", model, pair, state=frozen, epochs=3)
    integers = optirs.Affine(np.eye(3, 4, dtype=int), np.zeros(3, int))
    with pytest.warns(UserWarning, match="no trainable"):
        optirs.train(optirs.supervised(optirs.mse), integers, pair, optirs.Adam(), epochs=2)


@pytest.mark.parametrize("other", [lambda x: x, lambda x: x[:], lambda x: x.T], ids=["same", "view", "transpose"])
def test_a_parameter_that_also_stands_where_it_is_not_trained(started: list[bool], other: Any) -> None:
    square = layer(4, 4, "tanh")
    model = optirs.Chain(square, optirs.Dense(other(square.W), square.b.copy()))
    state = optirs.setup(optirs.Descent(0.1), model)
    x = data("mse", 20)[0]
    for name in ("W", "b"):
        setattr(state.layers[1], name, None)
        both(started, "mse", model, (x, x), state=state, epochs=4, batch_size=7, compiled=False)
    model.layers[1].W = square.W.copy()
    both(started, "mse", model, (x, x), state=state, epochs=4, batch_size=7)


def test_resuming(started: list[bool]) -> None:
    model, pair = network(), data("mse", 20)
    gradient = optirs.supervised(optirs.mse)
    rule = optirs.OptimiserChain(optirs.AccumGrad(3), optirs.AdamW(0.01))
    whole = optirs.train(gradient, model, pair, rule, epochs=10)
    first = optirs.train(gradient, model, pair, rule, epochs=4)
    kept = bits(first)
    second = optirs.train(gradient, first.model, pair, state=first.state, epochs=6)
    assert bits(first) == kept
    assert bits(second)[:2] == bits(whole)[:2]
    assert list(first.history) + list(second.history) == list(whole.history)
    assert started == [True] * 3


def test_a_refused_norm_names_the_place(started: list[bool]) -> None:
    x, y = data("mse", 20)
    model = network()
    model[2].W[:] *= 1e20
    message = both(started, "mse", model, (x, y), optirs.ClipNorm(), epochs=5)
    assert "for the parameter at layers[0].W" in message


@pytest.mark.parametrize(
    "rule", [optirs.MixedPrecision(optirs.ClipNorm()), optirs.OptimiserChain(optirs.Momentum(), optirs.ClipNorm())]
)
def test_refusals_within_rules(started: list[bool], rule: optirs.Rule) -> None:
    model = network()
    model[2].W[:] *= 1e20
    assert "for the parameter at" in both(started, "mse", model, data("mse", 20), rule, epochs=5)


def test_what_needs_python_takes_the_other_loop(started: list[bool]) -> None:
    gradient, model, (x, y) = optirs.supervised(optirs.mse), network(), data("mse", 20)

    class Subclass(optirs.Affine):
        pass

    fortran = network()
    fortran[0].W = np.asfortranarray(fortran[0].W)
    derived = optirs.Chain(Subclass(np.ones((3, 4), np.float32), np.zeros(3, np.float32)))
    optirs.functor(children=("W", "b"))(Subclass)
    for arguments in (
        (lambda *batch: gradient(*batch), model, (x, y), optirs.Adam()),
        (gradient, model, [(x, y)], optirs.Adam()),
        (gradient, model, (x, y), Doubling()),
        (gradient, model, (x, y), optirs.OptimiserChain(optirs.ClipNorm(), Doubling())),
        (gradient, fortran, (x, y), optirs.Adam()),
        (gradient, derived, (x, y), optirs.Adam()),
        (gradient, model, (x, y.astype(float).view(np.ma.MaskedArray)), optirs.Adam()),
    ):
        optirs.train(*arguments, epochs=2)
        assert started.pop() is False


def test_errors_are_those_of_the_other_loop(started: list[bool]) -> None:
    gradient, model, (x, y) = optirs.supervised(optirs.mse), network(), data("mse", 20)
    for bad in ((x[:, :3], y), (x, y[:, :2]), (x, np.array(["a"] * 20)), (x[:, 0], y)):
        for callbacks in ([], [lambda event: None]):
            with pytest.raises((ValueError, TypeError)) as caught:
                optirs.train(gradient, model, bad, optirs.Adam(), batch_size=7, callbacks=callbacks)
            callbacks or started.append(str(caught.value))  # type: ignore[func-returns-value, arg-type]
        assert str(caught.value) in started


def test_arguments_are_left_alone(started: list[bool]) -> None:
    gradient, model, pair = optirs.supervised(optirs.mse), network(), data("mse", 20)
    state = optirs.setup(optirs.Adam(0.1), model)
    before = [array.tobytes() for array in (*optirs.trainables(model), *pair)], repr(state[0].W.state)
    training = optirs.train(gradient, model, pair, state=state, epochs=3)
    assert ([array.tobytes() for array in (*optirs.trainables(model), *pair)], repr(state[0].W.state)) == before
    assert started == [True]
    # And the result is a pair like any other.
    optirs.update_(training.state, training.model, gradient(training.model, *pair)[1])


@pytest.mark.usefixtures("bare_collector")
def test_threads_are_let_through_and_ctrl_c_returns_what_there_is(started: list[bool]) -> None:
    import _thread

    gradient, model, pair = optirs.supervised(optirs.mse), network(), data("mse", 2000)
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    training = optirs.train(gradient, model, pair, optirs.Adam(0.001), epochs=10**30, batch_size=50)
    timer.join()
    assert training.interrupted
    assert started == [True]
    steps = len(training.history)
    assert steps > 0
    expected = optirs.train(gradient, model, pair, optirs.Adam(0.001), epochs=-(-steps // 40), batch_size=50)
    assert list(expected.history)[:steps] == list(training.history)
    state_steps = training.state[0].W.state["t"]
    assert state_steps == steps


@pytest.mark.parametrize("loss", ["mse", "crossentropy"])
@pytest.mark.parametrize("which", ["x", "y", "W"])
def test_arrays_that_are_resized_between_two_epochs(loss: str, which: str, caplog: pytest.LogCaptureFixture) -> None:
    x, y = data(loss, 40)
    model = optirs.Chain(layer(4, 6, "tanh"), layer(6, 3, "identity"))
    arrays = {"x": x, "y": y, "W": model[0].W}
    arrays[which] = arrays[which].copy()
    model[0].W = arrays["W"]

    class Resize(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            arrays[which].resize((1,) * arrays[which].ndim, refcheck=False)

    logger, handler = logging.getLogger("optirs"), Resize()
    logger.addHandler(handler)
    gradient, batch = optirs.supervised(getattr(optirs, loss)), (arrays["x"], arrays["y"])

    def rule(path: Any, _: Any) -> Any:
        return None if "W" in path else optirs.Adam()

    caplog.set_level(logging.INFO, "optirs")
    try:
        with pytest.raises((RuntimeError, ValueError)):
            optirs.train(gradient, model, batch, rule, epochs=3, log_every=1)
    finally:
        logger.removeHandler(handler)


SCHEDULED = [
    optirs.Scheduled(optirs.Adam(), eta=FALLING),
    optirs.Scheduled(optirs.OptimiserChain(optirs.ClipNorm(0.5), optirs.AdamW(lambda_=0.1)), eta=FALLING),
    optirs.Scheduled(optirs.ClipNorm(), omega=FALLING, p=optirs.schedules.Piecewise((2.0, 1.0), boundaries=(3,))),
    optirs.OptimiserChain(optirs.Momentum(), optirs.Scheduled(optirs.ClipNorm(), omega=FALLING)),
    optirs.OptimiserChain(optirs.AccumGrad(3), optirs.Scheduled(optirs.Adam(), eta=FALLING)),
    optirs.Scheduled(optirs.OptimiserChain(optirs.AccumGrad(3), optirs.Nesterov()), eta=FALLING, rho=FALLING),
    optirs.MixedPrecision(optirs.Scheduled(optirs.AdamW(), eta=FALLING, beta=(0.8, FALLING)), "float64"),
    optirs.Scheduled(optirs.Scheduled(optirs.AdamW(), lambda_=FALLING), eta=optirs.schedules.Cosine(0.1, steps=9)),
]


@pytest.mark.parametrize("rule", SCHEDULED, ids=range(len(SCHEDULED)))
def test_scheduled_rules_train_with_the_values_of_each_step(started: list[bool], rule: optirs.Rule) -> None:
    x, y = data("mse", 12)
    options: dict[str, Any] = {"batch_size": 5, "shuffle": True}
    both(started, "mse", network(), (x, y), rule, epochs=5, log_every=2, rng=3, **options)
    gradient, rng = optirs.supervised(optirs.mse), np.random.default_rng(3)
    whole = optirs.train(gradient, network(), (x, y), rule, epochs=4, rng=3, **options)
    first = optirs.train(gradient, network(), (x, y), rule, epochs=1, rng=rng, **options)
    rest = optirs.train(gradient, first.model, (x, y), state=first.state, epochs=3, rng=rng, **options)
    assert (rest.state, rest.model) == (whole.state, whole.model)
    assert started == [True] * 3


def test_a_function_as_a_schedule_needs_python(started: list[bool]) -> None:
    rule = optirs.Scheduled(optirs.Descent(), eta=lambda t: 0.1 / (t + 1))
    both(started, "mse", network(), data("mse", 12), rule, epochs=5, batch_size=5, compiled=False)


def test_a_norm_that_a_scheduled_rule_refuses_names_the_place(started: list[bool]) -> None:
    model = network()
    model[2].W[:] *= 1e20
    clip = optirs.Scheduled(optirs.ClipNorm(), omega=FALLING)
    for rule in (clip, optirs.OptimiserChain(optirs.Momentum(), clip)):
        assert "for the parameter at layers[0].W" in both(started, "mse", model, data("mse", 20), rule, epochs=5)
