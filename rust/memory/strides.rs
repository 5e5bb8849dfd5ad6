//! Whether strided arrays share bytes: exactly, and in memory that does not grow with them.
//!
//! An element lies at the sum of a multiple of each stride. So two arrays share a byte where `Σ factor · x = target` has a
//! solution in whole numbers `0 <= x <= most`, one for each axis of both. It is looked for from the largest factor down: what
//! the rest can reach, and the greatest number that divides all of the rest, leave few multiples of each to try, and none
//! of the last two. In theory a search may still take as long as there are elements, so it can be interrupted.

use smallvec::SmallVec;

/// Where the elements of an array lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// The address of the first byte.
    pub low: usize,
    /// How many bytes lie together in each place.
    pub size: usize,
    /// The axes along which places follow each other, by falling distance: that, and how many steps there are.
    pub axes: SmallVec<[(usize, usize); 4]>,
}

impl Strided {
    /// An array whose first element lies at `data`; `None` if it has no bytes.
    #[must_use]
    pub fn new(data: usize, size: usize, shape: &[isize], strides: &[isize]) -> Option<Self> {
        if size == 0 || shape.contains(&0) {
            return None;
        }
        let (mut low, mut size, mut axes) = (data, size, SmallVec::<[(usize, usize); 4]>::new());
        for (&n, &stride) in shape.iter().zip(strides).filter(|(n, _)| **n > 1) {
            let steps = n as usize - 1;
            if stride < 0 {
                low = low.wrapping_sub(stride.unsigned_abs().wrapping_mul(steps));
            }
            axes.push((stride.unsigned_abs(), steps));
        }
        axes.sort_unstable();
        // What follows without a gap becomes one place, or one axis.
        let mut joined = SmallVec::<[(usize, usize); 4]>::new();
        for (stride, steps) in axes {
            let whole = joined.last().map(|&(s, k): &(usize, usize)| (s, s.saturating_mul(k + 1)));
            match whole {
                None if stride == size => size *= steps + 1,
                Some((s, reach)) if s > 0 && stride == reach => {
                    let last = joined.len() - 1;
                    joined[last].1 = (joined[last].1 + 1) * (steps + 1) - 1;
                }
                _ => joined.push((stride, steps)),
            }
        }
        joined.reverse();
        Some(Self { low, size, axes: joined })
    }

    /// The address behind the last byte.
    #[must_use]
    pub fn high(&self) -> usize {
        self.low.saturating_add(self.extent(|_| true))
    }

    /// The bytes from the first to the last, along axes whose stride is `wanted`.
    #[must_use]
    pub fn extent(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let axes = self.axes.iter().filter(|(stride, _)| wanted(*stride));
        axes.fold(self.size, |sum, (stride, steps)| sum.saturating_add(stride.saturating_mul(*steps)))
    }

    /// Whether two places share a byte.
    #[must_use]
    pub fn overlaps_itself(&self) -> Search {
        let places = self.axes.iter().fold(self.size, |product, (_, steps)| product.saturating_mul(steps + 1));
        if places > self.extent(|_| true) || self.axes.iter().any(|(stride, _)| *stride == 0) {
            return Search { equations: vec![Equation::new(&[], 0, 0)], levels: Vec::new() };
        }
        // Two places differ by some steps along each axis. The axis of the largest stride along which they do at all is
        // each of them in turn; along it they differ by at least one step forward.
        let slack = 2 * (self.size as i128 - 1);
        let equation = |(i, &(stride, steps)): (usize, &(usize, usize))| {
            let mut terms = vec![(stride as i128, steps as i128 - 1)];
            terms.extend(self.axes[i + 1..].iter().map(|&(s, k)| (s as i128, 2 * k as i128)));
            let centre: i128 = self.axes[i + 1..].iter().map(|&(s, k)| s as i128 * k as i128).sum();
            Equation::new(&terms, slack, centre + slack / 2 - stride as i128)
        };
        Search { equations: self.axes.iter().enumerate().map(equation).collect(), levels: Vec::new() }
    }

    /// Whether a byte of one is a byte of the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> Search {
        let terms: Vec<_> = self.axes.iter().chain(&other.axes).map(|&(s, k)| (s as i128, k as i128)).collect();
        // Places of the other one are counted from its last one backwards, bytes within one from the last byte.
        let last = other.low as i128 + other.extent(|_| true) as i128 - 1;
        let slack = self.size as i128 + other.size as i128 - 2;
        Search { equations: vec![Equation::new(&terms, slack, last - self.low as i128)], levels: Vec::new() }
    }
}

