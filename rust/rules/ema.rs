//! An exponential moving average of the parameter.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Ema { decay: f64, warmup: bool }
}

impl Elementwise for Ema {
    const SLOTS: &'static [Slot] = &[Slot::parameter("average")];
    const COUNTER: Option<&'static str> = Some("t");
    const LANDS: bool = true;
    type State<T: Element> = (T,);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let t = t as f64;
        let decay = if self.warmup { self.decay.min((1.0 + t) / (10.0 + t)) } else { self.decay };
        r.scalars([share(decay)])
    }

    #[inline(always)]
    fn element<T: Element>([w, ..]: [T::Real; SCALARS], _: T, x: T, (average,): (T,)) -> (T, (T,)) {
        (x, (average.average(x, w),))
    }
}
