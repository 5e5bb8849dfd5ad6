"""The rules: one file each, and their registry."""

from ._apply import apply, init
from ._base import Rule
from ._base import adjusted as adjusted
from ._base import described as described
from ._base import fields as fields
from ._base import flattened as flattened
from ._base import inside as inside
from ._base import is_built_in as is_built_in
from ._base import is_for_whole_step as is_for_whole_step
from ._base import lands as lands
from ._base import own as own
from ._base import own_rules as own_rules
from ._base import parent as parent
from ._base import plain as plain
from ._base import resolved as resolved
from ._base import spec as spec
from ._base import with_states as with_states
from .accumgrad import AccumGrad
from .adabelief import AdaBelief
from .adadelta import AdaDelta
from .adagrad import AdaGrad
from .adam import Adam
from .adamax import AdaMax
from .adamw import AdamW
from .amsgrad import AMSGrad
from .box import Box
from .clipglobalnorm import ClipGlobalNorm
from .clipgrad import ClipGrad
from .clipnorm import ClipNorm
from .descent import Descent
from .ema import Ema
from .lion import Lion
from .lookahead import Lookahead
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
from .skipnonfinite import SkipNonFinite
from .swa import Swa
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
        ClipGlobalNorm,
        SkipNonFinite,
        Box,
        Lookahead,
        Ema,
        Swa,
    )
}
"""Every rule by its name: first those of Optimisers.jl. `Scheduled` is none of them, and stands for rules that are."""

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
    "Box",
    "ClipGlobalNorm",
    "ClipGrad",
    "ClipNorm",
    "Descent",
    "Ema",
    "Lion",
    "Lookahead",
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
    "SkipNonFinite",
    "Swa",
    "WeightDecay",
    "apply",
    "init",
]
