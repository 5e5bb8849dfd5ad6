//! Stochastic weight averaging (Izmailov et al. 2018): the mean of the parameter after some of its steps.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Swa { start: u64, every: u64 }
}

impl Swa {
    /// Whether the parameter after step `t` counts.
    fn samples(&self, t: u64) -> bool {
        t.checked_sub(self.start.saturating_add(1)).is_some_and(|behind| behind.is_multiple_of(self.every))
    }
}

impl Elementwise for Swa {
    const SLOTS: &'static [Slot] = &[Slot::parameter("average")];
    const COUNTER: Option<&'static str> = Some("t");
    const NUMBERS: &'static [Number] = &[Number::count("n")];
    const LANDS: bool = true;
    type State<T: Element> = (T,);

    fn prepare(&self, At { t, numbers: [n, _] }: At, r: Rounding) -> Scalars {
        // The first one is the mean as it is: nothing is subtracted, since a difference may be beyond the type.
        let what = if !self.samples(t) {
            0.0
        } else if n == 0 {
            2.0
        } else {
            1.0
        };
        r.scalars([toward(1.0 / (n as f64 + 1.0)), what])
    }

    #[inline(always)]
    fn element<T: Element>([w, what, ..]: [T::Real; SCALARS], _: T, x: T, (average,): (T,)) -> (T, (T,)) {
        let mean = if what > T::Real::ONE { x } else { average.average(x, w) };
        (x, (if what > T::Real::ZERO { mean } else { average },))
    }

    fn advance(&self, at: At, _: &Facts) -> At {
        let [n, rest] = at.numbers;
        At { numbers: [n.saturating_add(u64::from(self.samples(at.t))), rest], ..at }
    }
}
