//! NAdam (Dozat 2016): Adam with Nesterov's momentum.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct NAdam { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for NAdam {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, t: u64, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta.map(|b| r.round(b));
        let momentum = self.eta * b1 / (1.0 - power(b1, t + 1));
        let gradient = self.eta * (1.0 - b1) / (1.0 - power(b1, t));
        let v_hat = b2 / (1.0 - power(b2, t));
        r.scalars([b1, 1.0 - b1, b2, 1.0 - b2, momentum, gradient, v_hat, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [b1, c1, b2, c2, momentum, gradient, v_hat, epsilon] = k;
        let m = m * b1 + g * c1;
        let v = v * b2 + g.abs2() * c2;
        ((m * momentum + g * gradient) / ((v * v_hat).sqrt() + epsilon), (m, v))
    }
}
