"""The rules: one file each, and their registry."""

from ._apply import apply, init
from ._apply import step as step
from ._base import Rule
from ._base import adjusted as adjusted
from ._base import check_held as check_held
from ._base import fields as fields
from ._base import own as own
from ._base import resolved as resolved
from ._base import spec as spec
from .accumgrad import AccumGrad
from .adabelief import AdaBelief
from .adadelta import AdaDelta
from .adagrad import AdaGrad
from .adam import Adam
from .adamax import AdaMax
from .adamw import AdamW
from .amsgrad import AMSGrad
from .clipgrad import ClipGrad
from .clipnorm import ClipNorm
from .descent import Descent
from .lion import Lion
from .mixedprecision import MixedPrecision
from .momentum import Momentum
from .nadam import NAdam
from .nesterov import Nesterov
from .oadam import OAdam
from .optimiserchain import OptimiserChain
from .radam import RAdam
from .rmsprop import RMSProp
from .rprop import Rprop
from .scheduled import Scheduled
from .signdecay import SignDecay
from .weightdecay import WeightDecay

RULES: dict[str, type[Rule]] = {
    rule.__name__: rule
    for rule in (
        Descent,
        Momentum,
        Nesterov,
        RMSProp,
        Rprop,
        Adam,
        AdamW,
        Lion,
        RAdam,
        AdaMax,
        OAdam,
        AdaGrad,
        AdaDelta,
        AMSGrad,
        NAdam,
        AdaBelief,
        WeightDecay,
        SignDecay,
        ClipGrad,
        ClipNorm,
        OptimiserChain,
        AccumGrad,
        MixedPrecision,
    )
}
"""Every rule of Optimisers.jl by its name. `Scheduled` is none of them, and stands for rules that are."""

__all__ = [
    "RULES",
    "AMSGrad",
    "AccumGrad",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "ClipGrad",
    "ClipNorm",
    "Descent",
    "Lion",
    "MixedPrecision",
    "Momentum",
    "NAdam",
    "Nesterov",
    "OAdam",
    "OptimiserChain",
    "RAdam",
    "RMSProp",
    "Rprop",
    "Rule",
    "Scheduled",
    "SignDecay",
    "WeightDecay",
    "apply",
    "init",
]
