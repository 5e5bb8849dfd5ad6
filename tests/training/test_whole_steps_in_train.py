"""Rules for the whole step, and rules that land, in `train`: both loops come to the same bits, words and log lines."""

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import data, layer, network
from problems import DTYPES
from trainings import FALLING, Epochs, bits, both, outcome

import optirs
from optirs import ClipGlobalNorm, SkipNonFinite

chain = optirs.OptimiserChain
GRADIENT = optirs.supervised(optirs.mse)
RULES: dict[str, optirs.Rule] = {
    "a norm alone": ClipGlobalNorm(0.1),
    "skips alone": SkipNonFinite(),
    "a box alone": optirs.Box(-0.3, 0.3),
    "Lookahead alone": optirs.Lookahead(2, 0.1),
    "Ema alone": optirs.Ema(0.9),
    "Swa alone": optirs.Swa(2, 3),
    "a norm that is small": chain(ClipGlobalNorm(1e9), optirs.Descent(0.1)),
    "a norm first": chain(ClipGlobalNorm(0.1), optirs.Adam(0.1)),
    "a norm last": chain(optirs.Adam(0.1), ClipGlobalNorm(0.05)),
    "a norm in the middle": chain(optirs.Momentum(0.1), ClipGlobalNorm(0.05), optirs.Nesterov(0.1)),
    "two norms": chain(ClipGlobalNorm(0.1), optirs.Momentum(0.1), ClipGlobalNorm(0.05)),
    "both norms": chain(optirs.ClipNorm(0.1), ClipGlobalNorm(0.15), optirs.Adam(0.1), optirs.ClipNorm(0.1)),
    "skips and a norm": chain(SkipNonFinite(), ClipGlobalNorm(0.1), optirs.RAdam(0.1)),
    "skips in the middle": chain(optirs.Momentum(0.1), SkipNonFinite(), optirs.Adam(0.1)),
    "a box": chain(optirs.Adam(0.1), optirs.Box(-0.4, 0.4)),
    "averages": chain(optirs.Adam(0.1), optirs.Ema(0.9, warmup=True), optirs.Swa(1, 2)),
    "all that land": chain(optirs.Adam(0.1), optirs.Lookahead(2), optirs.Box(-0.5, 0.5), optirs.Ema(0.5), optirs.Swa()),
    "collected": chain(optirs.AccumGrad(3), ClipGlobalNorm(0.1), SkipNonFinite(), optirs.Descent(0.1), optirs.Ema(0.5)),
    "a master": optirs.MixedPrecision(chain(ClipGlobalNorm(0.1), optirs.Adam(0.1), optirs.Lookahead(2), optirs.Swa(1))),
    "a wide master": optirs.MixedPrecision(chain(SkipNonFinite(), ClipGlobalNorm(0.1), optirs.Swa(1)), "float64"),
    "scheduled": optirs.Scheduled(chain(ClipGlobalNorm(), optirs.Adam(), optirs.Ema(0.5)), omega=FALLING, eta=FALLING),
    "scheduled inside": chain(SkipNonFinite(), optirs.Scheduled(ClipGlobalNorm(), omega=FALLING), optirs.Momentum(0.1)),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_both_loops_have_the_same_bits(started: list[bool], rule: optirs.Rule, batch_size: int | None) -> None:
    options = {"epochs": 5, "batch_size": batch_size, "shuffle": batch_size is not None, "log_every": 2}
    both(started, "mse", network(), data("mse", 20), rule, rng=1, **options)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["skips and a norm", "a norm in the middle", "all that land", "a master"])
def test_other_types(started: list[bool], name: str, dtype: str) -> None:
    both(started, "mse", network(DTYPES[dtype]), data("mse", 20), RULES[name], epochs=4, batch_size=7)


@pytest.mark.parametrize("hidden", [1, 40, 400])
@pytest.mark.parametrize("name", ["a norm first", "skips and a norm", "all that land"])
def test_steps_small_and_larger(started: list[bool], hidden: int, name: str) -> None:
    model = optirs.Chain(layer(4, hidden, "tanh"), layer(hidden, 3, "identity"))
    both(started, "mse", model, data("mse", 20), RULES[name], epochs=4, batch_size=8)


