//! Every element of the gradient, clamped.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct ClipGrad { delta: f64 }
}

impl Elementwise for ClipGrad {
    const SLOTS: &'static [Slot] = &[];
    const COMPLEX: bool = false;
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.delta])
    }

    #[inline(always)]
    fn element<T: Element>([delta, ..]: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (T::from_real(g.re().at_least(-delta).at_most(delta)), ())
    }
}
