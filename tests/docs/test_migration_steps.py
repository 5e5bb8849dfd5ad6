"""What the tables for those who come from another library say of steps, against that library (`make peers`).

`test_peers.py` compares the rules whose formulas agree, to the rounding. Here are the rows that take a chain, or some
other fields, or that say how the two differ; in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import optirs
from optirs import Descent, Momentum, OptimiserChain, WeightDecay

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # their warnings are theirs

GRADIENTS = (1.0, 0.5, -0.3, 0.7, 0.2, 0.4, -0.1)
START = 2.0
Path = list[float]


def ours(rule: optirs.Rule, gradients: Sequence[float] = GRADIENTS) -> Path:
    model, found = [np.array([START])], []
    state = optirs.setup(rule, model)
    for g in gradients:
        state, model = optirs.update(state, model, [np.array([g])])
        found.append(model[0].item())
    return found


def averages(rule: optirs.Rule) -> Path:
    """After each step of `Descent`, the average that `rule` keeps."""
    model, found = [np.array([START])], []
    state = optirs.setup(OptimiserChain(Descent(0.1), rule), model)
    for g in GRADIENTS:
        state, model = optirs.update(state, model, [np.array([g])])
        found.append(optirs.averaged(state, model)[0].item())
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


def of_optax(make: Callable[[Any], Any], gradients: Sequence[float] = GRADIENTS) -> Path:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        parameter, found = jax.numpy.array([START]), []
        optimiser = make(optax)
        state = optimiser.init(parameter)
        for g in gradients:
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
    "clip_by_global_norm": (
        OptimiserChain(optirs.ClipGlobalNorm(0.4), Momentum(0.1)),
        lambda o: o.chain(o.clip_by_global_norm(0.4), o.sgd(0.1, 0.9)),
    ),
    "keep_params_nonnegative": (
        OptimiserChain(Descent(1.5), optirs.Box(lower=0.0)),
        lambda o: o.chain(o.sgd(1.5), o.keep_params_nonnegative()),
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


def test_lookahead_of_optax() -> None:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        optimiser = optax.lookahead(optax.sgd(0.1), 3, 0.25)
        pair = optax.LookaheadParams.init_synced(jax.numpy.array([START]))
        state, fast, slow = optimiser.init(pair), [], []
        for g in GRADIENTS:
            updates, state = optimiser.update(jax.numpy.array([g]), state, pair)
            pair = optax.apply_updates(pair, updates)
            fast.append(pair.fast.item())
            slow.append(pair.slow.item())
    rule = optirs.Lookahead(3, 0.25)
    np.testing.assert_allclose(ours(OptimiserChain(Descent(0.1), rule)), fast, rtol=1e-12)
    np.testing.assert_allclose(averages(rule), slow, rtol=1e-12)


def test_incremental_update_of_optax() -> None:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        average, theirs = jax.numpy.array([START]), []
        for x in ours(Descent(0.1)):
            average = optax.incremental_update(jax.numpy.array([x]), average, 0.25)
            theirs.append(average.item())
    np.testing.assert_allclose(averages(optirs.Ema(0.75)), theirs, rtol=1e-12)


def test_apply_if_finite_of_optax() -> None:
    gradients = [1.0, np.nan, np.inf, 0.5, np.nan, 0.25]
    theirs = of_optax(lambda o: o.apply_if_finite(o.sgd(0.1, 0.9), 2), gradients)
    np.testing.assert_allclose(ours(OptimiserChain(optirs.SkipNonFinite(2), Momentum(0.1)), gradients), theirs)
    worse = [*gradients, *[np.nan] * 3, 1.0]
    assert np.isnan(of_optax(lambda o: o.apply_if_finite(o.sgd(0.1, 0.9), 2), worse)[-1])
    with pytest.raises(FloatingPointError, match="SkipNonFinite"):
        ours(OptimiserChain(optirs.SkipNonFinite(2), Momentum(0.1)), worse)


def test_the_norm_of_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape) for shape in [(3,), (2, 4), ()]]
    parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = torch.from_numpy(np.array(g))  # a copy, which is clipped
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    model: list[np.ndarray] = [np.zeros(np.shape(g)) for g in gradients]
    state = optirs.setup(OptimiserChain(optirs.ClipGlobalNorm(0.5), Descent(1.0)), model)
    state, model = optirs.update(state, model, [np.asarray(g) for g in gradients])
    np.testing.assert_allclose(optirs.metrics(state)["ClipGlobalNorm.norm"], norm.item(), rtol=1e-14)
    for x, p in zip(model, parameters, strict=True):
        np.testing.assert_allclose(-x, p.grad.numpy(), rtol=1e-6)  # theirs adds 1e-6 to the norm


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages_of_torch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils

    module = torch.nn.Module()
    module.p = torch.nn.Parameter(torch.tensor([START], dtype=torch.float64))
    if kind == "ema":
        rule = optirs.Ema(0.75)
        averaged = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.75))
        averaged.update_parameters(module)  # ours starts at the first model
        counted = range(len(GRADIENTS))
    else:
        rule = optirs.Swa(2, 2)
        averaged = swa_utils.AveragedModel(module)
        counted = range(2, len(GRADIENTS), 2)
    theirs = []
    for i, x in enumerate(ours(Descent(0.1))):
        module.p.data.fill_(x)
        if i in counted:
            averaged.update_parameters(module)
        theirs.append(averaged.module.p.item())
    start = counted[0]
    np.testing.assert_allclose(averages(rule)[start:], theirs[start:], rtol=1e-12)


def test_apply_every_of_optax_sums() -> None:
    theirs = of_optax(lambda o: o.chain(o.apply_every(2), o.sgd(0.1)))
    np.testing.assert_allclose(theirs, ours(OptimiserChain(optirs.AccumGrad(2), Descent(0.2))))


def test_where_radam_begins_to_rectify() -> None:
    """In ours from rho > 4, in both others from 5."""
    mine = np.array(ours(optirs.RAdam(0.1)))
    for theirs in (of_torch(lambda o, p: o.RAdam(p, 0.1)), of_optax(lambda o: o.radam(0.1))):
        np.testing.assert_allclose(mine[:4], theirs[:4], rtol=1e-6)
        assert abs(mine[4] - theirs[4]) > 0.03
