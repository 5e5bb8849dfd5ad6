//! The mean of `n` gradients, passed on at every `n`-th step.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AccumGrad { n: u64 }
}

impl Elementwise for AccumGrad {
    const SLOTS: &'static [Slot] = &[Slot::like("accum")];
    const COUNTER: Option<&'static str> = Some("count");
    const COLLECTS: bool = true;
    type State<T: Element> = (T,);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        r.scalars([self.n as f64, f64::from(u8::from(self.emits(t)))])
    }

    #[inline(always)]
    fn element<T: Element>([n, emits, ..]: [T::Real; SCALARS], _x: T, g: T, (accum,): (T,)) -> (T, (T,)) {
        let accum = accum + g / n;
        if emits == T::Real::ONE { (accum, (T::ZERO,)) } else { (T::ZERO, (accum,)) }
    }

    fn advance(&self, at: At, _: &Facts) -> At {
        if self.emits(at.t) { At { t: 0, ..at } } else { at }
    }

    fn emits(&self, t: u64) -> bool {
        t >= self.n
    }
}
