//! Cross-entropy of rows of logits, in float64.

use super::values::{Values, is_single};
use crate::loops::element::Real;
use crate::loops::math::double::exp;
use crate::loops::simd::{self, Level, per_level};
use crate::memory::reserve::{OutOfMemory, Reserve};
use std::cell::Cell;
use std::ops::Range;

/// Elements for which there is room on the stack.
pub(super) const ROOM: usize = 1024;
/// Numbers that are added up one after the other where a sum has to keep its digits.
const SHORT: usize = 64;

/// What a row of logits is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// One class number a row, `[batch]`.
    Classes(&'a [usize]),
    /// One probability a class, `[batch, n]`: one-hot rows, or softened ones.
    Rows(Values<'a>),
}

impl<'a> Target<'a> {
    /// Those of some rows, for `n` classes.
    pub(super) fn rows(self, rows: Range<usize>, n: usize) -> Self {
        match self {
            Self::Classes(classes) => Self::Classes(&classes[rows]),
            Self::Rows(all) => Self::Rows(all.slice(rows.start * n..rows.end * n)),
        }
    }
}

per_level! {
    fn exponentials<>(x: &mut [f64]) where [] {
        for x in x {
            *x = exp(*x);
        }
    }
}

/// The sum over rows of `-sum over k of p[k] log softmax(logits)[k]`, for `logits[rows, n]`; with `out`, `weight` times its
/// gradient `softmax(logits) - p` is written there. An error where there is no memory for a row.
pub(super) fn rows<P: Real, D: Real>(
    n: usize,
    logits: &[P],
    target: Target<'_>,
    out: Option<(f64, &mut [D])>,
) -> Result<f64, OutOfMemory> {
    if logits.len() <= ROOM {
        return Ok(rows_in(&mut [0.0; ROOM][..logits.len()], n, logits, target, out));
    }
    // Taken, not borrowed: nothing can be in its way.
    let mut scratch = SCRATCH.take();
    scratch.make_room(logits.len().saturating_sub(scratch.len()))?;
    scratch.resize(scratch.len().max(logits.len()), 0.0);
    let total = rows_in(&mut scratch[..logits.len()], n, logits, target, out);
    SCRATCH.set(scratch);
    Ok(total)
}

thread_local! {
    /// Room for a row that is too long for the stack, kept for the next one.
    static SCRATCH: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// [`rows`] with room for as many numbers as there are logits.
fn rows_in<P: Real, D: Real>(
    scratch: &mut [f64],
    n: usize,
    logits: &[P],
    target: Target<'_>,
    out: Option<(f64, &mut [D])>,
) -> f64 {
    // With the largest logit of a row taken out, no exponential overflows.
    for (row, shifted) in logits.chunks_exact(n).zip(scratch.chunks_exact_mut(n)) {
        let largest = largest(row);
        for (shifted, logit) in shifted.iter_mut().zip(row) {
            *shifted = logit.to_f64() - largest;
        }
    }
    exponentials(simd::level(), scratch);
    match target {
        Target::Classes(classes) if is_single::<P, P>() => {
            let total = normalise(n, logits, scratch, |i, costs| costs.of(classes[i]));
            if let Some((weight, out)) = out {
                slopes_of_classes(n, scratch, classes, weight, out);
            }
            total
        }
        Target::Rows(Values::Single(p)) if is_single::<P, P>() => {
            let total = normalise(n, logits, scratch, |i, costs| {
                let wanted = p[i * n..(i + 1) * n].iter().enumerate().filter(|(_, p)| **p != 0.0);
                wanted.map(|(k, &p)| f64::from(p) * costs.of(k)).sum()
            });
            if let Some((weight, out)) = out {
                for ((out, &s), &p) in out.iter_mut().zip(&*scratch).zip(p) {
                    *out = D::from_f64(weight * (s - f64::from(p)));
                }
            }
            total
        }
        Target::Classes(classes) => exactly(n, logits, scratch, |i, k| f64::from(u8::from(k == classes[i])), out),
        Target::Rows(Values::Single(p)) => exactly(n, logits, scratch, |i, k| f64::from(p[i * n + k]), out),
        Target::Rows(Values::Double(p)) => exactly(n, logits, scratch, |i, k| p[i * n + k], out),
    }
}

/// What the classes of a row cost. A class that is ruled out (logit -inf) costs infinitely much: where it is not wanted it is
/// left out, since 0 times infinity is NaN.
struct Costs<'a, P> {
    row: &'a [P],
    largest: f64,
    /// `log(sum(exp(row - largest)))`.
    normaliser: f64,
}

impl<P: Real> Costs<'_, P> {
    /// `-log softmax(row)[class]`.
    #[inline(always)]
    fn of(&self, class: usize) -> f64 {
        self.normaliser - (self.row[class].to_f64() - self.largest)
    }
}

