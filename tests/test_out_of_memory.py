"""Where the system has no memory, a call ends with `MemoryError`: never by a signal or a panic, and never half done.

Each road is taken again and again in processes that fork from one, with more and more memory left to them: so each of
its requests is the one that is refused once.
"""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

import optirs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on addresses that is kept")

if sys.platform == "linux":
    _, HARD = resource.getrlimit(resource.RLIMIT_AS)

STEPS = 6
"""So many limits are tried between the least and what the road takes."""
LEAST = 1 << 20
"""With less than so much, Python itself cannot go on."""


def used(what):
    """The addresses that this process has, or has had at most, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) << 10


class Road:
    """What is called, after what; what must be as before if it fails, and what must work then.

    `make(n)` returns the call and a function that shows all that must not change.
    """

    def __init__(self, name, make, small, large, threads=1):
        self.name, self.make, self.small, self.large, self.threads = name, make, small, large, threads

    def __repr__(self):
        return self.name


def alone(function):
    """What a function returns or how it fails, found in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(100)  # whoever waits for ever is ended
        try:
            answer = function()
        except BaseException:
            answer = "error", traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return ("signal", os.waitstatus_to_exitcode(status)) if status or not answer else pickle.loads(answer)


def without_limit(road):
    """The memory that the large call takes beyond what there is before it."""
    call, _ = road.make(road.large)
    small, _ = road.make(road.small)
    optirs.set_num_threads(road.threads)
    small()
    before = used("VmSize")

    def peak():
        call()
        return "done", max(used("VmPeak") - before, LEAST)

    return alone(peak)  # a new process, which has had no more than now


def with_limit(road, room):
    call, shown = road.make(road.large)
    small, _ = road.make(road.small)
    optirs.set_num_threads(road.threads)
    small()
    before = shown()
    limit = used("VmSize") + room
    answer = "done", None
    resource.setrlimit(resource.RLIMIT_AS, (limit, HARD))
    try:
        call()
    except MemoryError:
        answer = "refused", None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (HARD, HARD))
    if answer[0] == "refused":
        after = shown()
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), "something was written"
    small()
    return answer


def numbers(n, dtype=np.float32):
    return (np.arange(n) % 1009 / 1009 - 0.5).astype(dtype)


def flat(tree):
    """All arrays of a tree, and of the states in it."""
    for _, leaf, _ in optirs._core.flatten(tree, True):
        if isinstance(leaf, np.ndarray):
            yield leaf
        elif isinstance(leaf, optirs.Leaf):
            yield from flat(leaf.state)


def copies(*trees):
    return [np.array(array) for tree in trees for array in flat(tree)]


def nothing():
    return []


def one_array(n):
    return {"x": numbers(n)}


def many_arrays(n):
    return [numbers(3) for _ in range(n)]


def in_lists(n):
    return [{"w": numbers(2), "b": None, "n": (numbers(1), str(i))} for i in range(n)]


