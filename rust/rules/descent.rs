//! Gradient descent.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Descent { eta: f64 }
}

impl Elementwise for Descent {
    const SLOTS: &'static [Slot] = &[];
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.eta])
    }

    #[inline(always)]
    fn element<T: Element>([eta, ..]: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (g * eta, ())
    }
}
