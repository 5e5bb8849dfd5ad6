"""What is measured: models of several sizes, a rule or chain on each, training, and the affine layer."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import optirs

Array = NDArray[Any]
Shape = tuple[int, ...]


def gpt2() -> tuple[Shape, ...]:
    """The 148 tensors of GPT-2 small: embeddings, twelve blocks, the last normalisation."""
    d = 768
    norm: tuple[Shape, ...] = ((d,), (d,))
    attention: tuple[Shape, ...] = ((d, 3 * d), (3 * d,), (d, d), (d,))
    perceptron: tuple[Shape, ...] = ((d, 4 * d), (4 * d,), (4 * d, d), (d,))
    return ((50257, d), (1024, d), *(norm + attention + norm + perceptron) * 12, *norm)


@dataclass(frozen=True)
class Workload:
    """One column of the table."""

    title: str
    kind: str  # which class of a contender's module takes it: Steps, Training or Affine
    shapes: tuple[Shape, ...] = ()

    @property
    def elements(self) -> int:
        """Numbers in the model."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def from_memory(self) -> bool:
        """Whether its arrays fit into no cache."""
        return self.elements > 1e7


TABLE = {
    "a": Workload("one array of 2^25", "Steps", ((1 << 25,),)),
    "a2": Workload("one array of 33,000,000", "Steps", ((33_000_000,),)),
    "b": Workload("one array of 2^16, in cache", "Steps", ((1 << 16,),)),
    "c": Workload("1000 arrays of 1000", "Steps", ((1000,),) * 1000),
    "d": Workload("W (2, 3) and b (2,)", "Steps", ((2, 3), (2,))),
    "e": Workload("the 148 tensors of GPT-2 small", "Steps", gpt2()),
    "f": Workload("the notebook's training, 500 epochs", "Training"),
    "g": Workload("the affine layer", "Affine"),
}
# Sizes around those from which threads are woken, for `--means`.
SIZES = {f"2^{i}": Workload(f"one array of 2^{i}", "Steps", ((1 << i,),)) for i in (14, 18, 20)}
# As many arrays of next to nothing: they show soon who takes part in a case from memory.
TINY = {
    f"{name}, tiny": replace(w, shapes=tuple(tuple(min(n, 2) for n in shape) for shape in w.shapes))
    for name, w in TABLE.items()
    if w.from_memory
}
WORKLOADS = TABLE | SIZES | TINY

# What stands for a rule that takes rules or has no default, by the name under which it is reported.
EXAMPLES: dict[str, dict[str, optirs.Rule]] = {
    "OptimiserChain": {
        "ClipNorm > AdamW": optirs.OptimiserChain(optirs.ClipNorm(), optirs.AdamW(lambda_=0.01)),
        "WeightDecay > Momentum": optirs.OptimiserChain(optirs.WeightDecay(), optirs.Momentum()),
        "ClipGrad > WeightDecay > Adam": optirs.OptimiserChain(
            optirs.ClipGrad(0.5), optirs.WeightDecay(), optirs.Adam()
        ),
        "SignDecay > RMSProp > Momentum": optirs.OptimiserChain(
            optirs.SignDecay(), optirs.RMSProp(eta=1.0), optirs.Momentum()
        ),
    },
    "AccumGrad": {"AccumGrad": optirs.AccumGrad(1)},
    "MixedPrecision": {},  # for 16-bit parameters, which no workload has yet
}

# A chain with more arrays than a first-level cache has places for one address, for `--means`.
LONG: dict[str, optirs.Rule] = {
    "AMSGrad > OAdam > AdaDelta > NAdam > AdaMax": optirs.OptimiserChain(
        optirs.AMSGrad(), optirs.OAdam(), optirs.AdaDelta(), optirs.NAdam(), optirs.AdaMax()
    )
}

LAYERS = [(1, 784, 128), (32, 784, 128), (256, 784, 128), (1024, 1024, 1024), (100, 3, 2)]  # batch, n_in, n_out
EPOCHS = 500


def rules() -> dict[str, optirs.Rule]:
    """Every rule of the registry, and some chains, by the name in the table."""
    found: dict[str, optirs.Rule] = {}
    for name, rule in optirs.RULES.items():
        if name in EXAMPLES:
            found |= EXAMPLES[name]
        elif not any(p.default is p.empty for p in inspect.signature(rule).parameters.values()):
            found[name] = rule()
    return found


def rule(case: str) -> optirs.Rule:
    """That of the table or of `--means`."""
    return (rules() | LONG)[case]


def not_measured() -> list[str]:
    """The rules of the registry that no workload has."""
    measured = {type(rule).__name__ for rule in rules().values()}
    return [name for name in optirs.RULES if name not in measured]


def cases(workload: str) -> list[str]:
    """The rows of the table that the workload has."""
    match WORKLOADS[workload].kind:
        case "Steps":
            return list(rules())
        case "Training":
            return [f"{EPOCHS} epochs"]
        case _:
            return [f"{way} {b}x{i} to {o}" for b, i, o in LAYERS for way in ("forward", "gradient")]


def layer(case: str) -> tuple[str, tuple[int, int, int]]:
    """The direction of a case of the affine layer, and its `(batch, n_in, n_out)`."""
    way, _, shape = case.partition(" ")
    return way, next(s for s in LAYERS if f"{s[0]}x{s[1]} to {s[2]}" == shape)


def numbers(shapes: tuple[Shape, ...], seed: int) -> list[Array]:
    """Arrays of float32 between 0.1 and 1, of either sign: the same at every call, and quick to make."""
    rng = np.random.default_rng(seed)
    block = (rng.uniform(0.1, 1, 1_000_003) * rng.choice([-1, 1], 1_000_003)).astype(np.float32)

    def array(i: int, shape: Shape) -> Array:
        n, start = int(np.prod(shape)), 17 * i
        flat = block[start : start + n].copy() if start + n <= block.size else np.resize(block, n)
        return flat.reshape(shape)

    return [array(i, shape) for i, shape in enumerate(shapes)]


def arrays(state: Any) -> Iterator[Array]:
    """The arrays of a state as `Leaf.state` or `optirs.init` shows it, in order."""
    if isinstance(state, np.ndarray):
        yield state
    elif isinstance(state, dict | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from arrays(part)


def initial(rule: optirs.Rule) -> list[float]:
    """What each state array of the rule is filled with before the first step."""
    return [float(a[0]) for a in arrays(optirs.init(rule, np.zeros(1, np.float32)))]


def norms(rule: optirs.Rule) -> int:
    """How often the gradient is read before the step: once if an element's step depends on the other elements."""

    def steps(n: int) -> list[float]:
        x, found = np.zeros(n, np.float32), []
        state = optirs.init(rule, x)
        for g in (1e6, 1.0):  # two, since Adam's first is the same for all multiples of a gradient
            state, dx = optirs.apply(rule, state, x, np.full(n, g, np.float32))
            found.append(float(dx[0]))
        return found

    return int(steps(2) != steps(1))
