//! Gradient descent with Nesterov's momentum, in the variables of the point looked ahead to.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Nesterov { eta: f64, rho: f64 }
}

impl Elementwise for Nesterov {
    const SLOTS: &'static [Slot] = &[Slot::like("velocity")];
    type State<T: Element> = (T,);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        let rho = self.rho;
        r.scalars([rho, self.eta, rho * rho, (1.0 + rho) * self.eta])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (velocity,): (T,)) -> (T, (T,)) {
        let [rho, eta, rho2, ahead, ..] = k;
        (g * ahead - velocity * rho2, (velocity * rho - g * eta,))
    }
}
