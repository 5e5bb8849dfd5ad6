"""Who runs when: sets of processes, one of each contender, which take turns round by round; then another set."""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .contenders import CONTENDERS, OURS
from .workloads import WORKLOADS, initial, rule

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.01  # seconds for a contender's threads to fall asleep before the next one's turn
PAUSE_OF_PRODUCTS = 0.15  # OpenBLAS's go on for an eighth of a second after a product of matrices
PATIENCE = 240  # seconds after which a contender that does not answer is left out
ALWAYS = ("limit", "optirs")  # in every group
SLOW = ("torch compiled", "torch for-loop", "torch foreach", "DeepSpeed")  # that `--quick` leaves out of steps
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
COUNTS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "OPTIRS", "RAYON")


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int  # of each contender and case, in every process
    seconds: float  # that a round lasts at least, where steps are short
    from_memory: int  # fresh processes of each contender for every case
    in_cache: int  # the same for all cases of a workload whose arrays are small

    def processes(self, workload: str) -> int:
        """How many each contender has."""
        return self.from_memory if WORKLOADS[workload].from_memory else self.in_cache


FULL, QUICK = Effort(5, 0.02, 6, 3), Effort(3, 0.003, 1, 1)


def environment(threads: int, package: Path | None = None) -> dict[str, str]:
    """The environment of a contender that has so many threads, and of ours if it is not the installed one."""
    found = {name: value for name, value in os.environ.items() if name not in UNSET}
    found |= {f"{library}_NUM_THREADS": str(threads) for library in COUNTS}
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    # Compilers that contenders call on at run time look for tools of their environment.
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    if package:
        found["PYTHONPATH"] = str(package)
    return found | {"NPROC": str(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_DYNAMIC": "false"}


class Worker:
    """The process of a contender."""

    def __init__(self, name: str, workload: str, threads: int, package: Path | None = None) -> None:
        command = [sys.executable, "-m", "benches.worker", name, workload, str(threads)]
        self.lost = ""
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(threads, package), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def tell(self, **order: Any) -> None:
        """Sends an order."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
        except BrokenPipeError:
            self.lost = "FAILED: the process ended"

    def reply(self) -> dict[str, Any]:
        """Waits for the answer to the last order."""
        assert self.process.stdout
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        line = "" if self.lost else self.process.stdout.readline()
        timer.cancel()
        if not line:
            self.lost = self.lost or f"FAILED: the process ended with code {self.process.wait()}"
            return {"missing": self.lost}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self, steps: int) -> tuple[float, float]:
        """Seconds for a step, and processors busy; infinite where it fails."""
        self.tell(steps=steps)
        answer = self.reply()
        return answer.get("seconds", math.inf) / steps, answer.get("cores", 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):  # it has ended before
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


Start = Callable[[str], Worker]  # the process of the contender with this name


def available() -> int:
    """Bytes of memory that programs can have, those of files that are merely remembered included."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def groups(names: list[str], workload: str, case: str) -> Iterator[list[str]]:
    """Who runs together: as many as there is memory for, ours and the limit in each group, pure ones in one."""
    each = 4 * WORKLOADS[workload].elements
    if each:
        each *= 2 + len(initial(rule(case)))
    always = [name for name in names if name in ALWAYS]
    pure = [name for name in names if name in OURS and name not in ALWAYS]
    room = 0.6 * available() - sum(each * CONTENDERS[name].memory for name in always)
    group: list[str] = []
    for more in filter(None, [pure, *([name] for name in names if name not in OURS)]):
        if group and sum(each * CONTENDERS[name].memory for name in (*group, *more)) > room:
            yield always + group
            group = []
        group += more
    yield always + group


def portions(workload: str, cases: Sequence[str]) -> list[list[str]]:
    """The cases that a process measures: one from memory, all where a process takes longer to start than to measure."""
    return [[case] for case in cases] if WORKLOADS[workload].from_memory else [list(cases)]


def prepare(workload: str, case: str, workers: dict[str, Worker]) -> dict[str, str]:
    """Has everybody build the case and check the answer; returns why some cannot."""
    missing: dict[str, str] = {}
    # Large ones one after the other: what building needs for a while is not counted in `groups`.
    for together in [[name] for name in workers] if WORKLOADS[workload].from_memory else [list(workers)]:
        for name in together:
            workers[name].tell(case=case)
        missing |= {name: why for name in together if (why := workers[name].reply().get("missing"))}
    return missing


def measure(
    workload: str, case: str, threads: int, workers: dict[str, Worker], effort: Effort
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """One case in one set of processes: seconds for a step by contender and round, and why the others are missing."""
    missing = prepare(workload, case, workers)
    present = {name: worker for name, worker in workers.items() if name not in missing}
    steps = {}
    for name, worker in present.items():
        worker.round(1)
        seconds, _ = worker.round(1 if WORKLOADS[workload].from_memory else 3)
        steps[name] = max(1, min(100_000, math.ceil(effort.seconds / seconds)))
        worker.round(steps[name])
    times: dict[str, list[float]] = {name: [] for name in present}
    cores: dict[str, list[float]] = {name: [] for name in present}
    pause = PAUSE_OF_PRODUCTS if threads > 1 and WORKLOADS[workload].kind == "Affine" else PAUSE
    for _ in range(effort.rounds):
        for name, worker in present.items():
            time.sleep(pause)
            seconds, busy = worker.round(steps[name])
            times[name].append(seconds)
            cores[name].append(busy)
    for name, worker in present.items():
        if math.inf in times[name]:
            missing[name] = worker.lost or "FAILED: a step failed"
        elif statistics.median(cores[name]) > threads + 0.25:
            missing[name] = f"FAILED: used more than {threads} threads"
    return {name: rounds for name, rounds in times.items() if name not in missing}, missing


def repeat(
    names: list[str], workload: str, cases: list[str], threads: int, effort: Effort, start: Start
) -> list[dict[str, Any]]:
    """The results of those who run together: rounds by process. Who fails in one process is left out of all."""
    seconds: dict[str, dict[str, list[list[float]]]] = {case: {name: [] for name in names} for case in cases}
    missing: dict[str, dict[str, str]] = {case: {} for case in cases}
    for _ in range(effort.processes(workload)):
        wanted = [name for name in names if any(name in seconds[case] for case in cases)]
        with ExitStack() as stack:
            workers = {name: stack.enter_context(start(name)) for name in wanted}
            for case in cases:
                times, lost = measure(workload, case, threads, {name: workers[name] for name in seconds[case]}, effort)
                missing[case] |= lost
                seconds[case] = {name: [*seconds[case][name], rounds] for name, rounds in times.items()}
    base = {"workload": workload, "threads": threads}
    return [base | {"case": case, "seconds": seconds[case], "missing": missing[case]} for case in cases]


def absent(names: list[str], workload: str, cases: list[str], threads: int) -> dict[str, dict[str, str]]:
    """By case, why some take no part in it: asked with tiny arrays, so that nobody starts in vain with large ones."""
    tiny = f"{workload}, tiny"
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, tiny, threads)) for name in names}
        return {case: prepare(tiny, case, workers) for case in cases}


def run(
    names: list[str], workload: str, cases: list[str], threads: int, effort: Effort
) -> Iterator[list[dict[str, Any]]]:
    """The results of one workload, a portion of its cases at a time."""

    def start(name: str) -> Worker:
        return Worker(name, workload, threads)

    asked = WORKLOADS[workload].from_memory and effort.from_memory > 1
    missing = absent(names, workload, cases, threads) if asked else {}
    for portion in portions(workload, cases):
        largest = max(portion, key=lambda c: len(initial(rule(c))) if WORKLOADS[workload].shapes else 0)
        without = missing.get(largest, {})
        found: list[dict[str, Any]] = []
        for group in groups([name for name in names if name not in without], workload, largest):
            found += repeat(group, workload, portion, threads, effort, start)
        found[0]["missing"] |= without
        yield found


def contenders(workload: str, only: list[str] | None, quick: bool) -> list[str]:
    """Who takes part in a workload."""
    kind = WORKLOADS[workload].kind
    slow = SLOW if quick and kind == "Steps" and only is None else ()
    names = [name for name, entry in CONTENDERS.items() if kind in entry.kinds]
    return [name for name in names if name not in slow and (only is None or name in only or name in OURS)]
