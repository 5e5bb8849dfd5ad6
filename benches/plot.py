"""The plots of a record: how far every rule is from the limit, and time and memory against the number of parameters."""

from pathlib import Path
from typing import Any

from .record import results
from .workloads import WORKLOADS


def save(record: dict[str, Any], file: Path) -> list[str]:
    """Draws what the record holds beside it; returns the names of the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    made = []
    for suffix, draw in (("", draw_workloads), ("-scale", draw_scale)):
        if figure := draw(record):
            path = file.with_name(f"{file.stem}{suffix}.png")
            figure.savefig(path, dpi=120, bbox_inches="tight")
            made.append(path.name)
    return made


def title(record: dict[str, Any]) -> str:
    """The machine and the day."""
    return f"{record['processor']}, {record['cpus']} processors, {record['date']}"


def draw_workloads(record: dict[str, Any]) -> Any:
    """A panel for each workload and number of threads: time over the limit of memory, every contender a mark."""
    import matplotlib.pyplot as plt

    found = {k: r for k, r in results(record).items() if r.processes("limit")}
    panels = [(w, t) for w in WORKLOADS for t in sorted({k[1] for k in found}) if any(k[:2] == (w, t) for k in found)]
    cases = list(dict.fromkeys(case for _, _, case in found))
    if not panels:
        return None
    names = dict.fromkeys(n for r in found.values() for g in r.groups for n in g if not n.startswith("limit"))
    styles = {name: (f"C{i % 10}", "os^vD*Xp<>"[i // 2 % 10]) for i, name in enumerate(names)}
    size = (3.2 * len(panels) + 2, 0.25 * len(cases) + 2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (workload, threads) in zip(axes[0], panels, strict=True):
        for name, (colour, marker) in styles.items():
            limit = "limit, pure" if name.endswith("pure") else "limit"
            points = [
                (ratio.median, cases.index(case))
                for (w, t, case), r in found.items()
                if (w, t) == (workload, threads) and (ratio := r.ratio(name, limit))
            ]
            if points:
                axis.scatter(*zip(*points, strict=True), s=22, c=colour, marker=marker, label=name)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set(xscale="log", title=f"({workload}) {threads} threads", xlabel="time over the limit")
        axis.grid(axis="y", linewidth=0.3)
    axes[0][0].set_yticks(range(len(cases)), cases)
    axes[0][0].invert_yaxis()
    handles = {label: h for a in axes[0] for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(0.92, 0.5))
    figure.suptitle(title(record))
    return figure


def draw_scale(record: dict[str, Any]) -> Any:
    """Time per element and peak memory against the number of parameters, in place and pure."""
    import matplotlib.pyplot as plt

    if not record["scale"]:
        return None
    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4))
    for key in sorted({(r["mode"], r["threads"]) for r in record["scale"]}):
        rows = sorted((r for r in record["scale"] if (r["mode"], r["threads"]) == key), key=lambda r: r["parameters"])
        label = f"{key[0].replace('_', ' ')}, {key[1]} threads"
        n = [r["parameters"] for r in rows]
        [line] = times.plot(n, [1e9 * r["seconds"] / r["parameters"] for r in rows], "o-", label=label)
        limits = [1e9 * r["limit"] / r["parameters"] for r in rows]
        times.plot(n, limits, ":", color=line.get_color(), label=f"{label}: limit")
        memory.plot(n, [r["peak"] / r["bytes"] for r in rows], "o-", label=label)
    times.set(xscale="log", yscale="log", xlabel="parameters", ylabel="ns per parameter", title="Adam: time")
    ylabel = "peak / (parameters + gradients + state)"
    memory.set(xscale="log", yscale="log", xlabel="parameters", ylabel=ylabel, title="Adam: memory of the process")
    times.legend()
    memory.legend()
    figure.suptitle(title(record))
    return figure
