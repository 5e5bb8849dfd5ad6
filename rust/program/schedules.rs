//! Hyper-parameters that change with the step: one definition for the update, for plots and for calls from Python.
//!
//! A step counts from 0: the first update uses `at(0)`. Only `+ - * /` and `libm`, whose bits are the same on every
//! platform. Every value is finite, and lies between the values that a schedule was given.

use std::f64::consts::PI;
use std::sync::Arc;

/// A number for every step. Its lists may be long, and clones share them.
#[expect(missing_docs, reason = "the fields are those of the classes in Python, which say what they mean")]
#[derive(Clone, PartialEq, Debug)]
pub enum Schedule {
    /// `value`, always.
    Constant { value: f64 },
    /// `start · factor^⌊step/every⌋`.
    Step { start: f64, factor: f64, every: u64 },
    /// `start · factor^(step/every)`, not beyond `limit`.
    Exponential { start: f64, factor: f64, every: u64, limit: Option<f64> },
    /// From `start` to `end` in `steps` steps, by a power of what is left of them.
    Polynomial { start: f64, steps: u64, end: f64, power: f64 },
    /// From `start` to `end` in `steps` steps, along half a wave.
    Cosine { start: f64, steps: u64, end: f64 },
    /// From `start` to the first value of `schedule` in `steps` steps, in a line; then `schedule`.
    Warmup { schedule: Box<Schedule>, steps: u64, start: f64 },
    /// Up to `peak` and down again in `steps` steps, along half a wave each.
    OneCycle { peak: f64, steps: u64, pct_start: f64, div_factor: f64, final_div_factor: f64 },
    /// The value of the interval between `boundaries` in which the step lies.
    Piecewise { values: Arc<Vec<f64>>, boundaries: Arc<Vec<u64>> },
    /// The schedule of that interval, its steps counted from the boundary.
    Sequence { schedules: Arc<Vec<Schedule>>, boundaries: Arc<Vec<u64>> },
}

impl Schedule {
    /// The value at `step`.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        match self {
            &Self::Constant { value } => value,
            &Self::Step { start, factor, every } => scaled(start, factor, (step / every.max(1)) as f64),
            &Self::Exponential { start, factor, every, limit } => {
                let value = scaled(start, factor, step as f64 / every as f64);
                limit.map_or(value, |limit| between(value, start, limit))
            }
            &Self::Polynomial { start, steps, end, power } => mix(start, end, libm::pow(left(step, steps), power)),
            &Self::Cosine { start, steps, end } => wave(start, end, step, steps),
            Self::Warmup { schedule, steps, start } => {
                if step < *steps {
                    mix(*start, schedule.at(0), left(step, *steps))
                } else {
                    schedule.at(step - steps)
                }
            }
            &Self::OneCycle { peak, steps, pct_start, div_factor, final_div_factor } => {
                let start = peak / div_factor;
                let rise = ((pct_start * steps as f64) as u64).min(steps.saturating_sub(1));
                if step < rise {
                    wave(start, peak, step, rise)
                } else {
                    wave(peak, start / final_div_factor, step - rise, steps - rise)
                }
            }
            Self::Piecewise { values, boundaries } => values[interval(boundaries, step).0],
            Self::Sequence { schedules, boundaries } => {
                let (i, first) = interval(boundaries, step);
                schedules[i].at(step.saturating_sub(first))
            }
        }
    }
}

/// `start · factor^n`, at most the greatest number there is.
fn scaled(start: f64, factor: f64, n: f64) -> f64 {
    if start == 0.0 { start } else { (start * libm::pow(factor, n)).clamp(f64::MIN, f64::MAX) }
}

/// The share of `steps` that is left at `step`: from 1 to 0, which it keeps.
fn left(step: u64, steps: u64) -> f64 {
    steps.saturating_sub(step) as f64 / steps.max(1) as f64
}

/// From `start` where `share` is 1 to `end` where it is 0, exactly in both, and between them else.
fn mix(start: f64, end: f64, share: f64) -> f64 {
    if share == 1.0 {
        return start;
    }
    if share == 0.0 {
        return end; // half of the least number is none
    }
    // Halves, since the difference of two numbers may overflow.
    let value = 2.0 * (end * 0.5 + (start * 0.5 - end * 0.5) * share);
    between(value, start, end)
}