/// `Σ factor · x = target` in whole numbers `0 <= x <= most`.
#[derive(Debug)]
struct Equation {
    terms: Vec<Term>,
    target: i128,
}

#[derive(Debug)]
struct Term {
    factor: i128,
    most: i128,
    /// The greatest sum of this term and those behind it.
    reach: i128,
    /// The greatest number that divides the factors of this term and those behind it.
    divisor: i128,
    /// Which `x` leave to the terms behind this one what their divisor divides: those at distances of `every` from `rest ·
    /// inverse` on, where
    /// `rest` is what is left to this term and those behind it, over `divisor`.
    every: i128,
    inverse: i128,
}

impl Equation {
    /// One of these factors and bounds, and a last `x` up to `slack` whose factor is 1.
    fn new(terms: &[(i128, i128)], slack: i128, target: i128) -> Self {
        let common = terms.iter().fold(0, |g, &(factor, _)| gcd(g, factor)).max(1);
        // Only every `common`-th of the last one can be part of a solution: all is divided by it.
        let first = target.rem_euclid(common);
        if first > slack {
            return Self { terms: Vec::new(), target: -1 };
        }
        let mut terms: Vec<_> = terms.iter().map(|&(factor, most)| (factor / common, most)).collect();
        terms.push((1, (slack - first) / common));
        terms.retain(|&(factor, most)| factor > 0 && most > 0);
        terms.sort_unstable_by(|a, b| b.cmp(a));
        terms.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 += if same { later.1 } else { 0 };
            same
        });
        let mut made: Vec<Term> = Vec::with_capacity(terms.len());
        let (mut reach, mut divisor) = (0, 0);
        for &(factor, most) in terms.iter().rev() {
            let common = gcd(factor, divisor);
            let every = if divisor == 0 { 1 } else { divisor / common };
            let inverse = inverse(factor / common, every);
            reach += factor * most;
            divisor = common;
            made.push(Term { factor, most, reach, divisor, every, inverse });
        }
        made.reverse();
        Self { terms: made, target: (target - first) / common }
    }

    /// What is to be tried for term `k` where `rest` is left to it and those behind it.
    fn enter(&self, k: usize, rest: i128) -> Entered {
        let Some(term) = self.terms.get(k) else {
            return if rest == 0 { Entered::Solved } else { Entered::Nothing };
        };
        if rest < 0 || rest > term.reach || rest % term.divisor != 0 {
            return Entered::Nothing;
        }
        let Some(behind) = self.terms.get(k + 1) else { return Entered::Solved };
        let least = if rest > behind.reach { (rest - behind.reach + term.factor - 1) / term.factor } else { 0 };
        let (last, step) = (term.most.min(rest / term.factor), term.every);
        let possible = (rest / term.divisor % step * term.inverse).rem_euclid(step);
        let next = least + (possible - least).rem_euclid(step);
        if next > last {
            Entered::Nothing
        } else if k + 2 == self.terms.len() {
            Entered::Solved // the last one reaches whatever is left, and divides it
        } else {
            Entered::Level(Level { next, last, rest })
        }
    }
}

enum Entered {
    Nothing,
    Solved,
    Level(Level),
}

/// What is still to be tried for a term.
#[derive(Debug)]
struct Level {
    next: i128,
    last: i128,
    rest: i128,
}

/// The search for a solution of one of several equations.
#[derive(Debug)]
pub struct Search {
    equations: Vec<Equation>,
    levels: Vec<Level>,
}

