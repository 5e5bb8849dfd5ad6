"""One contender in one workload: a process that does what its standard input says, one JSON object a line.

`{"case": NAME}` makes it build that case and check its answer; `{"steps": N}` makes it do so many and say how many
seconds they took, and how many processors were busy with them.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import optirs

from . import workloads
from .contenders import CONTENDERS, Contender, MissingError, Stepper
from .workloads import WORKLOADS, Array

sys.path.append(str(Path(__file__).parents[1] / "tests"))
SAMPLE = 2000
SCALES = (1.0, -0.5, -2.0)  # of the gradients, each on top of the one before
MOVED, STORED = 2e-3, 8 * 2.0**-23  # what an answer may be off: of how far it moved, and of the number itself


def check_steps(contender: Stepper, rule: optirs.Rule, shapes: tuple[workloads.Shape, ...]) -> None:
    """Three steps, against the oracle in float64: of some elements of every array."""
    import reference

    from optirs.rules import spec

    rng = np.random.default_rng(0)
    elements = [np.unique(np.r_[0, n - 1, rng.integers(0, n, SAMPLE)]) for n in (int(np.prod(s)) for s in shapes)]
    x, g = ([some(a, at) for a, at in zip(workloads.numbers(shapes, seed), elements, strict=True)] for seed in (1, 2))
    for factor in SCALES:
        contender.scale(factor)
        contender.step()
    answers = [a.reshape(-1)[at] for a, at in zip(contender.parameters(), elements, strict=True)]
    for start, gradient, answer in zip(x, g, answers, strict=True):
        at, state, factor = reference.wide(start), reference.start(spec(rule), start), 1.0
        for scale in SCALES:
            factor *= scale
            state, at = reference.step(spec(rule), state, at, gradient * np.float32(factor), start.dtype)
        compare(answer, at[:-1], start[:-1])


def some(array: Array, at: Array) -> Array:
    """The elements at these places, and one more, with which they have the norm of the whole array."""
    flat = array.reshape(-1)
    chosen = flat[at]
    rest = np.einsum("i,i", flat, flat, dtype=np.float64) - np.einsum("i,i", chosen, chosen, dtype=np.float64)
    return np.append(chosen, np.float32(max(rest, 0.0) ** 0.5))


def compare(answer: Array, exact: Array, start: Array) -> None:
    """Raises if the answer is not near enough to the exact one."""
    bound = MOVED * np.abs(exact - start).max() + STORED * np.abs(exact)
    error = np.abs(answer - exact)
    if answer.shape != exact.shape or not (error <= bound).all():
        worst = int(np.argmax(error - bound))
        raise ArithmeticError(f"answers {answer.flat[worst]!r} where {exact.flat[worst]!r} is right")


def build(name: str, workload: str, case: str, threads: int) -> Contender:
    """The contender, ready and checked."""
    made: Any = CONTENDERS[name].make(WORKLOADS[workload].kind, threads)
    match WORKLOADS[workload].kind:
        case "Steps":
            rule, shapes = workloads.rule(case), WORKLOADS[workload].shapes
            made.build(case, rule, workloads.numbers(shapes, 1), workloads.numbers(shapes, 2))
            if isinstance(made, Stepper):
                check_steps(made, rule, shapes)
        case "Training":
            made.build(case)
            made.step()
            check_training(made.answer())
        case _:
            way, (batch, n_in, n_out) = workloads.layer(case)
            w, b, x, dy = workloads.numbers(((n_out, n_in), (n_out,), (batch, n_in), (batch, n_out)), 1)
            made.build(case, w, b, x, dy)
            made.step()
            w, b, x, dy = (a.astype(np.float64) for a in (w, b, x, dy))
            exact = (x @ w.T + b,) if way == "forward" else (dy.T @ x, dy.sum(0), dy @ w)
            for answer, right in zip(made.answer(), exact, strict=True):
                np.testing.assert_allclose(answer, right, rtol=1e-4, atol=1e-4 * np.abs(right).max())
    return made


def check_training(answer: list[Array]) -> None:
    """Against the same loop in float64."""
    from optirs._notebook import experiment

    e = experiment()
    x, y, w, b = (a.astype(np.float64) for a in (e.x, e.y, e.model.W, e.model.b))
    for _ in range(workloads.EPOCHS):
        dy = 2 * (x @ w.T + b - y) / len(x)
        w, b = w - 0.1 * (dy.T @ x), b - 0.1 * dy.sum(0)
    for mine, right in zip(answer, (w, b), strict=True):
        np.testing.assert_allclose(mine, right, atol=2e-6)


def main() -> None:
    name, workload, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes elsewhere
    contender: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "case" in order:
                if hasattr(contender, "close"):
                    contender.close()
                contender = None  # its memory is needed
                contender = build(name, workload, order["case"], threads)
                reply: dict[str, Any] = {}
            else:
                start, busy = time.perf_counter(), time.process_time()
                seconds = contender.run(order["steps"])
                wall = time.perf_counter() - start
                reply = {"seconds": seconds or wall, "cores": (time.process_time() - busy) / wall}
        except MissingError as error:
            reply = {"missing": str(error)}
        except Exception as error:  # reported in the table: the others go on
            reply = {"missing": f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
