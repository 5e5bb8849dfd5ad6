//! The affine layer on rows, `y = x Wᵀ + b`, and its gradient: `W[n_out, n_in]`, `b[n_out]`, `x[batch, n_in]`,
//! `y[batch, n_out]`, all C-contiguous float32.
//!
//! The products are those of `matrix/`. The gradient by a very small `W` has a loop of its own ([`outer`]).
//!
//! Every output is a sum of fused multiply-adds in an order that belongs to the shape: blocks of 256 terms, each added up
//! from zero term by term, then the bias (in the forward direction) plus the blocks one after the other. So the bits do not
//! depend on the instruction set, the number of threads or the other rows of the batch. Two orders differ: where the output
//! is one row or one column of dot products of contiguous numbers, sixteen sums run along each, and through the rows of the
//! gradient by a `W` of at most four rows and columns run eight. The gradient by `b` is added up in float64; eight sums in
//! float32 do beside a small `W`, as long as the batch is short.

#![expect(clippy::needless_range_loop, reason = "loops over registers: plain ones are unrolled")]

mod outer;

use crate::loops::simd::{self, Level, per_level};
use crate::matrix::product::{Product, SumOrder};
use crate::matrix::{narrow, share};

/// The sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of `x` and `y`.
    pub batch: usize,
    /// Columns of `x` and `W`.
    pub n_in: usize,
    /// Columns of `y`, rows of `W`.
    pub n_out: usize,
}

/// Where the gradient is written: every element is overwritten.
pub struct Gradient<'a> {
    /// `dW[n_out, n_in] = dyᵀ x`.
    pub dw: &'a mut [f32],
    /// `db[n_out]`, the sum of the rows of `dy`.
    pub db: &'a mut [f32],
    /// `dx[batch, n_in] = dy W`.
    pub dx: &'a mut [f32],
}

/// Writes `y = x Wᵀ + b`.
///
/// # Panics
/// If the lengths are not the ones `shape` says.
#[inline(always)]
pub fn forward(shape: Shape, w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    let Shape { batch, n_in, n_out } = shape;
    assert!(w.len() == n_out * n_in && b.len() == n_out);
    assert!(x.len() == batch * n_in && y.len() == batch * n_out);
    if n_out == 0 {
        return;
    }
    let y = Product {
        m: batch,
        n: n_out,
        k: n_in,
        a: x.as_ptr(),
        a_row: n_in,
        a_col: 1,
        b: w.as_ptr(),
        b_row: 1,
        b_col: n_in,
        bias: Some(b.as_ptr()),
        bias_col: 1,
        out: y.as_mut_ptr(),
        out_row: n_out,
        order: SumOrder::Tiles,
    };
    // SAFETY: the pointers are of slices whose lengths the lines above have checked; `y` is borrowed exclusively.
    unsafe { run(y) };
}

/// Writes the gradient of `sum(dy * y)` by `W`, `b` and `x`.
///
/// # Panics
/// If the lengths are not the ones `shape` says.
pub fn gradient(shape: Shape, w: &[f32], x: &[f32], dy: &[f32], out: Gradient<'_>) {
    let Shape { batch, n_in, n_out } = shape;
    assert!(w.len() == n_out * n_in && out.dw.len() == w.len() && out.db.len() == n_out);
    assert!(x.len() == batch * n_in && out.dx.len() == x.len() && dy.len() == batch * n_out);
    if n_out == 0 {
        return out.dx.fill(0.0);
    }
    let dw = weights(shape, x, dy, out.dw);
    let dx = Product { m: batch, k: n_out, a_row: n_out, a_col: 1, b: w.as_ptr(), out: out.dx.as_mut_ptr(), ..dw };
    if outer::fits(shape) {
        small_weights(shape, x, dy, out.dw, out.db);
        // SAFETY: as below.
        return unsafe { run(dx) };
    }
    column_sums(dy, out.db);
    // SAFETY: the pointers are of slices whose lengths the lines above have checked; both outputs are borrowed exclusively.
    unsafe { share::run([dw, dx]) };
}

