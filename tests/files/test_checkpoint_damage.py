"""A file is whole or refused, whatever happened to it, and whatever happened while it was written."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optirs
from optirs.files import _archive
from optirs.files._description import outlined
from optirs.files._structure import draft

KILLS = int(os.environ.get("OPTIRS_KILLS", "25"))

MODEL = {"w": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "n": np.array([1, 2]), "b": np.ones(3, np.complex128)}


def version(n: int) -> dict[str, Any]:
    """A model in which everything is `n`."""
    return {name: np.full_like(x, n) for name, x in MODEL.items()}


def save(path: Path, n: int) -> None:
    optirs.save(path, model=version(n), state=optirs.setup(optirs.Adam(), MODEL), n=n)


def loaded(path: Path) -> int:
    """Which version a file is; it must be one, whole."""
    found = optirs.load(path, MODEL)
    n: int = found.metadata["n"]
    assert all((x == n).all() for x in found.model.values())
    return n


@pytest.fixture
def good(tmp_path: Path) -> Path:
    save(tmp_path / "file", 1)
    return tmp_path / "file"


CHANGES: dict[str, Callable[[int], int]] = {
    "lowest bit": lambda b: b ^ 1,
    "case": lambda b: b ^ 0x20,
    "highest bit": lambda b: b ^ 0x80,
    "space": lambda b: 32 if b != 32 else 9,
    "zero": lambda b: 0 if b else 255,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_damaged_byte_is_seen(change: str, good: Path) -> None:
    whole = good.read_bytes()
    damaged = bytearray(whole)
    with open(good, "r+b", buffering=0) as file:
        for i, byte in enumerate(whole):
            damaged[i] = CHANGES[change](byte)
            os.pwrite(file.fileno(), damaged[i : i + 1], i)
            with pytest.raises(ValueError, match=r"damaged|was not written by|ends before"):
                optirs.load(good, MODEL)
            damaged[i] = byte
            os.pwrite(file.fileno(), whole[i : i + 1], i)
    assert loaded(good) == 1


def test_every_lost_end_is_seen(good: Path) -> None:
    whole = good.read_bytes()
    for n in range(len(whole) - 1, -1, -1):
        os.truncate(good, n)
        with pytest.raises(ValueError, match=r"damaged|was not written by"):
            optirs.load(good, MODEL)
    for more in (b"\0", b"\0" * 8, whole):
        good.write_bytes(whole + more)
        with pytest.raises(ValueError, match="damaged"):
            optirs.load(good, MODEL)


def test_damage_of_many_bytes_is_seen(good: Path) -> None:
    whole = good.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        start, stop = sorted(rng.integers(0, len(whole) + 1, 2))
        damaged[start:stop] = rng.bytes(int(stop - start))
        kind = rng.integers(3)
        damaged[start:stop] = [damaged[start:stop], b"", damaged[start:stop] * 2][kind]
        if bytes(damaged) == whole:
            continue
        good.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged|was not written by"):
            optirs.load(good, MODEL)


class Failing:
    """A file that fails at its `at`-th call, and says how many there were."""

    def __init__(self, file: Any, at: int) -> None:
        self.file, self.at, self.calls = file, at, 0

    def __enter__(self) -> "Failing":
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self.file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(28, "No space left on device")
        return getattr(self.file, name)


def test_a_failing_disk_leaves_the_old_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 1000):
        files: list[Failing] = []

        def opened(path: Any, mode: str, opener: Any, at: int = at, files: Any = files) -> Any:
            files.append(Failing(open(path, mode, opener=opener), at))  # noqa: SIM115
            return files[0]

        monkeypatch.setattr(_archive, "open", opened, raising=False)
        try:
            save(good, 2)
        except OSError:
            monkeypatch.undo()
            assert loaded(good) == 1
            assert os.listdir(good.parent) == ["file"]
        else:
            monkeypatch.undo()
            assert at > 5
            break
    assert loaded(good) == 2


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("name", ["fsync", "replace", "chmod"])
def test_a_failing_system_leaves_the_old_file(
    name: str, error: BaseException, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fails)
        with pytest.raises(type(error)):
            save(good, 2)
        assert os.listdir(good.parent) == ["file"]
    assert loaded(good) == 1


def test_on_the_disk_before_it_is_there(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut: the contents are on the disk before the name, and the name before `save` returns."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not folder:
            assert os.fstat(descriptor).st_size == good.stat().st_size
        events.append("folder" if folder else "file")
        fsync(descriptor)

    def renamed(a: str, b: str) -> None:
        assert os.path.dirname(a) == os.path.dirname(b)
        events.append("rename")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", renamed)
    save(good, 2)
    assert events == ["file", "rename", "folder"]


def test_what_cannot_be_saved_leaves_the_old_file(good: Path) -> None:
    with pytest.raises(TypeError):
        optirs.save(good, model=MODEL, bad=object())
    assert loaded(good) == 1
    assert os.listdir(good.parent) == ["file"]


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for path in ("plain", os.path.join("folder", "n\u00e4me \U0001f600"), "x" * 255):
        save(Path(path), 1)
        optirs.save(path, model=version(2), n=2)
        assert loaded(Path(path)) == 2
    os.symlink(os.path.join("folder", "real"), "link")
    for n in (1, 2):
        save(Path("link"), n)
        assert os.path.islink("link")
        assert loaded(Path("folder/real")) == n
    before = sorted(os.listdir())
    with pytest.raises(FileNotFoundError) as missing:
        save(Path("none/file"), 1)
    assert missing.value.filename == os.path.join("none", "file")
    with pytest.raises(IsADirectoryError) as folder:
        save(Path("folder"), 1)
    assert folder.value.filename == "folder"
    for path in (os.path.join("new", ""), os.path.join("new", "."), os.path.join("link", ""), ""):
        with pytest.raises(IsADirectoryError if path else FileNotFoundError) as nothing:
            optirs.save(path, model=version(1))
        assert nothing.value.filename == path
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match=r"^pipe is not a file that could be replaced"):
        save(Path("pipe"), 1)
    os.unlink("pipe")
    assert sorted(os.listdir()) == before


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_permissions(tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a file that is there are kept, and nobody reads the new one before it has them."""
    path = tmp_path / "file"
    modes: list[int] = []

    def opened(name: Any, mode: str, opener: Any) -> Any:
        file = open(name, mode, opener=opener)  # noqa: SIM115
        modes.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        return file

    monkeypatch.setattr(_archive, "open", opened, raising=False)
    save(path, 1)
    for mode in (0o604, 0o600, 0o400):
        path.chmod(mode)
        save(path, 2)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert modes == [0o640, 0o600, 0o600, 0o600]


