//! The gradient by a small `W` and its `b`, a sum of outer products of rows: `dW = sum over i of dy[i]ᵀ x[i]`, and `db` as
//! if `x` had a column of ones behind its last.
//!
//! A tile of so few rows and columns would wait for every multiply-add before the next, so [`SUMS`] sums run side by side,
//! each over rows at equal distances: several in a vector, four lanes each, and several vectors.

use super::Shape;
use crate::loops::simd::Level;
use crate::matrix::product::BLOCK;
use crate::matrix::vector::{Plain, Vector};

/// The greatest extent of `W`: the lanes of a row of it.
const WIDTH: usize = 4;
/// Sums that the rows take turns in: part of the result's definition.
const SUMS: usize = 8;
/// Vectors of the sums of a row of `dW`, where a vector has the fewest lanes: eight.
const VECTORS: usize = SUMS * WIDTH / 8;

/// Whether [`weights`] computes this gradient. A single number is a dot product, which has a way of its own.
pub fn fits(shape: Shape) -> bool {
    let Shape { n_in, n_out, .. } = shape;
    (1..=WIDTH).contains(&n_in) && (1..=WIDTH).contains(&n_out) && n_in * n_out > 1
}

/// What is read and written: `x[batch, n_in]`, `dy[batch, n_out]`, `dw[n_out, n_in]` and `db[n_out]`.
#[derive(Clone, Copy)]
struct Arrays {
    x: *const f32,
    dy: *const f32,
    dw: *mut f32,
    db: *mut f32,
}

/// Writes `dw[n_out, n_in]` and `db[n_out]` of a shape that [`fits`].
///
/// # Panics
/// If the lengths are not the ones `shape` says.
pub fn weights(level: Level, shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    let Shape { batch, n_in, n_out } = shape;
    assert!(x.len() == batch * n_in && dy.len() == batch * n_out && dw.len() == n_out * n_in && db.len() == n_out);
    let arrays = Arrays { x: x.as_ptr(), dy: dy.as_ptr(), dw: dw.as_mut_ptr(), db: db.as_mut_ptr() };
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(shape: Shape, arrays: Arrays) {
            // SAFETY: the caller's promise.
            unsafe { columns::<__m256>(shape, arrays) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(shape: Shape, arrays: Arrays) {
            // SAFETY: the caller's promise.
            unsafe { columns::<__m512>(shape, arrays) }
        }

        match level {
            // SAFETY: the level never exceeds what the processor has; the lengths are right.
            Level::Avx512 => return unsafe { avx512(shape, arrays) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(shape, arrays) },
            Level::Baseline => {}
        }
    }
    let _ = level;
    // SAFETY: the lengths are right.
    unsafe { columns::<Plain>(shape, arrays) }
}

/// [`weights`] with the vectors of a level.
///
/// # Safety
/// Here and below: the processor has `V`, the arrays are of this shape, and what is written overlaps nothing.
#[inline(always)]
unsafe fn columns<V: Vector>(shape: Shape, arrays: Arrays) {
    // SAFETY: the caller's promise.
    unsafe {
        match shape.n_in {
            1 => rows::<V, 1>(shape, arrays),
            2 => rows::<V, 2>(shape, arrays),
            3 => rows::<V, 3>(shape, arrays),
            _ => rows::<V, 4>(shape, arrays),
        }
    }
}

#[inline(always)]
unsafe fn rows<V: Vector, const K: usize>(shape: Shape, arrays: Arrays) {
    // SAFETY: the caller's promise.
    unsafe {
        match shape.n_out {
            1 => outer::<V, K, 1>(shape.batch, arrays),
            2 => outer::<V, K, 2>(shape.batch, arrays),
            3 => outer::<V, K, 3>(shape.batch, arrays),
            _ => outer::<V, K, 4>(shape.batch, arrays),
        }
    }
}

#[inline(always)]
unsafe fn outer<V: Vector, const K: usize, const N: usize>(batch: usize, arrays: Arrays) {
    let (mut dw, mut db) = ([[0.0; WIDTH]; N], [0.0; N]);
    for start in (0..batch).step_by(SUMS * BLOCK) {
        // SAFETY: the caller's promise: as many rows are there.
        unsafe {
            let rows = (batch - start).min(SUMS * BLOCK);
            let sums = block::<V, K, N>(rows, arrays.x.add(start * K), arrays.dy.add(start * N));
            for j in 0..N {
                let (mut w, mut b) = ([V::zero(); VECTORS], [V::zero(); VECTORS]);
                for i in 0..VECTORS {
                    (w[i], b[i]) = (sums[i][0][j], sums[i][1][j]);
                }
                let lanes = add_up(w);
                for k in 0..WIDTH {
                    dw[j][k] += lanes[k];
                }
                db[j] += if K < WIDTH { lanes[K] } else { add_up(b)[0] };
            }
        }
    }
    for j in 0..N {
        // SAFETY: the caller's promise.
        unsafe {
            arrays.dw.add(j * K).copy_from_nonoverlapping(dw[j].as_ptr(), K);
            *arrays.db.add(j) = db[j];
        }
    }
}

/// The sums of the outer products of `rows` rows, and those of `dy` times one where there is no lane for them beside.
///
/// # Safety
/// As for [`columns`]; `x[rows, K]` and `dy[rows, N]` can be read.
#[inline(always)]
unsafe fn block<V: Vector, const K: usize, const N: usize>(
    rows: usize,
    x: *const f32,
    dy: *const f32,
) -> [[[V; N]; 2]; VECTORS] {
    const { assert!(V::LANES >= 8, "the sums have room") };
    let of_vector = V::LANES / WIDTH;
    // SAFETY: the caller's promise: as many rows are there.
    unsafe {
        let (mut sums, mut row) = ([[[V::zero(); N]; 2]; VECTORS], 0);
        // As long as whole vectors can be read, which may reach into the rows that follow: from the last row read this way,
        // `most + of_vector` rows are left, of at least a vector's numbers in each of the two.
        let most = V::LANES.div_ceil(if K < N { K } else { N }) - of_vector;
        let whole = rows.saturating_sub(most) / SUMS * SUMS;
        while row < whole {
            for i in 0..SUMS / of_vector {
                let row = row + i * of_vector;
                add_products::<V, K, N>(&mut sums[i], V::load(x.add(row * K)), V::load(dy.add(row * N)));
            }
            row += SUMS;
        }
        while row < rows {
            for i in 0..SUMS / of_vector {
                let row = row + i * of_vector;
                if row >= rows {
                    break;
                }
                let (x, dy) = (first(x.add(row * K), (rows - row) * K), first(dy.add(row * N), (rows - row) * N));
                add_products::<V, K, N>(&mut sums[i], x, dy);
            }
            row += SUMS;
        }
        sums
    }
}

/// What the sums of a row of `dW` amount to: the one half of them is added to the other, until one is left.
#[inline(always)]
unsafe fn add_up<V: Vector>(mut sums: [V; VECTORS]) -> [f32; WIDTH] {
    let mut n = SUMS * WIDTH / V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        while n > 1 {
            n /= 2;
            for i in 0..n {
                sums[i] = sums[i].add(sums[i + n]);
            }
        }
        sums[0].add_fours()
    }
}

