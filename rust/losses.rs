//! Losses: the mean over the batch of the sum over outputs, and the gradient by the prediction.
//!
//! Elements are float32, the arithmetic is float64 with `libm` (whose bits are the same on every platform), and sums
//! are taken in fixed lanes: the same arguments give the same bits everywhere. An empty batch has the loss 0.

/// Partial sums, so that adding up does not wait for the addition before.
const LANES: usize = 8;

/// A loss that looks at one prediction and its target at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointwise {
    /// `(ŷ - y)²`.
    Mse,
    /// `|ŷ - y|`.
    Mae,
    /// `(ŷ - y)²/2` where `|ŷ - y| <= 1`, else `|ŷ - y| - 1/2`.
    Huber,
    /// `-y log σ(ŷ) - (1 - y) log(1 - σ(ŷ))`, `σ(ŷ) = 1/(1 + exp(-ŷ))`, for targets in [0, 1].
    BinaryCrossentropy,
}

impl Pointwise {
    /// The loss of one element.
    #[inline(always)]
    fn value(self, yhat: f64, y: f64) -> f64 {
        let distance = (yhat - y).abs();
        match self {
            Self::Mse => distance * distance,
            Self::Mae => distance,
            Self::Huber if distance <= 1.0 => 0.5 * distance * distance,
            Self::Huber => distance - 0.5,
            // The same as the definition, without the logarithm of a sigmoid that has become 0.
            Self::BinaryCrossentropy => positive_part(yhat) - yhat * y + libm::log1p(libm::exp(-yhat.abs())),
        }
    }

    /// Its derivative by the prediction.
    #[inline(always)]
    fn slope(self, yhat: f64, y: f64) -> f64 {
        let difference = yhat - y;
        match self {
            Self::Mse => 2.0 * difference,
            Self::Mae if difference == 0.0 => 0.0,
            Self::Mae => difference.signum(),
            Self::Huber => difference.clamp(-1.0, 1.0),
            Self::BinaryCrossentropy => sigmoid(yhat) - y,
        }
    }

    /// The loss of `yhat` against `y`, both `[batch, n]`.
    #[must_use]
    pub fn loss(self, batch: usize, yhat: &[f32], y: &[f32]) -> f64 {
        // Naming the variant in each arm takes the choice out of the loop, so that the simple ones vectorise.
        let sum = match self {
            Self::Mse => total(yhat, y, |yhat, y| Self::Mse.value(yhat, y)),
            Self::Mae => total(yhat, y, |yhat, y| Self::Mae.value(yhat, y)),
            _ => total(yhat, y, |yhat, y| self.value(yhat, y)),
        };
        mean(sum, batch)
    }

    /// Writes the gradient of [`Self::loss`] by `yhat`.
    pub fn gradient(self, batch: usize, yhat: &[f32], y: &[f32], dyhat: &mut [f32]) {
        for ((out, &yhat), &y) in dyhat.iter_mut().zip(yhat).zip(y) {
            *out = mean(self.slope(f64::from(yhat), f64::from(y)), batch) as f32;
        }
    }
}

/// The sum of `value` over pairs of elements, in fixed lanes.
#[inline]
fn total(yhat: &[f32], y: &[f32], value: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (yhats, ys) = (yhat.chunks_exact(LANES), y.chunks_exact(LANES));
    for (lane, (&yhat, &y)) in lanes.iter_mut().zip(yhats.remainder().iter().zip(ys.remainder())) {
        *lane = value(f64::from(yhat), f64::from(y));
    }
    for (yhat, y) in yhats.zip(ys) {
        for lane in 0..LANES {
            lanes[lane] += value(f64::from(yhat[lane]), f64::from(y[lane]));
        }
    }
    lanes.iter().sum()
}

/// What a row of logits is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// One class number a row, `[batch]`.
    Classes(&'a [usize]),
    /// One probability a class, `[batch, n]`: one-hot rows, or softened ones.
    Rows(&'a [f32]),
}

impl Target<'_> {
    /// The probability of class `k` in row `i` of `n` classes.
    fn probability(self, i: usize, k: usize, n: usize) -> f64 {
        match self {
            Self::Classes(classes) => f64::from(u8::from(classes[i] == k)),
            Self::Rows(rows) => f64::from(rows[i * n + k]),
        }
    }
}

/// The mean over the rows of `-sum over k of p[k] log softmax(logits)[k]`, for `logits[batch, n]`.
#[must_use]
pub fn crossentropy(n: usize, logits: &[f32], target: Target<'_>) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let mut sum = 0.0;
    for (i, row) in logits.chunks_exact(n).enumerate() {
        let normaliser = log_sum_exp(row);
        for (k, &logit) in row.iter().enumerate() {
            let probability = target.probability(i, k, n);
            // A class that is ruled out (logit -inf) and not the target costs nothing, where 0 times infinity is NaN.
            if probability != 0.0 {
                sum += probability * (normaliser - f64::from(logit));
            }
        }
    }
    mean(sum, logits.len() / n)
}

