//! Lion (Chen et al. 2023): the sign of a momentum that looks ahead.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Lion { eta: f64, beta: [f64; 2] }
}

impl Elementwise for Lion {
    const SLOTS: &'static [Slot] = &[Slot::like("m")];
    type State<T: Element> = (T,);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        r.scalars([share(b1), share(b2), self.eta])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m,): (T,)) -> (T, (T,)) {
        let [w1, w2, eta, ..] = k;
        let g = g.bounded_by(T::Real::QUARTER); // differences must not overflow
        (m.average(g, w1).sign() * eta, (m.average(g, w2),))
    }
}