def test_ties_and_types_side_by_side(started: list[bool]) -> None:
    x = data("mse", 20)[0]
    square = layer(4, 4, "tanh")
    tied = optirs.Chain(square, layer(4, 4, "tanh", 1), square)
    mixed = network()
    for dense in (mixed[0], mixed[2]):
        dense.W, dense.b = dense.W.astype(np.float64), dense.b.astype(np.float16)
    for name in ("a norm first", "skips and a norm", "all that land"):
        both(started, "mse", tied, (x, x), RULES[name], epochs=4, batch_size=7)
        both(started, "mse", mixed, data("mse", 20), RULES[name], epochs=4, batch_size=7)


@pytest.mark.parametrize("frozen", [False, True])
def test_groups_that_a_rule_function_chooses(started: list[bool], frozen: bool) -> None:
    def rule(path: optirs.KeyPath, _: Any) -> optirs.Rule | None:
        if path[-1] == "b":
            return chain(ClipGlobalNorm(0.05, name="biases"), optirs.Descent(0.1)) if path[1] != 2 else None
        return chain(SkipNonFinite(), ClipGlobalNorm(0.1, name="weights"), optirs.Adam(0.1), optirs.Ema(0.9))

    state = optirs.setup(rule, network())
    if frozen:
        optirs.freeze_(state[1])
    both(started, "mse", network(), data("mse", 20), state=state, epochs=5, batch_size=7, log_every=2)
    trained = optirs.train(GRADIENT, network(), data("mse", 20), state=state, epochs=5, batch_size=7)
    assert trained.compiled
    norms = [trained.state[i].W.state[1]["norm"] for i in (0, 2)]
    assert norms[0] == norms[1] == optirs.metrics(trained.state)["ClipGlobalNorm[weights].norm"] > 0
    assert (trained.state[1].layers[0].W.state[1]["norm"] == 0) is frozen


PIECES = [
    SkipNonFinite(), SkipNonFinite(1, name="few"), ClipGlobalNorm(0.1), ClipGlobalNorm(0.2, name="b", throw=False),
    optirs.ClipNorm(0.2), optirs.AccumGrad(2), optirs.Adam(0.1), optirs.Momentum(0.1), optirs.WeightDecay(0.1),
    optirs.Scheduled(ClipGlobalNorm(name="falling"), omega=FALLING),
]  # fmt: skip
LANDING = [optirs.Box(-0.5, 0.5), optirs.Lookahead(2, 0.5), optirs.Ema(0.9), optirs.Swa(1, 2)]


@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=4, unique=True),
    landing=st.lists(st.sampled_from(LANDING), max_size=3),
    around=st.sampled_from([lambda rule: rule, optirs.MixedPrecision]),
    dtype=st.sampled_from(["float32", "float32", "float64", "float16"]),
    deep=st.booleans(),
    bad=st.lists(st.integers(0, 11), max_size=4),
    batch_size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
    log_every=st.none() | st.integers(1, 2),
    untouched=st.sampled_from(["", "W", "b"]),
    frozen=st.sampled_from(["", "", "W", "b"]),
)
def test_any_training(
    pieces: list[optirs.Rule],
    landing: list[optirs.Rule],
    around: Callable[[optirs.Rule], optirs.Rule],
    dtype: str,
    deep: bool,
    bad: list[int],
    batch_size: int,
    seed: int | None,
    log_every: int | None,
    untouched: str,
    frozen: str,
) -> None:
    model = network(DTYPES[dtype]) if deep else optirs.Chain(layer(4, 3, "identity"))
    rule = around(chain(*pieces, *landing))
    state = optirs.setup(lambda path, _: optirs.Descent(0.01) if path[-1] == untouched else rule, model)
    if frozen:
        optirs.freeze_(getattr(state[0], frozen))
    pair = spiked(12, tuple(bad))
    options = {"batch_size": batch_size, "shuffle": seed is not None, "rng": seed, "epochs": 3, "log_every": log_every}
    found = []
    for more in ([], [lambda event: None]):
        epochs = Epochs()
        answer = outcome("mse", model, pair, state=state, callbacks=[epochs, *more], **options)
        found.append(repr((answer, epochs.seen, [event.metrics for event in epochs.events])))
    assert found[0] == found[1]
    assert found[0].startswith(f"({outcome('mse', model, pair, state=state, **options)!r}")


# --- callbacks and resuming


