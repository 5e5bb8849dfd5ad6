//! The registry of rules: one line each, `module: Type`.

/// What a rule's file needs.
mod prelude {
    pub(crate) use crate::loops::element::{Element, Real};
    pub(crate) use crate::loops::math::power;
    pub(crate) use crate::loops::norm::Norm;
    pub(crate) use crate::program::contract::{
        Asks, At, Elementwise, Facts, Fields, Formula, Number, Rounding, SCALARS, SLOTS, Scalars, Slot, Verdict, rule,
        share, toward,
    };
}

use crate::program::contract::Entry;

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
    clipglobalnorm: ClipGlobalNorm,
    skipnonfinite: SkipNonFinite,
    r#box: Box,
    lookahead: Lookahead,
    ema: Ema,
    swa: Swa,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::dtype::Compute;
    use crate::program::contract::{At, Facts, Hyper, Kind, Rounding, Value};

    /// Some values of the fields.
    fn some(entry: &Entry, flag: bool) -> Hyper {
        entry
            .hyper(|_, kind| {
                Some(match kind {
                    Kind::Float => Value::Float(0.5),
                    Kind::Pair => Value::Pair([0.5, 0.75]),
                    Kind::Flag => Value::Flag(flag),
                    Kind::Count => Value::Count(2),
                })
            })
            .unwrap()
    }

    #[test]
    fn what_counts_no_steps_has_the_same_one_always() {
        for entry in RULES {
            for h in [false, true].map(|flag| some(entry, flag)) {
                let kernel = (entry.kernel)(&h);
                let at = |t| At { t, numbers: [0; 2] };
                let scalars = |t| kernel.prepare(&h, at(t), Rounding::of(Compute::F64));
                let alike = |t| kernel.advance(&h, at(t), &Facts::NONE).t == t && scalars(t) == scalars(7);
                let alike = (1..5).all(|t| kernel.emits(&h, t) && alike(t));
                assert!(alike || kernel.shape().counter.is_some(), "{}", entry.name);
            }
        }
    }
}
