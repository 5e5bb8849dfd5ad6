//! The parameter, kept within bounds.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct Box { lower: f64, upper: f64 }
}

impl Elementwise for Box {
    const SLOTS: &'static [Slot] = &[];
    const COMPLEX: bool = false;
    const LANDS: bool = true;
    const STORES: bool = true;
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([self.lower, self.upper].map(|bound| r.stored(bound)))
    }

    #[inline(always)]
    fn element<T: Element>([lower, upper, ..]: [T::Real; SCALARS], _dx: T, x: T, (): ()) -> (T, ()) {
        // Not `at_least`: what is not a number is in no box, and stays what it is.
        let at = x.re();
        let at = if at < lower { lower } else { at };
        (T::from_real(if at > upper { upper } else { at }), ())
    }
}
