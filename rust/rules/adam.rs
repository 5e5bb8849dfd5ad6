//! Adam (Kingma and Ba 2015): momentum over the root of a mean square, both without the bias of their start.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Adam { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for Adam {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let (m_hat, root) = (1.0 / (1.0 - power(b1, t)), (1.0 - power(b2, t)).sqrt().recip());
        r.scalars([share(b1), share(b2), self.eta * m_hat, root, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [w1, w2, eta, root, epsilon, ..] = k;
        let g = g.bounded();
        let (m, v) = (m.average(g, w1), v.average(g.abs2(), w2));
        (m * eta / (v.sqrt() * root + epsilon), (m, v))
    }
}
