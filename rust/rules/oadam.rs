//! Optimistic Adam (Daskalakis et al. 2018): twice this step of Adam, less the previous one.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct OAdam { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for OAdam {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v"), Slot::like("term")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real, T);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let (m_hat, root) = (1.0 / (1.0 - power(b1, t)), (1.0 - power(b2, t)).sqrt().recip());
        r.scalars([share(b1), share(b2), self.eta * m_hat, root, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v, term): (T, T::Real, T)) -> (T, (T, T::Real, T)) {
        let [w1, w2, eta, root, epsilon, ..] = k;
        let g = g.bounded();
        let (m, v) = (m.average(g, w1), v.average(g.abs2(), w2));
        let new = m * eta / (v.sqrt() * root + epsilon);
        (new + new - term, (m, v, new))
    }
}
