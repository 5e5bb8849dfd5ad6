//! Losses: the mean over the batch of the sum over outputs, and the gradient by the prediction.
//!
//! Elements are float32 or float64, the arithmetic is float64, and sums are taken in fixed lanes, over fixed blocks of rows,
//! then over the blocks in order: the same arguments give the same bits everywhere, on any number of threads. An empty batch
//! has the loss 0.
//!
//! Between float32 numbers, formulas may count on the digits that float64 has to spare; where a number is float64, they are
//! written so that nothing cancels, and sums are taken in more steps.

pub mod crossentropy;
pub mod pointwise;
pub mod values;

use crate::loops::element::Real;
use crate::memory::reserve::{OutOfMemory, Reserve};
use crate::threads::parts;
use crate::threads::pool::{self, Border};
use crossentropy::{ROOM, Target};
use pointwise::Pointwise;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use values::Values;

/// Elements of a block of rows, as far as rows allow it.
const BLOCK: usize = 1 << 14;
/// From this number of elements on, more than one thread pays.
const PARALLEL: Border = Border { awake: 1 << 16, asleep: 1 << 18 };

/// A loss and what predictions are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'a> {
    /// One target an element, `[batch, n]`.
    Pointwise(Pointwise, Values<'a>),
    /// Classes of logits.
    Crossentropy(Target<'a>),
}

thread_local! {
    /// What each block of a loss that is shared out adds up to: a list that is kept for the next one.
    static SUMS: Cell<Vec<AtomicU64>> = const { Cell::new(Vec::new()) };
}

/// The sizes of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// How many rows there are.
    pub batch: usize,
    /// How long they are.
    pub n: usize,
}

