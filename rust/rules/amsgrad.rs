//! AMSGrad (Reddi, Kale and Kumar 2018): Adam whose second moment never falls.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AMSGrad { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for AMSGrad {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v"), Slot::real("v_max")];
    type State<T: Element> = (T, T::Real, T::Real);

    fn initial(&self) -> [f64; SLOTS] {
        [self.epsilon; SLOTS]
    }

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        r.scalars([share(b1), share(b2), self.eta, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(
        k: [T::Real; SCALARS],
        _x: T,
        g: T,
        (m, v, v_max): (T, T::Real, T::Real),
    ) -> (T, (T, T::Real, T::Real)) {
        let [w1, w2, eta, epsilon, ..] = k;
        let g = g.bounded();
        let (m, v) = (m.average(g, w1), v.average(g.abs2(), w2));
        let v_max = v_max.maximum(v);
        (m * eta / (v_max.sqrt() + epsilon), (m, v, v_max))
    }
}
