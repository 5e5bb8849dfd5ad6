"""Arrays that share memory: found exactly, in time that does not run away, and not by force."""

import os
import signal
import threading
import time
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import optirs
from optirs import _core

Array = NDArray[Any]
BUFFER = np.zeros(400)


def strided(start: int, axes: list[tuple[int, int]]) -> Array:
    """A view of the middle of the buffer: its first element, and the length and stride of each axis."""
    shape, strides = [n for n, _ in axes], [8 * s for _, s in axes]
    return as_strided(BUFFER[start:], shape, strides)


def elements(start: int, axes: list[tuple[int, int]]) -> list[int]:
    steps = product(*(range(n) for n, _ in axes))
    return [start + sum(i * s for i, (_, s) in zip(step, axes, strict=True)) for step in steps]


axes = st.lists(st.tuples(st.integers(1, 5), st.integers(-12, 12)), max_size=4)


@given(axes)
def test_an_array_overlaps_itself_where_an_element_is_another_one(axes: list[tuple[int, int]]) -> None:
    x, places = strided(200, axes), elements(200, axes)
    x[...] = 1.0
    state = optirs.setup(optirs.Descent(1.0), x)
    if len(set(places)) < len(places):
        with pytest.raises(ValueError, match="shares elements with itself"):
            optirs.update_(state, x, np.ones(x.shape))
        assert (x == 1).all()
    else:
        optirs.update_(state, x, np.ones(x.shape))
        assert (x == 0).all()


@given(axes, axes, st.integers(180, 220))
def test_two_arrays_overlap_where_they_share_an_element(
    first: list[tuple[int, int]], second: list[tuple[int, int]], start: int
) -> None:
    x, y = strided(200, first), strided(start, second)
    shared = set(elements(200, first)) & set(elements(start, second))
    assert (_core.overlapping([x, y], 2) == (0, 1)) == bool(shared)
    assert _core.overlapping([x, y], 0) is None
    if not shared:
        state = optirs.setup(optirs.Descent(), [x, y])
        optirs.update(state, [x, y], None)


def test_distinct_elements_whose_strides_do_not_nest() -> None:
    x = as_strided(np.zeros(100), (2, 4, 5), (8, 32, 80))
    optirs.update_(optirs.setup(optirs.Descent(1.0), x), x, np.ones(x.shape))
    assert (x == -1).all()


@pytest.mark.parametrize("kind", ["f4", "c8", "S3", "i2", "M8[s]", "O"])
def test_arrays_of_any_type_are_looked_at(kind: str) -> None:
    items = np.zeros(12, np.dtype([("a", "f8"), ("b", kind), ("c", "f8")]))
    model: Any = [items["a"], items["c"], items["b"]]
    optirs.update_(optirs.setup(lambda path, _: optirs.Descent() if path != (2,) else None, model), model, None)
    overlap = items.view(np.uint8) if kind != "O" else items
    with pytest.raises(ValueError, match=r"\[1\] and \[3\] share memory|\[0\] and \[3\] share memory"):
        optirs.setup(optirs.Descent(), [*model, overlap])


def test_a_parameter_in_the_memory_of_the_state_is_refused() -> None:
    x = np.ones(4)
    state = optirs.setup(optirs.Momentum(), x)
    with pytest.raises(ValueError, match="parameter at the top lies in the memory of the state"):
        optirs.update_(state, state.state["velocity"], x)


@pytest.fixture(scope="module")
def views() -> list[Array]:
    n = 30_000
    big = np.ones(n * 6)
    return [big[i::n] for i in range(n)]


def test_views_that_take_turns_cost_little(views: list[Array]) -> None:
    """30,000 of them: in pairs, minutes."""
    start = time.perf_counter()
    state = optirs.setup(optirs.Descent(1.0), views)
    optirs.update_(state, views, [np.full(6, 0.25)] * len(views))
    assert all((x == 0.75).all() for x in views)
    _, new = optirs.update(state, views, [np.full(6, 0.25)] * len(views))
    assert all((x == 0.5).all() for x in new)
    assert time.perf_counter() - start < 20
    with pytest.raises(ValueError, match=r"^\[17\] and \[30000\] share memory"):
        optirs.setup(optirs.Descent(), [*views, views[17][:3]])


def test_many_gradients_that_are_one_parameter_cost_little(views: list[Array]) -> None:
    for x in views:
        x[...] = 1.0
    views[5][...] = 0.25
    state, start = optirs.setup(optirs.Descent(1.0), views), time.perf_counter()
    optirs.update_(state, views, [views[5]] * len(views))  # as if it had been copied first
    assert time.perf_counter() - start < 10
    assert all((x == 0.75).all() for i, x in enumerate(views) if i != 5)
    assert (views[5] == 0).all()


def test_gradients_that_share_memory_are_copied_where_they_do() -> None:
    big = np.arange(1.0, 31.0)
    model = [big[:5], big[10:15], big[20:25]]
    grads = [big[12:17], big[15:20], big[2:7]]
    expected = [x - g for x, g in zip(model, grads, strict=True)]
    optirs.update_(optirs.setup(optirs.Descent(1.0), model), model, grads)
    assert all(np.array_equal(x, y) for x, y in zip(model, expected, strict=True))


@pytest.mark.usefixtures("bare_collector")
def test_a_long_search_ends_by_ctrl_c() -> None:
    """The example of NumPy's documentation of a search that takes minutes."""
    x = np.zeros(192163377, np.float16)  # memory that nobody touches
    first = as_strided(x, (1049, 1049, 1049), (2 * 36674, 2 * 61119, 2 * 85569))
    second = as_strided(x[64023025:], (1049, 1049, 1), (2 * 12223, 2 * 12224, 2))
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        optirs.setup(optirs.Descent(), [first, second])
    assert time.perf_counter() - start < 5
    timer.join()
