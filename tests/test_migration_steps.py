"""What the tables for those who come from another library say of steps, against that library (`make peers`).

`test_peers.py` compares the rules whose formulas agree, to the rounding. Here are the rows that take a chain, or some
other fields, or that say how the two differ; in float64.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import optirs
from optirs import Descent, Momentum, OptimiserChain, WeightDecay

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # their warnings are theirs

GRADIENTS = (1.0, 0.5, -0.3, 0.7, 0.2, 0.4, -0.1)
START = 2.0
Path = list[float]


def ours(rule: optirs.Rule) -> Path:
    model, found = [np.array([START])], []
    state = optirs.setup(rule, model)
    for g in GRADIENTS:
        state, model = optirs.update(state, model, [np.array([g])])
        found.append(model[0].item())
    return found


def of_torch(make: Callable[[Any, Any], Any]) -> Path:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor([START], dtype=torch.float64))
    optimiser, found = make(torch.optim, [parameter]), []
    for g in GRADIENTS:
        parameter.grad = torch.tensor([g], dtype=torch.float64)
        optimiser.step()
        found.append(parameter.item())
    return found


def of_optax(make: Callable[[Any], Any]) -> Path:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        parameter, found = jax.numpy.array([START]), []
        optimiser = make(optax)
        state = optimiser.init(parameter)
        for g in GRADIENTS:
            updates, state = optimiser.update(jax.numpy.array([g]), state, parameter)
            parameter = optax.apply_updates(parameter, updates)
            found.append(parameter.item())
    return found


def decayed(rule: optirs.Rule) -> optirs.Rule:
    """With a decay that is not divided by the second moment."""
    return OptimiserChain(rule, WeightDecay(0.1), Descent(0.01))


TORCH: dict[str, tuple[optirs.Rule, Callable[[Any, Any], Any]]] = {
    "weight_decay": (
        OptimiserChain(WeightDecay(0.1), optirs.Adam(0.1)),
        lambda o, p: o.Adam(p, 0.1, weight_decay=0.1),
    ),
    "RMSprop with momentum": (
        OptimiserChain(optirs.RMSProp(1.0), Momentum(0.1, 0.5)),
        lambda o, p: o.RMSprop(p, 0.1, alpha=0.9, momentum=0.5),
    ),
    "Adadelta": (
        OptimiserChain(optirs.AdaDelta(epsilon=1e-6), Descent(0.1)),
        lambda o, p: o.Adadelta(p, 0.1),
    ),
    "Adagrad": (optirs.AdaGrad(0.1), lambda o, p: o.Adagrad(p, 0.1)),
    "Adamax": (optirs.AdaMax(0.1), lambda o, p: o.Adamax(p, 0.1)),
}

OPTAX: dict[str, tuple[optirs.Rule, Callable[[Any], Any]]] = {
    "lion": (decayed(optirs.Lion(1.0)), lambda o: o.lion(0.01, weight_decay=0.1)),
    "adamaxw": (decayed(optirs.AdaMax(1.0)), lambda o: o.adamaxw(0.01, weight_decay=0.1)),
    "rmsprop": (optirs.RMSProp(0.1), lambda o: o.rmsprop(0.1, eps_in_sqrt=False)),
    "rmsprop with momentum": (
        OptimiserChain(optirs.RMSProp(1.0), Momentum(0.1, 0.5)),
        lambda o: o.rmsprop(0.1, eps_in_sqrt=False, momentum=0.5),
    ),
    "sign_sgd": (optirs.Lion(0.1, (0.0, 0.0)), lambda o: o.sign_sgd(0.1)),
    "signum": (optirs.Lion(0.1, (0.9, 0.9)), lambda o: o.signum(0.1, 0.9)),
    "adabelief": (optirs.AdaBelief(0.1), lambda o: o.adabelief(0.1)),
    "adagrad": (optirs.AdaGrad(0.1), lambda o: o.adagrad(0.1, initial_accumulator_value=1e-8, eps=0.0)),
    "adadelta": (
        OptimiserChain(optirs.AdaDelta(epsilon=1e-6), Descent(0.1)),
        lambda o: o.adadelta(0.1),
    ),
    "amsgrad": (
        optirs.AMSGrad(0.1),
        lambda o: o.amsgrad(0.1, bias_correction_mu=False, bias_correction_nu=False),
    ),
    "MultiSteps": (
        OptimiserChain(optirs.AccumGrad(2), optirs.Adam(0.1)),
        lambda o: o.MultiSteps(o.adam(0.1), 2).gradient_transformation(),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_rows_of_torch(name: str) -> None:
    rule, make = TORCH[name]
    np.testing.assert_allclose(ours(rule), of_torch(make), rtol=1e-6)


@pytest.mark.parametrize("name", OPTAX)
def test_rows_of_optax(name: str) -> None:
    rule, make = OPTAX[name]
    start = 2e-5 if name == "amsgrad" else 0  # our moments start at epsilon
    np.testing.assert_allclose(ours(rule), of_optax(make), rtol=1e-5, atol=start)


def test_the_decay_of_torch_that_is_decoupled() -> None:
    theirs = of_torch(lambda o, p: o.RAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True))
    np.testing.assert_allclose(ours(decayed(optirs.RAdam(1.0)))[:4], theirs[:4], rtol=1e-6)  # then ours is rectified


def test_rprop_of_optax_is_a_step_late() -> None:
    late = np.diff([START, *of_optax(lambda o: o.rprop(0.1))])
    assert late[0] == 0
    signs = np.sign(np.multiply(GRADIENTS[1:], GRADIENTS[:-1]))
    mine = np.diff([START, *ours(optirs.Rprop(0.1))])
    np.testing.assert_allclose(late[1:][signs > 0], mine[:-1][signs > 0])


def test_the_first_step_of_the_optimistic_adam_of_optax() -> None:
    make = lambda o: o.optimistic_adam_v2(0.1, b1=0.5, b2=0.9, nesterov=False)  # noqa: E731
    theirs, mine = (np.diff([START, *path]) for path in (of_optax(make), ours(optirs.OAdam(0.1))))
    np.testing.assert_allclose(mine[0], 2 * theirs[0])
    np.testing.assert_allclose(mine[1:], theirs[1:], rtol=1e-6)


def test_apply_every_of_optax_sums() -> None:
    theirs = of_optax(lambda o: o.chain(o.apply_every(2), o.sgd(0.1)))
    np.testing.assert_allclose(theirs, ours(OptimiserChain(optirs.AccumGrad(2), Descent(0.2))))


def test_where_radam_begins_to_rectify() -> None:
    """In ours from rho > 4, in both others from 5."""
    mine = np.array(ours(optirs.RAdam(0.1)))
    for theirs in (of_torch(lambda o, p: o.RAdam(p, 0.1)), of_optax(lambda o: o.radam(0.1))):
        np.testing.assert_allclose(mine[:4], theirs[:4], rtol=1e-6)
        assert abs(mine[4] - theirs[4]) > 0.03
