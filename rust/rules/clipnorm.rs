//! The whole gradient of an array, shortened to a given norm.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct ClipNorm { omega: f64, p: f64, throw: bool }
}

impl Elementwise for ClipNorm {
    const SLOTS: &'static [Slot] = &[];
    type State<T: Element> = ();

    fn prepare(&self, _t: u64, r: Rounding) -> Scalars {
        r.scalars([1.0])
    }

    #[inline(always)]
    fn element<T: Element>([factor, ..]: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (g * factor, ())
    }

    fn reduction(&self) -> Option<&dyn Reduction> {
        Some(self)
    }
}

impl Reduction for ClipNorm {
    fn norm(&self) -> Norm {
        Norm::of(self.p)
    }

    fn refuse(&self, norm: f64) -> Option<String> {
        (self.throw && !norm.is_finite()).then(|| format!("ClipNorm: the gradient has {}-norm {norm}", self.p))
    }

    fn scalars(&self, norm: f64, r: Rounding) -> Scalars {
        r.scalars([if norm.is_finite() { (self.omega / norm).min(1.0) } else { f64::NAN }])
    }
}
