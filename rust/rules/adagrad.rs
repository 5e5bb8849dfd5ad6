//! AdaGrad (Duchi, Hazan and Singer 2011): steps over the root of the sum of squares.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct AdaGrad { eta: f64, epsilon: f64 }
}

impl Elementwise for AdaGrad {
    const SLOTS: &'static [Slot] = &[Slot::real("acc")];
    type State<T: Element> = (T::Real,);

    fn initial(&self) -> [f64; SLOTS] {
        [self.epsilon, 0.0, 0.0]
    }

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.eta, self.epsilon])
    }

    #[inline(always)]
    fn element<T: Element>([eta, epsilon, ..]: [T::Real; SCALARS], _x: T, g: T, (acc,): (T::Real,)) -> (T, (T::Real,)) {
        let g = g.bounded();
        let acc = (acc + g.abs2()).at_most(T::Real::GREATEST);
        (g * eta / (acc.sqrt() + epsilon), (acc,))
    }
}
