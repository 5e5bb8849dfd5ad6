//! The whole gradient of an array, shortened to a given norm.
use super::prelude::*;

rule! {
    /// See the module.
    pub struct ClipNorm { omega: f64, p: f64, throw: bool }
}

impl Elementwise for ClipNorm {
    const SLOTS: &'static [Slot] = &[];
    const SCALES: bool = true;
    type State<T: Element> = ();

    fn prepare(&self, _: At, r: Rounding) -> Scalars {
        r.scalars([1.0, 1.0])
    }

    #[inline(always)]
    fn element<T: Element>([factor, rest, ..]: [T::Real; SCALARS], _x: T, g: T, (): ()) -> (T, ()) {
        (g * factor * rest, ())
    }

    fn asks(&self) -> Asks {
        Asks::Norm(Norm::of(self.p))
    }

    fn decide(&self, facts: &Facts, r: Rounding) -> Verdict {
        if self.throw && !facts.norm.is_finite() {
            return Verdict::Refuse(format!("ClipNorm: the gradient has {}-norm {}", self.p, facts.norm));
        }
        Verdict::Go(shortened(facts.norm, self.omega, r))
    }
}

/// The scalars that shorten a gradient of this `norm` to one of `omega`, where it is longer: two factors.
pub(super) fn shortened(norm: f64, omega: f64, r: Rounding) -> Scalars {
    if !norm.is_finite() {
        return r.scalars([f64::NAN, 1.0]);
    }
    if norm <= omega {
        return r.scalars([1.0, 1.0]);
    }
    let (factor, least) = (omega / norm, libm::ldexp(1.0, r.least_exponent()));
    if factor >= least {
        return r.scalars([factor, 1.0]);
    }
    // In the compute type, and perhaps in float64, it would lose digits. So a power of two, which loses none unless the
    // result is too small for the type as well, and what is left: `least`, with all digits of the factor.
    let ((omega, up), (norm, down)) = (libm::frexp(omega), libm::frexp(norm));
    r.scalars([libm::ldexp(1.0, up - down - 1 - r.least_exponent()), 2.0 * (omega / norm) * least])
}
