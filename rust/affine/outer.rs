//! The gradient by a small `W` and its `b`, a sum of outer products of rows: `dW = sum over i of dy[i]ᵀ x[i]`, and `db` as
//! if `x` had a column of ones behind its last.
//!
//! A tile of so few rows and columns would wait for every multiply-add before the next, so [`SUMS`] sums run side by side,
//! each over every so manieth row: several in a vector, four lanes each, and several vectors.

use super::Shape;
use super::product::BLOCK;
use super::vector::{Plain, Vector};
use crate::simd::Level;

/// The greatest extent of `W`: the lanes of a row of it.
const WIDTH: usize = 4;
/// Sums that the rows take turns in: part of the result's definition.
const SUMS: usize = 8;
/// Vectors of the sums of a row of `dW`, where a vector has the fewest lanes: eight.
const VECTORS: usize = SUMS * WIDTH / 8;

/// Rows of `dW`, as wide as the widest, and an element of `db` behind each.
type Rows = [[f32; WIDTH + 1]; WIDTH];

/// Whether [`weights`] computes this gradient. A single number is a dot product, which has a way of its own.
pub fn fits(shape: Shape) -> bool {
    let Shape { n_in, n_out, .. } = shape;
    (1..=WIDTH).contains(&n_in) && (1..=WIDTH).contains(&n_out) && n_in * n_out > 1
}

/// Writes `dw[n_out, n_in]` and `db[n_out]` of a shape that [`fits`], whose lengths are right.
pub fn weights(level: Level, shape: Shape, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    let mut rows = Rows::default();
    add(level, shape, x, dy, &mut rows);
    match shape.n_in {
        1 => cut::<1>(&rows, dw, db),
        2 => cut::<2>(&rows, dw, db),
        3 => cut::<3>(&rows, dw, db),
        _ => cut::<4>(&rows, dw, db),
    }
}

/// The first numbers of the rows, and those behind them.
fn cut<const K: usize>(rows: &Rows, dw: &mut [f32], db: &mut [f32]) {
    for ((w, b), row) in dw.as_chunks_mut::<K>().0.iter_mut().zip(db).zip(rows) {
        w.copy_from_slice(&row[..K]);
        *b = row[K];
    }
}

fn add(level: Level, shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx2,fma")]
        fn avx2(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
            columns::<__m256>(shape, x, dy, out);
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512(shape: Shape, x: &[f32], dy: &[f32], out: &mut Rows) {
            columns::<__m512>(shape, x, dy, out);
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
    const { assert!(V::LANES >= 8, "the sums have room") };
    let of_vector = V::LANES / WIDTH;
    for (x, dy) in x.chunks(SUMS * BLOCK * K).zip(dy.chunks(SUMS * BLOCK * N)) {
        // SAFETY: arithmetic; `add` has chosen `V` by what the processor has.
        let mut sums = [[[unsafe { V::zero() }; N]; 2]; VECTORS];
        let rows = (x.len() / K).min(dy.len() / N);
        let whole = whole::<V>(rows, K.min(N));
        for row in (0..whole).step_by(SUMS) {
            for (i, sums) in sums.iter_mut().enumerate().take(SUMS / of_vector) {
                let row = row + i * of_vector;
                // SAFETY: as above; a whole vector follows in both.
                unsafe {
                    let (x, dy) = (V::load(x.as_ptr().add(row * K)), V::load(dy.as_ptr().add(row * N)));
                    add_products::<V, K, N>(sums, x, dy);
                }
            }
        }
        for row in (whole..rows).step_by(SUMS) {
            for (i, sums) in sums.iter_mut().enumerate().take(SUMS / of_vector) {
                let row = rows.min(row + i * of_vector);
                // SAFETY: as above.
                unsafe { add_products::<V, K, N>(sums, first(&x[row * K..]), first(&dy[row * N..])) };
            }
        }
        for (j, out) in out.iter_mut().enumerate().take(N) {
            let lanes = add_up(sums.map(|[w, _]| w[j]));
            for k in 0..WIDTH {
                out[k] += lanes[k];
            }
            if K == WIDTH {
                out[WIDTH] += add_up(sums.map(|[_, b]| b[j]))[0];
            }
        }
    }
}

/// What the sums of a row of `dW` amount to: the one half of them is added to the other, until one is left.
#[inline(always)]
fn add_up<V: Vector>(sums: [V; VECTORS]) -> [f32; WIDTH] {
    let mut lanes = [0.0; SUMS * WIDTH];
    for (to, from) in lanes.chunks_exact_mut(V::LANES).zip(sums) {
        // SAFETY: so many lanes are there; as in `outer`.
        unsafe { from.store(to.as_mut_ptr()) };
    }
    let mut n = lanes.len() / 2;
    while n >= WIDTH {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    std::array::from_fn(|k| lanes[k])
}

/// How many of these rows, of `n` numbers at least, can be read a whole vector at a time: a multiple of [`SUMS`].
#[inline(always)]
fn whole<V: Vector>(rows: usize, n: usize) -> usize {
    let behind = V::LANES.div_ceil(n) - V::LANES / WIDTH;
    rows.saturating_sub(behind) / SUMS * SUMS
}

/// A vector of the first of these numbers, with zeros where there are too few. So rows that are not there add a product of
/// zeros to a sum, which changes none: a sum of -0 becomes 0 when it is added to `dW`, too.
#[inline(always)]
unsafe fn first<V: Vector>(values: &[f32]) -> V {
    // SAFETY: so many numbers are there; the rest is the caller's promise.
    unsafe { V::load_part(values.as_ptr(), values.len().min(V::LANES)) }
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
