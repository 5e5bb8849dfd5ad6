"""The dated record: every time of every round, one file a day and machine. Ratios are taken from it, never stored."""

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
    """The median of the ratios of the rounds, the least and the greatest."""

    median: float
    least: float
    greatest: float


def ratio(times: Iterable[tuple[list[float], list[float]]]) -> Ratio | None:
    """How many times as long as the second of each pair the first takes, in the rounds that both ran."""
    ratios = [a / b for pair in times for a, b in zip(*pair, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclass(frozen=True)
class Result:
    """One case of a workload: seconds for a step by contender, one number a round."""

    groups: tuple[dict[str, list[float]], ...]  # those that ran together, each with ours and the limits
    missing: dict[str, str]

    def times(self, name: str) -> list[float]:
        """All times of a contender."""
        return [t for group in self.groups for t in group.get(name, [])]

    def median(self, name: str) -> float:
        """The median time of a contender."""
        return statistics.median(self.times(name))

    def ratio(self, name: str, to: str) -> Ratio | None:
        """How many times as long as `to` it takes, in the rounds that both ran."""
        return ratio([(group[name], group[to]) for group in self.groups if name in group and to in group])

    def best_peer(self, ours: str) -> tuple[str, Ratio] | None:
        """The peer that is fastest against us, and how many times as long as ours it takes."""
        found = [(name, r) for name in PEERS if (r := self.ratio(name, ours))]
        return min(found, key=lambda pair: pair[1].median, default=None)


def results(record: dict[str, Any]) -> dict[tuple[str, int, str], Result]:
    """By workload, threads and case."""
    found: dict[tuple[str, int, str], Result] = {}
    for r in record["results"]:
        key = r["workload"], r["threads"], r["case"]
        before = found.get(key, Result((), {}))
        found[key] = Result((*before.groups, r["seconds"]), before.missing | r["missing"])
    return found
