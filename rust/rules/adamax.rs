//! AdaMax (Kingma and Ba 2015): Adam with the infinity norm.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AdaMax { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for AdaMax {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("u")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta.map(|b| r.round(b));
        let eta = self.eta / (1.0 - power(b1, t));
        r.scalars([b1, 1.0 - b1, b2, eta, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, u): (T, T::Real)) -> (T, (T, T::Real)) {
        let [b1, c1, b2, eta, epsilon, ..] = k;
        let m = m * b1 + g * c1;
        let u = (u * b2).maximum(g.abs());
        (m * eta / (u + epsilon), (m, u))
    }
}
