//! RAdam (Liu et al. 2020): Adam, whose adaptive part waits until its variance is known.
use super::prelude::*;
use crate::loops::doubledouble::DoubleDouble;
use std::ops::{Add, Mul};

rule! {
    /// See the module.
    pub struct RAdam { eta: f64, beta: [f64; 2], epsilon: f64 }
}

impl Elementwise for RAdam {
    const SLOTS: &'static [Slot] = &[Slot::like("m"), Slot::real("v")];
    const COUNTER: Option<&'static str> = Some("t");
    type State<T: Element> = (T, T::Real);

    fn prepare(&self, At { t, .. }: At, r: Rounding) -> Scalars {
        let [b1, b2] = self.beta;
        let m_hat = 1.0 / (1.0 - power(b1, t));
        let (factor, root, epsilon) = match rectifier(b2, t) {
            Some(factor) => (factor, (1.0 - power(b2, t)).sqrt().recip(), self.epsilon),
            None => (1.0, 0.0, 1.0), // nothing is divided by
        };
        r.scalars([share(b1), share(b2), self.eta * factor * m_hat, root, epsilon])
    }

    #[inline(always)]
    fn element<T: Element>(k: [T::Real; SCALARS], _x: T, g: T, (m, v): (T, T::Real)) -> (T, (T, T::Real)) {
        let [w1, w2, eta, root, epsilon, ..] = k;
        let g = g.bounded();
        let (m, v) = (m.average(g, w1), v.average(g.abs2(), w2));
        (m * eta / (v.sqrt() * root + epsilon), (m, v))
    }
}

/// The factor `r` of step `t`; `None` while the variance is not known, at `rho <= 4`.
///
/// The paper's `rho = bound - 2 t beta^t / (1 - beta^t)` with `bound = 2 / (1 - beta) - 1` cancels where beta is near 1. It
/// is also `2 K / S + 1` with `S` the sum of `beta^k` and `K` that of `k beta^k`, `k < t`: terms of one sign.
fn rectifier(beta: f64, t: u64) -> Option<f64> {
    let (sum, weighted) = sums::<f64>(beta, t);
    let mut excess = 2.0 * weighted / sum - 3.0; // rho - 4
    if excess.abs() < 0.1 {
        // The border: only here do the digits that `- 3` cancels matter.
        let (sum, weighted) = sums::<DoubleDouble>(beta, t);
        excess = (weighted + weighted - (sum + sum + sum)).to_f64() / sum.to_f64();
    }
    if excess <= 0.0 {
        return None;
    }
    // With c = 1 - beta, bound = (2 - c) / c, bound - 2 = (2 - 3 c) / c, and bound - 4 = (5 beta - 3) / c.
    let c = 1.0 - beta;
    let beta = DoubleDouble::from(beta);
    let limit = (beta * DoubleDouble::from(5.0) + DoubleDouble::from(-3.0)).to_f64();
    let rho = excess + 4.0;
    Some((excess * (excess + 2.0) * (2.0 - c) * c / (limit * (2.0 - 3.0 * c) * rho)).sqrt())
}

/// The sums of `beta^k` and of `k beta^k` over `k < t`, doubling the number of terms from bit to bit of `t >= 1`.
fn sums<F: From<f64> + Copy + Add<Output = F> + Mul<Output = F>>(beta: f64, t: u64) -> (F, F) {
    let step = F::from(beta);
    let (mut n, mut power, mut sum, mut weighted) = (1.0, step, F::from(1.0), F::from(0.0));
    for bit in (0..t.ilog2()).rev() {
        // The second half of the terms is the first one times beta^n, each k greater by n.
        weighted = weighted + power * (weighted + F::from(n) * sum);
        sum = sum + power * sum;
        power = power * power;
        n *= 2.0;
        if t >> bit & 1 == 1 {
            weighted = weighted + F::from(n) * power;
            sum = sum + power;
            power = power * step;
            n += 1.0;
        }
    }
    (sum, weighted)
}
