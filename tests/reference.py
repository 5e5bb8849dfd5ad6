"""Every rule again: in float64 or complex128, with NumPy, one function a rule, as close to the papers as can be.

Nothing here is fast or shared with the package; it is to be obviously right. A rule's function takes its
hyper-parameters, the state (under the names of `leaf.state`), `x` and `g`, and returns `(state, dx)`. One for the whole
step takes the states and gradients of its group, and returns both; one that lands takes `x` as the rules before it made
it, and the type of the parameter, and returns the `x` that it makes of it.

`start` makes the first state, `step` one step of any rule or composite, described as `optirs.rules.spec` does:
`("Adam", {"eta": ...})`, `("OptimiserChain", (spec, ...))`, `("MixedPrecision", spec, "float32")`; and `steps` one step
of several arrays at once, each with a rule of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
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


# --- what the state starts at: a number for real slots, a pair ("x", number) for slots of the parameter's type, -------
# --- "x" for slots that start as the parameter, and plain numbers

ZERO = ("x", 0.0)
PLAIN = ("t", "count", "n", "norm", "skipped", "consecutive")
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
    "ClipGlobalNorm": lambda h: {"norm": 0.0},
    "SkipNonFinite": lambda h: {"skipped": 0, "consecutive": 0},
    "Box": lambda h: None,
    "Lookahead": lambda h: {"slow": "x", "t": 0},
    "Ema": lambda h: {"average": "x", "t": 0},
    "Swa": lambda h: {"average": "x", "t": 0, "n": 0},
}

WHOLE_STEP = ("ClipGlobalNorm", "SkipNonFinite")
LANDING = ("Box", "Lookahead", "Ema", "Swa")


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


# --- rules for the whole step: the states and gradients of the group --------------------------------------------------

States = list[dict[str, Any]]


def clipglobalnorm(h: Any, states: States, gs: list[Array]) -> tuple[States, list[Array]]:
    norm = float(np.linalg.norm(np.concatenate([g.ravel() for g in gs])))
    after: States = [{"norm": norm} for _ in states]
    if not np.isfinite(norm):
        if h.throw:
            raise FloatingPointError
        return after, [g * np.nan for g in gs]
    return after, [g * min(h.omega / norm, 1.0) if norm > 0 else g for g in gs]


def skipnonfinite(h: Any, states: States, gs: list[Array]) -> tuple[States, list[Array] | None]:
    if all(np.isfinite(g).all() for g in gs):
        return [{"skipped": s["skipped"], "consecutive": 0} for s in states], gs
    after: States = [{name: count + 1 for name, count in s.items()} for s in states]
    if 0 <= h.limit < max(s["consecutive"] for s in after):
        raise FloatingPointError
    return after, None


# --- rules that land: x as it was to be, and the type of the parameter ------------------------------------------------


def box(h: Any, s: None, x: Array, dtype: Any) -> Step:
    lower, upper = (rounded(np.array(bound), dtype) for bound in (h.lower, h.upper))
    return None, np.minimum(np.maximum(x, lower), upper)


def lookahead(h: Any, s: dict[str, Any], x: Array, dtype: Any) -> Step:
    t, slow = s["t"] + 1, s["slow"]
    if t % h.k == 0:
        x = slow = (1 - h.alpha) * slow + h.alpha * x
    return {"slow": slow, "t": t}, x


def ema(h: Any, s: dict[str, Any], x: Array, dtype: Any) -> Step:
    t = s["t"] + 1
    d = min(h.decay, (1 + t) / (10 + t)) if h.warmup else h.decay
    return {"average": d * s["average"] + (1 - d) * x, "t": t}, x


def swa(h: Any, s: dict[str, Any], x: Array, dtype: Any) -> Step:
    t, n = s["t"] + 1, s["n"]
    if t <= h.start or (t - h.start - 1) % h.every != 0:
        return {"average": s["average"], "t": t, "n": n}, x
    return {"average": (n * s["average"] + x) / (n + 1), "t": t, "n": n + 1}, x


FUNCTIONS: dict[str, Callable[..., Any]] = {name: globals()[name.lower()] for name in INITIAL}


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
    if slot in PLAIN:
        return value
    if value == "x":
        return x.copy()
    if isinstance(value, tuple):
        return np.full(x.shape, value[1], x.dtype)
    return np.full(x.shape, value, np.float64)


Link = tuple[str, dict[str, Any]]


def flat(spec: Spec, state: Any) -> tuple[list[Link], list[Any]]:
    """The links of a rule in sequence, and the state of each."""
    if spec[0] != "OptimiserChain":
        return [(spec[0], spec[1])], [state]
    parts = [flat(part, own) for part, own in zip(spec[1], state, strict=True)]
    return [link for links, _ in parts for link in links], [own for _, states in parts for own in states]


def nested(spec: Spec, states: list[Any]) -> Any:
    """The state of a rule of those of its links, which are taken off the list."""
    if spec[0] != "OptimiserChain":
        return states.pop(0)
    return tuple(nested(part, states) for part in spec[1])


@dataclass
class Walk:
    """One array on its way through the links of its rule."""

    links: list[Link]
    before: list[Any]
    x: Array
    dx: Array | None
    """What has become of the gradient; `None` where there is no step."""
    dtype: Any

    def __post_init__(self) -> None:
        self.states, self.at = list(self.before), 0

    def run(self) -> None:
        """Goes on until a link looks at the whole step, or lands, or there is none."""
        while self.dx is not None and self.at < len(self.links):
            name, h = self.links[self.at]
            if name in WHOLE_STEP or name in LANDING:
                return
            one = FUNCTIONS[name](SimpleNamespace(**h), self.states[self.at], self.x, self.dx)
            self.states[self.at], self.dx = _arrays(*one)
            self.at += 1

    def coming(self) -> list[Link]:
        """The links for the whole step that it has yet to pass, first to last."""
        return [] if self.dx is None else [link for link in self.links[self.at :] if link[0] in WHOLE_STEP]

    def skip(self) -> None:
        """At a `SkipNonFinite`, which has its new counts: all else is as it was, but an `AccumGrad` before is empty."""
        for i in range(self.at):
            if self.links[i][0] != "AccumGrad":
                self.states[i] = self.before[i]
        self.dx = None

    def land(self) -> None:
        """The steps are taken: `x` goes where the last links say."""
        if self.dx is not None:
            self.x = np.asarray(self.x - self.dx)
            for i in range(self.at, len(self.links)):
                name, h = self.links[i]
                one = FUNCTIONS[name](SimpleNamespace(**h), self.states[i], self.x, self.dtype)
                self.states[i], self.x = _arrays(*one)


def together(walks: list[Walk]) -> None:
    """One step of all of them.

    Raises:
        FloatingPointError: a norm is not finite, or too many steps are skipped.
        ValueError: two links for the whole step stand in one order here, and in another there.
    """
    for walk in walks:
        walk.run()
    while any(walk.coming() for walk in walks):
        firsts = [walk.coming()[0] for walk in walks if walk.coming()]
        ready = [link for link in firsts if all(w.coming()[0] == link for w in walks if link in w.coming())]
        if not ready:
            raise ValueError("no order serves all")
        name, h = ready[0]
        group = [walk for walk in walks if ready[0] in walk.coming()]
        states = [walk.states[walk.at] for walk in group]
        after, gradients = FUNCTIONS[name](SimpleNamespace(**h), states, [walk.dx for walk in group])
        for i, walk in enumerate(group):
            walk.states[walk.at] = after[i]
            if gradients is None:
                walk.skip()
            else:
                walk.dx, walk.at = np.asarray(gradients[i]), walk.at + 1
                walk.run()
    for walk in walks:
        walk.land()


def _arrays(state: dict[str, Any] | None, x: Array | None) -> Step:
    """NumPy makes scalars of 0-d arrays; here they are arrays again."""
    if state is not None:
        state = {slot: value if slot in PLAIN else np.asarray(value) for slot, value in state.items()}
    return state, None if x is None else np.asarray(x)


def steps(
    specs: list[Spec], states: list[Any], xs: list[Array], gs: list[Array | None], dtypes: list[Any]
) -> list[tuple[Any, Array]]:
    """`(state, new x)` of each of several parameters, of types `dtypes`, held in float64 or complex128.

    A gradient of `None` is none at all. Only a `MixedPrecision` rounds here, since what it rounds is part of what it
    does.
    """
    walks: list[Walk | None] = []
    for spec, state, x, g, dtype in zip(specs, states, xs, gs, dtypes, strict=True):
        if spec[0] == "MixedPrecision":
            (x, state), spec, dtype = state, spec[1], master_dtype(spec[2], x)
        walks.append(None if g is None else Walk(*flat(spec, state), wide(x), wide(g), dtype))
    with np.errstate(all="ignore"):  # infinities and NaN are answers like others
        together([walk for walk in walks if walk is not None])
    results = []
    for spec, state, x, walk, dtype in zip(specs, states, xs, walks, dtypes, strict=True):
        if walk is None:
            results.append((state, wide(x)))
        elif spec[0] == "MixedPrecision":
            master = rounded(walk.x, walk.dtype)
            results.append(((master, nested(spec[1], walk.states)), rounded(master, dtype)))
        else:
            results.append((nested(spec, walk.states), walk.x))
    return results


def step(spec: Spec, state: Any, x: Array, g: Array, dtype: Any) -> tuple[Any, Array]:
    """`(state, new x)` of one parameter; see `steps`."""
    return steps([spec], [state], [x], [g], [dtype])[0]
