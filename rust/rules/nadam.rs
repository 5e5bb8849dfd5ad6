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

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let momentum = self.eta * b1 / (1.0 - power(b1, t + 1));
        let gradient = self.eta * (1.0 - b1) / (1.0 - power(b1, t));
        let root = (b2 / (1.0 - power(b2, t))).sqrt();
        r.scalars([share(b1), share(b2), momentum, gradient, root, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [w1, w2, momentum, gradient, root, epsilon, ..] = k;
        let g = g.bounded();
        let (m, v) = (m.average(g, w1), v.average(g.abs2(), w2));
        ((m * momentum + g * gradient) / (v.sqrt() * root + epsilon), (m, v))
    }
}
