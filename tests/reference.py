"""Every rule again: in float64 or complex128, with NumPy, one function a rule, as close to RULES.md as can be.

Nothing here is fast or shared with the package; it is to be obviously right. A rule's function takes its
hyper-parameters, the state (under the names of `leaf.state`), `x` and `g`, and returns `(state, dx)`. `start` makes the
first state, `step` one step of any rule or composite, described as `optirs.rules.spec` does:
`("Adam", {"eta": ...})`, `("OptimiserChain", (spec, ...))`, `("MixedPrecision", spec, "float32")`.
"""

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Spec = tuple[Any, ...]
Step = tuple[dict[str, Any] | None, Array | None]


def abs2(z: Array) -> Array:
    squared: Array = z.real**2 + z.imag**2
    return squared


def sign(z: Array) -> Array:
    modulus = np.abs(z)
    return np.where(modulus == 0, 0, z / np.where(modulus == 0, 1, modulus))


def power(x: float, n: int) -> float:
    """By repeated squaring, low bits first: `1 - beta**t` cancels, so that the last bit of the power counts."""
    result = 1.0
    for bit in reversed(f"{n:b}"):
        result *= x if bit == "1" else 1.0
        x *= x
    return result


def hat(m: Array, beta: float, t: int) -> Array:
    return m / (1 - power(beta, t))


def moments(h: Any, s: dict[str, Any], g: Array) -> tuple[Array, Array]:
    return h.beta[0] * s["m"] + (1 - h.beta[0]) * g, h.beta[1] * s["v"] + (1 - h.beta[1]) * abs2(g)


# --- what the state starts at: a number for real slots, a pair ("x", number) for slots of the parameter's type --------

ZERO = ("x", 0.0)
INITIAL: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "Descent": lambda h: None,
    "Momentum": lambda h: {"velocity": ZERO},
    "Nesterov": lambda h: {"velocity": ZERO},
    "RMSProp": lambda h: {"quad": 0.0, "lin": ZERO} if h.centred else {"quad": 0.0},
    "Rprop": lambda h: {"g": ZERO, "step": h.eta},
    "Adam": lambda h: {"m": ZERO, "v": 0.0, "t": 0},
    "AdamW": lambda h: {"m": ZERO, "v": 0.0, "t": 0},
    "Lion": lambda h: {"m": ZERO},
    "RAdam": lambda h: {"m": ZERO, "v": 0.0, "t": 0},
    "AdaMax": lambda h: {"m": ZERO, "u": 0.0, "t": 0},
    "OAdam": lambda h: {"m": ZERO, "v": 0.0, "term": ZERO, "t": 0},
    "AdaGrad": lambda h: {"acc": h.epsilon},
    "AdaDelta": lambda h: {"acc": 0.0, "delta": 0.0},
    "AMSGrad": lambda h: {"m": ("x", h.epsilon), "v": h.epsilon, "v_max": h.epsilon},
    "NAdam": lambda h: {"m": ZERO, "v": 0.0, "t": 0},
    "AdaBelief": lambda h: {"m": ZERO, "s": 0.0, "t": 0},
    "WeightDecay": lambda h: None,
    "SignDecay": lambda h: None,
    "ClipGrad": lambda h: None,
    "ClipNorm": lambda h: None,
    "AccumGrad": lambda h: {"accum": ZERO, "count": 0},
}


# --- one step of each rule --------------------------------------------------------------------------------------------


def descent(h: Any, s: None, x: Array, g: Array) -> Step:
    return None, h.eta * g


