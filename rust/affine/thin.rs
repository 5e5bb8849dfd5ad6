//! One row times a matrix: every number of the matrix is used once, so it is read where it lies, at the speed of memory.
//!
//! The sums are those of the tiles, term by term.

use super::kernel::Start;
use super::pack::Lines;
use super::product::{BLOCK, Product};
use super::vector::{Square, Vector};

/// Columns whose sums are kept in the first-level cache.
const STRIP: usize = 512;
/// Rows of the matrix that are added to a strip at a time.
const GROUP: usize = 4;
/// Blocks of eight columns whose sums are added up side by side, to hide the latency of the instruction.
const SIDE: usize = 4;

/// `out[0, j]` where the columns of `b` are contiguous: dot products, eight to a vector.
///
/// # Safety
/// That of [`Product::run`]; `m` is 1, `b_row` is 1 and `k` is not 0.
#[inline(always)]
pub unsafe fn dots<S: Square>(p: &Product) {
    // SAFETY: the caller's promise; the blocks cover the columns and no more.
    unsafe {
        for k0 in (0..p.k).step_by(BLOCK) {
            let mut j = 0;
            while j + SIDE * 8 <= p.n {
                dot_columns::<S, SIDE>(p, j, k0);
                j += SIDE * 8;
            }
            while j < p.n {
                dot_columns::<S, 1>(p, j, k0);
                j += 8;
            }
        }
    }
}

/// The block of terms from `k0` on for the columns `j` to `j + 8 * N`, or as many as there are.
#[inline(always)]
unsafe fn dot_columns<S: Square, const N: usize>(p: &Product, j: usize, k0: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let tile = p.tile(0, j, k0);
        let mut rows = [[tile.b; 8]; N];
        for (i, rows) in rows.iter_mut().enumerate() {
            let from = tile.b.wrapping_add(8 * i * p.b_col);
            *rows = Lines { from, lines: p.n - j - 8 * i, k: tile.k, line: p.b_col, step: 1 }.rows();
        }
        let mut sums = [S::zero(); N];
        let whole = tile.k / 8 * 8;
        for k in (0..whole).step_by(8) {
            for i in 0..N {
                let columns = S::columns(&rows[i], k);
                for c in 0..8 {
                    sums[i] = sums[i].add_product(S::splat(*tile.a.add((k + c) * p.a_col)), columns[c]);
                }
            }
        }
        for k in whole..tile.k {
            for i in 0..N {
                let mut column = [0.0; 8];
                for c in 0..8 {
                    column[c] = *rows[i][c].add(k);
                }
                sums[i] = sums[i].add_product(S::splat(*tile.a.add(k * p.a_col)), S::load(column.as_ptr()));
            }
        }
        for i in 0..N {
            finish(p, tile.start, 8 * i, sums[i], tile.out, (p.n - j - 8 * i).min(8));
        }
    }
}

/// `out[0, j]` where the rows of `b` are contiguous: a sum of rows.
///
/// # Safety
/// That of [`Product::run`]; `m` is 1, `b_col` is 1 and `k` is not 0.
#[inline(always)]
pub unsafe fn sums<V: Vector>(p: &Product) {
    let mut strip = [0.0_f32; STRIP];
    // SAFETY: the caller's promise; the strips cover the columns and no more.
    unsafe {
        for j in (0..p.n).step_by(STRIP) {
            let cols = STRIP.min(p.n - j);
            for k0 in (0..p.k).step_by(BLOCK) {
                let tile = p.tile(0, j, k0);
                strip[..cols].fill(0.0);
                let mut k = 0;
                while k + GROUP <= tile.k {
                    add_rows::<V, GROUP>(p, tile.a.add(k * p.a_col), tile.b.add(k * p.b_row), &mut strip[..cols]);
                    k += GROUP;
                }
                while k < tile.k {
                    add_rows::<V, 1>(p, tile.a.add(k * p.a_col), tile.b.add(k * p.b_row), &mut strip[..cols]);
                    k += 1;
                }
                for at in (0..cols).step_by(V::LANES) {
                    let sum = V::load(strip.as_ptr().add(at));
                    finish(p, tile.start, at, sum, tile.out, V::LANES.min(cols - at));
                }
            }
        }
    }
}

/// Adds `N` rows of `b`, each times its element of `a`, to the strip.
#[inline(always)]
unsafe fn add_rows<V: Vector, const N: usize>(p: &Product, a: *const f32, b: *const f32, strip: &mut [f32]) {
    // SAFETY: the caller's promise: the rows are as long as the strip.
    unsafe {
        let mut factors = [V::zero(); N];
        for i in 0..N {
            factors[i] = V::splat(*a.add(i * p.a_col));
        }
        let whole = strip.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            let mut sum = V::load(strip.as_ptr().add(at));
            for i in 0..N {
                sum = sum.add_product(factors[i], V::load(b.add(i * p.b_row + at)));
            }
            sum.store(strip.as_mut_ptr().add(at));
        }
        let part = strip.len() - whole;
        if part > 0 {
            let mut sum = V::load_part(strip.as_ptr().add(whole), part);
            for i in 0..N {
                sum = sum.add_product(factors[i], V::load_part(b.add(i * p.b_row + whole), part));
            }
            sum.store_part(strip.as_mut_ptr().add(whole), part);
        }
    }
}

/// Writes `n` numbers of a block at column `at`.
#[inline(always)]
unsafe fn finish<V: Vector>(p: &Product, start: Start, at: usize, sum: V, out: *mut f32, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let out = out.add(at);
        let sum = match start {
            Start::Nothing => sum,
            Start::Bias(bias) if p.bias_col == 0 => V::splat(*bias).add(sum),
            Start::Bias(bias) => V::load_part(bias.add(at), n).add(sum),
            Start::Output => V::load_part(out, n).add(sum),
        };
        sum.store_part(out, n);
    }
}
