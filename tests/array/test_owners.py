"""Who has the memory of an array: it is followed through what stands between, and stays while a kernel runs."""

import array as arrays
import contextlib
import functools
import gc
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from changing import MOVED, STEPS, Late, Own, array, assert_refused

import optirs

KINDS = ["memoryview", "as_strided", "slice", "dlpack", "dlpack of a view", "old dlpack", "a long chain", "an element"]


class Old:
    """What gives memory as DLPack did before its version 1."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_between_an_array_and_its_memory(kind: str) -> None:
    owner = np.ones(100_000)
    view = {
        "memoryview": lambda: np.asarray(memoryview(owner)),
        "as_strided": lambda: np.lib.stride_tricks.as_strided(owner, (50_000,), (16,)),
        "slice": lambda: owner[1:],
        "dlpack": lambda: np.from_dlpack(owner),
        "dlpack of a view": lambda: np.from_dlpack(owner[1:])[1:],
        "old dlpack": lambda: np.from_dlpack(Old(owner)),
        "an element": lambda: owner.view([("w", "f8", (50_000,))])[0]["w"],
        "a long chain": lambda: functools.reduce(lambda x, _: np.asarray(memoryview(x)), range(50), owner),
    }[kind]()
    model, gradient = {"a": np.ones(view.shape), "b": np.ones(2)}, {"a": np.ones(view.shape)}
    state = optirs.setup(optirs.Descent(), model)
    (model if view.flags.writeable else gradient)["a"] = view
    late = Late(np.ones(2), lambda: owner.resize(4, refcheck=False))
    with pytest.raises(RuntimeError, match=MOVED):
        optirs.update_(state, model, gradient | {"b": late})


def _of_bytes() -> tuple[np.ndarray, Callable[[], object]]:
    memory = bytearray(800_000)
    return np.ndarray((100_000,), buffer=memory), memory.clear


def _of_mmap() -> tuple[np.ndarray, Callable[[], object]]:
    memory = mmap.mmap(-1, 800_000)
    return np.ndarray((100_000,), buffer=memory), memory.close


def _of_memoryview() -> tuple[np.ndarray, Callable[[], object]]:
    owner = np.zeros(100_000)
    view = np.asarray(memoryview(owner))

    def act() -> None:
        view.base.release()
        owner.resize(1, refcheck=False)

    return view, act


def _of_array() -> tuple[np.ndarray, Callable[[], object]]:
    memory = arrays.array("d", bytes(800_000))
    return np.ndarray((100_000,), buffer=memory), lambda: memory.__delitem__(slice(None))


BUFFERS = [_of_bytes, _of_mmap, _of_memoryview, _of_array]


@STEPS
@pytest.mark.parametrize("make", BUFFERS)
def test_buffers_that_take_their_memory_back(step: Any, make: Any) -> None:
    gradient, act = make()
    model = {"a": np.ones(100_000), "b": np.ones(2)}
    state = optirs.setup(optirs.Descent(1.0), model)
    assert (step(state, model, {"a": gradient, "b": None})[1]["a"] == 1).all()
    with pytest.raises(RuntimeError, match=MOVED):
        step(state, model, {"a": gradient, "b": Late(np.ones(2), act)})


@STEPS
def test_the_collector_rests_between_the_looks_of_a_small_call(step: Any) -> None:
    """It would run code of others: here, what resizes an array that was just looked at."""
    x = np.ones(8_000, np.float32)

    class Ring:
        def __init__(self) -> None:
            self.ring = self

        def __del__(self) -> None:
            x.resize(1, refcheck=False)

    model = {"x": x, "lent": np.from_dlpack(np.ones(3)), "view": np.asarray(memoryview(np.ones(3)))}
    state, gradient = optirs.setup(optirs.Descent(1.0), model), {"x": np.ones(8_000, np.float32)}
    gc.collect()
    threshold = gc.get_threshold()
    Ring()
    gc.set_threshold(1)
    try:
        with contextlib.suppress(RuntimeError, ValueError):  # it may run before them
            step(state, model, gradient)
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    assert x.size == 1


def test_a_base_that_is_its_own_base() -> None:
    view = np.lib.stride_tricks.as_strided(np.ones(8), (4,), (16,))
    view.base.base = view
    model = [view]
    optirs.update_(optirs.setup(optirs.Descent(1.0), [np.ones(4)]), model, [np.ones(4)])
    assert (view == 0).all()


class Lender:
    """An object that lends the memory of an array which it may resize."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__


