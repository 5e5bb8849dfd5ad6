"""PyTorch and optax on the same gradients, where their formulas are ours: `make peers`.

Hyper-parameters make the formulas agree, and are sums of few powers of two, so that no library rounds them. What is
left is the rounding of float32. The same steps run once more in float64, in the oracle of `reference.py`; everybody has
to end within a bound of it that is derived, not chosen. Each step adds at most

- half a unit in the last place of the parameter, from its own store: `eps / 2` of its greatest value;
- `OPERATIONS` units in the last place of the step (16 roundings of half a unit, as in `test_formulas.py`), times the
  steps that its moments remember, `memory = 1 / (1 - beta)`: a moment holds the roundings of so many steps, and
  `1 - beta**t` magnifies that of `beta**t` by at most as much. Measured in the greatest step of the run, since the
  terms of a moment may cancel.

That is the worst case. In practice roundings cancel, so there is a second and sharper demand: our error is
at most twice the peer's, or twice what the stores alone may sum up to.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from problems import EPS, generator, recipe

import optirs

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # their warnings are theirs

Array = NDArray[Any]
Run = Callable[[Any, Array, list[Array]], Array]

STEPS = 200
OPERATIONS = 8
ETA, RHO, BETA, LAMBDA, EPSILON = 2**-6, 1 - 2**-3, (1 - 2**-3, 1 - 2**-7), 2**-4, 2**-20
MEMORY = round(1 / (1 - BETA[1]))
SLOW, FAST = {"beta": BETA, "epsilon": EPSILON}, round(1 / (1 - RHO))


def torch_run(make: Any, x: Array, gradients: list[Array]) -> Array:
    import torch

    parameter = torch.nn.Parameter(torch.from_numpy(x.copy()))
    optimiser = make(torch.optim)([parameter])
    for g in gradients:
        parameter.grad = torch.from_numpy(g.copy())
        optimiser.step()
    return parameter.detach().numpy()


def optax_run(make: Any, x: Array, gradients: list[Array]) -> Array:
    import jax
    import optax

    optimiser = make(optax)

    @jax.jit
    def step(state: Any, x: Any, g: Any) -> Any:
        updates, state = optimiser.update(g, state, x)
        return state, optax.apply_updates(x, updates)

    parameter = jax.numpy.asarray(x)
    state = optimiser.init(parameter)
    for g in gradients:
        state, parameter = step(state, parameter, g)
    return np.asarray(parameter)


def torch_adam(name: str, **fields: Any) -> Any:
    return lambda o: lambda p: getattr(o, name)(p, ETA, betas=BETA, eps=EPSILON, **fields)


ADAM = {"b1": BETA[0], "b2": BETA[1], "eps": EPSILON}
RPROP = {"ell": (0.5, 1.25), "gamma": (2**-12, 0.25)}
PEERS: dict[str, tuple[optirs.Rule, int, Run, Any]] = {
    "torch-Adam": (optirs.Adam(ETA, **SLOW), MEMORY, torch_run, torch_adam("Adam")),
    "torch-AdamW": (
        optirs.AdamW(ETA, lambda_=LAMBDA, **SLOW),
        MEMORY,
        torch_run,
        torch_adam("AdamW", weight_decay=LAMBDA),
    ),
    "torch-Momentum": (optirs.Momentum(ETA, RHO), FAST, torch_run, lambda o: lambda p: o.SGD(p, ETA, momentum=RHO)),
    "torch-Nesterov": (
        optirs.Nesterov(ETA, RHO),
        FAST,
        torch_run,
        lambda o: lambda p: o.SGD(p, ETA, momentum=RHO, nesterov=True),
    ),
    "torch-RMSProp": (
        optirs.RMSProp(ETA, RHO, EPSILON),
        FAST,
        torch_run,
        lambda o: lambda p: o.RMSprop(p, ETA, alpha=RHO, eps=EPSILON),
    ),
    "torch-RMSProp-centred": (
        optirs.RMSProp(ETA, RHO, 2**-3, centred=True),  # the variance cancels; a large epsilon keeps the root apart
        FAST,
        torch_run,
        lambda o: lambda p: o.RMSprop(p, ETA, alpha=RHO, eps=2**-3, centered=True),
    ),
    "torch-AdaDelta": (
        optirs.AdaDelta(RHO, EPSILON),
        FAST,
        torch_run,
        lambda o: lambda p: o.Adadelta(p, 1.0, rho=RHO, eps=EPSILON),
    ),
    "torch-Rprop": (
        optirs.Rprop(ETA, **RPROP),
        STEPS,
        torch_run,
        lambda o: lambda p: o.Rprop(p, ETA, etas=RPROP["ell"], step_sizes=RPROP["gamma"]),
    ),
    "optax-Adam": (optirs.Adam(ETA, **SLOW), MEMORY, optax_run, lambda o: o.adam(ETA, **ADAM)),
    "optax-AdamW": (
        optirs.AdamW(ETA, lambda_=LAMBDA, **SLOW),
        MEMORY,
        optax_run,
        lambda o: o.adamw(ETA, weight_decay=LAMBDA, **ADAM),
    ),
    # Our epsilon, added to every second moment, is optax's eps_root.
    "optax-AdaBelief": (
        optirs.AdaBelief(ETA, BETA, 1e-16),
        MEMORY,
        optax_run,
        lambda o: o.adabelief(ETA, b1=BETA[0], b2=BETA[1], eps=1e-16, eps_root=1e-16),
    ),
    "optax-Lion": (
        optirs.Lion(ETA, BETA),
        MEMORY,
        optax_run,
        lambda o: o.lion(ETA, b1=BETA[0], b2=BETA[1], weight_decay=0.0),
    ),
    "optax-AdaDelta": (
        optirs.AdaDelta(RHO, EPSILON),
        FAST,
        optax_run,
        lambda o: o.adadelta(1.0, rho=RHO, eps=EPSILON),
    ),
}


def exact(rule: optirs.Rule, x: Array, gradients: list[Array]) -> tuple[Array, float, float]:
    """Where the oracle ends, its greatest parameter and its greatest step."""
    parts = recipe(rule)
    state, at, greatest, step = reference.start(parts, x), reference.wide(x), 0.0, 0.0
    for g in gradients:
        state, new = reference.step(parts, state, at, g, x.dtype)
        greatest, step = max(greatest, float(np.abs(new).max())), max(step, float(np.abs(new - at).max()))
        at = new
    return at, greatest, step


def ours(rule: optirs.Rule, x: Array, gradients: list[Array]) -> Array:
    model = [x.copy()]
    state = optirs.setup(rule, model)
    for g in gradients:
        state, model = optirs.update_(state, model, [g])
    return model[0]


@pytest.mark.parametrize("name", PEERS)
def test_peer_takes_the_same_steps(name: str) -> None:
    rule, memory, run, make = PEERS[name]
    rng = generator("peers")
    x = rng.normal(size=64).astype(np.float32)
    # Noise around a slope of its own for each element, so that parameters travel.
    gradients = [(rng.normal(size=64) + np.linspace(-1, 1, 64)).astype(np.float32) for _ in range(STEPS)]
    oracle, greatest, step = exact(rule, x, gradients)
    mine, theirs = (np.abs(a - oracle).max() for a in (ours(rule, x, gradients), run(make, x, gradients)))
    stores = STEPS * EPS["float32"] / 2 * greatest
    bound = stores + STEPS * EPS["float32"] * OPERATIONS * memory * step
    print(f"\n{name}: ours {mine:.2g}, theirs {theirs:.2g}, stores {stores:.2g}, bound {bound:.2g}")
    assert np.abs(oracle - x).max() > 100 * bound  # or the bound would say nothing
    assert mine <= bound
    assert theirs <= bound
    assert mine <= 2 * max(theirs, stores)
