//! The mean of `n` gradients, passed on at every `n`-th step.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AccumGrad { n: u64 }
}

impl Elementwise for AccumGrad {
    const SLOTS: &'static [Slot] = &[Slot::like("accum")];
    const COUNTER: Option<&'static str> = Some("count");
    type State<T: Element> = (T,);

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        r.scalars([self.n as f64, f64::from(u8::from(self.emits(t)))])
    }

    #[inline(always)]
    fn element<T: Element>([n, emits, ..]: [T::Real; SCALARS], _x: T, g: T, (accum,): (T,)) -> (T, (T,)) {
        let accum = accum + g / n;
        if emits == T::Real::ONE { (accum, (T::ZERO,)) } else { (T::ZERO, (accum,)) }
    }

    fn advance(&self, t: u64) -> u64 {
        if self.emits(t) { 0 } else { t }
    }

    fn emits(&self, t: u64) -> bool {
        t >= self.n
    }
}
