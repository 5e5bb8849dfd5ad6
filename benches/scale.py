"""Adam from 10^5 parameters to 10^9, as far as memory allows: time per parameter, and the peak memory of the process.

Each point is a process of its own, since a peak cannot be taken back. The limit is measured right after it, when its
memory is free again: there would not be room for both.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import optirs

from .protocol import ROOT, available, environment

KEY = ("parameters", "threads", "mode")
SIZES = [10**5, 10**6, 10**7, 10**8, 3 * 10**8, 10**9]
ARRAYS = 4  # parameters, gradients and two moments, of float32
PURE = 3  # those of which a pure update makes new ones
ROUNDS = 5


def fits(n: int, mode: str) -> bool:
    """Whether there is memory for it, and for the limit beside it."""
    return 4 * n * (ARRAYS + (PURE if mode == "pure" else 0)) < 0.85 * available()


def measure(threads: tuple[int, ...] = (1, 2), sizes: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """A result for each size, mode and number of threads that fits."""
    for n in sizes or SIZES:
        for mode in ("in_place", "pure"):
            for count in threads:
                if not fits(n, mode):
                    print(f"{n} parameters, {mode}: left out, more than the memory that is free", file=sys.stderr)
                    continue
                command = [sys.executable, "-m", "benches.scale", str(n), mode, str(count)]
                run = subprocess.run(
                    command, cwd=ROOT, env=environment(count), stdout=subprocess.PIPE, text=True, check=True
                )
                yield json.loads(run.stdout)


def steps(n: int, mode: str) -> list[float]:
    """Seconds for a step, by round. What it needs is given back when it returns."""
    # Both arrays are filled where they lie, so that nothing but them takes memory.
    model, gradient = np.full(n, 0.5, np.float32), np.full(n, 0.25, np.float32)
    state: Any = optirs.setup(optirs.Adam(), model)
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats(n)):
            if mode == "pure":
                state, model = optirs.update(state, model, gradient)
            else:
                optirs.update_(state, model, gradient)
        times.append((time.perf_counter() - start) / repeats(n))
    return times[1:]


def repeats(n: int) -> int:
    """Steps in a round, at least two: a pure update has come to its steady state after that."""
    return max(2, 10**7 // n)


def point(n: int, mode: str, threads: int) -> dict[str, Any]:
    """One size in this process."""
    seconds = statistics.median(steps(n, mode))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    optirs.release_memory()
    limit = statistics.median(limits(n, mode, threads))
    base = {"parameters": n, "threads": threads, "mode": mode}
    return base | {"seconds": seconds, "limit": limit, "peak": peak, "bytes": 4 * n * ARRAYS}


def limits(n: int, mode: str, threads: int) -> list[float]:
    """Times of the limit of as many parameters."""
    from .contenders.limit import program

    process = subprocess.run(
        [program(), str(n), "2", "0", str(threads), mode],
        input=f"{repeats(n)}\n" * (ROUNDS + 1), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(line) / repeats(n) for line in process.stdout.split()[1:]]


if __name__ == "__main__":
    print(json.dumps(point(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
