//! The order in which the elements of a parameter, and of its state, lie.

use super::fields::elements;
use super::view::View;

/// The shape of an array and the order in which its elements lie, without gaps.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    /// The lengths of the dimensions.
    pub shape: Vec<isize>,
    /// The distances between neighbours, in elements.
    pub strides: Vec<isize>,
    /// The number of elements.
    pub len: usize,
    /// Whether that is C order.
    pub c_order: bool,
}

impl Layout {
    /// The gapless layout of this shape in C order.
    pub fn row_major(shape: &[isize]) -> Self {
        Self::in_order(shape, 0..shape.len())
    }

    /// The layout of a gapless copy of `view` that keeps its order: C, Fortran, or any other.
    pub fn of(view: &View) -> Self {
        let nd = view.shape.len();
        let mut axes: Vec<usize> = (0..nd).collect();
        // Stable, so that C order wins where strides are equal.
        axes.sort_by_key(|&a| {
            std::cmp::Reverse(if view.shape[a] == 1 { usize::MAX } else { view.strides[a].unsigned_abs() })
        });
        let lies = |layout: &Self| layout.matches(&view.strides, view.itemsize, view.c_order);
        let fortran = Self::in_order(&view.shape, (0..nd).rev());
        if lies(&Self::in_order(&view.shape, 0..nd)) {
            axes.sort_unstable();
        } else if lies(&fortran) {
            return fortran;
        }
        Self::in_order(&view.shape, axes.into_iter())
    }

    /// A layout from outside, if it is gapless.
    pub fn checked(shape: Vec<isize>, strides: Vec<isize>) -> Option<Self> {
        if shape.len() != strides.len() || shape.iter().any(|&n| n < 0) {
            return None;
        }
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse((strides[a], shape[a])));
        shape.iter().try_fold(1_isize, |a, &n| a.checked_mul(n.max(1)))?;
        let layout = Self::in_order(&shape, axes.into_iter());
        let same = (0..shape.len()).all(|a| shape[a] <= 1 || strides[a] == layout.strides[a]);
        (same || layout.len == 0).then_some(layout)
    }

    /// The gapless layout in which the last of `axes` varies fastest.
    fn in_order(shape: &[isize], axes: impl DoubleEndedIterator<Item = usize>) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut step = 1;
        for a in axes.rev() {
            strides[a] = step;
            step = isize::wrapping_mul(step, shape[a].max(1)); // which wraps for empty arrays alone
        }
        let mut c_step = 1;
        let c_order = (0..shape.len()).rev().all(|a| {
            let same = shape[a] <= 1 || strides[a] == c_step;
            c_step = isize::wrapping_mul(c_step, shape[a].max(1));
            same
        });
        Self { shape: shape.to_vec(), strides, len: elements(shape), c_order }
    }

    /// Whether `shape` is this one: a loop, since calling `memcmp` takes longer than comparing two or three lengths.
    #[inline]
    pub fn has_shape(&self, shape: &[isize]) -> bool {
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(|(a, b)| a == b)
    }

    /// Whether elements of `size` bytes in an array of this shape lie just so, at these distances in bytes. `c_order`: whether
    /// NumPy says that they lie gapless in C order.
    #[inline]
    pub fn matches(&self, strides: &[isize], size: usize, c_order: bool) -> bool {
        if self.len == 0 || self.c_order && c_order {
            return true; // the latter without a look at the strides
        }
        (0..self.shape.len()).all(|a| self.shape[a] <= 1 || strides[a] == self.strides[a].wrapping_mul(size as isize))
    }
}
