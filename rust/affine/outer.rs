//! The gradient by a small `W`, a sum of outer products of rows: `dW = sum over i of dy[i]ᵀ x[i]`.
//!
//! A tile of so few rows and columns would wait for every multiply-add before the next, so [`SUMS`] sums run side by side,
//! each over every so manieth row.

use super::Shape;
use super::product::BLOCK;
use super::vector::{Plain, Vector};
use crate::simd::Level;

/// The greatest extent of `W`: a row of it is a vector.
const WIDTH: usize = 4;
/// Sums that the rows take turns in: part of the result's definition.
pub const SUMS: usize = 4;

/// Rows of `dW`, each in the first lanes of a vector. That the others are there too keeps the loops vectors.
type Rows = [[f32; WIDTH]; WIDTH];

/// Whether [`weights`] computes this gradient. A single number is a dot product, which has a way of its own.
pub fn fits(shape: Shape) -> bool {
    let Shape { n_in, n_out, .. } = shape;
    (1..=WIDTH).contains(&n_in) && (1..=WIDTH).contains(&n_out) && n_in * n_out > 1
}

/// Writes `dw[n_out, n_in]` of a shape that [`fits`], whose lengths are right.
pub fn weights(level: Level, shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let mut rows = Rows::default();
    add(level, shape, x, dy, &mut rows);
    match shape.n_in {
        1 => cut::<1>(&rows, dw),
        2 => cut::<2>(&rows, dw),
        3 => cut::<3>(&rows, dw),
        _ => cut::<4>(&rows, dw),
    }
}

/// The first lanes of the rows.
fn cut<const K: usize>(rows: &Rows, dw: &mut [f32]) {
    for (to, from) in dw.as_chunks_mut::<K>().0.iter_mut().zip(rows) {
        to.copy_from_slice(&from[..K]);
    }
}

fn add(level: Level, shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__m256;

        #[target_feature(enable = "avx2,fma")]
        fn avx2(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
            columns::<__m256>(shape, x, dy, out);
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
            columns::<__m256>(shape, x, dy, out);
        }

        match level {
            // SAFETY: the level never exceeds what the processor has.
            Level::Avx512 => return unsafe { avx512(shape, x, dy, out) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(shape, x, dy, out) },
            Level::Baseline => {}
        }
    }
    let _ = level;
    columns::<Plain>(shape, x, dy, out);
}

#[inline(always)]
fn columns<V: Vector>(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
    match shape.n_in {
        1 => rows::<V, 1>(shape, x, dy, out),
        2 => rows::<V, 2>(shape, x, dy, out),
        3 => rows::<V, 3>(shape, x, dy, out),
        _ => rows::<V, 4>(shape, x, dy, out),
    }
}

#[inline(always)]
fn rows<V: Vector, const K: usize>(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
    match shape.n_out {
        1 => outer::<V, K, 1>(x, dy, out),
        2 => outer::<V, K, 2>(x, dy, out),
        3 => outer::<V, K, 3>(x, dy, out),
        _ => outer::<V, K, 4>(x, dy, out),
    }
}

#[inline(always)]
fn outer<V: Vector, const K: usize, const N: usize>(x: &[f32], dy: &[f32], out: &mut Rows) {
    let (x, dy) = (x.as_chunks::<K>().0, dy.as_chunks::<N>().0);
    for (x, dy) in x.chunks(SUMS * BLOCK).zip(dy.chunks(SUMS * BLOCK)) {
        let mut sums = [[[0.0_f32; WIDTH]; N]; SUMS];
        let rows = x.len().min(dy.len());
        // Where a whole vector can be read, with numbers of the rows behind in its last lanes.
        let whole = rows.saturating_sub(WIDTH - K) / SUMS * SUMS;
        for at in (0..whole).step_by(SUMS) {
            for i in 0..SUMS {
                // SAFETY: `at + i` is below `whole`, and so `WIDTH - K` rows, of a number each at least, follow in `x`.
                let (row, dy) = unsafe { (x.as_ptr().add(at + i).cast::<[f32; WIDTH]>(), dy.get_unchecked(at + i)) };
                // SAFETY: as above.
                add_product::<V, N>(&mut sums[i], &unsafe { row.read_unaligned() }, dy);
            }
        }
        for at in (whole..rows).step_by(SUMS) {
            for i in 0..SUMS {
                if at + i < rows {
                    let mut row = [0.0; WIDTH];
                    row[..K].copy_from_slice(&x[at + i]);
                    add_product::<V, N>(&mut sums[i], &row, &dy[at + i]);
                }
            }
        }
        for j in 0..N {
            for k in 0..WIDTH {
                out[j][k] += (sums[0][j][k] + sums[2][j][k]) + (sums[1][j][k] + sums[3][j][k]);
            }
        }
    }
}

#[inline(always)]
fn add_product<V: Vector, const N: usize>(sums: &mut [[f32; WIDTH]; N], row: &[f32; WIDTH], dy: &[f32; N]) {
    for j in 0..N {
        for k in 0..WIDTH {
            // SAFETY: arithmetic; `add` has chosen `V` by what the processor has.
            sums[j][k] = unsafe { V::fused(dy[j], row[k], sums[j][k]) };
        }
    }
}