/// Writes `dw` and `db` of [`gradient`] alone: for a first layer, whose input is not trained.
///
/// # Panics
/// If the lengths are not the ones `shape` says.
#[inline(always)]
pub fn parameter_gradient(shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    let Shape { batch, n_in, n_out } = shape;
    assert!(dw.len() == n_out * n_in && db.len() == n_out);
    assert!(x.len() == batch * n_in && dy.len() == batch * n_out);
    if n_out == 0 {
        return;
    }
    if outer::fits(shape) {
        return small_weights(shape, x, dy, dw, db);
    }
    column_sums(dy, db);
    // SAFETY: the pointers are of slices whose lengths the lines above have checked; the output is borrowed exclusively.
    unsafe { share::run([weights(shape, x, dy, dw)]) };
}

/// Writes `dw` and `db` of a shape that [`outer`] takes.
#[inline]
fn small_weights(shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    outer::weights(simd::level(), shape, x, dy, dw, db);
    if shape.batch > SHORT {
        column_sums(dy, db);
    }
}

/// Computes one product.
///
/// # Safety
/// As for [`share::run`].
unsafe fn run(product: Product) {
    // SAFETY: the caller's promise.
    unsafe {
        if narrow::fits(&product) && product.work() < NARROW {
            // Without the way through the tiles, whose room on the stack costs as much as these few rows.
            return narrow::run(simd::level(), &product);
        }
        share::run([product]);
    }
}

/// The product `dyᵀ x`.
fn weights(shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Product {
    let Shape { batch, n_in, n_out } = shape;
    Product {
        m: n_out,
        n: n_in,
        k: batch,
        a: dy.as_ptr(),
        a_row: 1,
        a_col: n_out,
        b: x.as_ptr(),
        b_row: n_in,
        b_col: 1,
        bias: None,
        bias_col: 1,
        out: dw.as_mut_ptr(),
        out_row: n_in,
        order: SumOrder::Tiles,
    }
}

/// From this number of multiplications on, narrow rows are shared out to threads.
const NARROW: usize = 1 << 20;

/// In a batch of up to this number of rows, which is eight sums of 32 terms, float32 loses no more of the sum of all `|dy|`
/// than some millionths; `dW` beside it loses as much.
const SHORT: usize = 256;

/// Columns that are added up at a time.
const STRIP: usize = 64;
/// Sums of several short rows side by side.
const WIDE: usize = 16;

/// Sums over the batch, in float64: a long batch would lose digits in float32.
fn column_sums(rows: &[f32], out: &mut [f32]) {
    let (n_out, level) = (out.len(), simd::level());
    if n_out <= WIDE {
        // Several rows at a time where they are short, so that the inner loop is long enough to vectorise.
        let group = WIDE / n_out * n_out;
        let mut sums = [0.0; WIDE];
        add_groups(level, rows, group, &mut sums);
        for (o, value) in out.iter_mut().enumerate() {
            *value = sums[o..group].iter().step_by(n_out).sum::<f64>() as f32;
        }
        return;
    }
    for (strip, out) in out.chunks_mut(STRIP).enumerate() {
        let mut wide = [0.0; STRIP];
        add_strip(level, &mut wide[..out.len()], &rows[rows.len().min(strip * STRIP)..], n_out);
        for (value, sum) in out.iter_mut().zip(wide) {
            *value = sum as f32;
        }
    }
}

per_level! {
    fn add_groups<>(values: &[f32], group: usize, sums: &mut [f64; WIDE]) where [] {
        let (mut wide, mut at) = ([0.0; WIDE], 0);
        // Always as many as there are sums: those behind the group are not used.
        while let Some(part) = values.get(at..at + WIDE) {
            for i in 0..WIDE {
                wide[i] += f64::from(part[i]);
            }
            at += group;
        }
        *sums = wide;
        for part in values[at..].chunks(group) {
            for (sum, &value) in sums.iter_mut().zip(part) {
                *sum += f64::from(value);
            }
        }
    }
}

per_level! {
    fn add_strip<>(sums: &mut [f64], values: &[f32], row: usize) where [] {
        for values in values.chunks(row) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += f64::from(value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
