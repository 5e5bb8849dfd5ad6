//! AdaBelief (Zhuang et al. 2020): Adam over how far gradients are from their mean.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AdaBelief { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for AdaBelief {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("s")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let (m_hat, root) = (1.0 / (1.0 - power(b1, t)), (1.0 - power(b2, t)).sqrt().recip());
        r.scalars([share(b1), share(b2), self.eta * m_hat, root, self.epsilon, b1])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, s): (T, T::Real)) -> (T, (T, T::Real)) {
        let [w1, w2, eta, root, epsilon, b1, ..] = k;
        let g = g.bounded();
        // g less the new m: it would cancel where b1 is small.
        let surprise = (g - m) * b1;
        let (m, s) = (m.average(g, w1), s.average(surprise.abs2(), w2) + epsilon);
        (m * eta / (s.sqrt() * root + epsilon), (m, s))
    }
}
