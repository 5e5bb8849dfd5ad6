"""The dated record: every round of every process, a file for each day and machine. No ratio is stored."""

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .contenders import PEERS

FOLDER = Path(__file__).parent / "record"
PACKAGES = ("optirs", "numpy", "torch", "jax", "optax", "numba", "deepspeed")
KEY = ("workload", "threads", "case")
PARTS = ("results", "scale", "means")


def processor() -> str:
    """The name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = {name: re.search(rf"^{name}\s*: (.*)$", text, re.M) for name in ("model name", "cpu family", "model")}
    return " ".join(
        match[1] if name == "model name" else f"{name} {match[1]}" for name, match in found.items() if match
    )


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of the contenders that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def path(suffix: str) -> Path:
    """The file of today and this machine."""
    machine = re.sub(r"\W+", "-", f"{processor()} {cpus()} cpus").strip("-").lower()
    return FOLDER / f"{datetime.now(UTC):%Y-%m-%d}-{machine}{suffix}.json"


def read(file: Path) -> dict[str, Any]:
    """What the file holds; the frame of a new record if there is none."""
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text())
        return {part: [] for part in PARTS} | found
    return {part: [] for part in PARTS}


def short(value: Any) -> Any:
    """Numbers with four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    return [short(v) for v in value] if isinstance(value, list) else value


def merge(file: Path, part: str, new: Iterable[dict[str, Any]], key: tuple[str, ...] = KEY) -> dict[str, Any]:
    """Adds results to the file, instead of those for the same key, and returns it all."""
    record, new = read(file), [short(r) for r in new]
    keys = {tuple(r[k] for k in key) for r in new}
    record |= {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "cpus": cpus(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "versions": versions(),
    }
    record[part] = [r for r in record[part] if tuple(r[k] for k in key) not in keys] + new
    head = {name: value for name, value in record.items() if name not in PARTS}
    lines = [f'"{p}": [\n' + ",\n".join(json.dumps(r) for r in record[p]) + "\n]" for p in PARTS]
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(head, indent=1)[:-2] + ",\n" + ",\n".join(lines) + "\n}\n")
    return record


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another, over the sets of processes that both took part in.

    Of each set, the median of its rounds' ratios counts. Of one set alone, the least and the greatest are those of its
    rounds.
    """

    median: float
    least: float
    greatest: float
    minima: float  # the median over sets of the ratio of least times, which neighbours on the machine change less

    @property
    def level(self) -> bool:
        """Whether neither was faster throughout."""
        return self.least <= 1 <= self.greatest

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f}-{self.greatest:.2f}]"


Rounds = list[float]  # seconds for a step, in one process


@dataclass(frozen=True)
class Result:
    """One case of a workload: the rounds of every process by contender."""

    groups: tuple[dict[str, list[Rounds]], ...]  # those that ran together: equal places are of one set of processes
    missing: dict[str, str]
    old: bool = False  # taken the old way: one process per contender

    def processes(self, name: str) -> list[Rounds]:
        """The rounds of all processes of a contender."""
        return [rounds for group in self.groups for rounds in group.get(name, [])]

    def median(self, name: str) -> float:
        """The median time of a contender, over the medians of its processes."""
        return statistics.median(map(statistics.median, self.processes(name)))

    def ratio(self, name: str, to: str) -> Ratio | None:
        """How many times as long as `to` it takes, where both ran together."""
        sets = [pair for g in self.groups if name in g and to in g for pair in zip(g[name], g[to], strict=True)]
        if not sets:
            return None
        ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in sets]
        medians = [statistics.median(rounds) for rounds in ratios]
        spread = medians if len(medians) > 1 else ratios[0]
        minima = statistics.median(min(a) / min(b) for a, b in sets)
        return Ratio(statistics.median(medians), min(spread), max(spread), minima)

    def peers(self, ours: str) -> dict[str, Ratio]:
        """How many times as long as ours each peer takes."""
        return {name: ratio for name in PEERS if (ratio := self.ratio(name, ours))}

    def best_peer(self, ours: str) -> tuple[str, Ratio] | None:
        """The fastest peer, of those that are faster throughout if there are any."""
        found = self.peers(ours)
        return min(found.items(), key=lambda pair: (pair[1].greatest >= 1, pair[1].median), default=None)


def result(*rows: dict[str, Any]) -> Result:
    """What the record holds about one case: a row for each group of contenders. The only reader of rounds.

    Until 2026-11-30 a contender had one process, and its rounds stood in the list where those of every process are now.
    """
    old = any(isinstance(times[0], float) for row in rows for times in row["seconds"].values())
    groups = [{name: [times] if old else times for name, times in row["seconds"].items()} for row in rows]
    return Result(tuple(groups), {name: why for row in rows for name, why in row.get("missing", {}).items()}, old)


def results(record: dict[str, Any]) -> dict[tuple[str, int, str], Result]:
    """By workload, threads and case."""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in record["results"]:
        rows.setdefault((row["workload"], row["threads"], row["case"]), []).append(row)
    return {key: result(*found) for key, found in rows.items()}
