//! The numbers of targets, and which arithmetic numbers of two types get.

use crate::loops::dtype::Compute;
use crate::loops::element::Real;
use std::ops::Range;

/// The numbers of targets.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// float32.
    Single(&'a [f32]),
    /// float64.
    Double(&'a [f64]),
}

impl Values<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Double(values) => values.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Those in `range`.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Single(values) => Self::Single(&values[range]),
            Self::Double(values) => Self::Double(&values[range]),
        }
    }
}

/// Whether numbers of these types are both float32.
pub(super) const fn is_single<A: Real, B: Real>() -> bool {
    matches!((A::COMPUTE, B::COMPUTE), (Compute::F32, Compute::F32))
}
