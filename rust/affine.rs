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

/// Up to this many multiplications plain loops run.
const TINY: usize = 512;

/// With at most this many rows to a matrix, packing the other one does not pay.
const THIN: usize = 2;

/// Partial sums of a dot product, so that the compiler may keep them in one or two registers.
const LANES: usize = 8;

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

impl Shape {
    fn tiny(self) -> bool {
        // The product may exceed usize where an extent is 0 and the others are huge.
        self.batch.saturating_mul(self.n_in).saturating_mul(self.n_out) <= TINY
    }
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
    if shape.tiny() || batch.min(n_out) <= THIN {
        return forward_loops(shape, w, b, x, y);
    }
    for row in y.chunks_exact_mut(n_out) {
        row.copy_from_slice(b);
    }
    let w_t = Matrix { data: w, rows: n_in, cols: n_out, row_stride: 1, col_stride: n_in };
    product(Matrix::new(x, batch, n_in), w_t, 1.0, y);
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
    if shape.tiny() || batch <= THIN {
        return gradient_loops(shape, w, x, dy, out);
    }
    let dy_t = Matrix { data: dy, rows: n_out, cols: batch, row_stride: 1, col_stride: n_out };
    product(dy_t, Matrix::new(x, batch, n_in), 0.0, out.dw);
    product(Matrix::new(dy, batch, n_out), Matrix::new(w, n_out, n_in), 0.0, out.dx);
}

fn forward_loops(shape: Shape, w: &[f32], b: &[f32], x: &[f32], y: &mut [f32]) {
    let n_in = shape.n_in;
    for (i, row) in y.chunks_exact_mut(shape.n_out).enumerate() {
        let x_row = &x[i * n_in..(i + 1) * n_in];
        for (o, value) in row.iter_mut().enumerate() {
            *value = b[o] + dot(x_row, &w[o * n_in..(o + 1) * n_in]);
        }
    }
}

fn gradient_loops(shape: Shape, w: &[f32], x: &[f32], dy: &[f32], out: Gradient<'_>) {
    let n_in = shape.n_in;
    out.dw.fill(0.0);
    out.dx.fill(0.0);
    for (i, dy_row) in dy.chunks_exact(shape.n_out).enumerate() {
        let row = i * n_in..(i + 1) * n_in;
        for (o, &factor) in dy_row.iter().enumerate() {
            let weights = o * n_in..(o + 1) * n_in;
            add_scaled(factor, &x[row.clone()], &mut out.dw[weights.clone()]);
            add_scaled(factor, &w[weights], &mut out.dx[row.clone()]);
        }
    }
}

/// `out += factor * row`.
fn add_scaled(factor: f32, row: &[f32], out: &mut [f32]) {
    for (sum, &value) in out.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_rounds, b_rounds) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut sum = 0.0;
    for (&p, &q) in a_rounds.remainder().iter().zip(b_rounds.remainder()) {
        sum += p * q;
    }
    for (p, q) in a_rounds.zip(b_rounds) {
        for lane in 0..LANES {
            lanes[lane] += p[lane] * q[lane];
        }
    }
    sum + lanes.iter().sum::<f32>()
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

/// A matrix in memory: element `[i, j]` lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    fn in_bounds(self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// `out = a b + beta out`, with `out[a.rows, b.cols]`.
fn product(a: Matrix<'_>, b: Matrix<'_>, beta: f32, out: &mut [f32]) {
    assert!(a.in_bounds() && b.in_bounds() && a.cols == b.rows && out.len() == a.rows * b.cols);
    // SAFETY: the pointers come from slices, and the line above has checked that every element that the sizes and
    // strides reach lies inside them. `out` is borrowed exclusively, so it overlaps neither operand, and its rows are
    // `b.cols` apart, so its elements are distinct. The strides fit isize, as slices are never longer.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.cols,
            b.cols,
            1.0,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            beta,
            out.as_mut_ptr(),
            b.cols as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests;
