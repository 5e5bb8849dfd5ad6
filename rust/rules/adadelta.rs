//! AdaDelta (Zeiler 2012): steps in the units of the parameter, without a rate.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AdaDelta { rho: f64, epsilon: f64 }
}

impl Elementwise for AdaDelta {
    const SLOTS: &'static [Slot] = &[Slot::real("acc"), Slot::real("delta")];
    type State<T: Element> = (T::Real, T::Real);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([share(self.rho), self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(
        [w, epsilon, ..]: [T::Real; SCALARS],
        _x: T,
        g: T,
        (acc, delta): (T::Real, T::Real),
    ) -> (T, (T::Real, T::Real)) {
        let g = g.bounded();
        let acc = acc.average(g.abs2(), w);
        let dx = g * (delta + epsilon).sqrt() / (acc + epsilon).sqrt();
        (dx, (acc, delta.average(dx.abs2(), w)))
    }
}
