"""Who runs when: one process per contender and workload, all of them alive at once, one round of each in turn."""

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
SLOW = ("torch compiled", "torch for-loop", "torch foreach", "DeepSpeed")  # that `--quick` leaves out of steps
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
COUNTS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "OPTIRS", "RAYON")


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int  # of each contender and case
    seconds: float  # that a round lasts at least, where steps are short


FULL, QUICK = Effort(11, 0.02), Effort(3, 0.003)


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


def available() -> int:
    """Bytes of memory that programs can have, those of files that are merely remembered included."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def groups(names: list[str], workload: str, case: str) -> Iterator[list[str]]:
    """Who runs together: as many as there is memory for, ours and the limits in every group."""
    each = 4 * WORKLOADS[workload].elements
    if each:
        each *= 2 + len(initial(rule(case)))
    need = {name: each * CONTENDERS[name].memory for name in names}
    always = [name for name in names if name in OURS]
    room = 0.6 * available() - sum(need[name] for name in always)
    group: list[str] = []
    for name in names:
        if name in OURS:
            continue
        if group and sum(need[n] for n in (*group, name)) > room:
            yield always + group
            group = []
        group.append(name)
    yield always + group


def measure(
    names: list[str], workload: str, case: str, threads: int, workers: dict[str, Worker], effort: Effort
) -> Any:
    """All rounds of one case: `(seconds for a step by contender and round, why the others are missing)`."""
    large = WORKLOADS[workload].elements > 1e7
    missing = {}
    # Where arrays are large one is built after the other: to check a norm takes many times what the contender does.
    for together in [[name] for name in names] if large else [names]:
        for name in together:
            workers[name].tell(case=case)
        missing |= {name: why for name in together if (why := workers[name].reply().get("missing"))}
    present = [name for name in names if name not in missing]
    steps = {}
    for name in present:
        workers[name].round(1)
        seconds, _ = workers[name].round(1 if large else 3)
        steps[name] = max(1, min(100_000, math.ceil(effort.seconds / seconds)))
        workers[name].round(steps[name])
    times: dict[str, list[float]] = {name: [] for name in present}
    cores: dict[str, list[float]] = {name: [] for name in present}
    pause = PAUSE_OF_PRODUCTS if threads > 1 and WORKLOADS[workload].kind == "Affine" else PAUSE
    for _ in range(effort.rounds):
        for name in present:
            time.sleep(pause)
            seconds, busy = workers[name].round(steps[name])
            times[name].append(seconds)
            cores[name].append(busy)
    for name in present:
        if sorted(cores[name])[len(cores[name]) // 2] > threads + 0.25:
            missing[name] = f"FAILED: used more than {threads} threads"
            del times[name]
    return times, missing


def run(names: list[str], workload: str, cases: list[str], threads: int, effort: Effort) -> Iterator[dict[str, Any]]:
    """The results of one workload, a case and group at a time."""
    largest = max(cases, key=lambda c: len(initial(rule(c))) if WORKLOADS[workload].shapes else 0)
    for group in groups(names, workload, largest):
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(name, workload, threads)) for name in group}
            for case in cases:
                times, missing = measure(group, workload, case, threads, workers, effort)
                yield {"workload": workload, "threads": threads, "case": case, "seconds": times, "missing": missing}


def contenders(workload: str, only: list[str] | None, quick: bool) -> list[str]:
    """Who takes part in a workload."""
    kind = WORKLOADS[workload].kind
    slow = SLOW if quick and kind == "Steps" and only is None else ()
    names = [name for name, entry in CONTENDERS.items() if kind in entry.kinds]
    return [name for name in names if name not in slow and (only is None or name in only or name in OURS)]