def strided(n):
    """Elements whose strides do not nest, though no two are one."""
    base = np.zeros(20 * n, np.float32)
    return {"x": np.lib.stride_tricks.as_strided(base, (n // 8, 2, 4, 5), (640, 4, 16, 40))}


def columns(n):
    table = np.zeros((3, n), np.float32)
    return [table[:, i : i + 1] for i in range(n)]


CLIPPED = optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.Adam(), optirs.ClipNorm(2.0, 1))
MIXED = optirs.MixedPrecision(optirs.Adam())


def step(rule, tree, in_place):
    def make(n):
        model = tree(n)
        gradient = tree(n)
        state = optirs.setup(rule, model)
        function = optirs.update_ if in_place else optirs.update
        return lambda: function(state, model, gradient), lambda: copies(state, model, gradient)

    return make


def masters(n):
    return {"x": numbers(n).astype(np.float16)}


def its_own_gradient(n):
    model = one_array(n)
    state = optirs.setup(optirs.Adam(), model)
    return lambda: optirs.update_(state, model, model), lambda: copies(state, model)


def setup(tree):
    def make(n):
        model = tree(n)
        return lambda: optirs.setup(optirs.Adam(), model), lambda: copies(model)

    return make


def saving(tree, path):
    def make(n):
        model = tree(n)
        state = optirs.setup(optirs.Adam(), model)
        name = path / f"saved-{n}-{os.getpid()}"
        optirs.save(name, model=model, state=state)

        def shown():
            saved = optirs.load(name, model)
            return copies(saved.state, saved.model)

        return lambda: optirs.save(name, model=model, state=state), shown

    return make


def loading(tree, path):
    def make(n):
        model = tree(n)
        state = optirs.setup(optirs.Adam(), model)
        name = path / f"loaded-{n}-{os.getpid()}"
        optirs.save(name, model=model, state=state)
        return lambda: optirs.load(name, model), lambda: copies(state, model)

    return make


def digest(tree):
    def make(n):
        model = tree(n)
        return lambda: optirs.digest(None, model), lambda: copies(model)

    return make


def layers(n_in, n_out, activation="tanh"):
    return optirs.Chain(
        optirs.Dense(numbers(n_in * 8).reshape(8, n_in), numbers(8), activation),
        optirs.Affine(numbers(8 * n_out).reshape(n_out, 8), numbers(n_out)),
    )


def training(compiled, shuffle):
    def make(n):
        model = layers(4, 3)
        x, y = numbers(4 * n).reshape(n, 4), numbers(3 * n).reshape(n, 3)
        gradient = optirs.supervised(optirs.mse)
        function = gradient if compiled else lambda model, *batch: gradient(model, *batch)

        def call():
            rng = np.random.default_rng(1)
            optirs.train(function, model, (x, y), CLIPPED, epochs=2, batch_size=n // 2, shuffle=shuffle, rng=rng)

        return call, lambda: copies(model)

    return make


def classifying(n):
    """A training with many classes."""
    model = layers(4, n)
    x, y = numbers(8).reshape(2, 4), np.array([1, n - 1])
    gradient = optirs.supervised(optirs.crossentropy)
    return lambda: optirs.train(gradient, model, (x, y), optirs.Adam(), epochs=2), lambda: copies(model)


def supervised(loss, activation):
    def make(n):
        model = layers(4, 3, activation)
        x, y = numbers(4 * n).reshape(n, 4), np.full((n, 3), 1 / 3, np.float32)
        gradient = optirs.supervised(loss)

        def call():
            gradient.loss(model, x, y)
            gradient(model, x, y)

        return call, lambda: copies(model)

    return make


def layer(activation):
    def make(n):
        w, b, x = numbers(32).reshape(8, 4), numbers(8), numbers(4 * n).reshape(n, 4)
        one = optirs.Affine(w, b) if activation is None else optirs.Dense(w, b, activation)

        def call():
            y, back = one.pullback(x)
            back(y)

        return call, lambda: copies(one)

    return make


def affine(n):
    w, b, x = numbers(32).reshape(8, 4), numbers(8), numbers(4 * n).reshape(n, 4)

    def call():
        optirs.affine_gradient(w, x, optirs.affine_forward(w, b, x))

    return call, nothing


def loss_of(loss, classes, dtype=np.float32):
    """Of many rows, or of rows of many classes; class numbers and rows."""

    def make(n):
        rows = n // classes if classes else 2
        columns = classes or n // 2
        yhat = numbers(rows * columns, dtype).reshape(rows, columns)
        targets = [np.full(yhat.shape, 1 / columns, dtype)]
        if loss is optirs.crossentropy:
            targets.append(np.arange(rows) % columns)

        def call():
            for y in targets:
                loss(yhat, y)
                loss.pullback(yhat, y)

        return call, nothing

    return make


def flat_vector(n):
    model = {"a": numbers(n), "b": numbers(n).astype(np.float64)}

    def call():
        vector, restructure = optirs.destructure(model)
        restructure.gradient(restructure(vector))

    return call, lambda: copies(model)


def seeded(n):
    seed = (1 << (8 * n)) - 1
    return lambda: optirs.Xoshiro(seed), nothing


def drawn(n):
    rng = optirs.Xoshiro(1)
    return lambda: rng.rand(n // 4, 4), nothing


def schedule(n):
    steps = np.arange(n)
    falling = optirs.schedules.Cosine(1.0, 100)
    return lambda: falling(steps), nothing


def pieces(n):
    schedule = optirs.schedules.Piecewise(tuple(float(i) for i in range(n + 1)), tuple(range(1, n + 1)))
    model = {"x": numbers(4)}

    def call():
        rule = optirs.rules.Scheduled(optirs.Descent(), eta=schedule)
        state = optirs.setup(rule, model)
        optirs.update(state, model, model)

    return call, lambda: copies(model)


ELEMENTS = 2 << 20
LEAVES = 4_000


def roads(path):
    adam = optirs.Adam()
    for name, in_place in [("update", False), ("update_", True)]:
        for what, rule, tree, large in [
            ("one array", adam, one_array, ELEMENTS),
            ("norms", CLIPPED, one_array, ELEMENTS),
            ("a master copy", MIXED, masters, ELEMENTS),
            ("strides that do not nest", adam, strided, ELEMENTS // 8),
            ("many arrays", adam, many_arrays, LEAVES),
            ("many lists", CLIPPED, in_lists, LEAVES // 2),
            ("many columns", adam, columns, LEAVES),
        ]:
            yield Road(f"{name} {what}", step(rule, tree, in_place), 80, large)
        yield Road(f"{name} on two threads", step(CLIPPED, one_array, in_place), ELEMENTS // 2, ELEMENTS, threads=2)
    yield Road("update_ with itself", its_own_gradient, 10, ELEMENTS)
    for what, tree, large in [("one array", one_array, ELEMENTS), ("many arrays", in_lists, LEAVES // 2)]:
        yield Road(f"setup {what}", setup(tree), 10, large)
        yield Road(f"save {what}", saving(tree, path), 10, large)
        yield Road(f"load {what}", loading(tree, path), 10, large)
        yield Road(f"digest {what}", digest(tree), 10, large)
    for compiled in [True, False]:
        for shuffle in [True, False]:
            name = f"train {'compiled' if compiled else 'in Python'}{' shuffled' if shuffle else ''}"
            yield Road(name, training(compiled, shuffle), 10, 150_000)
    yield Road("train with many classes", classifying, 10, 1 << 18)
    for loss, activation in [(optirs.mse, "tanh"), (optirs.crossentropy, "gelu")]:
        yield Road(f"supervised {activation}", supervised(loss, activation), 10, 200_000)
    for activation in [None, "identity", "relu", "gelu"]:
        yield Road(f"layer {activation}", layer(activation), 10, 200_000)
    yield Road("affine", affine, 10, 200_000)
    for loss in [optirs.mse, optirs.mae, optirs.huber, optirs.binary_crossentropy, optirs.crossentropy]:
        for classes in [None, 4]:
            yield Road(f"{loss.__name__} {classes}", loss_of(loss, classes), 8, ELEMENTS)
    yield Road("crossentropy float64", loss_of(optirs.crossentropy, None, np.float64), 8, ELEMENTS)
    yield Road("crossentropy on threads", loss_of(optirs.crossentropy, None), 1 << 19, ELEMENTS, threads=2)
    yield Road("flat", flat_vector, 10, ELEMENTS)
    yield Road("a seed", seeded, 10, 4 << 20)
    yield Road("random numbers", drawn, 40, ELEMENTS)
    yield Road("values of a schedule", schedule, 10, ELEMENTS)
    yield Road("a schedule of pieces", pieces, 4, 100_000)


NAMES = [road.name for road in roads(None)]


def tried(road):
    """The memory that a road takes, or how it fails, and how it ends with less and less of it."""
    answer, needed = alone(lambda: without_limit(road))
    if answer != "done":
        return [[answer, needed]], 0
    rooms = [LEAST + (needed - LEAST) * i // STEPS for i in range(STEPS)]
    return [alone(lambda room=room: with_limit(road, room)) for room in rooms], needed


def serve():
    """Tries the roads that it is told to, in a process that has freed nothing: what it had would be taken first."""
    for line in sys.stdin:
        number, folder = json.loads(line)
        print(json.dumps(tried(list(roads(Path(folder)))[number])), flush=True)


@pytest.fixture(scope="module")
def server():
    """Tries road `number`."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:

        def try_road(number, folder):
            process.stdin.write(json.dumps([number, str(folder)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield try_road
        process.stdin.close()


@pytest.mark.unsanitized("its memory is no less for the limit")
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_no_memory_is_an_error_and_nothing_is_lost(number, tmp_path, server):
    answers, needed = server(number, tmp_path)
    for answer, detail in answers:
        assert answer in ("done", "refused"), f"of {needed} bytes: {answer} {detail}"
    assert needed <= LEAST or "refused" in [answer for answer, _ in answers], f"{needed} bytes, and none was refused"


def test_a_state_that_claims_any_length_is_no_state_of_a_generator():
    with pytest.raises(ValueError, match="four integers"):
        optirs.Xoshiro(1).state = range(10**15)


if __name__ == "__main__":
    serve()