fn largest<P: Real>(row: &[P]) -> f64 {
    // Not `maximum`: NaN is left to the exponentials.
    let larger = |largest: P, &logit: &P| if logit > largest { logit } else { largest };
    row.iter().fold(P::from_f64(f64::NEG_INFINITY), larger).to_f64()
}

/// The sum of the losses `value(i, costs)` of rows; `powers`, their exponentials, become their softmax.
#[inline(always)]
fn normalise<P: Real>(n: usize, logits: &[P], powers: &mut [f64], value: impl Fn(usize, &Costs<'_, P>) -> f64) -> f64 {
    let mut total = 0.0;
    for (i, (row, powers)) in logits.chunks_exact(n).zip(powers.chunks_exact_mut(n)).enumerate() {
        let sum: f64 = powers.iter().sum();
        total += value(i, &Costs { row, largest: largest(row), normaliser: libm::log(sum) });
        for power in powers {
            *power /= sum;
        }
    }
    total
}

fn slopes_of_classes<D: Real>(n: usize, softmax: &[f64], classes: &[usize], weight: f64, out: &mut [D]) {
    for ((row, out), &class) in softmax.chunks_exact(n).zip(out.chunks_exact_mut(n)).zip(classes) {
        for (out, &s) in out.iter_mut().zip(row) {
            *out = D::from_f64(weight * s);
        }
        out[class] = D::from_f64(weight * (row[class] - 1.0));
    }
}

/// The sum of the losses of rows with the probabilities `p(row, class)`, and the gradient, to the last digits of float64:
/// those of a loss that is nearly 0 and of a softmax that is nearly 1, too. The latter is that of the largest logit alone, so
/// all is built from what the others add up to. Rows that do not sum to 1 exactly have the gradient of their loss.
fn exactly<P: Real, D: Real>(
    n: usize,
    logits: &[P],
    powers: &[f64],
    p: impl Fn(usize, usize) -> f64,
    mut out: Option<(f64, &mut [D])>,
) -> f64 {
    let mut total = 0.0;
    for (i, (row, powers)) in logits.chunks_exact(n).zip(powers.chunks_exact(n)).enumerate() {
        let largest = largest(row);
        let top = row.iter().position(|logit| logit.to_f64() == largest).unwrap_or(0);
        // Its exponential is 1, or NaN, which must not be lost.
        let others = sum_but(top, n, &|k| powers[k]) + (powers[top] - 1.0);
        let costs = Costs { row, largest, normaliser: libm::log1p(others) };
        total += sum(0..n, &|k| match p(i, k) {
            0.0 => 0.0,
            p => p * costs.of(k),
        });
        let Some((weight, out)) = &mut out else { continue };
        let unlikely = sum_but(top, n, &|k| p(i, k));
        let (mass, scale) = (unlikely + p(i, top), 1.0 + others);
        for (k, out) in out[i * n..(i + 1) * n].iter_mut().enumerate() {
            *out = D::from_f64(*weight * (mass * (powers[k] / scale) - p(i, k)));
        }
        out[i * n + top] = D::from_f64(*weight * (unlikely - mass * (others / scale)));
    }
    total
}

/// The sum of `f(k)` for `k` in `range`: halves added up by themselves, so that few roundings follow each other.
fn sum(range: Range<usize>, f: &impl Fn(usize) -> f64) -> f64 {
    if range.len() <= SHORT {
        return range.map(f).sum();
    }
    let middle = range.start + range.len() / 2;
    sum(range.start..middle, f) + sum(middle..range.end, f)
}

/// The same for all `k < n` but one.
fn sum_but(one: usize, n: usize, f: &impl Fn(usize) -> f64) -> f64 {
    sum(0..one, f) + sum(one + 1..n, f)
}
