//! RMSProp (Tieleman and Hinton 2012): steps over the root of a mean square, or of a variance when centred.
use super::prelude::*;
use crate::program::contract::{Hyper, Kernel, kernel_of};

rule! {
    /// See the module.
    pub struct RMSProp { eta: f64, rho: f64, epsilon: f64, centred: bool }
}

struct Plain(RMSProp);
struct Centred(RMSProp);

impl Formula for RMSProp {
    fn kernel(&self) -> &'static dyn Kernel {
        if self.centred { kernel_of::<Centred>() } else { kernel_of::<Plain>() }
    }
}

impl Fields for Plain {
    fn of(hyper: &Hyper) -> Self {
        Self(RMSProp::of(hyper))
    }
}

impl Fields for Centred {
    fn of(hyper: &Hyper) -> Self {
        Self(RMSProp::of(hyper))
    }
}

impl RMSProp {
    fn scalars(&self, r: Rounding) -> Scalars {
        r.scalars([share(self.rho), self.eta, self.epsilon, self.rho, 1.0 - self.rho])
    }
}

impl Elementwise for Plain {
    const SLOTS: &'static [Slot] = &[Slot::real("quad")];
    type State<T: Element> = (T::Real,);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        self.0.scalars(r)
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (quad,): (T::Real,)) -> (T, (T::Real,)) {
        let [w, eta, epsilon, ..] = k;
        let g = g.bounded();
        let quad = quad.average(g.abs2(), w);
        (g * eta / (quad.sqrt() + epsilon), (quad,))
    }
}

impl Elementwise for Centred {
    const SLOTS: &'static [Slot] = &[Slot::real("quad"), Slot::like("lin")];
    type State<T: Element> = (T::Real, T);

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        self.0.scalars(r)
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (quad, lin): (T::Real, T)) -> (T, (T::Real, T)) {
        let [w, eta, epsilon, rho, c, ..] = k;
        let g = g.bounded();
        // The new quad less |lin|², so written that only what is multiplied by rho cancels. Rounding can make that negative.
        let old = (quad - lin.abs2()).at_least(T::Real::ZERO);
        let variance = (old + (g - lin).abs2() * c) * rho;
        let (quad, lin) = (quad.average(g.abs2(), w), lin.average(g, w));
        (g * eta / (variance.sqrt() + epsilon), (quad, lin))
    }
}
