"""optax under `jax.jit` with donated buffers, a training loop in `lax.scan`, and the affine layer under `jax.jit`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optirs._notebook import experiment

from ..workloads import EPOCHS, Array, layer
from . import Contender, MissingError, Stepper


def adam(r: Any) -> dict[str, float]:
    return {"b1": r.beta[0], "b2": r.beta[1], "eps": r.epsilon}


# Where optax has the formula. What it has inside the root or the maximum where we have it outside is 1e-8 here.
# Its Rprop takes every step one late.
OPTAX: dict[str, Any] = {
    "Descent": lambda r: optax.sgd(r.eta),
    "Momentum": lambda r: optax.sgd(r.eta, r.rho),
    "Nesterov": lambda r: optax.sgd(r.eta, r.rho, nesterov=True),
    "RMSProp": lambda r: optax.rmsprop(r.eta, r.rho, r.epsilon),
    "Adam": lambda r: optax.adam(r.eta, **adam(r)),
    "AdamW": lambda r: optax.adamw(r.eta, weight_decay=r.lambda_, **adam(r)),
    "Lion": lambda r: optax.lion(r.eta, *r.beta, weight_decay=0.0),
    "RAdam": lambda r: optax.radam(r.eta, **adam(r)),
    "AdaMax": lambda r: optax.adamax(r.eta, **adam(r)),
    "AdaGrad": lambda r: optax.adagrad(r.eta, r.epsilon, r.epsilon),
    "AdaDelta": lambda r: optax.adadelta(1.0, r.rho, r.epsilon),
    "NAdam": lambda r: optax.nadam(r.eta, **adam(r)),
    "AdaBelief": lambda r: optax.adabelief(r.eta, b1=r.beta[0], b2=r.beta[1], eps=r.epsilon, eps_root=r.epsilon),
}
LINKS: dict[str, Any] = {
    "ClipGrad": lambda r: optax.clip(r.delta),
    "ClipNorm": lambda r: optax.clip_by_global_norm(r.omega),
    "WeightDecay": lambda r: optax.add_decayed_weights(r.lambda_),
}


def transform(rule: Any) -> Any:
    """The rule in optax; `MissingError` if it has none that agrees."""
    *links, last = getattr(rule, "rules", (rule,))
    names = [type(link).__name__ for link in links]
    name = type(last).__name__
    if any(link not in LINKS for link in names) or name not in OPTAX | LINKS:
        raise MissingError("has no such formula")
    before = [LINKS[n](link) for n, link in zip(names, links, strict=True)]
    end = [LINKS[name](last), optax.sgd(1.0)] if name in LINKS else [OPTAX[name](last)]
    return optax.chain(*before, *end)


class Steps(Stepper):
    """`update` and `apply_updates` in one compiled function."""

    def build(self, case: str, rule: Any, model: list[Array], gradients: list[Array]) -> None:
        if len(model) > 1 and "ClipNorm" in case:
            raise MissingError("has the norm of all arrays together")
        optimiser = transform(rule)

        def step(state: Any, x: Any, g: Any) -> Any:
            updates, state = optimiser.update(g, state, x)
            return state, optax.apply_updates(x, updates)

        self.compiled = jax.jit(step, donate_argnums=(0, 1))
        self.model = [jnp.array(x, copy=True) for x in model]
        self.gradients = [jnp.array(g, copy=True) for g in gradients]
        self.state = jax.jit(optimiser.init)(self.model)
        # Donated buffers must be distinct, also those that start out as the same constant.
        self.state = jax.tree.map(lambda a: jnp.array(a, copy=True), self.state)

    def step(self) -> None:
        self.state, self.model = self.compiled(self.state, self.model, self.gradients)
        jax.block_until_ready((self.state, self.model))

    def parameters(self) -> list[Array]:
        return [np.asarray(x) for x in self.model]

    def scale(self, factor: float) -> None:
        self.gradients = jax.block_until_ready([g * factor for g in self.gradients])


class Training(Contender):
    """All epochs in one compiled `lax.scan`."""

    def build(self, case: str) -> None:
        e = experiment()
        x, y = jnp.asarray(e.x), jnp.asarray(e.y)

        def loss(model: Any) -> Any:
            w, b = model
            return jnp.sum((x @ w.T + b - y) ** 2) / len(x)

        def epoch(model: Any, _: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(model)
            return jax.tree.map(lambda p, g: p - 0.1 * g, model, gradient), value

        self.compiled = jax.jit(lambda model: jax.lax.scan(epoch, model, None, EPOCHS))
        self.first = jnp.asarray(e.model.W), jnp.asarray(e.model.b)

    def step(self) -> None:
        self.model, _ = jax.block_until_ready(self.compiled(self.first))

    def answer(self) -> list[Array]:
        return [np.asarray(a) for a in self.model]


class Affine(Contender):
    """The products as a user would write them, under `jax.jit`."""

    def build(self, case: str, w: Array, b: Array, x: Array, dy: Array) -> None:
        jw, jb, jx, jdy = (jnp.array(a, copy=True) for a in (w, b, x, dy))
        if layer(case)[0] == "forward":
            self.compiled, self.arguments = jax.jit(lambda w, b, x: (x @ w.T + b,)), (jw, jb, jx)
        else:
            self.compiled = jax.jit(lambda w, x, dy: (dy.T @ x, dy.sum(0), dy @ w))
            self.arguments = jw, jx, jdy

    def step(self) -> None:
        self.result = jax.block_until_ready(self.compiled(*self.arguments))

    def answer(self) -> list[Array]:
        return [np.asarray(a) for a in self.result]
