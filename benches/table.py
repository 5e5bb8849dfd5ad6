"""The table: rules down, workloads across; our time over the limit, and the best peer's time over ours."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from . import means
from .record import Ratio, Result, results
from .workloads import WORKLOADS, not_measured

LOOP = 1e-6  # seconds: below it the limit's own loop is all that it measures

CELL = (
    "A cell: our time; over the limit of memory; best peer over ours, or level; of pure ones, time over in place.",
    "In brackets the least and the greatest process, or round of a single process; level is what has 1 between them.",
)
OLD = "Taken the old way: one process per contender, which lived for all cases of a workload."

Results = dict[tuple[str, int, str], Result]


def seconds(t: float) -> str:
    """Three digits with a unit."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "us")) if t >= s), (1e-9, "ns"))
    value = t / scale
    return f"{value:.{0 if value >= 99.5 else 1 if value >= 9.95 else 2}f}{unit}"


def against(peer: tuple[str, Ratio] | None) -> str:
    """The best peer's time over ours, or that neither is faster."""
    if peer is None:
        return "no peer"
    name, ratio = peer
    return f"level {name}" if ratio.level else f"{ratio.median:.2f}x {name}"


def cell(result: Result | None, ours: str) -> str:
    """`time  over the limit [spread]  the best peer's time over ours`; a dash for what was not measured."""
    if result is None or not result.processes(ours):
        return "-"
    bound = "limit, pure" if ours.endswith("pure") else "limit"
    limit, over = result.ratio(ours, bound), result.ratio(ours, "optirs")
    parts = [seconds(result.median(ours))]
    if limit and result.median(bound) > LOOP:
        parts.append(str(limit))
    if ours.endswith("pure") and limit and over:  # peers work in place: what it costs over that is of more interest
        return " ".join([*parts, f"{over.median:.2f} of in place"])
    return " ".join([*parts, against(result.best_peer(ours))])


def processes(found: Iterable[Result]) -> str:
    """How many processes each contender of these cases had."""
    found = list(found)
    counts = sorted({len(times) for r in found for group in r.groups for times in group.values()})
    if not counts:
        return ""
    number = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    return f"{number} process{'es' * (counts[-1] > 1)}{', the old way' * any(r.old for r in found)}"


def block(found: Results, workloads: list[str], threads: int) -> list[str]:
    """The table for one number of threads and the workloads that share their cases."""
    cases = list(dict.fromkeys(case for w, t, case in found if w in workloads and t == threads))
    shown = {w: [r for (name, t, _), r in found.items() if (name, t) == (w, threads)] for w in workloads}
    rows = [["", *(f"({w}) {WORKLOADS[w].title}" for w in workloads)]]
    rows.append(["", *(processes(shown[w]) for w in workloads)])
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
    best: list[float] = []
    behind: list[str] = []
    level: list[str] = []
    above: list[str] = []
    for (workload, threads, case), result in found.items():
        where = f"  {case} ({workload}, {threads} thread{'s' * (threads > 1)})"
        if peer := result.best_peer("optirs"):
            best.append(min(ratio.median for ratio in result.peers("optirs").values()))
            name, ratio = peer
            if ratio.level or ratio.median < 1:
                (level if ratio.level else behind).append(f"{where}: {name} {in_full(ratio)}")
        limit = result.ratio("optirs", "limit")
        if limit and WORKLOADS[workload].from_memory and limit.median > 1.15:
            above.append(f"{where}: {in_full(limit)}")
    lines = []
    if best:
        mean = math.exp(statistics.fmean(map(math.log, best)))
        lines.append(f"Best peer over optirs, geometric mean of {len(best)}: {mean:.2f}")
    lines += [f"More than 1.15 of the limit in memory: {len(above)}", *above]
    lines += [f"A peer is faster: {len(behind)}", *behind]
    return [*lines, f"Level with the best peer: {len(level)}", *level]


def in_full(ratio: Ratio) -> str:
    """The median with its spread, and the ratio of least times."""
    return f"{ratio}, of least times {ratio.minima:.2f}"


def text(record: dict[str, Any]) -> str:
    """All of it."""
    found = results(record)
    kinds = [list(dict.fromkeys(w for w in WORKLOADS if WORKLOADS[w].kind == kind and any(k[0] == w for k in found)))
             for kind in ("Steps", "Training", "Affine")]  # fmt: skip
    lines = [f"{record['processor']}, {record['cpus']} processors, {record['date']}"]
    lines += CELL
    if any(r.old for r in found.values()):
        lines.append(OLD)
    for threads in sorted({t for _, t, _ in found}):
        lines += ["", f"--- {threads} thread{'s' * (threads > 1)}"]
        for kind in kinds:
            if workloads := [w for w in kind if any(k[:2] == (w, threads) for k in found)]:
                lines += [*block(found, workloads, threads), ""]
    if found:
        lines += [*summary(found), "Left out:", *missing(found)]
    if changes := means.lines(record):
        lines += ["", "Time of a step with a means of being fast changed, over that as it is [spread]:", *changes]
    return "\n".join(lines)
