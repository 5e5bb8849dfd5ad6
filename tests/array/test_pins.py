"""Arrays that another thread would resize while NumPy converts or copies them, which gives the lock away: it cannot."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from changing import Call, assert_refused

import optirs

N = 4_000_000
"""A conversion of so many numbers is still at work when another thread wakes."""


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


LAYOUTS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "float64": lambda *shape: (o := np.ones(shape), o),
    "swapped": lambda *shape: (o := np.ones(shape, ">f4"), o),
    "transposed": lambda *shape: (o := np.ones(np.prod(shape), np.float32), o.reshape(shape[::-1]).T),
}


def _update(x: np.ndarray, like: np.ndarray) -> Call:
    state = optirs.setup(optirs.Descent(), [like])
    return lambda: optirs.update(state, [like], [x])


def _update_tied(x: np.ndarray, like: np.ndarray) -> Call:
    state, other = optirs.setup(optirs.Descent(), [like, like]), ones(*x.shape)
    return lambda: optirs.update(state, [like, like], [x, other])


def _setup(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.setup(optirs.MixedPrecision(optirs.Descent()), [x])


def _init(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.init(optirs.MixedPrecision(optirs.Descent()), x)


def _apply(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.apply(optirs.Descent(), None, like, x)


def _apply_state(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.apply(optirs.Momentum(), {"velocity": x}, like, like)


def _destructure(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.destructure([x])


def _restructure(x: np.ndarray, like: np.ndarray) -> Call:
    _, restructure = optirs.destructure([like])
    flat = x.reshape(-1)
    return lambda: restructure(flat)


def _restructured_gradient(x: np.ndarray, like: np.ndarray) -> Call:
    _, restructure = optirs.destructure([like])
    return lambda: restructure.gradient([x])


def _list(x: np.ndarray, like: np.ndarray) -> Call:
    rows = like.reshape(1, -1)
    flat = x.reshape(-1)
    return lambda: optirs.mse([flat], rows)


def _forward(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.affine_forward(ones(2, 64), ones(2), x)


def _gradient(x: np.ndarray, like: np.ndarray) -> Call:
    dy = ones(len(x), 2)
    return lambda: optirs.affine_gradient(ones(2, 64), x, dy)


def _layer(x: np.ndarray, like: np.ndarray) -> Call:
    layer = optirs.Dense(ones(2, 64), ones(2), "tanh")
    return lambda: layer(x)


def _back(x: np.ndarray, like: np.ndarray) -> Call:
    _, back = optirs.Affine(ones(64, 2), ones(64)).pullback(ones(len(x), 2))
    return lambda: back(x)


def _supervised(x: np.ndarray, like: np.ndarray) -> Call:
    model, loss, y = optirs.Affine(ones(2, 64), ones(2)), optirs.supervised(optirs.mse), ones(len(x), 2)
    return lambda: loss(model, x, y)


def _train(x: np.ndarray, like: np.ndarray, **how: Any) -> Call:
    model, loss, y = optirs.Affine(ones(2, 64), ones(2)), optirs.supervised(optirs.mse), ones(len(x), 2)
    return lambda: optirs.train(loss, model, (x, y), optirs.Descent(1e-9), **how)


def _train_on_shuffled_rows(x: np.ndarray, like: np.ndarray) -> Call:
    return _train(x, like, batch_size=len(x) - 1, shuffle=True, callbacks=[lambda event: None])


def _loss(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.mse(x, like)


def _targets(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.mse(like, x)


def _digest(x: np.ndarray, like: np.ndarray) -> Call:
    return lambda: optirs.digest(None, [x])


ALL, STRIDED, OTHER = [*LAYOUTS], ["swapped", "transposed"], ["float64", "swapped"]
CALLS: list[tuple[Callable[[np.ndarray, np.ndarray], Call], list[str]]] = [
    (_update, ALL),
    (_update_tied, ALL),
    (_setup, OTHER),
    (_init, OTHER),
    (_apply, OTHER),
    (_apply_state, ["swapped"]),
    (_destructure, ALL),
    (_restructure, OTHER),
    (_restructured_gradient, ALL),
    (_list, OTHER),
    (_forward, ALL),
    (_gradient, ALL),
    (_layer, ["transposed"]),
    (_back, ["transposed"]),
    (_supervised, ["transposed"]),
    (_train, ["transposed"]),
    (_train_on_shuffled_rows, ALL),
    (_loss, ALL),
    (_targets, STRIDED),
    (_digest, STRIDED),
]
CASES = [(make, layout) for make, layouts in CALLS for layout in layouts]


@pytest.mark.parametrize(("make", "layout"), CASES, ids=[f"{make.__name__[1:]}, {layout}" for make, layout in CASES])
def test_another_thread_cannot_resize_what_is_converted(make: Callable[..., Call], layout: str) -> None:
    def made() -> tuple[np.ndarray, Call]:
        owner, x = LAYOUTS[layout](N // 64, 64)
        return owner, make(x, ones(N // 64, 64))

    assert_refused(made)
