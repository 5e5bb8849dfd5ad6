//! Lookahead (Zhang et al. 2019): every `k` steps the parameter goes back part of the way to slow weights.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Lookahead { k: u64, alpha: f64 }
}

impl Elementwise for Lookahead {
    const SLOTS: &'static [Slot] = &[Slot::parameter("slow")];
    const COUNTER: Option<&'static str> = Some("t");
    const LANDS: bool = true;
    type State<T: Element> = (T,);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        // All the way back is no average: 0 stands for all the way on.
        let back = if self.alpha == 0.0 { 2.0 } else { 1.0 };
        r.scalars([toward(self.alpha), if t.is_multiple_of(self.k) { back } else { 0.0 }])
    }

    #[inline(always)]
    fn element<T: Element>([w, meets, ..]: [T::Real; SCALARS], _: T, x: T, (slow,): (T,)) -> (T, (T,)) {
        let slow = if meets == T::Real::ONE { slow.average(x, w).without_subnormal() } else { slow };
        (if meets == T::Real::ZERO { x } else { slow }, (slow,))
    }
}
