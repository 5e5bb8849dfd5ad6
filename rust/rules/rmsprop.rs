//! RMSProp (Tieleman and Hinton 2012): steps over the root of a mean square, or of a variance when centred.
use super::prelude::*;
use crate::rule::{Borrower, Kernel};

rule! {
    /// See the module.
    pub struct RMSProp { eta: f64, rho: f64, epsilon: f64, centred: bool }
}

struct Plain(RMSProp);
struct Centred(RMSProp);

impl Boxed for RMSProp {
    fn boxed(self) -> Box<dyn Kernel> {
        if self.centred { Box::new(Centred(self)) } else { Box::new(Plain(self)) }
    }
    fn lent(self, to: &mut Borrower) {
        if self.centred { to(&Centred(self)) } else { to(&Plain(self)) }
    }
}

impl RMSProp {
    fn scalars(&self, r: Rounding) -> Scalars {
        r.scalars([1.0 - self.rho, self.eta, self.epsilon])
    }
}

impl Elementwise for Plain {
    const SLOTS: &'static [Slot] = &[Slot::real("quad")];
    type State<T: Element> = (T::Real,);

    fn prepare(&self, _t: u64, r: Rounding) -> Scalars {
        self.0.scalars(r)
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (quad,): (T::Real,)) -> (T, (T::Real,)) {
        let [c, eta, epsilon, ..] = k;
        let g = g.bounded();
        let quad = quad.average(g.abs2(), c);
        (g * eta / (quad.sqrt() + epsilon), (quad,))
    }
}

impl Elementwise for Centred {
    const SLOTS: &'static [Slot] = &[Slot::real("quad"), Slot::like("lin")];
    type State<T: Element> = (T::Real, T);

    fn prepare(&self, _t: u64, r: Rounding) -> Scalars {
        self.0.scalars(r)
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (quad, lin): (T::Real, T)) -> (T, (T::Real, T)) {
        let [c, eta, epsilon, ..] = k;
        let g = g.bounded();
        let quad = quad.average(g.abs2(), c);
        let lin = lin.average(g, c);
        // Rounding can make the variance of a constant gradient negative.
        let variance = (quad - lin.abs2()).at_least(T::Real::ZERO);
        (g * eta / (variance.sqrt() + epsilon), (quad, lin))
    }
}
