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

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let eta = self.eta / (1.0 - power(b1, t));
        r.scalars([share(b1), b2, eta, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, u): (T, T::Real)) -> (T, (T, T::Real)) {
        let [w1, b2, eta, epsilon, ..] = k;
        // Nothing is squared, but a difference and a modulus must not overflow, nor the product with eta.
        let g = g.bounded_by(T::Real::QUARTER);
        let m = m.average(g, w1);
        let u = (u * b2).maximum(g.abs());
        (m / (u + epsilon) * eta, (m, u))
    }
}
