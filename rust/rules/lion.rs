//! Lion (Chen et al. 2023): the sign of a momentum that looks ahead.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Lion { eta: f64, beta: [f64; 2] }
}

impl Elementwise for Lion {
    const SLOTS: &'static [Slot] = &[Slot::like("m")];
    type State<T: Element> = (T,);

    fn prepare(&self, _t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        r.scalars([1.0 - b1, 1.0 - b2, self.eta])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m,): (T,)) -> (T, (T,)) {
        let [c1, c2, eta, ..] = k;
        (m.average(g, c1).sign() * eta, (m.average(g, c2),))
    }
}
