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

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta.map(|b| r.round(b));
        let (m_hat, v_hat) = (1.0 / (1.0 - power(b1, t)), 1.0 / (1.0 - power(b2, t)));
        r.scalars([b1, 1.0 - b1, b2, 1.0 - b2, self.eta * m_hat, v_hat, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [b1, c1, b2, c2, eta, v_hat, epsilon, ..] = k;
        let m = m * b1 + g * c1;
        let v = v * b2 + g.abs2() * c2;
        (m * eta / ((v * v_hat).sqrt() + epsilon), (m, v))
    }
}
