//! The affine layer on rows, `y = x Wᵀ + b`, and its gradient: `W[n_out, n_in]`, `b[n_out]`, `x[batch, n_in]`,
//! `y[batch, n_out]`, all C-contiguous float32.
//!
//! `matrixmultiply` packs its operands before it multiplies; for the small layers of a notebook, and for single rows,
//! the packing costs more than the product, so there plain loops run instead, written so that the innermost one goes
//! along rows and vectorises. Everything runs on the calling thread, and the road depends on the shapes alone: equal
//! calls give equal bits.
//!
//! Where the roads part was measured on one core of a Zen 4 (nanoseconds, loops | packed product):
//!
//! | batch, n_in, n_out | forward          | gradient         |
//! |--------------------|------------------|------------------|
//! | 1, 3, 2            | 10 | 131         | 32 | 295         |
//! | 100, 3, 2          | 620 | 939        | 1305 | 1273      |
//! | 8, 8, 8            | 400 | 211        | 368 | 338        |
//! | 16, 16, 16         | 1974 | 558       | 1669 | 736       |
//! | 1, 1000, 1000      | 131424 | 550433  | 426792 | 1023938 |
//! | 4, 256, 256        | 41028 | 38580    | 95588 | 48111    |
//! | 1000, 100, 1       | 15876 | 51287    | 58326 | 96353    |
//!
//! The loops of the gradient add up in float32 along the batch, and the packed product in blocks of 256, so a long batch
//! takes the product for its accuracy also where the loops would be faster.

mod kernel;
mod pack;
mod product;
mod thin;
mod vector;

use product::Product;

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
pub fn forward(shape: Shape, w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    let Shape { batch, n_in, n_out } = shape;
    assert_eq!([w.len(), b.len()], [n_out * n_in, n_out]);
    assert_eq!([x.len(), y.len()], [batch * n_in, batch * n_out]);
    if n_out == 0 {
        return;
    }
    let y = Product {
        m: batch, n: n_out, k: n_in,
        a: x.as_ptr(), a_row: n_in, a_col: 1,
        b: w.as_ptr(), b_row: 1, b_col: n_in,
        bias: Some(b.as_ptr()), bias_col: 1, out: y.as_mut_ptr(), out_row: n_out };
    unsafe { product::run([y]) };
}

/// Writes the gradient of `sum(dy * y)` by `W`, `b` and `x`.
///
/// # Panics
/// If the lengths are not the ones `shape` says.
pub fn gradient(shape: Shape, w: &[f32], x: &[f32], dy: &[f32], out: Gradient<'_>) {
    let Shape { batch, n_in, n_out } = shape;
    assert_eq!([w.len(), out.dw.len(), out.db.len()], [n_out * n_in, n_out * n_in, n_out]);
    assert_eq!([x.len(), out.dx.len(), dy.len()], [batch * n_in, batch * n_in, batch * n_out]);
    if n_out == 0 {
        return out.dx.fill(0.0);
    }
    column_sums(dy, out.db);
    let dw = Product {
        m: n_out, n: n_in, k: batch,
        a: dy.as_ptr(), a_row: 1, a_col: n_out,
        b: x.as_ptr(), b_row: n_in, b_col: 1,
        bias: None, bias_col: 1, out: out.dw.as_mut_ptr(), out_row: n_in };
    let dx = Product {
        m: batch, n: n_in, k: n_out,
        a: dy.as_ptr(), a_row: n_out, a_col: 1,
        b: w.as_ptr(), b_row: n_in, b_col: 1,
        bias: None, bias_col: 1, out: out.dx.as_mut_ptr(), out_row: n_in };
    unsafe { product::run([dw, dx]) };
}

/// Sums over the batch, in float64: a long batch would lose digits in float32.
fn column_sums(rows: &[f32], out: &mut [f32]) {
    let n_out = out.len();
    // Several rows at a time where they are short, so that the inner loop is long enough to vectorise.
    let mut sums = vec![0.0_f64; n_out * (16 / n_out).max(1)];
    for group in rows.chunks(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(group) {
            *sum += f64::from(value);
        }
    }
    for (o, value) in out.iter_mut().enumerate() {
        *value = sums[o..].iter().step_by(n_out).sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests;