/// A vector of the first of these `n` numbers, with zeros where there are too few. So rows that are not there add a product
/// of zeros to a sum, which changes none: a sum of -0 becomes 0 when it is added to `dW`, too.
///
/// # Safety
/// As for [`columns`]; `n` numbers can be read.
#[inline(always)]
unsafe fn first<V: Vector>(values: *const f32, n: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { V::load_part(values, n.min(V::LANES)) }
}

/// Adds the products of some rows, which follow each other in `x[rows, K]` and `dy[rows, N]`, and `dy` times one.
#[inline(always)]
unsafe fn add_products<V: Vector, const K: usize, const N: usize>([w, b]: &mut [[V; N]; 2], x: V, dy: V) {
    // SAFETY: the caller's promise.
    unsafe {
        let x = x.pick_or_one(const { &columns_of(K) });
        for j in 0..N {
            let dy = dy.pick(&column_of(N, j));
            w[j] = w[j].add_product(dy, x);
            if K == WIDTH {
                b[j] = b[j].add(dy); // no lane is left for the one
            }
        }
    }
}

/// Where in rows of length `row` the number of each lane is: [`WIDTH`] of a row, -1 behind the end of a row.
const fn columns_of(row: usize) -> [i32; 16] {
    let (mut places, mut lane) = ([-1; 16], 0);
    while lane < 16 {
        if lane % WIDTH < row {
            places[lane] = (lane / WIDTH * row + lane % WIDTH) as i32;
        }
        lane += 1;
    }
    places
}

/// The same of one column: its number [`WIDTH`] times.
#[inline(always)]
const fn column_of(row: usize, column: usize) -> [i32; 16] {
    let (mut places, mut lane) = ([0; 16], 0);
    while lane < 16 {
        places[lane] = (lane / WIDTH * row + column) as i32;
        lane += 1;
    }
    places
}
