//! Hyper-parameters that the type of a step cannot hold.
//!
//! They are float64, and rounded to the type in which a step is computed. Rounded to float32, a large one becomes infinite and
//! a small one zero: then the step would be another one than its rule says, without a word.

use super::contract::{Rounding, Value};
use crate::loops::dtype::{Compute, DType};

/// What keeps a denominator from 0, or a bound: rounded to zero they do the opposite of what they are there for.
const NEVER_ZERO: [&str; 4] = ["delta", "epsilon", "gamma", "omega"];
/// What is compared with norms or is their order: float64 whatever the type of the step, so none of it is too large.
const WIDE: [&str; 2] = ["omega", "p"];

/// Why a step in `compute` cannot use this `value` of a field of `rule`; `None` if it can. Infinities and zeros that were
/// given as such are what they are.
#[must_use]
pub fn refusal(rule: &str, field: &str, value: Value, compute: Compute) -> Option<String> {
    let rounding = Rounding::of(compute);
    let lost = |x: f64| {
        let rounded = rounding.round(x);
        rounded.is_infinite() && x.is_finite() && !WIDE.contains(&field)
            || rounded == 0.0 && x != 0.0 && NEVER_ZERO.contains(&field)
    };
    let (number, index) = match value {
        Value::Float(x) if lost(x) => (x, ""),
        Value::Pair([x, _]) if lost(x) => (x, "[0]"),
        Value::Pair([_, x]) if lost(x) => (x, "[1]"),
        _ => return None,
    };
    let (becomes, limit) =
        if number.abs() < 1.0 { ("zero", "at least 1.4e-45") } else { ("infinite", "at most 3.4e+38") };
    let (number, name) = (text(number), compute.dtype().name());
    Some(format!("{rule}: {field}{index} = {number} is {becomes} in {name}, the type of the step ({limit})"))
}

/// Why a parameter of type `dtype` cannot hold this `value` of a field of `rule`; `None` if it can.
#[must_use]
pub fn not_stored(rule: &str, field: &str, value: Value, dtype: DType) -> Option<String> {
    let Value::Float(number) = value else { return None };
    let stored = Rounding::of(dtype.compute()).storing(dtype).stored(number);
    let lost = stored.is_infinite() && number.is_finite();
    let (number, name) = (text(number), dtype.name());
    lost.then(|| format!("{rule}: {field} = {number} is infinite in {name}, the type of the parameter"))
}

/// A number as Python prints it, if it is one that Python prints with an exponent.
fn text(x: f64) -> String {
    let text = format!("{x:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_single_precision_loses_is_named() {
        let of = |field, value, compute| refusal("Rule", field, Value::Float(value), compute);
        let text = of("eta", 1e39, Compute::F32).unwrap();
        assert_eq!(text, "Rule: eta = 1e+39 is infinite in float32, the type of the step (at most 3.4e+38)");
        let text = of("epsilon", 2.5e-46, Compute::C64).unwrap();
        assert_eq!(text, "Rule: epsilon = 2.5e-46 is zero in complex64, the type of the step (at least 1.4e-45)");
        for (field, value, compute) in [
            ("eta", 1e39, Compute::F64),
            ("epsilon", 1e-46, Compute::C128),
            ("epsilon", 0.0, Compute::F32),
            ("epsilon", 1e-45, Compute::F32),
            ("eta", 1e-46, Compute::F32),
            ("eta", f64::from(f32::MAX), Compute::F32),
            ("delta", f64::INFINITY, Compute::F32),
            ("omega", 1e39, Compute::F32),
        ] {
            assert_eq!(of(field, value, compute), None, "{field} {value}");
        }
        let pair = |pair| refusal("Rprop", "gamma", Value::Pair(pair), Compute::F32);
        assert!(pair([1e-46, 1.0]).unwrap().contains("gamma[0] = 1e-46 is zero"));
        assert!(pair([0.0, 1e39]).unwrap().contains("gamma[1] = 1e+39 is infinite"));
        assert_eq!(pair([0.0, f64::INFINITY]), None);
    }
}
