"""Threads, forks, and who may use a state at the same time."""

import contextlib
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from at_once import run_all

import optirs

BIG = 3_000_000  # float32: 12 MB, more than one thread's worth


@pytest.fixture(autouse=True)
def threads():
    before = optirs.get_num_threads()
    optirs.set_num_threads(4)
    yield
    optirs.set_num_threads(before)


def trained(seed, steps=3, n=BIG):
    x = np.full(n, seed, np.float32)
    state = optirs.setup(optirs.Adam(0.5), [x])
    for i in range(steps):
        state, [x] = optirs.update_(state, [x], [np.arange(n, dtype=np.float32) + i])
    return x


def test_set_and_get():
    optirs.set_num_threads(3)
    assert optirs.get_num_threads() == 3
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match="between 1 and 1024"):
            optirs.set_num_threads(bad)
    for bad in (1.0, "2", None, True):
        with pytest.raises(TypeError, match="integer"):
            optirs.set_num_threads(bad)
    assert optirs.get_num_threads() == 3


@pytest.mark.parametrize("text", ["3", " 5 ", "", "0", "many", "2000"])
def test_environment(text):
    code = "import warnings; warnings.simplefilter('always'); import optirs; print(optirs.get_num_threads())"
    environment = {**os.environ, "OPTIRS_NUM_THREADS": text}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    good = text.strip() in ("3", "5")
    assert int(done.stdout) == (int(text) if good else cpus)
    assert ("OPTIRS_NUM_THREADS must be a number" in done.stderr) == (not good and text != "")


def test_the_number_of_threads_does_not_change_the_bits():
    many = trained(1)
    optirs.set_num_threads(1)
    assert many.tobytes() == trained(1).tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    expected = trained(1)  # the pool is running now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if trained(1).tobytes() == expected.tobytes() else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert trained(1).tobytes() == expected.tobytes()


TASKS = Path("/proc/self/task")
counted = pytest.mark.skipif(not TASKS.exists(), reason="threads cannot be counted here")


def workers():
    """How many threads of the pool there are."""
    found = 0
    for task in TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += (task / "comm").read_text() == "optirs\n"
    return found


def left(n):
    """Whether there are so many threads of the pool within a second."""
    end = time.monotonic() + 1
    while workers() != n and time.monotonic() < end:
        time.sleep(0.001)
    return workers() == n


@counted
def test_threads_are_given_back():
    x = np.zeros(BIG, np.float32)
    state = optirs.setup(optirs.Descent(), x)
    for n in range(2, 200):
        optirs.set_num_threads(n)
        optirs.update_(state, x, x)
    assert workers() > 10
    optirs.set_num_threads(2)
    optirs.update_(state, x, x)
    assert left(1)
    for n in (5, 2, 1, 3):  # without a step they are given back, too; they are made at one
        optirs.set_num_threads(5)
        optirs.update_(state, x, x)
        assert left(4)
        optirs.set_num_threads(n)
        assert left(n - 1)


@counted
def test_no_more_threads_are_made_than_there_is_work_for():
    x = [np.zeros(BIG, np.float32), np.zeros(50_000, np.float32)]
    states = [optirs.setup(optirs.Descent(), x) for x in x]
    optirs.set_num_threads(1)
    assert left(0)
    optirs.set_num_threads(1024)
    optirs.update_(states[1], x[1], x[1])
    assert workers() < 20