def momentum(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    velocity = h.rho * s["velocity"] + h.eta * g
    return {"velocity": velocity}, velocity


def nesterov(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    dx = -(h.rho**2) * s["velocity"] + (1 + h.rho) * h.eta * g
    return {"velocity": h.rho * s["velocity"] - h.eta * g}, dx


def rmsprop(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    quad = h.rho * s["quad"] + (1 - h.rho) * abs2(g)
    if not h.centred:
        return {"quad": quad}, h.eta * g / (np.sqrt(quad) + h.epsilon)
    lin = h.rho * s["lin"] + (1 - h.rho) * g
    return {"quad": quad, "lin": lin}, h.eta * g / (np.sqrt(np.maximum(quad - abs2(lin), 0)) + h.epsilon)


def rprop(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    agree = np.sign(s["g"]) * np.sign(g)
    up, down = np.minimum(s["step"] * h.ell[1], h.gamma[1]), np.maximum(s["step"] * h.ell[0], h.gamma[0])
    step = np.where(agree > 0, up, np.where(agree < 0, down, s["step"]))
    stored = np.where(agree < 0, 0, g)
    return {"g": stored, "step": step}, step * np.sign(stored)


def adam(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    (m, v), t = moments(h, s, g), s["t"] + 1
    dx = h.eta * hat(m, h.beta[0], t) / (np.sqrt(hat(v, h.beta[1], t)) + h.epsilon)
    return {"m": m, "v": v, "t": t}, dx


def adamw(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    state, direction = adam(SimpleNamespace(**{**vars(h), "eta": 1.0}), s, x, g)
    assert direction is not None
    return state, h.eta * (direction + h.lambda_ * x) if h.couple else h.eta * direction + h.lambda_ * x


def lion(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    dx = h.eta * sign(h.beta[0] * s["m"] + (1 - h.beta[0]) * g)
    return {"m": h.beta[1] * s["m"] + (1 - h.beta[1]) * g}, dx


def rectified(b2: float, t: int) -> tuple[Fraction, Fraction]:
    """RAdam's rho at step t and in the limit, exactly: the difference cancels where beta is near 1."""
    limit = 2 / (1 - Fraction(b2)) - 1
    power = Fraction(b2) ** t
    return limit - 2 * t * power / (1 - power), limit


def radam(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    (m, v), t, (b1, b2) = moments(h, s, g), s["t"] + 1, h.beta
    rho, limit = rectified(b2, t)
    if rho > 4:
        r = np.sqrt(float((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)))
        dx = h.eta * r * hat(m, b1, t) / (np.sqrt(hat(v, b2, t)) + h.epsilon)
    else:
        dx = h.eta * hat(m, b1, t)
    return {"m": m, "v": v, "t": t}, dx


def adamax(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    t = s["t"] + 1
    m = h.beta[0] * s["m"] + (1 - h.beta[0]) * g
    u = np.maximum(h.beta[1] * s["u"], np.abs(g))
    return {"m": m, "u": u, "t": t}, h.eta / (1 - power(h.beta[0], t)) * m / (u + h.epsilon)


def oadam(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    (m, v), t = moments(h, s, g), s["t"] + 1
    new = h.eta * hat(m, h.beta[0], t) / (np.sqrt(hat(v, h.beta[1], t)) + h.epsilon)
    return {"m": m, "v": v, "term": new, "t": t}, 2 * new - s["term"]


def adagrad(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    acc = s["acc"] + abs2(g)
    return {"acc": acc}, h.eta * g / (np.sqrt(acc) + h.epsilon)


def adadelta(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    acc = h.rho * s["acc"] + (1 - h.rho) * abs2(g)
    dx = g * np.sqrt(s["delta"] + h.epsilon) / np.sqrt(acc + h.epsilon)
    return {"acc": acc, "delta": h.rho * s["delta"] + (1 - h.rho) * abs2(dx)}, dx


def amsgrad(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    m, v = moments(h, s, g)
    v_max = np.maximum(s["v_max"], v)
    return {"m": m, "v": v, "v_max": v_max}, h.eta * m / (np.sqrt(v_max) + h.epsilon)


def nadam(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    (m, v), t, (b1, b2) = moments(h, s, g), s["t"] + 1, h.beta
    numerator = b1 * m / (1 - power(b1, t + 1)) + (1 - b1) * g / (1 - power(b1, t))
    return {"m": m, "v": v, "t": t}, h.eta * numerator / (np.sqrt(v * b2 / (1 - power(b2, t))) + h.epsilon)


def adabelief(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    t, (b1, b2) = s["t"] + 1, h.beta
    m = b1 * s["m"] + (1 - b1) * g
    second = b2 * s["s"] + (1 - b2) * abs2(g - m) + h.epsilon
    return {"m": m, "s": second, "t": t}, h.eta * hat(m, b1, t) / (np.sqrt(hat(second, b2, t)) + h.epsilon)


def weightdecay(h: Any, s: None, x: Array, g: Array) -> Step:
    return None, g + h.lambda_ * x


def signdecay(h: Any, s: None, x: Array, g: Array) -> Step:
    return None, g + h.lambda_ * sign(x)


def clipgrad(h: Any, s: None, x: Array, g: Array) -> Step:
    return None, np.clip(g, -h.delta, h.delta)


def clipnorm(h: Any, s: None, x: Array, g: Array) -> Step:
    norm = float(np.linalg.norm(g.ravel(), h.p)) if g.size else 0.0
    if not np.isfinite(norm):
        if h.throw:
            raise FloatingPointError
        return None, g * np.nan
    return None, g * min(h.omega / norm, 1.0) if norm > 0 else g


def accumgrad(h: Any, s: dict[str, Any], x: Array, g: Array) -> Step:
    accum, count = s["accum"] + g / h.n, s["count"] + 1
    if count < h.n:
        return {"accum": accum, "count": count}, None
    return {"accum": np.zeros_like(accum), "count": 0}, accum


FUNCTIONS: dict[str, Callable[..., Step]] = {name: globals()[name.lower()] for name in INITIAL}


# --- composition ------------------------------------------------------------------------------------------------------


def wide(x: Array) -> Array:
    """`x` in float64 or complex128."""
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def rounded(x: Array, dtype: Any) -> Array:
    """`x` rounded to `dtype`, in float64 or complex128 again."""
    with np.errstate(over="ignore"):
        return wide(x.astype(dtype))


def master_dtype(dtype: str, x: Array) -> Any:
    if x.dtype.kind == "c":
        return {"float32": np.complex64, "float64": np.complex128}[dtype]
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(dtype)


def start(spec: Spec, x: Array) -> Any:
    """The state of the rule before the first step of `x`."""
    name, *rest = spec
    if name == "OptimiserChain":
        return tuple(start(part, x) for part in rest[0])
    if name == "MixedPrecision":
        master = rounded(x, master_dtype(rest[1], x))
        return master, start(rest[0], master)
    slots = INITIAL[name](SimpleNamespace(**rest[0]))
    if slots is None:
        return None
    return {slot: _filled(value, slot, wide(x)) for slot, value in slots.items()}


def _filled(value: Any, slot: str, x: Array) -> Any:
    if slot in ("t", "count"):
        return value
    if isinstance(value, tuple):
        return np.full(x.shape, value[1], x.dtype)
    return np.full(x.shape, value, np.float64)


def apply(spec: Spec, state: Any, x: Array, g: Array) -> tuple[Any, Array | None]:
    """`(state, dx)`; `dx` is `None` for no step. `x` and `g` are float64 or complex128."""
    name, *rest = spec
    if name != "OptimiserChain":
        with np.errstate(all="ignore"):  # infinities and NaN are answers like others
            return _arrays(*FUNCTIONS[name](SimpleNamespace(**rest[0]), state, x, g))
    states, dx = list(state), g
    for i, part in enumerate(rest[0]):
        states[i], passed = apply(part, states[i], x, dx)
        if passed is None:
            return tuple(states), None
        dx = passed
    return tuple(states), dx


def _arrays(state: dict[str, Any] | None, dx: Array | None) -> Step:
    """NumPy makes scalars of 0-d arrays; here they are arrays again."""
    if state is not None:
        state = {slot: value if slot in ("t", "count") else np.asarray(value) for slot, value in state.items()}
    return state, None if dx is None else np.asarray(dx)


def step(spec: Spec, state: Any, x: Array, g: Array, dtype: Any) -> tuple[Any, Array]:
    """`(state, new x)` of a parameter of type `dtype`, held in float64 or complex128.

    Only a `MixedPrecision` rounds here, since what it rounds is part of what it does.
    """
    x, g = wide(x), wide(g)
    if spec[0] != "MixedPrecision":
        state, dx = apply(spec, state, x, g)
        with np.errstate(all="ignore"):
            return state, x if dx is None else np.asarray(x - dx)
    master, inner = state
    kind = master_dtype(spec[2], x)
    inner, new = step(spec[1], inner, master, g, kind)
    new = rounded(new, kind)
    return (new, inner), rounded(new, dtype)
