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
        r.scalars([toward(self.alpha), f64::from(u8::from(t.is_multiple_of(self.k)))])
    }

    #[inline(always)]
    fn element<T: Element>([w, meets, ..]: [T::Real; SCALARS], _dx: T, x: T, (slow,): (T,)) -> (T, (T,)) {
        if meets == T::Real::ONE {
            let slow = slow.average(x, w).without_subnormal();
            (slow, (slow,))
        } else {
            (x, (slow,))
        }
    }
}