@counted
def test_callers_share_the_pool_while_its_size_changes():
    expected = [trained(seed, 10) for seed in range(3)]
    found, over = {}, threading.Event()

    def sizes():
        while not over.is_set():
            for n in (1, 7, 2, 4):
                optirs.set_num_threads(n)
                time.sleep(0.001)

    def callers():
        try:
            run_all(*[lambda seed=seed: found.update({seed: trained(seed, 10)}) for seed in range(3)])
        finally:
            over.set()

    run_all(sizes, callers)
    for seed in range(3):
        assert found[seed].tobytes() == expected[seed].tobytes()
    optirs.set_num_threads(2)
    trained(0, 1)
    assert left(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@counted
def test_fork_while_the_pool_grows_and_shrinks():
    n, over = 1 << 20, threading.Event()
    expected = trained(1, 2, n).tobytes()

    def sizes():
        x = np.zeros(n, np.float32)
        state = optirs.setup(optirs.Descent(), x)
        while not over.is_set():
            for threads in (2, 9, 3, 1):
                optirs.set_num_threads(threads)
                optirs.update_(state, x, x)

    def forks():
        try:
            for _ in range(30):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        assert workers() == 0
                        optirs.set_num_threads(3)
                        assert trained(1, 2, n).tobytes() == expected
                        assert left(2)
                        optirs.set_num_threads(1)
                        code = 0 if left(0) else 2
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            over.set()

    run_all(sizes, forks)


@counted
def test_a_system_that_refuses_threads():
    code = """
import os, resource
from pathlib import Path
import numpy as np
import optirs

def threads():
    return len(os.listdir("/proc/self/task"))

x = np.ones(3_000_000, np.float32)
state = optirs.setup(optirs.Descent(0.5), x)
optirs.set_num_threads(1)
optirs.update_(state, x, np.ones_like(x))
before = threads()
optirs.set_num_threads(40)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
ones = np.ones_like(x)
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), most))
for _ in range(3):
    optirs.update_(state, x, ones)
few = threads()
resource.setrlimit(resource.RLIMIT_AS, (most, most))
assert (x == -1).all()
optirs.update_(state, x, ones)
assert threads() == few < before + 25, (threads(), few, before)  # nobody asks again at once,
optirs.set_num_threads(30)
optirs.update_(state, x, ones)
assert threads() == before + 29, (threads(), before)  # but when told to
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def in_a_child(seed):
    optirs.set_num_threads(4)
    return trained(seed)[::1000]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = trained(1)[::1000]
    if method == "spawn":  # what a spawned process can import, however pytest imported this file
        code = (
            f"import runpy, sys; sys.path[:] = {sys.path!r}; f = runpy.run_path({__file__!r})['in_a_child']; "
            "sys.stdout.buffer.write(f(1).tobytes())"
        )
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            done = pool.apply_async(subprocess.check_output, ([sys.executable, "-c", code],)).get(60)
        np.testing.assert_array_equal(np.frombuffer(done, np.float32), expected)
        with context.Pool(1) as pool:
            x = np.ones(BIG, np.float32)
            state = optirs.setup(optirs.Descent(0.5), x)
            _, new = pool.apply_async(optirs.update, (state, x, x)).get(60)
        assert (new == 0.5).all()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            for found in pool.map_async(in_a_child, [1, 1, 1]).get(60):
                np.testing.assert_array_equal(found, expected)


def test_two_threads_on_different_trees():
    expected = [trained(seed, 10) for seed in range(3)]
    found = {}
    run_all(*[lambda seed=seed: found.update({seed: trained(seed, 10)}) for seed in range(3)])
    for seed in range(3):
        assert found[seed].tobytes() == expected[seed].tobytes()


def test_an_update_lets_other_threads_work():
    big, small = np.zeros(BIG, np.float32), np.zeros(2)
    states = [optirs.setup(optirs.Adam(), x) for x in (big, small)]
    stop, done, during = threading.Event(), [], 0

    def beside():
        while not stop.is_set():
            optirs.update_(states[1], small, small)  # which keeps the lock
            done.append(1)
            time.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # the lock is only given away, not taken
    other = threading.Thread(target=beside)
    try:
        other.start()
        for _ in range(100):
            before = len(done)
            optirs.update_(states[0], big, big)
            during = max(during, len(done) - before)
            if during > 1:
                break
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        other.join(60)
    assert during > 1


def test_two_threads_on_one_state():
    x = [np.zeros(BIG, np.float32), np.zeros(3)]
    rule = optirs.OptimiserChain(optirs.Momentum(1.0, 0.0), optirs.Adam(0.0))
    state = optirs.setup(rule, x)
    ones = [np.ones(BIG, np.float32), np.ones(3)]
    done, refused = [], []

    def hammer():
        for _ in range(15):
            try:
                optirs.update_(state, x, ones)
                done.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    run_all(hammer, hammer, hammer)
    assert len(done) + len(refused) == 45
    assert set(refused) <= {"this state is in use by another update"}
    assert done
    steps = [leaf.state[1]["t"] for leaf in state]
    assert steps == [len(done)] * 2
    for leaf in state:  # every element has seen every step
        m = leaf.state[1]["m"]
        assert (m == m[0]).all()
    fresh = optirs.setup(rule, [np.zeros(1, np.float32), np.zeros(3)])
    for _ in done:
        fresh, _ = optirs.update(fresh, [np.zeros(1, np.float32), np.zeros(3)], [[1], [1, 1, 1]])
    assert fresh[0].state[1]["m"][0] == state[0].state[1]["m"][0]


def test_pure_updates_of_one_state_run_concurrently():
    x = np.zeros(BIG, np.float32)
    state = optirs.setup(optirs.Adam(), x)
    expected = optirs.update(state, x, x + 1)
    before = copy.deepcopy(state)

    def pure():
        for _ in range(5):
            assert optirs.update(state, x, x + 1)[1].tobytes() == expected[1].tobytes()

    run_all(pure, pure)
    assert state == before


def test_what_reads_a_whole_state_keeps_updates_out(tmp_path):
    model = {"w": np.zeros(3), "b": np.zeros(2)}
    state = optirs.setup(optirs.Momentum(1.0, 0.5), model)
    leaves = list(state.values())
    with optirs._core.Hold(leaves):
        optirs.update(state, model, model)
        copy.deepcopy(state), optirs.adjust(state, 0.5), optirs.save(tmp_path / "state", state=state)
        for step in (optirs.update_, lambda s, *_: optirs.adjust_(s, 0.5), lambda s, *_: optirs.freeze_(s)):
            with pytest.raises(RuntimeError, match="in use by another update"):
                step(state, model, model)
    held = optirs._core.Hold(leaves)
    del held
    optirs.update_(state, model, model)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), lambda s: optirs.adjust(s, 1.0)]
)
def test_copies_are_of_one_step(copied):
    model = [np.zeros(BIG, np.float32)]
    state = optirs.setup(optirs.Momentum(1.0, 0.5), model)
    gradient, taken, over = [np.ones(BIG, np.float32)], [], threading.Event()

    def copies():
        while not over.is_set():
            with contextlib.suppress(RuntimeError):  # an update is under way
                taken.append(copied(state)[0].state["velocity"])

    def updates():
        for _ in range(30):
            with contextlib.suppress(RuntimeError):  # a copy is
                optirs.update_(state, model, gradient)
        over.set()

    run_all(copies, updates)
    assert all(v.min() == v.max() for v in taken)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_state_that_was_in_use_when_the_process_was_forked() -> None:
    model = {"w": np.ones(2)}
    state = optirs.setup(optirs.Descent(), model)
    with optirs._core.Hold([state["w"]]):
        with pytest.raises(RuntimeError, match=r"in use by another update$"):
            optirs.update_(state, model, model)
        child = os.fork()
        if child == 0:
            said = ""
            try:
                optirs.update_(state, model, model)
            except RuntimeError as error:
                said = str(error)
            os._exit(0 if "when this process was forked" in said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
