"""Loops in Python that numba compiles: one function per rule, called once per array."""

from typing import Any

import numba
import numpy as np

from ..formulas import FORMULAS, Formula
from ..workloads import initial
from . import MissingError, OnArrays

LOOP = """
def step(px, pg, numbers{arrays}):
    {constants}
    for i in prange(px.size):
        x = px[i]; g = pg[i]
        {loads}
        {body}
        px[i] = x
        {stores}
"""


@numba.njit(inline="always")
def where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


@numba.njit(inline="always")
def sign(a: Any) -> Any:
    return np.float32(a > 0) - np.float32(a < 0)


FUNCTIONS = {
    "where": where,
    "sign": sign,
    "sqrt": np.sqrt,
    "absolute": abs,
    "smaller": min,
    "larger": max,
}


def compiled(formula: Formula, rule: Any, parallel: bool) -> Any:
    """The rule's loop."""
    states = formula.names
    text = LOOP.format(
        arrays="".join(f", p_{name}" for name in states),
        constants="; ".join(f"{name} = numbers[{i}]" for i, name in enumerate(formula.scalars(rule))),
        loads="; ".join(f"{name} = p_{name}[i]" for name in states) or "pass",
        body=formula.body,
        stores="; ".join(f"p_{name}[i] = {name}" for name in states) or "pass",
    )
    names: dict[str, Any] = {**FUNCTIONS, "prange": numba.prange if parallel else range}
    exec(text, names)
    return numba.njit(names["step"], parallel=parallel, error_model="numpy")


class Steps(OnArrays):
    """A call for each array."""

    def prepare(self, case: str, rule: Any) -> None:
        if case not in FORMULAS:
            raise MissingError("has no loop for it")
        self.rule, self.formula, self.t = rule, FORMULAS[case], 0
        self.function = compiled(self.formula, rule, self.threads > 1)
        values = initial(rule)
        flat = ((x.reshape(-1), g.reshape(-1)) for x, g in zip(self.model, self.gradients, strict=True))
        self.arrays = [(x, g, tuple(np.full(x.size, v, np.float32) for v in values)) for x, g in flat]

    def step(self) -> None:
        self.t += 1
        k = np.array(list(self.formula.numbers(self.rule, self.t).values()), np.float32)
        for x, g, states in self.arrays:
            self.function(x, g, k, *states)