@pytest.mark.parametrize("name", ["a norm first", "skips and a norm", "all that land", "collected", "scheduled"])
@pytest.mark.parametrize("stop", [0, 3])
def test_callbacks_after_epochs_see_the_same(started: list[bool], name: str, stop: int) -> None:
    found = []
    for more in ([], [lambda event: None]):
        epochs = Epochs(stop)
        training = optirs.train(
            GRADIENT, network(), data("mse", 20), RULES[name], epochs=5, batch_size=7, shuffle=True, rng=3,
            callbacks=[epochs, *more],
        )  # fmt: skip
        assert training.compiled is not bool(more)
        assert set(started) == {not more}
        started.clear()
        metrics = [event.metrics for event in epochs.events]
        found.append((bits(training), epochs.seen, metrics))
        assert metrics[-1] == optirs.metrics(training.state)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", RULES)
def test_a_training_in_two_parts_is_one(started: list[bool], name: str) -> None:
    options: dict[str, Any] = {"batch_size": 7, "shuffle": True}
    whole = optirs.train(GRADIENT, network(), data("mse", 20), RULES[name], epochs=5, rng=2, **options)
    rng = np.random.default_rng(2)
    first = optirs.train(GRADIENT, network(), data("mse", 20), RULES[name], epochs=2, rng=rng, **options)
    kept = bits(first)
    rest = optirs.train(GRADIENT, first.model, data("mse", 20), state=first.state, epochs=3, rng=rng, **options)
    assert (rest.state, rest.model) == (whole.state, whole.model)
    assert bits(rest)[:2] == bits(whole)[:2]
    assert bits(first) == kept
    assert started == [True] * 3


def test_early_stopping_by_a_norm_runs_compiled(started: list[bool]) -> None:
    norm, rule = "ClipGlobalNorm.norm", RULES["a norm first"]
    epochs = Epochs()
    optirs.train(GRADIENT, network(), data("mse", 20), rule, epochs=30, callbacks=[epochs])
    norms = [event.metrics[norm] for event in epochs.events]
    threshold = sorted(norms)[10]
    first = next(epoch for epoch, value in enumerate(norms, 1) if value <= threshold)
    stopping = optirs.EarlyStopping(monitor=norm, threshold=threshold)
    training = optirs.train(GRADIENT, network(), data("mse", 20), rule, epochs=30, callbacks=[stopping])
    assert training.compiled
    assert set(started) == {True}
    assert len(training.history) == stopping.epoch == first
    assert optirs.metrics(stopping.state) == {norm: stopping.best}


# --- gradients that are not finite


def spiked(rows: int = 12, at: tuple[int, ...] = (5,)) -> tuple[np.ndarray, np.ndarray]:
    """Data with rows whose loss is finite, as it is summed in float64, but not their gradient in float32."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
    y = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    x[list(at)] *= 1e25
    return x, y


def linear() -> optirs.Chain:
    return optirs.Chain(layer(4, 3, "identity"))


SKIPPING: dict[str, tuple[optirs.Rule, optirs.Rule]] = {
    "first": (chain(SkipNonFinite(), optirs.Adam(0.1)), optirs.Adam(0.1)),
    "before a norm": (
        chain(SkipNonFinite(), ClipGlobalNorm(0.1), optirs.Adam(0.1)),
        chain(ClipGlobalNorm(0.1), optirs.Adam(0.1)),
    ),
    "before what lands": (
        chain(SkipNonFinite(), optirs.Momentum(0.1), optirs.Lookahead(2), optirs.Ema(0.9), optirs.Swa(1)),
        chain(optirs.Momentum(0.1), optirs.Lookahead(2), optirs.Ema(0.9), optirs.Swa(1)),
    ),
    "in the middle": (
        chain(optirs.WeightDecay(0.1), SkipNonFinite(), optirs.RAdam(0.1)),
        chain(optirs.WeightDecay(0.1), optirs.RAdam(0.1)),
    ),
    "scheduled": (
        optirs.Scheduled(chain(SkipNonFinite(), optirs.Adam()), eta=FALLING),
        optirs.Scheduled(optirs.Adam(), eta=FALLING),
    ),
}  # fmt: skip


def moments(leaf: Any) -> list[Any]:
    """The states of a Leaf in a chain, flat, but for what SkipNonFinite counts."""
    parts = leaf.state if isinstance(leaf.state, tuple) else (leaf.state,)
    parts = [part for outer in parts for part in (outer if isinstance(outer, tuple) else (outer,))]
    return [part for part in parts if part is not None and not (isinstance(part, dict) and "skipped" in part)]


@pytest.mark.parametrize(("rule", "plain"), SKIPPING.values(), ids=SKIPPING)
def test_a_step_with_an_infinite_gradient_does_not_take_place(
    started: list[bool], caplog: pytest.LogCaptureFixture, rule: optirs.Rule, plain: optirs.Rule
) -> None:
    x, y = spiked(12, (5,))
    loss, gradient = GRADIENT(linear(), x[4:6], y[4:6])
    assert np.isfinite(loss)
    assert not np.isfinite(gradient[0].W).all()
    messages = []
    for epochs in (1, 3):
        with caplog.at_level(logging.WARNING, logger="optirs"):
            caplog.clear()
            training = optirs.train(GRADIENT, linear(), (x, y), rule, epochs=epochs, batch_size=2)
            messages.append(caplog.messages)
        batches = [(x[i : i + 2], y[i : i + 2]) for i in range(0, 12, 2)]
        finite = optirs.train(GRADIENT, linear(), [b for i, b in enumerate(batches) if i != 2], plain, epochs=epochs)
        assert training.compiled
        assert training.model == finite.model
        for name in ("W", "b"):
            leaf, other = (getattr(t.state[0], name) for t in (training, finite))
            assert repr(moments(leaf)) == repr(moments(other))
        metrics = optirs.metrics(training.state)
        assert (metrics["SkipNonFinite.skipped"], metrics["SkipNonFinite.consecutive"]) == (epochs, 0)
        assert len(training.history) == 6 * epochs  # the loss of the step that was skipped is in the history
        assert np.isfinite(training.history).all()
    # Each skip is told, with its place.
    assert [len(told) for told in messages] == [1, 3]
    assert all("layers[0].W" in message for told in messages for message in told)
    started.clear()
    both(started, "mse", linear(), (x, y), rule, epochs=3, batch_size=2, log_every=1)


def logged(caplog: pytest.LogCaptureFixture, train: Callable[[], Any]) -> list[tuple[int, str]]:
    """Levels and texts of what the package logs meanwhile."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="optirs"):
        train()
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "optirs"]


