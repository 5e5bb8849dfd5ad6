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

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta.map(|b| r.round(b));
        let (m_hat, s_hat) = (1.0 / (1.0 - power(b1, t)), 1.0 / (1.0 - power(b2, t)));
        r.scalars([b1, 1.0 - b1, b2, 1.0 - b2, self.eta * m_hat, s_hat, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, s): (T, T::Real)) -> (T, (T, T::Real)) {
        let [b1, c1, b2, c2, eta, s_hat, epsilon, ..] = k;
        let m = m * b1 + g * c1;
        let s = s * b2 + (g - m).abs2() * c2 + epsilon;
        (m * eta / ((s * s_hat).sqrt() + epsilon), (m, s))
    }
}
