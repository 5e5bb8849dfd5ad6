"""This package."""

from typing import Any

import numpy as np

import optirs
from optirs._notebook import experiment

from ..workloads import EPOCHS, Array, layer
from . import Contender, OnArrays


class Steps(OnArrays):
    """`update_`, or `update` where the mode is pure."""

    def prepare(self, case: str, rule: Any) -> None:
        self.state = optirs.setup(rule, self.model)

    def step(self) -> None:
        if self.mode == "pure":
            self.state, self.model = optirs.update(self.state, self.model, self.gradients)
        else:
            optirs.update_(self.state, self.model, self.gradients)


class Training(Contender):
    """`train`; where the mode is pure, the loop in Python with `update`."""

    def build(self, case: str) -> None:
        e = experiment()
        self.first, self.data, self.gradient = e.model, (e.x, e.y), optirs.supervised(optirs.mse)

    def step(self) -> None:
        if self.mode != "pure":
            self.model = optirs.train(self.gradient, self.first, self.data, optirs.Descent(0.1), epochs=EPOCHS).model
            return
        model = self.first
        state = optirs.setup(optirs.Descent(0.1), model)
        for _ in range(EPOCHS):
            _, gradient = self.gradient(model, *self.data)
            state, model = optirs.update(state, model, gradient)
        self.model = model

    def answer(self) -> list[Array]:
        return [self.model.W, self.model.b]


class Affine(Contender):
    """`affine_forward` and `affine_gradient`."""

    def build(self, case: str, w: Array, b: Array, x: Array, dy: Array) -> None:
        self.forward, self.arrays = layer(case)[0] == "forward", (w, b, x, dy)

    def step(self) -> None:
        w, b, x, dy = self.arrays
        self.result = (optirs.affine_forward(w, b, x),) if self.forward else optirs.affine_gradient(w, x, dy)

    def answer(self) -> list[Array]:
        return [np.asarray(a) for a in self.result]
