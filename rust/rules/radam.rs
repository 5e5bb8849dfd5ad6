//! RAdam (Liu et al. 2020): Adam, whose adaptive part waits until its variance is known.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct RAdam { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for RAdam {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta.map(|b| r.round(b));
        let (b1t, b2t) = (power(b1, t), power(b2, t));
        let (m_hat, v_hat) = (1.0 / (1.0 - b1t), 1.0 / (1.0 - b2t));
        let bound = 2.0 / (1.0 - b2) - 1.0;
        let rho = bound - 2.0 * t as f64 * b2t / (1.0 - b2t);
        let (factor, adaptive) = if rho > 4.0 {
            let numerator = (rho - 4.0) * (rho - 2.0) * bound;
            let denominator = (bound - 4.0) * (bound - 2.0) * rho;
            ((numerator / denominator).sqrt(), 1.0)
        } else {
            (1.0, 0.0)
        };
        let eta = self.eta * factor * m_hat;
        r.scalars([b1, 1.0 - b1, b2, 1.0 - b2, eta, v_hat, self.epsilon, adaptive])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [b1, c1, b2, c2, eta, v_hat, epsilon, adaptive] = k;
        let m = m * b1 + g * c1;
        let v = v * b2 + g.abs2() * c2;
        let dx = if adaptive == T::Real::ONE { m * eta / ((v * v_hat).sqrt() + epsilon) } else { m * eta };
        (dx, (m, v))
    }
}