impl Search {
    /// Goes on for this number of trials. Whether there is a solution; `None` where it is not known yet.
    pub fn advance(&mut self, trials: usize) -> Option<bool> {
        for _ in 0..trials {
            let Some(equation) = self.equations.last() else { return Some(false) };
            let entered = match (self.levels.len(), self.levels.last_mut()) {
                (_, None) => equation.enter(0, equation.target),
                (_, Some(level)) if level.next > level.last => Entered::Nothing,
                (k, Some(level)) => {
                    let term = &equation.terms[k - 1];
                    let rest = level.rest - level.next * term.factor;
                    level.next += term.every;
                    match equation.enter(k, rest) {
                        Entered::Nothing => continue,
                        found => found,
                    }
                }
            };
            match entered {
                Entered::Solved => return Some(true),
                Entered::Level(level) => self.levels.push(level),
                Entered::Nothing => {
                    self.levels.pop();
                    if self.levels.is_empty() {
                        self.equations.pop();
                    }
                }
            }
        }
        None
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The number whose product with `a` is 1 more than a multiple of `n`; `a` and `n` have no common divisor.
fn inverse(a: i128, n: i128) -> i128 {
    let (mut r, mut s) = ((n, a % n), (0, 1));
    while r.1 != 0 {
        let q = r.0 / r.1;
        (r, s) = ((r.1, r.0 - q * r.1), (s.1, s.0 - q * s.1));
    }
    s.0.rem_euclid(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn answer(mut search: Search) -> bool {
        std::iter::repeat_with(|| search.advance(3)).find_map(|answer| answer).unwrap()
    }

    /// The bytes of an array one by one, and whether one comes twice.
    fn bytes(data: usize, size: usize, shape: &[isize], strides: &[isize]) -> (HashSet<isize>, bool) {
        let mut starts = vec![data as isize];
        for (&n, &stride) in shape.iter().zip(strides) {
            starts = starts.iter().flat_map(|start| (0..n).map(move |i| start + i * stride)).collect();
        }
        let all: Vec<_> = starts.iter().flat_map(|start| *start..*start + size as isize).collect();
        let set: HashSet<_> = all.iter().copied().collect();
        let twice = set.len() < all.len();
        (set, twice)
    }

    type Drawn = (usize, usize, Vec<isize>, Vec<isize>);

    fn arrays(unit: isize) -> impl Strategy<Value = Drawn> {
        let axes = proptest::collection::vec((1..6_isize, (-40..40_isize).prop_map(move |s| s * unit)), 0..5);
        let size = if unit == 1 { (1..9_usize).boxed() } else { Just(unit as usize).boxed() };
        (10_000..10_200_usize, size, axes).prop_map(move |(data, size, axes)| {
            let (shape, strides) = axes.into_iter().unzip();
            (data / unit as usize * unit as usize, size, shape, strides)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn as_byte_by_byte((a, b) in prop_oneof![(arrays(1), arrays(1)), (arrays(8), arrays(8)), (arrays(8), arrays(1))]) {
            let strided = |(data, size, shape, strides): &Drawn| Strided::new(*data, *size, shape, strides).unwrap();
            let listed = |(data, size, shape, strides): &Drawn| bytes(*data, *size, shape, strides);
            let (x, y) = (strided(&a), strided(&b));
            let ((all, twice), (others, _)) = (listed(&a), listed(&b));
            prop_assert_eq!(answer(x.overlaps_itself()), twice);
            prop_assert_eq!(answer(x.overlaps(&y)), !all.is_disjoint(&others));
            prop_assert_eq!(answer(y.overlaps(&x)), !all.is_disjoint(&others));
            prop_assert_eq!(x.low as isize, *all.iter().min().unwrap());
            prop_assert_eq!(x.high() as isize, *all.iter().max().unwrap() + 1);
        }
    }

    #[test]
    fn what_has_no_gaps_is_one_place() {
        let whole = Strided::new(64, 8, &[4, 3, 2], &[48, 16, 8]).unwrap();
        assert_eq!((whole.size, whole.axes.len()), (192, 0));
        let columns = Strided::new(64, 8, &[4, 3, 2], &[480, 160, 8]).unwrap();
        assert_eq!((columns.size, &columns.axes[..]), (16, &[(160, 11)][..]));
        assert_eq!(Strided::new(64, 8, &[4, 0], &[8, 8]), None);
    }

    #[test]
    fn distinct_elements_whose_strides_do_not_nest() {
        // 40 elements, no two of which are one, in three axes.
        let apart = Strided::new(0, 8, &[2, 4, 5], &[8, 32, 80]).unwrap();
        assert!(!answer(apart.overlaps_itself()));
        // As many as no list could hold.
        let large = Strided::new(0, 8, &[1 << 20, 1 << 20, 1 << 10], &[1 << 33, 1 << 13, 8 * 1001]).unwrap();
        assert!(!answer(large.overlaps_itself()));
    }
}
