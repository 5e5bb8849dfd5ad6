//! The registry of rules: one line each, `module: Type`.

/// What a rule's file needs.
mod prelude {
    pub(crate) use crate::element::{Element, Real};
    pub(crate) use crate::reduce::Norm;
    pub(crate) use crate::rule::{Boxed, Elementwise, Reduction, Rounding, SCALARS, SLOTS, Scalars, Slot, power, rule};
}

use crate::rule::Entry;

macro_rules! registry {
    ($($module:ident: $rule:ident,)*) => {
        $(mod $module;)*

        /// Every rule, in the order of the registry.
        pub const RULES: &[Entry] = &[$($module::$rule::ENTRY),*];
    };
}

registry! {
    descent: Descent,
    momentum: Momentum,
    nesterov: Nesterov,
    rmsprop: RMSProp,
    rprop: Rprop,
    adam: Adam,
    adamw: AdamW,
    lion: Lion,
    radam: RAdam,
    adamax: AdaMax,
    oadam: OAdam,
    adagrad: AdaGrad,
    adadelta: AdaDelta,
    amsgrad: AMSGrad,
    nadam: NAdam,
    adabelief: AdaBelief,
    weightdecay: WeightDecay,
    signdecay: SignDecay,
    clipgrad: ClipGrad,
    clipnorm: ClipNorm,
    accumgrad: AccumGrad,
}
