//! One row times a matrix: every number of the matrix is used once, so it is read where it lies, at the speed of memory.
//!
//! Sums of rows are added up as the tiles do it, term by term. Dot products are not: eight columns at a time would have to be
//! transposed in registers, which was measured to be 2 to 3 times slower than reading along them.

use super::kernel::Start;
use super::product::{BLOCK, Product};
use super::vector::{Square, Vector};

/// Columns whose sums are kept in the first-level cache.
const STRIP: usize = 512;
/// Rows or columns of the matrix that are gone through side by side.
const GROUP: usize = 4;
/// Sums that a dot product is added up in.
const LANES: usize = 16;

/// `out[0, j]` where the columns of `b` are contiguous: dot products, each in [`LANES`] sums over terms at equal distances.
///
/// # Safety
/// As for [`super::multiply::run`]; `m`, `b_row` and `a_col` are 1.
#[inline(always)]
pub unsafe fn dots<S: Square>(p: &Product) {
    // SAFETY: the caller's promise; the groups cover the columns and no more.
    unsafe {
        for k0 in (0..p.k).step_by(LANES * BLOCK) {
            let k = (LANES * BLOCK).min(p.k - k0);
            let whole = p.n / GROUP * GROUP;
            for j in (0..whole).step_by(GROUP) {
                dot_group::<S, GROUP>(p, j, k0, k);
            }
            for j in whole..p.n {
                dot_group::<S, 1>(p, j, k0, k);
            }
        }
    }
}

/// The terms from `k0` to `k0 + k` for `N` columns from `j` on.
#[inline(always)]
unsafe fn dot_group<S: Square, const N: usize>(p: &Product, j: usize, k0: usize, k: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (p.a.add(k0), p.b.add(k0 + j * p.b_col));
        let mut sums = [[S::zero(); 2]; N];
        let whole = k / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            for half in 0..2 {
                let factor = S::load(a.add(at + 8 * half));
                for i in 0..N {
                    let term = S::load(b.add(i * p.b_col + at + 8 * half));
                    sums[i][half] = sums[i][half].add_product(factor, term);
                }
            }
        }
        if whole < k {
            for half in 0..2 {
                let (at, n) = (whole + 8 * half, (k - whole).saturating_sub(8 * half).min(8));
                let factor = S::load_part(a.wrapping_add(at), n);
                for i in 0..N {
                    let term = S::load_part(b.wrapping_add(i * p.b_col + at), n);
                    sums[i][half] = sums[i][half].add_product(factor, term);
                }
            }
        }
        for i in 0..N {
            let mut lanes = [0.0_f32; 8];
            sums[i][0].add(sums[i][1]).store(lanes.as_mut_ptr());
            let [a, b, c, d, e, f, g, h] = lanes;
            let sum = ((a + e) + (c + g)) + ((b + f) + (d + h));
            let out = p.out.add(j + i);
            *out = match p.bias {
                _ if k0 > 0 => *out + sum,
                Some(bias) => *bias.add((j + i) * p.bias_col) + sum,
                None => sum,
            };
        }
    }
}

/// `out[0, j]` where the rows of `b` are contiguous: a sum of rows.
///
/// # Safety
/// As for [`super::multiply::run`]; `m` is 1, `b_col` is 1 and `k` is not 0.
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
