"""What the tests walk: hyper-parameters of every rule, element types, shapes, layouts, data, and two own rules."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from optirs import rules

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128")
}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
COMPUTE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "complex64",
    "complex128": "complex128",
}
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
EPS |= {"complex64": EPS["float32"], "complex128": EPS["float64"]}
REAL_ONLY = {"Rprop", "ClipGrad", "Box"}
WHOLE_STEP = {"ClipGlobalNorm", "SkipNonFinite"}
LANDING = {"Box", "Lookahead", "Ema", "Swa"}

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (3, 5), (2, 3, 4), (257,), (1030,)]

BETAS = [{"beta": (0.0, 0.0)}, {"beta": (0.5, 0.9)}, {"eta": 0.0}, {"eta": 1.0, "epsilon": 1e-3}]

# Hyper-parameters beside the defaults, for the rules where they matter. For composites, the positional arguments.
VARIANTS: dict[str, list[Any]] = {
    "Descent": [{}, {"eta": 0.0}, {"eta": 3.0}],
    "Momentum": [{}, {"eta": 0.3, "rho": 0.0}, {"rho": 0.999}],
    "Nesterov": [{}, {"eta": 0.3, "rho": 0.0}, {"rho": 0.999}],
    "RMSProp": [{}, {"centred": True}, {"eta": 0.1, "rho": 0.5, "epsilon": 1e-3}, {"rho": 0.0, "centred": True}],
    "Rprop": [{}, {"eta": 1.0, "ell": (0.9, 3.0), "gamma": (0.5, 2.0)}],
    "Adam": [{}, *BETAS],
    "AdamW": [{}, *BETAS, {"lambda_": 0.1}, {"lambda_": 0.1, "couple": False}],
    "Lion": [{}, {"eta": 0.1, "beta": (0.5, 0.9)}, {"beta": (0.0, 0.0)}],
    "RAdam": [{}, *BETAS, {"beta": (0.9, 0.99)}],
    "AdaMax": [{}, *BETAS],
    "OAdam": [{}, *BETAS],
    "AdaGrad": [{}, {"eta": 1.0, "epsilon": 0.1}],
    "AdaDelta": [{}, {"rho": 0.0, "epsilon": 1e-3}, {"rho": 0.95, "epsilon": 1e-6}],
    "AMSGrad": [{}, *BETAS],
    "NAdam": [{}, *BETAS],
    "AdaBelief": [{}, *BETAS],
    "WeightDecay": [{}, {"lambda_": 0.3}],
    "SignDecay": [{}, {"lambda_": 0.3}],
    "ClipGrad": [{}, {"delta": 0.3}],
    "ClipNorm": [{}, *({"omega": 0.5, "p": p} for p in (2.0, 0.0, 1.0, 3.0, 0.5, -1.0, math.inf, -math.inf))],
    "OptimiserChain": [
        (),
        (rules.Descent(0.5),),
        (rules.ClipNorm(1.0), rules.WeightDecay(0.1), rules.Adam(0.1)),
        (rules.SignDecay(0.1), rules.ClipNorm(0.5, throw=False), rules.Momentum(0.1), rules.ClipNorm(1.0)),
        (rules.AccumGrad(3), rules.OptimiserChain(rules.WeightDecay(0.1), rules.AdamW(0.1)), rules.Descent(0.5)),
        (rules.SkipNonFinite(), rules.ClipGlobalNorm(1.0), rules.Adam(0.1), rules.Ema(0.9)),
        (
            rules.AccumGrad(2),
            rules.OptimiserChain(rules.ClipGlobalNorm(0.5, throw=False), rules.Momentum(0.1)),
            rules.OptimiserChain(rules.Lookahead(2), rules.Box(-0.5, 0.75)),
            rules.Swa(1),
        ),
        (rules.Lion(1.0), rules.OAdam(), rules.RMSProp(centred=True), rules.NAdam(), rules.AMSGrad()),
    ],
    "AccumGrad": [{"n": 1}, {"n": 3}],
    "ClipGlobalNorm": [{}, {"omega": 1e3, "name": "a"}, {"omega": 0.5, "throw": False}],
    "SkipNonFinite": [{}, {"limit": 3, "name": "a"}],
    "Box": [{}, {"lower": 0.0}, {"lower": -0.5, "upper": 0.75}],
    "Lookahead": [{}, {"k": 3, "alpha": 1.0}, {"k": 1, "alpha": 0.0}, {"k": 2, "alpha": 0.8}],
    "Ema": [{}, {"decay": 0.0}, {"decay": 0.7, "warmup": True}, {"decay": 0.4}],
    "Swa": [{}, {"start": 20}, {"start": 2, "every": 3}, {"start": 1, "every": 2}],
    "MixedPrecision": [
        (rules.Adam(),),
        (rules.OptimiserChain(rules.SkipNonFinite(), rules.Momentum(0.1), rules.Box(-0.5, 0.75), rules.Ema(0.5)),),
        (rules.Momentum(), "float64"),
        (rules.OptimiserChain(rules.WeightDecay(0.1), rules.AccumGrad(2), rules.Lion(0.1)), "float32"),
    ],
}
for _name in rules.RULES:
    VARIANTS.setdefault(_name, [{}])


def make(name: str, arguments: Any) -> rules.Rule:
    """The rule of that name with those arguments."""
    if isinstance(arguments, dict):
        return rules.RULES[name](**arguments)
    return rules.RULES[name](*arguments)


RULES = [pytest.param(make(name, a), id=f"{name}-{i}") for name, many in VARIANTS.items() for i, a in enumerate(many)]
"""Every rule in every variant, to parametrise tests over."""

ONE_EACH = [pytest.param(make(name, many[-1]), id=name) for name, many in VARIANTS.items()]
"""Every rule once."""


def recipe(rule: rules.Rule) -> tuple[Any, ...]:
    """The rule as the compiled module and the oracle read it."""
    found = rules.spec(rule)
    assert found is not None
    return found


def sees_the_whole_step(rule: rules.Rule) -> bool:
    """Whether the step of an array depends on the other arrays."""
    return any(name in repr(rule) for name in WHOLE_STEP)


def real_only(rule: rules.Rule) -> bool:
    """Whether complex parameters are an error."""
    return any(name in repr(rule) for name in REAL_ONLY)


def fits(rule: rules.Rule, dtype: str) -> bool:
    """Whether parameters of that type make sense."""
    return not (dtype.startswith("complex") and real_only(rule))


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Numbers of several magnitudes, with zeros among them."""
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-2, 2, size=shape)
    if dtype.startswith("complex"):
        values = values * np.exp(2j * np.pi * rng.random(shape))
    return np.asarray(values * (rng.random(shape) > 0.1)).astype(DTYPES[dtype])