def deadline(seconds: int) -> None:
    """Ends a test that waits for something, rather than the run."""
    signal.alarm(seconds)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    deadline(20)
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull), Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"^{path} is not a file that could be read"):
            optirs.load(path, MODEL)
        with pytest.raises(ValueError, match=f"^{path} is not a file that could be replaced"):
            optirs.save(path, model=object())  # before anything else is looked at
    deadline(0)


def test_a_model_that_another_thread_steps(tmp_path: Path) -> None:
    """What is summed is what is written."""
    model = {"w": np.zeros(1_500_000, np.float32), "v": np.asfortranarray(np.zeros((700, 900), np.float32))}
    state = optirs.setup(optirs.Momentum(1e-3), model)
    grad = {name: np.ones_like(x) for name, x in model.items()}
    stop = threading.Event()

    def step() -> None:
        while not stop.is_set():
            optirs.update_(state, model, grad)

    thread = threading.Thread(target=step)
    thread.start()
    try:
        for _ in range(10):
            optirs.save(tmp_path / "file", model=model)
            assert optirs.load(tmp_path / "file", model).model["w"].shape == (1_500_000,)
    finally:
        stop.set()
        thread.join()


def test_an_array_that_another_thread_shrinks() -> None:
    """Nothing is read that is not there any more."""
    model = [np.zeros(5, np.float64), np.zeros(2_000_000, np.float32)]
    made = draft()
    outlined(made, model, None)
    assert made.inventory.chunk()
    model[1].resize(1, refcheck=False)
    with pytest.raises(RuntimeError, match=r"model\[1\] was changed while it was copied"):
        made.inventory.chunk()


KILLER = """
import os, random, signal, sys, time
import numpy as np, optirs
path, kills = sys.argv[1], int(sys.argv[2])
random.seed(int(sys.argv[3]))

def model(n):
    return {"a": np.full(200_000, n, np.float32), "b": [np.full((300, 100), n, np.float64)] * 2}

def version():
    found = optirs.load(path, model(0))
    n = found.metadata["n"]
    assert all((x == n).all() for x in (found.model["a"], *found.model["b"], found.state["a"].state["velocity"])), n
    return n

def save(n):
    state = optirs.setup(optirs.Momentum(1.0, 0.0), model(n))
    state, _ = optirs.update(state, model(n), model(n))
    optirs.save(path, model=model(n), state=state, n=n)

start = time.perf_counter()
save(0)
took = time.perf_counter() - start
n = inside = 0
for _ in range(kills):
    child = os.fork()
    if child == 0:
        while True:
            n += 1
            save(n)
    time.sleep(random.uniform(0, 2 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = version()
    assert after >= n, (after, n)
    n = after
    left = [name for name in os.listdir(os.path.dirname(path)) if name.startswith(".optirs-")]
    inside += bool(left)
    for name in left:
        os.unlink(os.path.join(os.path.dirname(path), name))
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
print(n, inside)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    program = [sys.executable, "-c", KILLER, str(tmp_path / "file"), str(KILLS), "1"]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | {"OPTIRS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    versions, inside = map(int, done.stdout.split())
    assert versions > 0
    assert inside > 0  # some were killed while they wrote
