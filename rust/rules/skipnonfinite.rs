//! No step where one of the gradients of a group has an element that is not finite.
use super::prelude::*;

rule! {
    /// See the module. `limit` is the greatest number where there is none.
    pub struct SkipNonFinite { limit: u64 }
}

impl Elementwise for SkipNonFinite {
    const SLOTS: &'static [Slot] = &[];
    const NUMBERS: &'static [Number] = &[Number::count("skipped"), Number::count("consecutive")];
    const PASSES: bool = true;
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([])
    }

    #[inline(always)]
    fn element<T: Element>(_: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (g, ())
    }

    fn asks(&self) -> Asks {
        Asks::GroupFinite
    }

    fn decide(&self, facts: &Facts, r: Rounding) -> Verdict {
        let [_, consecutive] = facts.greatest;
        if facts.is_finite() {
            Verdict::Go(r.scalars([]))
        } else if consecutive >= self.limit {
            let limit = self.limit;
            Verdict::Refuse(format!("SkipNonFinite: {consecutive} steps in a row were skipped before, limit={limit}"))
        } else {
            Verdict::Skip
        }
    }

    fn advance(&self, at: At, facts: &Facts) -> At {
        let [skipped, consecutive] = at.numbers;
        let numbers =
            if facts.is_finite() { [skipped, 0] } else { [skipped, consecutive].map(|n| n.saturating_add(1)) };
        At { numbers, ..at }
    }
}
