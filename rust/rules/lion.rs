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
        let [b1, b2] = self.beta.map(|b| r.round(b));
        r.scalars([b1, 1.0 - b1, b2, 1.0 - b2, self.eta])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m,): (T,)) -> (T, (T,)) {
        let [b1, c1, b2, c2, eta, ..] = k;
        ((m * b1 + g * c1).sign() * eta, (m * b2 + g * c2,))
    }
}