def gradients(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, steps: int) -> list[Array]:
    """Noise, then a constant, then noise with the other sign."""
    first, middle = steps // 3, steps // 2
    many = [draw(rng, shape, dtype) for _ in range(steps)]
    return many[:first] + [many[first]] * (middle - first) + [-g for g in many[middle:]]


def bits(tree: Any) -> Any:
    """A nested structure of bytes that is equal when all bits of the arrays are."""
    if isinstance(tree, np.ndarray):
        return tree.dtype.str, tree.dtype.name, tree.shape, tree.tobytes()
    if isinstance(tree, float):
        return tree.hex()  # NaNs are equal
    if isinstance(tree, dict):
        return {key: bits(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(value) for value in tree]
    return tree


def swapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder("S"))


def unaligned(x: Array) -> Array:
    memory = np.zeros(x.nbytes + 1, np.uint8)
    y = memory[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def strided(x: Array) -> Array:
    if x.ndim == 0:
        return x
    y = np.zeros([2 * n for n in x.shape], x.dtype)[(slice(None, None, 2),) * x.ndim]
    y[...] = x
    return y


def permuted(x: Array) -> Array:
    """The second axis is the slowest."""
    return x if x.ndim < 3 else np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, 0)), 0, 1)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "permuted": permuted,
    "reversed": lambda x: x[::-1] if x.ndim else x,
    "strided": strided,
    "unaligned": unaligned,
    "swapped": swapped,
}
"""How an array of the same numbers may lie in memory."""


@dataclass(frozen=True)
class DecayDescent(rules.Rule):
    """A rule of the user's own."""

    eta: float = 0.1

    def init(self, x: Any) -> Any:
        return 1

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state + 1, dx * (self.eta / state**0.5)


class Skip(rules.Rule):
    """No step at odd calls; not a dataclass."""

    def init(self, x: Any) -> Any:
        return {"calls": 0, "last": np.zeros_like(x)}

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        calls = state["calls"] + 1
        return {"calls": calls, "last": dx}, None if calls % 2 else dx
