//! Rprop (Riedmiller and Braun 1993): steps from the signs of the gradient alone.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Rprop { eta: f64, ell: [f64; 2], gamma: [f64; 2] }
}

impl Elementwise for Rprop {
    const SLOTS: &'static [Slot] = &[Slot::like("g"), Slot::real("step")];
    const COMPLEX: bool = false;
    type State<T: Element> = (T, T::Real);

    fn initial(&self) -> [f64; SLOTS] {
        [0.0, self.eta, 0.0]
    }

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        let ([less, more], [least, most]) = (self.ell, self.gamma);
        r.scalars([less, more, least, most])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (previous, step): (T, T::Real)) -> (T, (T, T::Real)) {
        let [less, more, least, most, ..] = k;
        // The product of the signs: that of the numbers can underflow.
        let sign = g.re().sign();
        let agreement = previous.re().sign() * sign;
        let (g, sign, step) = if agreement > T::Real::ZERO {
            (g, sign, (step * more).at_most(most))
        } else if agreement < T::Real::ZERO {
            (T::ZERO, T::Real::ZERO, (step * less).at_least(least))
        } else {
            (g, sign, step)
        };
        (T::from_real(sign * step), (g, step))
    }
}
