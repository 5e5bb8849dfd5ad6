//! The registry of rules: one line each, `module: Type`.

/// What a rule's file needs.
mod prelude {
    pub(crate) use crate::element::{Element, Real};
    pub(crate) use crate::rule::{
        Boxed, Elementwise, Rounding, SCALARS, Scalars, Slot, power, rule,
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
    adam: Adam,
    descent: Descent,
}