impl Objective<'_> {
    /// The loss of `yhat[batch, n]`; an error where there is no memory for a long row, or for the sums of many.
    ///
    /// # Panics
    /// If the lengths are not the ones `rows` says.
    pub fn loss<P: Real>(self, rows: Rows, yhat: &[P]) -> Result<f64, OutOfMemory> {
        self.evaluate::<P, P>(rows, yhat, None)
    }

    /// The loss of `yhat[batch, n]`; its gradient by `yhat` is written to `dyhat`, rounded once. An error
    /// as that of [`Self::loss`] leaves any numbers there.
    ///
    /// # Panics
    /// As [`Self::loss`].
    #[inline(always)]
    pub fn pullback<P: Real, D: Real>(self, rows: Rows, yhat: &[P], dyhat: &mut [D]) -> Result<f64, OutOfMemory> {
        assert_eq!(yhat.len(), dyhat.len());
        self.evaluate(rows, yhat, Some(dyhat))
    }

    #[inline(always)]
    fn evaluate<P: Real, D: Real>(self, rows: Rows, yhat: &[P], dyhat: Option<&mut [D]>) -> Result<f64, OutOfMemory> {
        let Rows { batch, n } = rows;
        assert_eq!(yhat.len(), batch * n);
        if yhat.is_empty() {
            return Ok(0.0);
        }
        let weight = 1.0 / batch as f64;
        let room = if matches!(self, Self::Crossentropy(_)) { ROOM } else { BLOCK };
        let sum = if yhat.len() <= room {
            self.block(n, 0, yhat, weight, dyhat)?
        } else {
            self.blocks(n, (room / n).max(1) * n, yhat, weight, dyhat)?
        };
        Ok(sum / batch as f64)
    }

    /// The sum over blocks of `step` elements, whole rows.
    fn blocks<P: Real, D: Real>(
        self,
        n: usize,
        step: usize,
        yhat: &[P],
        weight: f64,
        dyhat: Option<&mut [D]>,
    ) -> Result<f64, OutOfMemory> {
        let threads = pool::threads_for(yhat.len(), PARALLEL);
        if threads > 1 {
            return self.shared(threads, n, step, yhat, weight, dyhat);
        }
        let mut out = dyhat.map(|d| d.chunks_mut(step));
        let parts = yhat.chunks(step).enumerate();
        parts.map(|(i, part)| self.block(n, i * step, part, weight, out.as_mut().and_then(Iterator::next))).sum()
    }

    /// The blocks, on this number of threads.
    fn shared<P: Real, D: Real>(
        self,
        threads: usize,
        n: usize,
        step: usize,
        yhat: &[P],
        weight: f64,
        dyhat: Option<&mut [D]>,
    ) -> Result<f64, OutOfMemory> {
        let group = BLOCK.div_ceil(step);
        let mut sums = SUMS.take();
        let blocks = yhat.len().div_ceil(step);
        sums.clear();
        sums.make_room(blocks)?;
        sums.resize_with(blocks, AtomicU64::default);
        let refused = Mutex::new(None); // by a thread that has no memory for its rows
        let task = |t: usize, mut out: Option<&mut [D]>| {
            for (i, sum) in sums.iter().enumerate().skip(t * group).take(group) {
                let part = &yhat[i * step..yhat.len().min((i + 1) * step)];
                let at = (i - t * group) * step;
                let out = out.as_mut().map(|out| &mut out[at..at + part.len()]);
                match self.block(n, i * step, part, weight, out) {
                    Ok(total) => sum.store(total.to_bits(), Ordering::Relaxed),
                    Err(none) => *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(none),
                }
            }
        };
        match dyhat {
            Some(dyhat) => parts::run(threads, dyhat, group * step, &|at, out| task(at / (group * step), Some(out))),
            None => pool::run(threads, sums.len().div_ceil(group), &|t| task(t, None)),
        }
        let sum = sums.iter_mut().map(|sum| f64::from_bits(*sum.get_mut())).sum();
        SUMS.set(sums);
        refused.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(sum), Err)
    }

    /// The sum over a block whose first element is number `first`; `weight` times its gradient goes to `out`.
    #[inline(always)]
    fn block<P: Real, D: Real>(
        self,
        n: usize,
        first: usize,
        yhat: &[P],
        weight: f64,
        out: Option<&mut [D]>,
    ) -> Result<f64, OutOfMemory> {
        let out = out.map(|out| (weight, out));
        match self {
            Self::Pointwise(loss, y) => Ok(match y.slice(first..first + yhat.len()) {
                Values::Single(y) => loss.total(yhat, y, out),
                Values::Double(y) => loss.total(yhat, y, out),
            }),
            Self::Crossentropy(target) => {
                crossentropy::rows(n, yhat, target.rows(first / n..(first + yhat.len()) / n, n), out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointwise(loss: Pointwise, batch: usize, yhat: &[f32], y: &[f32]) -> (f64, Vec<f32>) {
        pullback(Objective::Pointwise(loss, Values::Single(y)), batch, yhat)
    }

    fn crossentropy(batch: usize, logits: &[f32], target: Target<'_>) -> (f64, Vec<f32>) {
        pullback(Objective::Crossentropy(target), batch, logits)
    }

    fn pullback<P: Real>(objective: Objective<'_>, batch: usize, yhat: &[P]) -> (f64, Vec<P>) {
        let rows = Rows { batch, n: yhat.len().checked_div(batch).unwrap_or(3) };
        let mut slopes = vec![P::from_f64(f64::NAN); yhat.len()];
        let loss = objective.pullback(rows, yhat, &mut slopes).unwrap();
        let alone = objective.loss(rows, yhat).unwrap();
        // Whose sign a NaN has is the compiler's choice.
        assert!(loss.to_bits() == alone.to_bits() || loss.is_nan() && alone.is_nan(), "{loss} {alone}");
        (loss, slopes)
    }

    #[test]
    fn values_by_hand() {
        let (yhat, y) = ([0.5, -2.0, 3.0, 1.0], [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(pointwise(Pointwise::Mse, 2, &yhat, &y).0, (0.25 + 4.0 + 4.0) / 2.0);
        assert_eq!(pointwise(Pointwise::Mae, 2, &yhat, &y).0, 4.5 / 2.0);
        assert_eq!(pointwise(Pointwise::Huber, 2, &yhat, &y).0, (0.125 + 1.5 + 1.5) / 2.0);
        let two_classes = crossentropy(2, &[0.0, 0.0, 1.0, 1.0], Target::Classes(&[0, 1])).0;
        assert!((two_classes - 2.0_f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn logits_of_a_thousand_neither_overflow_nor_vanish() {
        let yhat = [1000.0, -1000.0, 1000.0, -1000.0];
        let found = pointwise(Pointwise::BinaryCrossentropy, 1, &yhat, &[1.0, 0.0, 0.0, 1.0]);
        assert_eq!(found, (2000.0, vec![0.0, 0.0, 1.0, -1.0]));
        let found = crossentropy(1, &yhat, Target::Classes(&[1]));
        assert_eq!(found, (2000.0 + 2.0_f64.ln(), vec![0.5, -1.0, 0.5, 0.0]));
    }

    #[test]
    fn float64_is_not_rounded_on_the_way() {
        let (yhat, y) = ([2e9, 1.0 + 1e-12], [2e9 + 3.0, 1.0]);
        let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-15;
        let (loss, slopes) = pullback(Objective::Pointwise(Pointwise::Mse, Values::Double(&y)), 1, &yhat);
        let least = yhat[1] - 1.0;
        assert_eq!((loss, slopes), (9.0 + least * least, vec![-6.0, 2.0 * least]));
        // A prediction of float32 beside a target of float64, as layers have it: the gradient is rounded at the end.
        let (yhat, y) = ([1.0_f32, 3.0], [1.0 + 1e-12, 1.0]);
        let (loss, slopes) = pullback(Objective::Pointwise(Pointwise::Mae, Values::Double(&y)), 2, &yhat);
        assert!(close(loss, (2.0 + (y[0] - 1.0)) / 2.0));
        assert_eq!(slopes, [-0.5, 0.5]);
        // What is nearly 0, or nearly 1, has its digits.
        let small = libm::exp(-40.0) / (1.0 + libm::exp(-40.0));
        let objective = Objective::Pointwise(Pointwise::BinaryCrossentropy, Values::Double(&[1.0]));
        let (loss, slopes) = pullback(objective, 1, &[40.0]);
        assert!(close(loss, libm::exp(-40.0)) && close(-slopes[0], small), "{loss} {slopes:?}");
        let (loss, slopes) = pullback(Objective::Crossentropy(Target::Classes(&[0])), 1, &[40.0, 0.0]);
        assert!(close(loss, libm::exp(-40.0)) && close(-slopes[0], small) && close(slopes[1], small));
        let y = 1.0 - 1e-10;
        let objective = Objective::Pointwise(Pointwise::BinaryCrossentropy, Values::Double(std::slice::from_ref(&y)));
        assert!(close(pullback(objective, 1, &[40.0]).0, 40.0 * (1.0 - y) + libm::exp(-40.0)));
    }

    #[test]
    fn rows_that_are_not_quite_probabilities_have_the_gradient_of_their_loss() {
        let (p, z, h) = ([0.5, 0.25, 0.26], [0.5, -1.0, 2.0], 1e-6);
        let objective = Objective::Crossentropy(Target::Rows(Values::Double(&p)));
        let slopes = pullback(objective, 1, &z).1;
        for (k, slope) in slopes.iter().enumerate() {
            let moved = |by: f64| {
                let mut z = z;
                z[k] += by;
                objective.loss(Rows { batch: 1, n: 3 }, &z).unwrap()
            };
            assert!((slope - (moved(h) - moved(-h)) / (2.0 * h)).abs() < 1e-9, "{k}");
        }
    }

    #[test]
    fn class_numbers_and_one_hot_rows_are_the_same_target() {
        let logits = [0.1, -2.0, 0.7, f32::NEG_INFINITY, 1.5, 0.0];
        let by_class = crossentropy(2, &logits, Target::Classes(&[2, 1]));
        assert_eq!(by_class, crossentropy(2, &logits, Target::Rows(Values::Single(&[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]))));
        assert!(by_class.0.is_finite());
        assert!(by_class.1[..3].iter().sum::<f32>().abs() < 1e-7);
    }

    #[test]
    fn nan_is_never_hidden() {
        for &loss in Pointwise::ALL {
            let (value, slopes) = pointwise(loss, 1, &[f32::NAN, 0.0], &[0.0, 0.0]);
            assert!(value.is_nan() && slopes[0].is_nan(), "{loss:?}");
            let objective = Objective::Pointwise(loss, Values::Double(&[0.0, 0.0]));
            let (value, slopes) = pullback(objective, 1, &[f64::NAN, 0.0]);
            assert!(value.is_nan() && slopes[0].is_nan(), "{loss:?}");
        }
        assert!(crossentropy(1, &[f32::NAN, 0.0], Target::Classes(&[1])).0.is_nan());
        for (z, class) in [(vec![f64::NAN, 0.0], 1), (vec![f64::NAN; 3], 0), (vec![f64::NAN], 0)] {
            let (value, slopes) = pullback(Objective::Crossentropy(Target::Classes(&[class])), 1, &z);
            assert!(value.is_nan() && slopes.iter().all(|s| s.is_nan()), "{z:?}");
        }
    }

    #[test]
    fn an_empty_batch_has_the_loss_zero() {
        for &loss in Pointwise::ALL {
            assert_eq!(pointwise(loss, 0, &[], &[]).0, 0.0);
        }
        assert_eq!(crossentropy(0, &[], Target::Classes(&[])).0, 0.0);
    }

    #[test]
    fn the_sum_takes_every_element_once() {
        for len in (0..40).chain([BLOCK - 1, BLOCK, 3 * BLOCK + 5, PARALLEL.asleep + 3]) {
            let (yhat, y) = (vec![2.0; len], vec![1.0; len]);
            assert_eq!(pointwise(Pointwise::Mae, 1, &yhat, &y).0, len as f64);
            let batch = len;
            let classes = vec![0; batch];
            let equal = crossentropy(batch, &yhat, Target::Classes(&classes));
            assert_eq!(equal.0, 0.0);
            let (yhat, y) = (vec![2.0; len], vec![1.0; len]);
            assert_eq!(pullback(Objective::Pointwise(Pointwise::Mae, Values::Double(&y)), 1, &yhat).0, len as f64);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (batch, n) = (PARALLEL.asleep / 7 + 3, 7);
        let yhat: Vec<f32> = (0..batch * n).map(|i| (i * 7919 % 1009) as f32 * 0.01 - 5.0).collect();
        let y: Vec<f32> = (0..batch * n).map(|i| (i * 104_729 % 997) as f32 / 997.0).collect();
        let classes: Vec<usize> = (0..batch).map(|i| i % n).collect();
        let all = || {
            let mut found: Vec<_> = Pointwise::ALL.iter().map(|&loss| pointwise(loss, batch, &yhat, &y)).collect();
            found.push(crossentropy(batch, &yhat, Target::Classes(&classes)));
            let wide: Vec<f64> = y.iter().map(|&y| y.into()).collect();
            found.push(pullback(Objective::Pointwise(Pointwise::Mse, Values::Double(&wide)), batch, &yhat));
            found
        };
        let before = pool::threads();
        pool::set_threads(1);
        let alone = all();
        for threads in [2, 5] {
            pool::set_threads(threads);
            assert!(all() == alone, "{threads}");
        }
        pool::set_threads(before);
    }
}
