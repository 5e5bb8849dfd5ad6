"""Where in a page what is ours starts: far from everything that one loop reads or writes beside it."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import optirs

PAGE, LINE = 4096, 64
FAR = 192  # from each other, the streams of one loop: nearer ones were measured to slow it down
PLACED = 32 << 10  # bytes; smaller arrays lie one after the other
OFFSETS = [0, 16, 64, 1040, 2048, 3000, 4092]

RULES = {
    "no state": optirs.Descent(),
    "one": optirs.Momentum(),
    "two": optirs.Adam(),
    "three": optirs.OAdam(),
    "master": optirs.MixedPrecision(optirs.Adam(), "float64"),
    **{
        f"a chain of {n}": optirs.OptimiserChain(*[optirs.Adam() if i % 2 else optirs.Momentum() for i in range(n)])
        for n in range(2, 9)
    },
    "a norm in the middle": optirs.OptimiserChain(optirs.Momentum(), optirs.ClipNorm(1.0), optirs.Adam()),
}


def at(offset: int, size: int, dtype: Any = np.float32) -> np.ndarray:
    """An array that starts at this place of a page."""
    bytes_ = size * np.dtype(dtype).itemsize
    room = np.zeros(bytes_ + 2 * PAGE, np.uint8)
    start = -room.ctypes.data % PAGE + offset
    array = room[start : start + bytes_].view(dtype)
    array[:] = 0.5
    return array


def near(a: int, b: int) -> int:
    """How far two addresses are from each other in a page."""
    ahead = (a - b) % PAGE
    return min(ahead, PAGE - ahead)


def loops(state: Any) -> Iterator[list[int]]:
    """The addresses of the state arrays of each link, which its loop reads and writes."""
    match state:
        case np.ndarray():
            yield [state.ctypes.data]
        case dict():
            yield [x.ctypes.data for x in state.values() if isinstance(x, np.ndarray)]
        case tuple() | list():
            for part in state:
                yield from loops(part)


def check(streams: list[int], ours: list[int]) -> None:
    """All of `ours` start in a line where the first of `streams` does, far from each other and from `streams`."""
    for a in ours:
        assert a % LINE == (0 if streams[0] % 16 else streams[0] % LINE)
        assert all(near(a, b) >= FAR for b in streams), (a % PAGE, [b % PAGE for b in streams])
    for a, b in combinations(ours, 2):
        assert near(a, b) >= FAR, [x % PAGE for x in ours]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = optirs.get_num_threads()
    optirs.set_num_threads(request.param)
    yield
    optirs.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [PLACED // 4, 1 << 16, 1 << 20], ids=["shared", "own", "huge"])
@pytest.mark.parametrize("name", RULES)
def test_streams(name: str, size: int) -> None:
    rule = RULES[name]
    for offset in OFFSETS:
        x, g = at(offset, size), at((3 * offset + 16) % PAGE, size)
        model, state = [x], optirs.setup(rule, [x])
        for link in loops(state[0].state):
            check([x.ctypes.data], link)
        optirs.update_(state, model, [g])
        for _ in range(2):
            old = [*loops(state[0].state)]
            read = [model[0].ctypes.data, g.ctypes.data]
            state, model = optirs.update(state, model, [g])
            new = [*loops(state[0].state)]
            check([*read, *(a for link in old for a in link)] if len(old) == 1 else read, [model[0].ctypes.data])
            for before, link in zip(old, new, strict=True):
                check([*read, model[0].ctypes.data, *before], link)


@pytest.mark.parametrize("make", [optirs.setup, lambda rule, x: optirs.update(optirs.setup(rule, x), x, x)[0]])
def test_many_arrays_that_share_memory(make: Callable[[optirs.Rule, Any], Any]) -> None:
    """Those below the border lie one after the other, and still the groups do not meet."""
    model = [at(16, n) for n in (100, 1000, 5000, 8191, 8192, 20_000)]
    for leaf, x in zip(make(optirs.Adam(), model), model, strict=True):
        m, v = (a.ctypes.data for a in leaf.state.values() if isinstance(a, np.ndarray))
        assert m % LINE == v % LINE
        assert near(m, v) >= FAR
        if x.nbytes >= PLACED:
            check([x.ctypes.data], [m, v])


def test_a_gradient_of_ours_and_the_state_of_its_parameter() -> None:
    rng = optirs.Xoshiro(0)
    model = optirs.Chain(optirs.Dense.glorot(300, 400, "tanh", rng=rng), optirs.Dense.glorot(400, 300, rng=rng))
    state = optirs.setup(optirs.Adam(), model)
    _, gradient = optirs.supervised(optirs.mse)(model, at(0, 300).reshape(1, 300), at(0, 300).reshape(1, 300))
    for i in range(2):
        x, g = model.layers[i].W, gradient.layers[i].W
        m, v = (a.ctypes.data for a in state.layers[i].W.state.values() if isinstance(a, np.ndarray))
        check([x.ctypes.data], [m, v, g.ctypes.data])


def test_the_copy_of_a_parameter_that_is_not_gapless_and_directions() -> None:
    """They are not seen from outside; the numbers are right, wherever they lie."""
    size = 1 << 16
    for offset in OFFSETS:
        x = at(offset, 2 * size)[::2]
        g = at(16, size)
        rule = optirs.Adam()
        _, model = optirs.update(optirs.setup(rule, [x]), [x], [g])
        _, dx = optirs.apply(rule, optirs.init(rule, x), x, g)
        np.testing.assert_array_equal(model[0], x - dx)
