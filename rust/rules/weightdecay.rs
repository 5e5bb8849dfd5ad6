//! The gradient of half the sum of squares of the parameter, added.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct WeightDecay { lambda_: f64 }
}

impl Elementwise for WeightDecay {
    const SLOTS: &'static [Slot] = &[];
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.lambda_])
    }

    #[inline(always)]
    fn element<T: Element>([lambda, ..]: [T::Real; SCALARS], x: T, g: T, (): ()) -> (T, ()) {
        (g + x * lambda, ())
    }
}