@pytest.mark.parametrize("log_every", [None, 1])
@pytest.mark.parametrize("epochs", [True, False])
def test_skips_are_logged_alike_by_both_loops(
    caplog: pytest.LogCaptureFixture, log_every: int | None, epochs: bool
) -> None:
    rule, pair = chain(SkipNonFinite(), optirs.Momentum(0.1)), spiked(12, (1, 5, 6, 11))
    found = []
    for more in ([], [lambda event: None]):
        callbacks = [*([Epochs()] if epochs else []), *more]
        options: dict[str, Any] = {"epochs": 3, "batch_size": 2, "log_every": log_every, "callbacks": callbacks}
        found.append(logged(caplog, lambda options=options: optirs.train(GRADIENT, linear(), pair, rule, **options)))
    assert found[0] == found[1]
    assert sum(level == logging.WARNING for level, _ in found[0]) == 12  # batches 0, 2, 3 and 5, three times
    assert sum("SkipNonFinite.skipped" in text for level, text in found[0] if level == logging.INFO) == (
        3 if log_every else 0
    )


def test_skips_in_a_group_leave_other_leafs_alone(started: list[bool]) -> None:
    def rule(path: optirs.KeyPath, _: Any) -> optirs.Rule:
        return chain(SkipNonFinite(), optirs.Descent(0.1)) if path[-1] == "W" else optirs.Momentum(0.1)

    x, y = spiked(12, (5,))
    both(started, "mse", linear(), (x, y), rule, epochs=3, batch_size=2)
    before, after = (
        optirs.train(GRADIENT, linear(), (x[:rows], y[:rows]), rule, batch_size=2) for rows in (4, 6)
    )  # fmt: skip
    assert np.array_equal(before.model[0].W, after.model[0].W)
    assert not np.array_equal(before.model[0].b, after.model[0].b)


