"""The table: rules down, workloads across; our time over the limit, and the best peer's time over ours."""

import math
import statistics
from collections import defaultdict
from typing import Any

from . import means
from .record import Result, results
from .workloads import WORKLOADS, not_measured

LOOP = 1e-6  # seconds: below it the limit's own loop is all that it measures

Results = dict[tuple[str, int, str], Result]


def seconds(t: float) -> str:
    """Three digits with a unit."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "us")) if t >= s), (1e-9, "ns"))
    value = t / scale
    return f"{value:.{0 if value >= 99.5 else 1 if value >= 9.95 else 2}f}{unit}"


def cell(result: Result | None, ours: str) -> str:
    """`time  over the limit  over us: the best peer`; a dash for what was not measured."""
    if result is None or not result.times(ours):
        return "-"
    limit = result.ratio(ours, "limit, pure" if ours.endswith("pure") else "limit")
    if ours.endswith("pure") and limit:  # peers work in place: what it costs over that is of more interest
        over = result.ratio(ours, "optirs")
        return f"{seconds(result.median(ours))} {limit.median:.2f}" + (
            f" {over.median:.2f} of in place" if over else ""
        )
    peer = result.best_peer(ours)
    shown = limit and result.median("limit") > LOOP
    parts = [seconds(result.median(ours)), f"{limit.median:.2f}" if limit and shown else ""]
    return " ".join([*filter(None, parts), f"{peer[1].median:.2f}x {peer[0]}" if peer else "no peer"])


def block(found: Results, workloads: list[str], threads: int) -> list[str]:
    """The table for one number of threads and the workloads that share their cases."""
    cases = list(dict.fromkeys(case for w, t, case in found if w in workloads and t == threads))
    rows = [["", *(f"({w}) {WORKLOADS[w].title}" for w in workloads)]]
    for case in cases:
        for ours, name in (("optirs", case), ("optirs, pure", f"{case}, pure")):
            cells = [cell(found.get((w, threads, case)), ours) for w in workloads]
            if set(cells) != {"-"}:
                rows.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def missing(found: Results) -> list[str]:
    """Who was left out of what, and why."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (workload, threads, case), result in found.items():
        for name, why in result.missing.items():
            reasons[name, why].append(f"{case} ({workload}, {threads})")
    lines = [f"  {rule} has no workload here" for rule in not_measured()]
    for (name, why), where in sorted(reasons.items()):
        if why.startswith("FAILED"):
            lines.append(f"  {name} {why}: {', '.join(where)}")
        else:
            cases = list(dict.fromkeys(w.partition(" (")[0] for w in where))
            lines.append(f"  {name} {why}: {', '.join(cases) if len(cases) < 12 else f'{len(cases)} rules'}")
    return lines


def summary(found: Results) -> list[str]:
    """Who is ahead, over all rules and workloads: in place where there is a choice."""
    ahead, behind, above = [], [], []
    for (workload, threads, case), result in found.items():
        where = f"{case} ({workload}, {threads} threads)" if threads > 1 else f"{case} ({workload}, 1 thread)"
        if result.times("optirs") and (peer := result.best_peer("optirs")):
            ahead.append(peer[1].median)
            if peer[1].median < 1:
                ratio = peer[1]
                behind.append(f"  {where}: {peer[0]} {ratio.median:.2f} ({ratio.least:.2f} to {ratio.greatest:.2f})")
        limit = result.ratio("optirs", "limit")
        if limit and workload in ("a", "a2", "e") and limit.median > 1.15:
            above.append(f"  {where}: {limit.median:.2f} ({limit.least:.2f} to {limit.greatest:.2f})")
    lines = []
    if ahead:
        mean = math.exp(statistics.fmean(map(math.log, ahead)))
        lines.append(f"Best peer over optirs, geometric mean of {len(ahead)}: {mean:.2f}")
    lines += [f"More than 1.15 of the limit in memory: {len(above)}", *above]
    return [*lines, f"A peer is faster: {len(behind)}", *behind]


def text(record: dict[str, Any]) -> str:
    """All of it."""
    found = results(record)
    kinds = [list(dict.fromkeys(w for w in WORKLOADS if WORKLOADS[w].kind == kind and any(k[0] == w for k in found)))
             for kind in ("Steps", "Training", "Affine")]  # fmt: skip
    lines = [f"{record['processor']}, {record['cpus']} processors, {record['date']}"]
    lines.append("A cell: our time; over the limit of memory; best peer's time over ours, or pure over in place.")
    for threads in sorted({t for _, t, _ in found}):
        lines += ["", f"--- {threads} thread{'s' * (threads > 1)}"]
        for kind in kinds:
            if workloads := [w for w in kind if any(k[:2] == (w, threads) for k in found)]:
                lines += [*block(found, workloads, threads), ""]
    if found:
        lines += [*summary(found), "Left out:", *missing(found)]
    if changes := means.lines(record):
        lines += [
            "",
            "Time of a step with a means of being fast changed, over its time as it is:",
        ]
        lines += changes
    return "\n".join(lines)
