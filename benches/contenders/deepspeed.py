"""DeepSpeed's optimisers for the CPU, which it compiles at their first use."""

import os
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.lion import DeepSpeedCPULion

from ..workloads import Array
from . import MissingError, Stepper

# Its Adagrad takes other steps.
DEEPSPEED: dict[str, Any] = {
    "Adam": lambda p, r: DeepSpeedCPUAdam(p, r.eta, betas=r.beta, eps=r.epsilon, adamw_mode=False),
    "AdamW": lambda p, r: DeepSpeedCPUAdam(p, r.eta, betas=r.beta, eps=r.epsilon, weight_decay=r.lambda_),
    "Lion": lambda p, r: DeepSpeedCPULion(p, r.eta, betas=r.beta),
}


class Steps(Stepper):
    """`optimizer.step()`."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        if case not in DEEPSPEED:
            raise MissingError("has no such formula")
        torch.set_num_threads(self.threads)
        self.model = [torch.nn.Parameter(torch.from_numpy(x)) for x in model]
        for p, g in zip(self.model, gradients, strict=True):
            p.grad = torch.from_numpy(g)
        try:
            self.optimiser = DEEPSPEED[case](self.model, rule)
        except Exception as error:  # whatever its build system meets
            raise MissingError(f"cannot be compiled: {str(error).strip().splitlines()[-1][:120]}") from error

    def step(self) -> None:
        self.optimiser.step()

    def parameters(self) -> list[Array]:
        return [p.detach().numpy() for p in self.model]

    def scale(self, factor: float) -> None:
        for p in self.model:
            p.grad.mul_(factor)