def test_what_was_collected_before_a_skip_is_dropped(started: list[bool]) -> None:
    x, y = spiked(12, (5,))
    rule = chain(optirs.AccumGrad(2), SkipNonFinite(), optirs.Descent(0.1))
    both(started, "mse", linear(), (x, y), rule, epochs=3, batch_size=2)
    training = optirs.train(GRADIENT, linear(), (x, y), rule, batch_size=2)
    # Batches 2 and 3 are one step, which is skipped: 0 and 1, and 4 and 5, are two others.
    rows = np.r_[0:4, 8:12]
    finite = chain(optirs.AccumGrad(2), optirs.Descent(0.1))
    assert training.model == optirs.train(GRADIENT, linear(), (x[rows], y[rows]), finite, batch_size=2).model
    collected, counts, _ = training.state[0].W.state
    assert (collected["count"], np.any(collected["accum"]), counts["skipped"]) == (0, False, 1)


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_too_many_skips_in_a_row_are_an_error(
    started: list[bool], caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    x, y = spiked(12, (0, 5, 7, 8))  # batches 0, then 2 to 4
    rule = chain(SkipNonFinite(limit), optirs.Momentum(0.1))
    told = logged(caplog, lambda: both(started, "mse", linear(), (x, y), rule, epochs=1, batch_size=2))
    assert len(told) == 2 * {0: 0, 1: 2, 2: 3, 3: 4}[limit]  # those before the error, by either loop
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    found = both(started, "mse", linear(), (x, y), rule, epochs=2, batch_size=2)
    if limit == 3:
        assert not isinstance(found, str)
        return
    assert "layers[0].W" in found
    # What was there before the step is left as it was.
    events: list[optirs.Event] = []
    with pytest.raises(FloatingPointError, match=re.escape(found)):
        optirs.train(GRADIENT, linear(), (x, y), rule, batch_size=2, callbacks=[events.append])
    steps = {0: 0, 1: 3, 2: 4}[limit]
    assert len(events) == steps
    if steps:
        again = optirs.train(GRADIENT, linear(), (x[: 2 * steps], y[: 2 * steps]), rule, batch_size=2)
        assert (events[-1].state, events[-1].model) == (again.state, again.model)


def test_a_callback_takes_over_after_skips(started: list[bool]) -> None:
    class Slower:
        def on_epoch_end(self, event: optirs.Event) -> None:
            optirs.adjust_(event.state, 0.1 / event.epoch)
            seen.append(event.metrics)

    seen: list[dict[str, float]] = []
    rule = chain(SkipNonFinite(), ClipGlobalNorm(0.5), optirs.Adam(0.1), optirs.Ema(0.9))
    found = []
    for more in ([], [lambda event: None]):
        seen.clear()
        training = optirs.train(
            GRADIENT, linear(), spiked(), rule, epochs=4, batch_size=2, callbacks=[Slower(), *more]
        )  # fmt: skip
        found.append((bits(training), list(seen)))
        assert [metrics["SkipNonFinite.skipped"] for metrics in seen] == [1, 2, 3, 4]
    assert found[0] == found[1]
    assert started == [True, True, True, True, False]


@pytest.mark.parametrize(
    "rule",
    [
        ClipGlobalNorm(),
        chain(optirs.Momentum(), ClipGlobalNorm(), optirs.Descent(0.1)),
        optirs.MixedPrecision(ClipGlobalNorm()),
        optirs.Scheduled(ClipGlobalNorm(), omega=FALLING),
        chain(optirs.AccumGrad(2), ClipGlobalNorm()),
    ],
)
def test_a_norm_that_is_not_finite_names_the_first_place(started: list[bool], rule: optirs.Rule) -> None:
    model = network()
    model[2].W[:] *= 1e20
    assert "layers[0].W" in both(started, "mse", model, data("mse", 20), rule, epochs=5)
    # Of the last layer, the gradients are finite: so none of its places is the first one.
    state = optirs.setup(lambda path, _: rule if path[1] == 2 else None, model)
    assert not isinstance(both(started, "mse", model, data("mse", 20), state=state, epochs=1), str)


def test_a_norm_that_is_not_finite_and_is_let_through(started: list[bool]) -> None:
    model = network()
    model[2].W[:] *= 1e20
    rule = chain(ClipGlobalNorm(throw=False), optirs.Descent(0.1))
    both(started, "mse", model, data("mse", 20), rule, epochs=1)
    training = optirs.train(GRADIENT, model, data("mse", 20), rule)
    assert not np.isfinite(optirs.metrics(training.state)["ClipGlobalNorm.norm"])
    both(started, "mse", model, data("mse", 20), rule, epochs=3)


def test_groups_in_two_orders_are_refused() -> None:
    norm, skip = ClipGlobalNorm(), SkipNonFinite()

    def rule(path: optirs.KeyPath, _: Any) -> optirs.Rule:
        return chain(norm, skip) if path[-1] == "W" else chain(skip, norm)

    texts = []
    for callbacks in ([], [lambda event: None]):
        with pytest.raises(ValueError, match=r"layers\[0\]\.W") as caught:
            optirs.train(GRADIENT, network(), data("mse", 20), rule, callbacks=callbacks)
        texts.append(str(caught.value))
    assert "layers[0].b" in texts[0]
    assert texts[0] == texts[1]
