"""What each means of being fast is worth: the package beside itself with that means taken away, or set otherwise.

A means is a few words of the source. Each is replaced in a copy of the tree, which is compiled; both packages then run
the same workloads in turn, by the protocol of the table. Words that are not there any more are an error.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .protocol import FULL, ROOT, Worker, measure
from .record import ratio
from .workloads import LONG

KEY = ("means",)  # all that was measured of one is replaced at once
WHOLE, CHANGED = "as it is", "changed"
BUILD = "cargo build --locked --release --lib --features python --message-format json-render-diagnostics"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "target", "site", "__pycache__", ".*_cache", ".hypothesis", "*.so")

CHAIN, SHORT, STATES = "ClipGrad > WeightDecay > Adam", "WeightDecay > Momentum", "SignDecay > RMSProp > Momentum"


@dataclass(frozen=True)
class Means:
    """Words of a source file, what stands there instead, and where that is measured."""

    file: str
    old: str
    new: str
    workloads: tuple[str, ...]
    cases: tuple[str, ...] = ("Adam",)
    modes: tuple[str, ...] = ("optirs",)
    threads: tuple[int, ...] = (1,)
    pairs: int = 1  # of processes: where the system puts their pages differs from one to the next


PURE, BOTH = ("optirs, pure",), ("optirs", "optirs, pure")
RECYCLING = "buffer/recycling.rs"


def tile(size: int) -> Means:
    """Tiles of another size, in cache."""
    old = "pub const TILE: usize = 512;"
    return Means("job.rs", old, old.replace("512", str(size)), ("b",), (CHAIN, SHORT, STATES), pairs=3)


def far_tile(size: int) -> Means:
    """Tiles of another size, from memory; there is room for no larger ones than in cache."""
    old = "const FAR_TILE: usize = 256;"
    return Means("job.rs", old, old.replace("256", str(size)), ("a2",), (CHAIN, SHORT, STATES), pairs=3)


def border(shift: int) -> Means:
    """Threads are woken for other sizes."""
    return Means("drive.rs", "awake: 512 << 10", f"awake: 1 << {shift}", ("2^14", "b", "2^18", "2^20"), threads=(2,))


def level(name: str) -> Means:
    """Narrower vectors at most."""
    return Means(
        "simd.rs", "let best = best();", f"let best = best().min(Level::{name});", ("b", "a2"), ("Adam", "Lion")
    )


def placed(start: str) -> Means:
    """Our arrays start elsewhere in a page than in the middle of the largest gap between the others."""
    old = "start + gap / 2"
    return Means("placement.rs", old, f"start + {start}", ("b", "a2"), ("Adam", *LONG), modes=BOTH, pairs=6)


MEANS = {
    "nothing recycled": Means(
        RECYCLING, "kept.trim(bound(in_use));", "kept.trim(0 * bound(in_use));", ("b", "c", "a2"), modes=PURE
    ),
    "no huge pages": Means(RECYCLING, "libc::MADV_HUGEPAGE", "libc::MADV_NOHUGEPAGE", ("a", "a2"), modes=BOTH),
    "streams at one place of a page": placed("0 * gap"),
    "streams a line behind each other": placed("LINE + 0 * gap"),
    "tiles and strips anywhere on the stack": Means(
        "placement.rs", "#[repr(align(64))]", "#[repr(align(4))]", ("a2",), ("Adam", *LONG), modes=BOTH, pairs=6
    ),
    "no stores past the caches": Means(
        "stream.rs",
        "let whole = match level {",
        "let whole = match level { _ if bytes > 0 => 0,",
        ("a2",),
        ("Descent", "Adam", CHAIN),
        modes=PURE,
        threads=(1, 2),
    ),
    "small arrays as if they were far": Means(
        "drive.rs",
        "const FAR_BYTES: usize = 64 << 20;",
        "const FAR_BYTES: usize = 0;",
        ("b", "c"),
        modes=PURE,
    ),
    "tiles of 256": tile(256),
    "tiles of 1024": tile(1024),
    "far tiles of 128": far_tile(128),
    "far tiles of 512": far_tile(512),
    "threads from 64 KiB": border(16),
    "threads from 8 MiB": border(23),
    "AVX2 at most": level("Avx2"),
    "SSE2 at most": level("Baseline"),
    "nothing asked for ahead": Means(
        "stream.rs",
        "for line in (0..bytes).step_by(64) {",
        "for line in (0..0 * bytes).step_by(64) {",
        ("a2",),
        ("Descent", "Adam", CHAIN, SHORT),
        modes=BOTH,
    ),
    "the next tile asked for at once": Means(
        "kernel.rs",
        "const PART: usize = 64;",
        "const PART: usize = 256;",
        ("a2",),
        ("Adam", CHAIN, SHORT),
        modes=BOTH,
    ),
    "helpers sleep at once": Means(
        "pool/queue.rs",
        "Duration::from_micros(100)",
        "Duration::from_micros(0)",
        ("b", "2^18", "2^20"),
        threads=(2,),
    ),
}


def check(means: Means) -> None:
    """Raises unless the words to be replaced stand in the file, once."""
    if (ROOT / "rust" / means.file).read_text().count(means.old) != 1:
        raise ValueError(f"rust/{means.file} does not have these words once: {means.old}")


def build(means: Means | None, source: Path, folder: Path) -> Path:
    """A folder with the package, changed or not; `source` is a copy of the tree that all builds share."""
    file = source / "rust" / means.file if means else None
    text = file.read_text() if file else ""
    if file and means:
        file.write_text(text.replace(means.old, means.new))
    place = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target" / "means"), "PYO3_PYTHON": sys.executable}
    built = subprocess.run(BUILD.split(), cwd=source, env=place, stdout=subprocess.PIPE, text=True, check=True)
    if file:
        file.write_text(text)
    artifacts = [m for m in map(json.loads, built.stdout.splitlines()) if m.get("target", {}).get("name") == "optirs"]
    library = next(name for m in artifacts for name in m.get("filenames", ()) if Path(name).suffix == ".so")
    shutil.copytree(source / "python", folder)
    shutil.copy(library, folder / "optirs" / "_core.abi3.so")
    return folder


def compare(name: str, whole: Path, changed: Path) -> Iterator[dict[str, Any]]:
    """The rounds of both packages, for every workload of a means."""
    means = MEANS[name]
    for workload, threads, mode in product(means.workloads, means.threads, means.modes):
        seconds: dict[str, dict[str, list[float]]] = {case: {WHOLE: [], CHANGED: []} for case in means.cases}
        for _ in range(means.pairs):
            with ExitStack() as stack:
                workers = {
                    who: stack.enter_context(Worker(mode, workload, threads, path))
                    for who, path in {WHOLE: whole, CHANGED: changed}.items()
                }
                for case, found in seconds.items():
                    times, missing = measure(list(workers), workload, case, threads, workers, FULL)
                    if missing:
                        raise RuntimeError(f"{name}: {missing}")
                    for who, rounds in times.items():
                        found[who] += rounds
        base = {"means": name, "workload": workload, "threads": threads, "mode": mode}
        yield from (base | {"case": case, "seconds": found} for case, found in seconds.items())


def run(only: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Compiles all packages, then compares, a means at a time: nothing else should run by then."""
    for name in only:
        check(MEANS[name])
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        shutil.copytree(ROOT, source, ignore=LEFT_OUT)
        whole = build(None, source, Path(temporary, "whole"))
        changed = {}
        for i, name in enumerate(only):
            print(f"{name}: compiles", file=sys.stderr, flush=True)
            changed[name] = build(MEANS[name], source, Path(temporary, str(i)))
        for name, package in changed.items():
            print(f"{name}: measures", file=sys.stderr, flush=True)
            yield list(compare(name, whole, package))


def lines(record: dict[str, Any]) -> list[str]:
    """A line for each comparison: how many times as long a step takes with the change."""
    found = []
    for r in record["means"]:
        if change := ratio([(r["seconds"][CHANGED], r["seconds"][WHOLE])]):
            where = f"{r['case']} ({r['workload']}, {r['threads']}{', pure' if r['mode'].endswith('pure') else ''})"
            took = f"{change.median:.2f} [{change.least:.2f} {change.greatest:.2f}]"
            found.append(f"  {r['means']:<36}{where:<48}{took}")
    return found
