//! Products of matrices, `out = start + a b`, added up in one order whatever the shape, the threads and the instruction
//! set.

use super::kernel::{Start, Tile};

/// Terms that are added up in registers before they join the sum: part of the result's definition.
pub const BLOCK: usize = 256;
/// One product, all strides in elements. `b` or its transpose is contiguous along rows, `a` likewise, `out` is.
#[derive(Clone, Copy)]
pub struct Product {
    /// Rows of `a` and `out`.
    pub m: usize,
    /// Columns of `b` and `out`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// `a[0, 0]`.
    pub a: *const f32,
    /// From row to row of `a`.
    pub a_row: usize,
    /// From column to column of `a`.
    pub a_col: usize,
    /// `b[0, 0]`.
    pub b: *const f32,
    /// From row to row of `b`.
    pub b_row: usize,
    /// From column to column of `b`.
    pub b_col: usize,
    /// What the sums start with: a number for every column, or nothing.
    pub bias: Option<*const f32>,
    /// From column to column of the bias: 1, or 0 in a product turned round.
    pub bias_col: usize,
    /// `out[0, 0]`.
    pub out: *mut f32,
    /// From row to row of `out`.
    pub out_row: usize,
    /// In which order terms are added up: a property of the whole product, which its parts share.
    pub order: SumOrder,
}

/// The order of a sum.
#[derive(Clone, Copy)]
pub enum SumOrder {
    /// Term by term, in blocks of [`BLOCK`].
    Tiles,
    /// In lanes, for one row times contiguous columns.
    Dots,
}

// SAFETY: plain pointers; whoever runs a product promises that they are valid and that no other thread writes there.
unsafe impl Sync for Product {}

impl Product {
    /// Multiplications.
    pub fn work(&self) -> usize {
        self.m.saturating_mul(self.n).saturating_mul(self.k)
    }

    /// The product of the rows `i` to `i + m` and columns `j` to `j + n` of `out`.
    pub fn part(&self, i: usize, m: usize, j: usize, n: usize) -> Self {
        Self {
            m,
            n,
            a: self.a.wrapping_add(i * self.a_row),
            b: self.b.wrapping_add(j * self.b_col),
            bias: self.bias.map(|b| b.wrapping_add(j * self.bias_col)),
            out: self.out.wrapping_add(i * self.out_row + j),
            ..*self
        }
    }

    /// The same product with one column turned into one row, and the order in which its terms are added up.
    pub fn ready(self) -> Self {
        let mut product = self;
        if self.n == 1 && self.out_row == 1 {
            product = Self {
                m: 1,
                n: self.m,
                a: self.b,
                a_row: self.b_col,
                a_col: self.b_row,
                b: self.a,
                b_row: self.a_col,
                b_col: self.a_row,
                bias_col: 0,
                ..self
            };
        }
        let dots = product.m == 1 && product.a_col == 1 && product.b_row == 1;
        Self { order: if dots { SumOrder::Dots } else { SumOrder::Tiles }, ..product }
    }

    /// A sum of no terms.
    ///
    /// # Safety
    /// The pointers are valid for what the sizes and strides reach, and `out` overlaps nothing.
    pub unsafe fn empty(&self) {
        for i in 0..self.m {
            for j in 0..self.n {
                // SAFETY: the caller's promise.
                unsafe {
                    *self.out.add(i * self.out_row + j) = self.bias.map_or(0.0, |bias| *bias.add(j * self.bias_col))
                }
            }
        }
    }

    /// The tile `(i, j)` of the terms from `k0` on, as it would be with nothing packed.
    pub fn tile(&self, i: usize, j: usize, k0: usize) -> Tile {
        Tile {
            k: BLOCK.min(self.k - k0),
            a: self.a.wrapping_add(i * self.a_row + k0 * self.a_col),
            a_row: self.a_row,
            a_col: self.a_col,
            b: self.b.wrapping_add(k0 * self.b_row + j * self.b_col),
            b_row: self.b_row,
            start: match self.bias {
                _ if k0 > 0 => Start::Output,
                Some(bias) => Start::Bias(bias.wrapping_add(j * self.bias_col)),
                None => Start::Nothing,
            },
            out: self.out.wrapping_add(i * self.out_row + j),
            out_row: self.out_row,
        }
    }
}