/// `value`, not beyond `a` or `b`. `clamp` panics where both are NaN, as a field that is set past its check may be.
fn between(value: f64, a: f64, b: f64) -> f64 {
    let (low, high) = (a.min(b), a.max(b));
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

/// From `start` at step 0 to `end` at `steps` and after, along half a wave.
fn wave(start: f64, end: f64, step: u64, steps: u64) -> f64 {
    if step >= steps {
        return end;
    }
    mix(start, end, 0.5 * (1.0 + libm::cos(PI * (step as f64 / steps as f64))))
}

/// Which of the intervals between `boundaries` `step` lies in, and its first step.
fn interval(boundaries: &[u64], step: u64) -> (usize, u64) {
    let i = boundaries.partition_point(|&b| b <= step);
    (i, if i == 0 { 0 } else { boundaries[i - 1] })
}

#[cfg(test)]
mod tests {
    use super::{Schedule, Schedule::*};
    use proptest::prelude::*;

    fn boxed(schedule: Schedule) -> Box<Schedule> {
        Box::new(schedule)
    }

    #[test]
    fn ends_are_exact_and_kept() {
        let cosine = Cosine { start: 0.3, steps: 7, end: 0.1 };
        let polynomial = Polynomial { start: 0.3, steps: 7, end: 0.1, power: 2.0 };
        for schedule in [&cosine, &polynomial] {
            assert_eq!(schedule.at(0), 0.3);
            for step in [7, 8, u64::MAX] {
                assert_eq!(schedule.at(step), 0.1);
            }
        }
        let warm = Warmup { schedule: boxed(cosine), steps: 3, start: 0.0 };
        assert_eq!((warm.at(0), warm.at(3), warm.at(10)), (0.0, 0.3, 0.1));
    }

    #[test]
    fn a_cycle_starts_peaks_and_ends_where_it_says() {
        let cycle = OneCycle { peak: 1.0, steps: 10, pct_start: 0.3, div_factor: 4.0, final_div_factor: 8.0 };
        assert_eq!((cycle.at(0), cycle.at(3), cycle.at(10)), (0.25, 1.0, 0.25 / 8.0));
        let one = OneCycle { peak: 1.0, steps: 1, pct_start: 0.9, div_factor: 4.0, final_div_factor: 8.0 };
        assert_eq!((one.at(0), one.at(1)), (1.0, 0.25 / 8.0));
    }

    #[test]
    fn boundaries_belong_to_what_follows() {
        let pieces = Piecewise { values: vec![3.0, 2.0, 1.0].into(), boundaries: vec![5, 6].into() };
        assert_eq!([0, 4, 5, 6, 99].map(|t| pieces.at(t)), [3.0, 3.0, 2.0, 1.0, 1.0]);
        let halves = Step { start: 8.0, factor: 0.5, every: 2 };
        let parts = Sequence { schedules: vec![halves.clone(), halves].into(), boundaries: vec![4].into() };
        assert_eq!([0, 2, 3, 4, 6].map(|t| parts.at(t)), [8.0, 4.0, 4.0, 8.0, 4.0]);
    }

    #[test]
    fn growth_ends_at_the_greatest_number() {
        assert_eq!(Step { start: 2.0, factor: 10.0, every: 1 }.at(u64::MAX), f64::MAX);
        assert_eq!(Step { start: -2.0, factor: 10.0, every: 1 }.at(u64::MAX), f64::MIN);
        assert_eq!(Step { start: 0.0, factor: 10.0, every: 1 }.at(u64::MAX), 0.0);
        assert_eq!(Exponential { start: 1.0, factor: 2.0, every: 1, limit: Some(5.0) }.at(3), 5.0);
        assert_eq!(Exponential { start: 1.0, factor: 0.5, every: 1, limit: Some(0.25) }.at(u64::MAX), 0.25);
    }

    proptest! {
        #[test]
        fn what_goes_from_one_value_to_another_stays_between(
            start in -1e300..1e300_f64, end in -1e300..1e300_f64, steps in 1..10_000_u64, step in 0..20_000_u64,
            power in 0.01..10.0_f64,
        ) {
            for schedule in [Cosine { start, steps, end }, Polynomial { start, steps, end, power }] {
                let value = schedule.at(step);
                prop_assert!(start.min(end) <= value && value <= start.max(end), "{schedule:?}: {value}");
            }
        }
    }
}
