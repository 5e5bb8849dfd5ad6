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
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .protocol import ROOT, Effort, Worker, portions, repeat
from .record import result
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
    new: str | dict[str, str]  # by name if there are several, which take turns
    workloads: tuple[str, ...]
    cases: tuple[str, ...] = ("Adam",)
    modes: tuple[str, ...] = ("optirs",)
    threads: tuple[int, ...] = (1,)

    @property
    def variants(self) -> dict[str, str]:
        """What stands there instead, by the name of the changed package in the record."""
        return self.new if isinstance(self.new, dict) else {CHANGED: self.new}


PURE, BOTH = ("optirs, pure",), ("optirs", "optirs, pure")
RECYCLING = "memory/recycling.rs"


def tile(name: str, size: int, sizes: tuple[int, ...], workload: str) -> Means:
    """Tiles of other sizes."""
    line = "const {}: usize = {};".format
    return Means(
        "step/job.rs", line(name, size), {str(n): line(name, n) for n in sizes}, (workload,), (CHAIN, SHORT, STATES)
    )


MEANS = {
    "nothing recycled": Means(
        RECYCLING, "kept.trim(bound(in_use));", "kept.trim(0 * bound(in_use));", ("b", "c", "a2"), modes=PURE
    ),
    "no huge pages": Means(RECYCLING, "libc::MADV_HUGEPAGE", "libc::MADV_NOHUGEPAGE", ("a", "a2"), modes=BOTH),
    "arrays of ours start in a page": Means(
        "memory/placement.rs",
        "start + gap / 2",
        {
            "where another one does": "start + 0 * gap",
            "a line behind another one": "start + LINE + 0 * gap",
            "a third into the largest gap": "start + gap / 3",
        },
        ("b", "a2"),
        ("Adam", *LONG),
        modes=BOTH,
    ),
    "tiles and strips start anywhere on the stack": Means(
        "memory/placement.rs", "#[repr(align(64))]", "#[repr(align(4))]", ("a2",), ("Adam", *LONG), modes=BOTH
    ),
    "loops begin within a line": Means(
        "step/job.rs",
        "const HEAD: usize = 256;",
        "const HEAD: usize = usize::MAX;",
        ("b", "a2"),
        ("Adam", *LONG),
        modes=BOTH,
    ),
    "no stores past the caches": Means(
        "loops/stream.rs",
        "let whole = match level {",
        "let whole = match level { _ if bytes > 0 => 0,",
        ("a2",),
        ("Descent", "Adam", CHAIN),
        modes=PURE,
        threads=(1, 2),
    ),
    "small arrays as if they were far": Means(
        "step/drive.rs",
        "const FAR_BYTES: usize = 64 << 20;",
        "const FAR_BYTES: usize = 0;",
        ("b", "c"),
        modes=PURE,
    ),
    "tiles in cache": tile("TILE", 512, (256, 1024), "b"),
    "tiles from memory": tile("FAR_TILE", 256, (128, 512), "a2"),  # there is room for no larger ones than in cache
    "threads are woken": Means(
        "step/drive.rs",
        "awake: 512 << 10",
        {"from 64 KiB": "awake: 1 << 16", "from 8 MiB": "awake: 1 << 23"},
        ("2^14", "b", "2^18", "2^20"),
        threads=(2,),
    ),
    "vectors at most": Means(
        "loops/simd.rs",
        "let best = best();",
        {"AVX2": "let best = best().min(Level::Avx2);", "SSE2": "let best = best().min(Level::Baseline);"},
        ("b", "a2"),
        ("Adam", "Lion"),
    ),
    "nothing asked for ahead": Means(
        "loops/stream.rs",
        "for line in (0..bytes).step_by(64) {",
        "for line in (0..0 * bytes).step_by(64) {",
        ("a2",),
        ("Descent", "Adam", CHAIN, SHORT),
        modes=BOTH,
    ),
    "parts of 256 in pure loops": Means(
        "loops/kernel.rs",
        "const PART: usize = 64;",
        "const PART: usize = 256;",
        ("a2",),
        ("Adam", CHAIN, SHORT),
        modes=PURE,
    ),
    "helpers sleep at once": Means(
        "threads/queue.rs",
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


def build(means: Means | None, new: str, source: Path, folder: Path) -> Path:
    """A folder with the package, changed or not; `source` is a copy of the tree that all builds share."""
    file = source / "rust" / means.file if means else None
    text = file.read_text() if file else ""
    if file and means:
        file.write_text(text.replace(means.old, new))
    place = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target" / "means"), "PYO3_PYTHON": sys.executable}
    built = subprocess.run(BUILD.split(), cwd=source, env=place, stdout=subprocess.PIPE, text=True, check=True)
    if file:
        file.write_text(text)
    artifacts = [m for m in map(json.loads, built.stdout.splitlines()) if m.get("target", {}).get("name") == "optirs"]
    library = next(name for m in artifacts for name in m.get("filenames", ()) if Path(name).suffix == ".so")
    shutil.copytree(source / "python", folder)
    shutil.copy(library, folder / "optirs" / "_core.abi3.so")
    return folder


def compare(name: str, packages: dict[str, Path], effort: Effort) -> Iterator[dict[str, Any]]:
    """The rounds of all packages, for every workload of a means."""
    means = MEANS[name]
    for workload, threads, mode in product(means.workloads, means.threads, means.modes):

        def start(who: str, mode: str = mode, workload: str = workload, threads: int = threads) -> Worker:
            return Worker(mode, workload, threads, packages[who])

        for portion in portions(workload, means.cases):
            for row in repeat(list(packages), workload, portion, threads, effort, start):
                if row["missing"]:
                    raise RuntimeError(f"{name}: {row['missing']}")
                yield {"means": name, "mode": mode} | row


def run(only: list[str], effort: Effort) -> Iterator[list[dict[str, Any]]]:
    """Compiles all packages, then compares, a means at a time: nothing else should run by then."""
    for name in only:
        check(MEANS[name])
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        shutil.copytree(ROOT, source, ignore=LEFT_OUT)
        whole = build(None, "", source, Path(temporary, "whole"))
        packages: dict[str, dict[str, Path]] = {}
        for name in only:
            print(f"{name}: compiles", file=sys.stderr, flush=True)
            packages[name] = {WHOLE: whole}
            for i, (variant, new) in enumerate(MEANS[name].variants.items()):
                packages[name][variant] = build(MEANS[name], new, source, Path(temporary, f"{name} {i}"))
        for name in only:
            print(f"{name}: measures", file=sys.stderr, flush=True)
            yield list(compare(name, packages[name], effort))


def lines(record: dict[str, Any]) -> list[str]:
    """A line for each comparison: how many times as long a step takes with the change."""
    found = []
    for row in record["means"]:
        took = result(row)
        where = f"{row['case']} ({row['workload']}, {row['threads']}{', pure' if row['mode'].endswith('pure') else ''})"
        for variant in row["seconds"]:
            if variant != WHOLE and (change := took.ratio(variant, WHOLE)):
                name = row["means"] if variant == CHANGED else f"{row['means']}: {variant}"
                notes = [" level"] * change.level + [", taken the old way"] * took.old
                found.append(f"  {name:<36}{where:<48}{change}{''.join(notes)}")
    return found
