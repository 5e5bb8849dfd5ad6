"""The rules as loops that anyone would write by hand: what the C compiler and numba are given.

A body is both C and Python. It steps one element: `x`, its gradient `g`, and the states under the names given, in the
order of `Leaf.state`; the other names are the numbers of step `t`, in float32. A rule that is not here has no such
contender.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FUNCTIONS = ("sqrt", "absolute", "sign", "smaller", "larger", "where")


@dataclass(frozen=True)
class Formula:
    """One rule."""

    states: str
    body: str
    numbers: Callable[[Any, int], dict[str, float]]

    @property
    def names(self) -> list[str]:
        """The names of the states."""
        return self.states.split()

    def scalars(self, rule: Any) -> list[str]:
        """The names of the numbers."""
        return list(self.numbers(rule, 1))


def betas(r: Any, t: int) -> dict[str, float]:
    """What the rules with two moments need, and `a`, the step, and `k`, which correct them for their start."""
    (b1, b2), eta = r.beta, getattr(r, "eta", 1.0)
    both = {"b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2, "eps": getattr(r, "epsilon", 0.0)}
    return both | {"eta": eta, "a": eta / (1 - b1**t), "k": 1 / (1 - b2**t)}


def rectified(r: Any, t: int) -> dict[str, float]:
    """RAdam: with `w` 0 and `e` 1 the denominator is 1."""
    b2 = r.beta[1]
    limit = 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    found = betas(r, t) | {"w": 0.0, "e": 1.0}
    if rho > 4:
        factor = ((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) ** 0.5
        found |= {"a": found["a"] * factor, "w": 1.0, "e": r.epsilon}
    return found


def nesterov_adam(r: Any, t: int) -> dict[str, float]:
    """NAdam: `a` for the moment, `b` for the gradient."""
    (b1, b2), found = r.beta, betas(r, t)
    a, b = r.eta * b1 / (1 - b1 ** (t + 1)), r.eta * (1 - b1) / (1 - b1**t)
    return found | {"a": a, "b": b, "k": b2 / (1 - b2**t)}


ADAM = "m = b1*m + c1*g; v = b2*v + c2*g*g; "
FORMULAS = {
    "Descent": Formula("", "x = x - eta*g", lambda r, t: {"eta": r.eta}),
    "Momentum": Formula("v", "v = rho*v + eta*g; x = x - v", lambda r, t: {"eta": r.eta, "rho": r.rho}),
    "Nesterov": Formula(
        "v",
        "x = x + a*v - b*g; v = rho*v - eta*g",
        lambda r, t: {"eta": r.eta, "rho": r.rho, "a": r.rho**2, "b": (1 + r.rho) * r.eta},
    ),
    "RMSProp": Formula(
        "v",
        "v = rho*v + c*g*g; x = x - eta*g/(sqrt(v) + eps)",
        lambda r, t: {"eta": r.eta, "rho": r.rho, "c": 1 - r.rho, "eps": r.epsilon},
    ),
    "Rprop": Formula(
        "h s",
        "p = h*g; s = where(p > zero, smaller(s*up, top), where(p < zero, larger(s*down, bottom), s)); "
        "h = where(p < zero, zero, g); x = x - s*sign(h)",
        lambda r, t: dict(zip(("down", "up", "bottom", "top", "zero"), (*r.ell, *r.gamma, 0.0), strict=True)),
    ),
    "Adam": Formula("m v", ADAM + "x = x - a*m/(sqrt(v*k) + eps)", betas),
    "AdamW": Formula(
        "m v",
        ADAM + "x = x - (a*m/(sqrt(v*k) + eps) + decay*x)",
        lambda r, t: betas(r, t) | {"decay": r.eta * r.lambda_},
    ),
    "Lion": Formula("m", "d = sign(b1*m + c1*g); m = b2*m + c2*g; x = x - eta*d", betas),
    "RAdam": Formula("m v", ADAM + "x = x - a*m/(sqrt(v*k)*w + e)", rectified),
    "AdaMax": Formula("m u", "m = b1*m + c1*g; u = larger(b2*u, absolute(g)); x = x - a*m/(u + eps)", betas),
    "OAdam": Formula("m v term", ADAM + "n = a*m/(sqrt(v*k) + eps); x = x - (n + n - term); term = n", betas),
    "AdaGrad": Formula(
        "v", "v = v + g*g; x = x - eta*g/(sqrt(v) + eps)", lambda r, t: {"eta": r.eta, "eps": r.epsilon}
    ),
    "AdaDelta": Formula(
        "v delta",
        "v = rho*v + c*g*g; d = g*sqrt(delta + eps)/sqrt(v + eps); delta = rho*delta + c*d*d; x = x - d",
        lambda r, t: {"rho": r.rho, "c": 1 - r.rho, "eps": r.epsilon},
    ),
    "AMSGrad": Formula("m v top", ADAM + "top = larger(top, v); x = x - eta*m/(sqrt(top) + eps)", betas),
    "NAdam": Formula("m v", ADAM + "x = x - (a*m + b*g)/(sqrt(v*k) + eps)", nesterov_adam),
    "AdaBelief": Formula(
        "m s",
        "m = b1*m + c1*g; s = b2*s + c2*(g - m)*(g - m) + eps; x = x - a*m/(sqrt(s*k) + eps)",
        betas,
    ),
    "WeightDecay": Formula("", "x = x - (g + decay*x)", lambda r, t: {"decay": r.lambda_}),
    "SignDecay": Formula("", "x = x - (g + decay*sign(x))", lambda r, t: {"decay": r.lambda_}),
    "ClipGrad": Formula("", "x = x - smaller(larger(g, low), high)", lambda r, t: {"low": -r.delta, "high": r.delta}),
    "AccumGrad": Formula("s", "x = x - (s + g); s = zero", lambda r, t: {"zero": 0.0}),
}
