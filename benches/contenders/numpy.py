"""NumPy as it is written with care: every operation with `out=`, two scratch arrays, no temporaries."""

from collections.abc import Callable
from typing import Any

import numpy as np

from optirs._notebook import experiment

from ..formulas import betas
from ..workloads import EPOCHS, Array, initial, layer
from . import Contender, MissingError, OnArrays

Step = Callable[[Any, int, Array, Array, list[Array], Array, Array], None]


def descent(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    np.multiply(g, r.eta, out=d)
    np.subtract(x, d, out=x)


def momentum(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    [v] = s
    np.multiply(g, r.eta, out=d)
    np.multiply(v, r.rho, out=v)
    np.add(v, d, out=v)
    np.subtract(x, v, out=x)


def nesterov(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    [v] = s
    np.multiply(g, r.eta, out=d)
    np.multiply(v, r.rho, out=v)
    np.subtract(v, d, out=v)
    np.multiply(v, r.rho, out=e)
    np.subtract(e, d, out=e)
    np.add(x, e, out=x)


def average(moment: Array, g: Array, beta: float, scratch: Array) -> None:
    np.multiply(g, 1 - beta, out=scratch)
    np.multiply(moment, beta, out=moment)
    np.add(moment, scratch, out=moment)


def average_of_squares(moment: Array, g: Array, beta: float, scratch: Array) -> None:
    np.multiply(g, g, out=scratch)
    np.multiply(scratch, 1 - beta, out=scratch)
    np.multiply(moment, beta, out=moment)
    np.add(moment, scratch, out=moment)


def divide_by_root(d: Array, v: Array, epsilon: float, scratch: Array) -> None:
    np.sqrt(v, out=scratch)
    np.add(scratch, epsilon, out=scratch)
    np.divide(d, scratch, out=d)


def rmsprop(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    [v] = s
    average_of_squares(v, g, r.rho, e)
    np.multiply(g, r.eta, out=d)
    divide_by_root(d, v, r.epsilon, e)
    np.subtract(x, d, out=x)


def adagrad(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    [v] = s
    np.multiply(g, g, out=e)
    np.add(v, e, out=v)
    np.multiply(g, r.eta, out=d)
    divide_by_root(d, v, r.epsilon, e)
    np.subtract(x, d, out=x)


def adam(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    (m, v), h = s, betas(r, t)
    average(m, g, r.beta[0], d)
    average_of_squares(v, g, r.beta[1], d)
    root = h["k"] ** -0.5
    np.multiply(m, h["a"] * root, out=d)
    divide_by_root(d, v, r.epsilon * root, e)
    np.subtract(x, d, out=x)


def adamw(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    np.multiply(x, 1 - r.eta * r.lambda_, out=x)
    adam(r, t, x, g, s, d, e)


def lion(r: Any, t: int, x: Array, g: Array, s: list[Array], d: Array, e: Array) -> None:
    [m] = s
    np.multiply(m, r.beta[0], out=d)
    np.multiply(g, 1 - r.beta[0], out=e)
    np.add(d, e, out=d)
    np.sign(d, out=d)
    np.multiply(d, r.eta, out=d)
    average(m, g, r.beta[1], e)
    np.subtract(x, d, out=x)


FUNCTIONS: dict[str, Step] = {
    "Descent": descent,
    "Momentum": momentum,
    "Nesterov": nesterov,
    "RMSProp": rmsprop,
    "AdaGrad": adagrad,
    "Adam": adam,
    "AdamW": adamw,
    "Lion": lion,
}


class Steps(OnArrays):
    """One array after the other."""

    def prepare(self, case: str, rule: Any) -> None:
        if case not in FUNCTIONS:
            raise MissingError("is not written out for it")
        self.rule, self.t, self.function = rule, 0, FUNCTIONS[case]
        values = initial(rule)
        self.states = [[np.full_like(x, v) for v in values] for x in self.model]
        self.scratch = [np.empty(max(x.size for x in self.model), np.float32) for _ in range(2)]

    def step(self) -> None:
        self.t += 1
        d, e = self.scratch
        for x, g, s in zip(self.model, self.gradients, self.states, strict=True):
            self.function(self.rule, self.t, x, g, s, d[: x.size].reshape(x.shape), e[: x.size].reshape(x.shape))


class Training(Contender):
    """The loop by hand."""

    def build(self, case: str) -> None:
        e = experiment()
        self.x, self.y, self.first = e.x, e.y, e.model

    def step(self) -> None:
        x, y, w, b = self.x, self.y, self.first.W.copy(), self.first.b.copy()
        for _ in range(EPOCHS):
            dy = (x @ w.T + b - y) * np.float32(2 / len(x))
            w -= np.float32(0.1) * (dy.T @ x)
            b -= np.float32(0.1) * dy.sum(0)
        self.model = [w, b]

    def answer(self) -> list[Array]:
        return self.model


class Affine(Contender):
    """The products as a user would write them."""

    def build(self, case: str, w: Array, b: Array, x: Array, dy: Array) -> None:
        self.forward, self.arrays = layer(case)[0] == "forward", (w, b, x, dy)

    def step(self) -> None:
        w, b, x, dy = self.arrays
        self.result = (x @ w.T + b,) if self.forward else (dy.T @ x, dy.sum(0), dy @ w)

    def answer(self) -> list[Array]:
        return list(self.result)
