//! The registry of rules: one line each, `module: Type`.

/// What a rule's file needs.
mod prelude {
    pub(crate) use crate::element::{Element, Real};
    pub(crate) use crate::reduce::Norm;
    pub(crate) use crate::rule::{
        Boxed, Elementwise, Reduction, Rounding, SCALARS, SLOTS, Scalars, Slot, power, rule, share,
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Compute;
    use crate::rule::{Kernel, Rounding, Value};
    use std::collections::HashMap;

    /// The rule of some values, whose types `build` says by what it refuses.
    fn some(entry: &Entry, flag: bool) -> Box<dyn Kernel> {
        let values = [Value::Float(0.5), Value::Pair([0.5, 0.75]), Value::Flag(flag), Value::Count(2)];
        let mut tried = HashMap::new();
        loop {
            match (entry.build)(&|field| values.get(tried.get(field).copied().unwrap_or(0)).copied()) {
                Ok(rule) => return rule,
                Err(field) => *tried.entry(field).or_insert(0) += 1,
            }
        }
    }

    #[test]
    fn what_counts_no_steps_has_the_same_one_always() {
        for entry in RULES {
            for rule in [false, true].map(|flag| some(entry, flag)) {
                let scalars = |t| rule.prepare(t, Rounding::of(Compute::F64));
                let alike = (1..5).all(|t| rule.emits(t) && rule.advance(t) == t && scalars(t) == scalars(7));
                assert!(alike || rule.counter().is_some(), "{}", entry.name);
            }
        }
    }
}
