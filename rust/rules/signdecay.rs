//! The gradient of the sum of moduli of the parameter, added.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct SignDecay { lambda_: f64 }
}

impl Elementwise for SignDecay {
    const SLOTS: &'static [Slot] = &[];
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.lambda_])
    }

    #[inline(always)]
    fn element<T: Element>([lambda, ..]: [T::Real; SCALARS], x: T, g: T, (): ()) -> (T, ()) {
        (g + x.sign() * lambda, ())
    }
}
