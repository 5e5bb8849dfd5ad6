"""Loops in C, one per rule, that the compiler vectorises for this very processor: `cc -O3 -march=native`.

They see all arrays in one call. What makes them as fast as loops get: `restrict`, roots that need not set `errno`, and
state arrays whose starts share no cache sets.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..formulas import FORMULAS, Formula
from ..workloads import Array, initial
from . import MissingError, OnArrays

FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -fPIC -shared -x c -".split()  # noqa: SIM905
HEAD = """
#include <math.h>
#define sqrt sqrtf
#define absolute fabsf
static inline float where(int c, float a, float b) { return c ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float sign(float a) { return (float)((a > 0.0f) - (a < 0.0f)); }
"""
LOOP = """
static void one(long n, float *restrict px, const float *restrict pg, float *restrict const *ps, const float *numbers)
{{
    {constants}
    #pragma omp for simd schedule(static) nowait
    for (long i = 0; i < n; i++) {{
        float x = px[i], g = pg[i]; {loads}
        {body};
        px[i] = x; {stores}
    }}
}}
void step(long arrays, const long *n, float *const *x, float *const *g, float *const *s, const float *numbers,
          int threads)
{{
    #pragma omp parallel num_threads(threads)
    for (long a = 0; a < arrays; a++) one(n[a], x[a], g[a], s + a * {states}, numbers);
}}
"""


def source(formula: Formula, rule: Any) -> str:
    """The program for one rule."""
    states = formula.names
    new = set(re.findall(r"(\w+) = ", formula.body)) - {"x", *states}
    body = re.sub(rf"\b({'|'.join(new)}) = ", r"float \1 = ", formula.body) if new else formula.body
    pointers = "".join(f" float *restrict p_{name} = ps[{i}];" for i, name in enumerate(states))
    constants = "".join(f" const float {name} = numbers[{i}];" for i, name in enumerate(formula.scalars(rule)))
    loads = "".join(f" float {name} = p_{name}[i];" for name in states)
    stores = "".join(f" p_{name}[i] = {name};" for name in states)
    return HEAD + LOOP.format(constants=pointers + constants, loads=loads, stores=stores, body=body, states=len(states))


def compiled(text: str) -> Any:
    """The function `step` of the program."""
    cc = shutil.which("cc")
    if not cc:
        raise MissingError("needs a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "loop.so"
        made = subprocess.run([cc, *FLAGS, "-o", str(library)], input=text, text=True, capture_output=True, check=False)
        if made.returncode:
            raise MissingError(f"cannot be compiled: {made.stderr[:200]}")
        return ctypes.CDLL(str(library)).step


def placed(sizes: list[int], index: int, value: float) -> list[Array]:
    """Arrays one after the other, which start at a cache line and share its sets with no other index."""
    room = np.full(sum(sizes) + 32 * 272, value, np.float32)
    start = -room.ctypes.data // 4 % 16 + index % 31 * 272
    return np.split(room[start : start + sum(sizes)], np.cumsum(sizes)[:-1])


def addresses(many: list[Array]) -> Any:
    """Their pointers, for C."""
    return (ctypes.c_void_p * len(many))(*(a.ctypes.data for a in many))


class Steps(OnArrays):
    """One call a step."""

    def prepare(self, case: str, rule: Any) -> None:
        if case not in FORMULAS:
            raise MissingError("has no loop for it")
        self.rule, self.formula, self.t = rule, FORMULAS[case], 0
        self.function = compiled(source(self.formula, rule))
        values = initial(rule)
        sizes = [x.size for x in self.model]
        slabs = [placed(sizes, 1 + i, v) for i, v in enumerate(values)]
        self.states = [state for states in zip(*slabs, strict=True) for state in states]
        self.fixed = (
            ctypes.c_long(len(sizes)),
            (ctypes.c_long * len(sizes))(*sizes),
            *map(addresses, (self.model, self.gradients, self.states)),
        )

    def step(self) -> None:
        self.t += 1
        k = list(self.formula.numbers(self.rule, self.t).values())
        self.function(*self.fixed, (ctypes.c_float * len(k))(*k), self.threads)
