"""PyTorch's and optax's schedules, step by step, where they are ours: `make peers`.

PyTorch updates its rate by a recurrence in float64, where each step adds a few roundings; optax computes in float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from problems import EPS, generator

import optirs
from optirs import Scheduled
from optirs.schedules import (
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Sequence,
    Step,
    Warmup,
)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # their warnings are theirs

Array = NDArray[Any]
STEPS = 100


def optax_values(make: Callable[[Any], Any]) -> Array:
    import optax

    schedule = make(optax)
    return np.array([float(schedule(t)) for t in range(STEPS + 20)])


def torch_values(eta: float, make: Callable[[Any, Any], Any], steps: int = STEPS + 20) -> Array:
    """The rate of each step, by a scheduler that is called after it."""
    import torch

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=eta)
    scheduler = make(torch.optim.lr_scheduler, optimiser)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.array(rates)


OPTAX: dict[str, tuple[Schedule, Callable[[Any], Any]]] = {
    "constant": (Constant(0.1), lambda o: o.constant_schedule(0.1)),
    "step": (Step(0.1, 0.5, 30), lambda o: o.exponential_decay(0.1, 30, 0.5, staircase=True)),
    "exponential": (Exponential(0.1, 0.5, 30, 0.02), lambda o: o.exponential_decay(0.1, 30, 0.5, end_value=0.02)),
    "growth": (Exponential(1e-3, 2.0, 9, 0.1), lambda o: o.exponential_decay(1e-3, 9, 2.0, end_value=0.1)),
    "line": (Polynomial(0.1, STEPS, 0.02), lambda o: o.linear_schedule(0.1, 0.02, STEPS)),
    "polynomial": (Polynomial(0.1, STEPS, 0.02, 2.0), lambda o: o.polynomial_schedule(0.1, 0.02, 2.0, STEPS)),
    "cosine": (Cosine(0.1, STEPS, 0.02), lambda o: o.cosine_decay_schedule(0.1, STEPS, 0.2)),
    "warm-up": (
        Warmup(Cosine(0.1, STEPS - 10, 0.01), 10),
        lambda o: o.warmup_cosine_decay_schedule(0.0, 0.1, 10, STEPS, 0.01),
    ),
    "one-cycle": (OneCycle(0.1, STEPS), lambda o: o.cosine_onecycle_schedule(STEPS, 0.1)),
    "one-cycle, other": (
        OneCycle(0.1, STEPS, 0.45, 10.0, 100.0),
        lambda o: o.cosine_onecycle_schedule(STEPS, 0.1, 0.45, 10.0, 100.0),
    ),
    "piecewise": (
        Piecewise((0.1, 0.05, 0.01), (30, 60)),
        lambda o: o.piecewise_constant_schedule(0.1, {30: 0.5, 60: 0.2}),
    ),
    "sequence": (
        Sequence((Cosine(0.1, 40), Constant(0.05)), (40,)),
        lambda o: o.join_schedules([o.cosine_decay_schedule(0.1, 40), o.constant_schedule(0.05)], [40]),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax_has_the_same_values(name: str) -> None:
    mine, make = OPTAX[name]
    values = mine(np.arange(STEPS + 20))
    # Its angle is off by half a unit of float32 and more, which the slope of the wave magnifies by at most pi/2.
    np.testing.assert_allclose(
        optax_values(make), values, rtol=8 * EPS["float32"], atol=4 * EPS["float32"] * values.max()
    )


TORCH: dict[str, tuple[Schedule, Callable[[Any, Any], Any]]] = {
    "step": (Step(0.1, 0.5, 30), lambda s, o: s.StepLR(o, 30, 0.5)),
    "exponential": (Exponential(0.1, 0.95), lambda s, o: s.ExponentialLR(o, 0.95)),
    "line": (Polynomial(0.1, 50, 0.02), lambda s, o: s.LinearLR(o, 1.0, 0.2, 50)),
    "polynomial": (Polynomial(0.1, STEPS, power=2.0), lambda s, o: s.PolynomialLR(o, STEPS, 2.0)),
    "piecewise": (Piecewise((0.1, 0.05, 0.025), (30, 60)), lambda s, o: s.MultiStepLR(o, [30, 60], 0.5)),
    "warm-up": (
        Warmup(Exponential(0.1, 0.95), 10, 0.01),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 10), s.ExponentialLR(o, 0.95)], [10]),
    ),
    "function": (Cosine(0.1, STEPS), lambda s, o: s.LambdaLR(o, lambda t: Cosine(1.0, STEPS)(t))),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_has_the_same_values(name: str) -> None:
    mine, make = TORCH[name]
    tolerance = 8 * STEPS * EPS["float64"]  # a few roundings a step
    np.testing.assert_allclose(torch_values(0.1, make), mine(np.arange(STEPS + 20)), rtol=tolerance, atol=tolerance)


def test_torch_cosine_until_its_end() -> None:
    values = torch_values(0.1, lambda s, o: s.CosineAnnealingLR(o, STEPS, 0.02), STEPS + 1)
    tolerance = 8 * STEPS * EPS["float64"]
    np.testing.assert_allclose(values, Cosine(0.1, STEPS, 0.02)(np.arange(STEPS + 1)), rtol=tolerance, atol=tolerance)


def test_torch_one_cycle_is_a_step_earlier() -> None:
    """It peaks at `pct_start * total_steps - 1`, and ends at `total_steps - 1`."""
    make: Any = lambda s, o: s.OneCycleLR(o, 0.1, STEPS, cycle_momentum=False)  # noqa: E731
    values = torch_values(0.1, make, STEPS)
    rise, fall = values[: STEPS * 3 // 10], values[STEPS * 3 // 10 - 1 :]
    up = Cosine(0.1 / 25, len(rise) - 1, 0.1)(np.arange(len(rise)))
    down = Cosine(0.1, len(fall) - 1, 0.1 / 25 / 1e4)(np.arange(len(fall)))
    np.testing.assert_allclose(rise, up, rtol=1e-13)
    np.testing.assert_allclose(fall, down, rtol=1e-13, atol=1e-15)
    ours = OneCycle(0.1, STEPS)
    assert (ours(STEPS * 3 // 10), values[STEPS * 3 // 10 - 1]) == (0.1, pytest.approx(0.1))


def test_torch_descends_as_scheduled() -> None:
    import torch

    x = generator("schedule peers").normal(size=64).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(x.copy()))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, 0.02)
    state, mine = optirs.setup(Scheduled(optirs.Descent(), eta=Cosine(0.1, STEPS, 0.02)), x), x
    for _ in range(STEPS):
        g = (mine - 1).astype(np.float32)
        parameter.grad = torch.from_numpy(g.copy())
        optimiser.step()
        scheduler.step()
        state, mine = optirs.update(state, mine, g)
    assert np.abs(mine - x).max() > 1
    # Each step of either adds a rounding of x, of eta, and of the product.
    bound = STEPS * 2 * EPS["float32"] * np.abs(x - 1).max()
    np.testing.assert_allclose(parameter.detach().numpy(), mine, rtol=0, atol=bound)