class Anew(Lender):
    """One that makes it anew each time it is asked, and gives back what it lent before."""

    asked = 0

    @property
    def __array_interface__(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked > 1:
            self.values.resize(1, refcheck=False)
            self.values = np.ones(100_000)
        return self.values.__array_interface__


@STEPS
@pytest.mark.parametrize("rule", [optirs.Descent(1.0), Own()], ids=repr)
@pytest.mark.parametrize("kind", [Lender, Anew])
def test_a_gradient_that_is_lent(step: Any, rule: optirs.Rule, kind: type[Lender]) -> None:
    lender = kind(np.ones(100_000))
    late = Late(np.ones(2), lambda: lender.values.resize(1, refcheck=False))
    model = {"a": np.ones(100_000), "b": np.ones(2)}
    _, stepped = step(optirs.setup(rule, model), model, {"a": lender, "b": late})
    assert lender.values.size == 1
    assert (stepped["a"] == 0).all()


def test_data_that_are_lent() -> None:
    lender = Lender(array(64, 3))
    late = Late(array(64, 2), lambda: lender.values.resize(1, refcheck=False))
    supervised = optirs.supervised(optirs.mse)
    model = optirs.Dense(array(2, 3), array(2))
    expected = supervised(model, array(64, 3), array(64, 2))[0]
    assert supervised(model, lender, late)[0] == expected


N = 16_000_000  # a kernel over so many numbers is still at work when another thread wakes


def _step(step: Any, made: Callable[[np.ndarray], np.ndarray], which: int) -> tuple[np.ndarray, Callable[[], object]]:
    owners = [np.ones(N, np.float32), np.ones(N, np.float32)]
    model, gradient = ([made(owner)] for owner in owners)
    state = optirs.setup(optirs.Adam(), model)
    return owners[which], lambda: step(state, model, gradient)


def _train(which: int) -> tuple[np.ndarray, Callable[[], object]]:
    owners = [np.ones(N, np.float32), np.ones(N, np.float32)]
    model = optirs.Dense(array(1, 4), array(1))
    loss = optirs.supervised(optirs.mse)
    data = owners[0].reshape(-1, 4), owners[1][: N // 4].reshape(-1, 1)
    return owners[which], lambda: optirs.train(loss, model, data, optirs.Descent(1e-6), epochs=2, batch_size=512)


def _loss(which: int) -> tuple[np.ndarray, Callable[[], object]]:
    owners = [np.ones(N, np.float32), np.ones(N, np.float32)]
    return owners[which], lambda: optirs.mse(owners[0].reshape(-1, 4), owners[1].reshape(-1, 4))


def _affine(_: int) -> tuple[np.ndarray, Callable[[], object]]:
    x = np.ones(N, np.float32)
    return x, lambda: optirs.affine_forward(array(2, 4), array(2), x.reshape(-1, 4))


WAYS: dict[str, Callable[[int], tuple[np.ndarray, Callable[[], object]]]] = {
    "update": lambda which: _step(optirs.update, lambda a: a, which),
    "update_": lambda which: _step(optirs.update_, lambda a: a, which),
    "update_ of views": lambda which: _step(optirs.update_, lambda a: a[8:], which),
    "update_ by way of DLPack": lambda which: _step(optirs.update_, np.from_dlpack, which),
    "train": _train,
    "a loss": _loss,
    "affine_forward": _affine,
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_another_thread_cannot_resize_during_a_kernel(way: str, which: int) -> None:
    assert_refused(lambda: WAYS[way](which))


def test_the_collector_of_cycles_is_left_as_it_was() -> None:
    state = optirs.setup(optirs.Descent(), [np.ones(100_000), np.ones(2)])
    try:
        for on in (False, True):
            (gc.enable if on else gc.disable)()
            model = [np.ones(100_000), np.ones(2)]
            optirs.update_(state, model, [np.ones(100_000), None])
            assert gc.isenabled() == on
            late = Late(np.ones(2), lambda x=model[0]: x.resize(1, refcheck=False))
            with pytest.raises(RuntimeError, match="its shape was"):  # found at the second look
                optirs.update_(state, model, [np.ones(100_000), late])
            assert gc.isenabled() == on
    finally:
        gc.enable()
