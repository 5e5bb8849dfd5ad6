"""PyTorch's optimisers: one array at a time, `foreach`, `fused`, and `foreach` under `torch.compile`."""

from typing import Any

import numpy as np
import torch

from optirs._notebook import experiment

from ..workloads import EPOCHS, Array, layer
from . import Contender, MissingError, Stepper


def adam(r: Any) -> dict[str, Any]:
    return {"lr": r.eta, "betas": r.beta, "eps": r.epsilon}


# The optimiser and arguments that agree with a rule. NAdam's schedule of the momentum is switched off by making it end
# at once; AdaMax has its epsilon inside the maximum.
TORCH: dict[str, tuple[str, Any]] = {
    "Descent": ("SGD", lambda r: {"lr": r.eta}),
    "Momentum": ("SGD", lambda r: {"lr": r.eta, "momentum": r.rho}),
    "Nesterov": ("SGD", lambda r: {"lr": r.eta, "momentum": r.rho, "nesterov": True}),
    "RMSProp": ("RMSprop", lambda r: {"lr": r.eta, "alpha": r.rho, "eps": r.epsilon}),
    "Rprop": ("Rprop", lambda r: {"lr": r.eta, "etas": r.ell, "step_sizes": r.gamma}),
    "Adam": ("Adam", adam),
    "AdamW": ("AdamW", lambda r: adam(r) | {"weight_decay": r.lambda_}),
    "RAdam": ("RAdam", adam),
    "AdaMax": ("Adamax", adam),
    "AdaGrad": ("Adagrad", lambda r: {"lr": r.eta, "eps": r.epsilon, "initial_accumulator_value": r.epsilon}),
    "AdaDelta": ("Adadelta", lambda r: {"lr": 1.0, "rho": r.rho, "eps": r.epsilon}),
    "NAdam": ("NAdam", lambda r: adam(r) | {"momentum_decay": 1e6}),
}


def optimiser(rule: Any, parameters: list[Any], mode: str) -> Any:
    """PyTorch's optimiser for a rule; `MissingError` if it has none that agrees, or not in that mode."""
    name = type(rule).__name__
    if name not in TORCH:
        raise MissingError("has no such formula")
    kind, arguments = TORCH[name]
    try:
        how = {"fused": True} if mode == "fused" else {"foreach": mode != "for-loop"}
        return getattr(torch.optim, kind)(parameters, **arguments(rule), **how)
    except (TypeError, RuntimeError, ValueError) as error:
        raise MissingError(f"not for {kind} on a CPU") from error


class Steps(Stepper):
    """`optimizer.step()`, after `clip_grad_norm_` where a chain begins with a norm."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        torch.set_num_threads(self.threads)
        links = list(getattr(rule, "rules", (rule,)))
        self.clip = links.pop(0) if type(links[0]).__name__ == "ClipNorm" and len(links) > 1 else None
        if len(links) > 1:
            raise MissingError("has no such chain")
        if self.clip and len(model) > 1:
            raise MissingError("has the norm of all arrays together")
        if self.mode == "compiled" and len(model) > 2:
            raise MissingError("takes minutes to compile so many arrays")
        self.model = [torch.nn.Parameter(torch.from_numpy(x)) for x in model]
        self.gradients, self.factor = gradients, 1.0
        for p, g in zip(self.model, gradients, strict=True):
            p.grad = torch.from_numpy(g.copy())
        self.optimiser = optimiser(links[0], self.model, self.mode)
        self.act = torch.compile(self.optimiser.step) if self.mode == "compiled" else self.optimiser.step

    def step(self) -> None:
        if self.clip:  # in place, like some steps: other numbers the next time, which cost the same
            torch.nn.utils.clip_grad_norm_(self.model, self.clip.omega)
        self.act()

    def parameters(self) -> list[Array]:
        return [p.detach().numpy() for p in self.model]

    def scale(self, factor: float) -> None:
        self.factor *= factor
        for p, g in zip(self.model, self.gradients, strict=True):
            p.grad = torch.from_numpy(g * np.float32(self.factor))


class Training(Contender):
    """The usual loop."""

    def build(self, case: str) -> None:
        torch.set_num_threads(self.threads)
        e = experiment()
        self.first = torch.from_numpy(e.model.W), torch.from_numpy(e.model.b)
        self.x, self.y = torch.from_numpy(e.x), torch.from_numpy(e.y)

    def step(self) -> None:
        w, b = self.model = [a.clone().requires_grad_() for a in self.first]
        optimiser = torch.optim.SGD(self.model, lr=0.1, foreach=True)
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss = ((torch.nn.functional.linear(self.x, w, b) - self.y) ** 2).sum() / len(self.x)
            loss.backward()
            optimiser.step()

    def answer(self) -> list[Array]:
        return [a.detach().numpy() for a in self.model]


class Affine(Contender):
    """`linear`, and its gradient without the tape."""

    def build(self, case: str, w: Array, b: Array, x: Array, dy: Array) -> None:
        torch.set_num_threads(self.threads)
        self.forward = layer(case)[0] == "forward"
        self.arrays = [torch.from_numpy(a) for a in (w, b, x, dy)]

    def step(self) -> None:
        w, b, x, dy = self.arrays
        with torch.no_grad():
            self.result = (torch.nn.functional.linear(x, w, b),) if self.forward else (dy.T @ x, dy.sum(0), dy @ w)

    def answer(self) -> list[Array]:
        return [a.numpy() for a in self.result]