/// Writes the gradient of [`crossentropy`] by the logits: `(softmax(logits) - p) / batch`.
pub fn crossentropy_gradient(n: usize, logits: &[f32], target: Target<'_>, dlogits: &mut [f32]) {
    if n == 0 {
        return;
    }
    let batch = logits.len() / n;
    for (i, (row, out)) in logits.chunks_exact(n).zip(dlogits.chunks_exact_mut(n)).enumerate() {
        let normaliser = log_sum_exp(row);
        for (k, (&logit, value)) in row.iter().zip(out).enumerate() {
            let softmax = libm::exp(f64::from(logit) - normaliser);
            *value = mean(softmax - target.probability(i, k, n), batch) as f32;
        }
    }
}

/// `log(sum(exp(row)))`, with the largest term taken out so that none overflows.
fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = row.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(f64::from(logit)));
    largest + libm::log(row.iter().map(|&logit| libm::exp(f64::from(logit) - largest)).sum())
}

fn mean(sum: f64, batch: usize) -> f64 {
    if batch == 0 { 0.0 } else { sum / batch as f64 }
}

/// `max(value, 0)`, with NaN kept.
fn positive_part(value: f64) -> f64 {
    if value < 0.0 { 0.0 } else { value }
}

fn sigmoid(value: f64) -> f64 {
    // exp of a number that is not positive cannot overflow.
    let decay = libm::exp(-value.abs());
    if value < 0.0 { decay / (1.0 + decay) } else { 1.0 / (1.0 + decay) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Pointwise; 4] = [Pointwise::Mse, Pointwise::Mae, Pointwise::Huber, Pointwise::BinaryCrossentropy];

    #[test]
    fn values_by_hand() {
        let (yhat, y) = ([0.5, -2.0, 3.0, 1.0], [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(Pointwise::Mse.loss(2, &yhat, &y), (0.25 + 4.0 + 4.0) / 2.0);
        assert_eq!(Pointwise::Mae.loss(2, &yhat, &y), 4.5 / 2.0);
        assert_eq!(Pointwise::Huber.loss(2, &yhat, &y), (0.125 + 1.5 + 1.5) / 2.0);
        let two_classes = crossentropy(2, &[0.0, 0.0, 1.0, 1.0], Target::Classes(&[0, 1]));
        assert!((two_classes - 2.0_f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn slopes_are_the_derivatives() {
        for loss in ALL {
            for yhat in [-3.0, -0.7, 0.2, 0.9, 2.5] {
                let (y, h) = (0.4, 1e-6);
                let finite = (loss.value(yhat + h, y) - loss.value(yhat - h, y)) / (2.0 * h);
                assert!((loss.slope(yhat, y) - finite).abs() < 1e-8, "{loss:?} at {yhat}");
            }
        }
    }

    #[test]
    fn logits_of_a_thousand_neither_overflow_nor_vanish() {
        let yhat = [1000.0, -1000.0, 1000.0, -1000.0];
        assert_eq!(Pointwise::BinaryCrossentropy.loss(1, &yhat, &[1.0, 0.0, 0.0, 1.0]), 2000.0);
        let mut slopes = [f32::NAN; 4];
        Pointwise::BinaryCrossentropy.gradient(1, &yhat, &[1.0, 0.0, 0.0, 1.0], &mut slopes);
        assert_eq!(slopes, [0.0, 0.0, 1.0, -1.0]);
        assert_eq!(crossentropy(4, &yhat, Target::Classes(&[1])), 2000.0 + 2.0_f64.ln());
        crossentropy_gradient(4, &yhat, Target::Classes(&[1]), &mut slopes);
        assert_eq!(slopes, [0.5, -1.0, 0.5, 0.0]);
    }

    #[test]
    fn class_numbers_and_one_hot_rows_are_the_same_target() {
        let logits = [0.1, -2.0, 0.7, f32::NEG_INFINITY, 1.5, 0.0];
        let (classes, rows) = (Target::Classes(&[2, 1]), Target::Rows(&[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]));
        assert_eq!(crossentropy(3, &logits, classes), crossentropy(3, &logits, rows));
        assert!(crossentropy(3, &logits, classes).is_finite());
        let (mut by_class, mut by_row) = ([0.0; 6], [0.0; 6]);
        crossentropy_gradient(3, &logits, classes, &mut by_class);
        crossentropy_gradient(3, &logits, rows, &mut by_row);
        assert_eq!(by_class, by_row);
        assert!(by_row[..3].iter().sum::<f32>().abs() < 1e-7);
    }

    #[test]
    fn nan_is_never_hidden() {
        for loss in ALL {
            assert!(loss.loss(1, &[f32::NAN, 0.0], &[0.0, 0.0]).is_nan(), "{loss:?}");
            let mut slopes = [0.0; 2];
            loss.gradient(1, &[f32::NAN, 0.0], &[0.0, 0.0], &mut slopes);
            assert!(slopes[0].is_nan(), "{loss:?}");
        }
        assert!(crossentropy(2, &[f32::NAN, 0.0], Target::Classes(&[1])).is_nan());
    }

    #[test]
    fn an_empty_batch_has_the_loss_zero() {
        for loss in ALL {
            assert_eq!(loss.loss(0, &[], &[]), 0.0);
        }
        assert_eq!(crossentropy(3, &[], Target::Classes(&[])), 0.0);
    }

    #[test]
    fn the_sum_takes_every_element_once() {
        for len in 0..40 {
            let (yhat, y) = (vec![2.0; len], vec![1.0; len]);
            assert_eq!(Pointwise::Mae.loss(1, &yhat, &y), len as f64);
        }
    }
}
