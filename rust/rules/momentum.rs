//! Gradient descent with momentum (Polyak 1964).
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Momentum { eta: f64, rho: f64 }
}

impl Elementwise for Momentum {
    const SLOTS: &'static [Slot] = &[Slot::like("velocity")];
    type State<T: Element> = (T,);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.rho, self.eta])
    }

    #[inline(always)]
    fn element<T: Element>([rho, eta, ..]: [T::Real; SCALARS], _x: T, g: T, (velocity,): (T,)) -> (T, (T,)) {
        let velocity = velocity * rho + g * eta;
        (velocity, (velocity,))
    }
}
