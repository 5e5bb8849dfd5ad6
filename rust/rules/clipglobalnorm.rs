//! The gradients of a group of arrays, shortened together to a given norm.
use super::clipnorm::shortened;
use super::prelude::*;

rule! {
    /// See the module.
    pub struct ClipGlobalNorm { omega: f64, throw: bool }
}

impl Elementwise for ClipGlobalNorm {
    const SLOTS: &'static [Slot] = &[];
    const NUMBERS: &'static [Number] = &[Number::float("norm"), Number::STAMP];
    const SCALES: bool = true;
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([1.0, 1.0])
    }

    #[inline(always)]
    fn element<T: Element>([factor, rest, ..]: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (g * factor * rest, ())
    }

    fn asks(&self) -> Asks {
        Asks::GroupNorm
    }

    fn decide(&self, facts: &Facts, r: Rounding) -> Verdict {
        if self.throw && !facts.norm.is_finite() {
            return Verdict::Refuse(format!("ClipGlobalNorm: the gradients have 2-norm {}", facts.norm));
        }
        Verdict::Go(shortened(facts.norm, self.omega, r))
    }

    fn advance(&self, at: At, facts: &Facts) -> At {
        let [_, stamp] = facts.greatest;
        At { numbers: [facts.norm.to_bits(), stamp.saturating_add(1)], ..at }
    }
}
