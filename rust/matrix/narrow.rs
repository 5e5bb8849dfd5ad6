//! Products whose inner and outer extents are at most four, as in the small layers of a notebook: for a tile there is too
//! little to do, but a loop along the rows vectorises. The sums are those of the tiles, term by term.

use super::product::Product;
use super::vector::{Plain, Vector};
use crate::loops::simd::Level;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// The greatest extent.
const MOST: usize = 4;

/// Whether [`rows`] computes this product.
#[inline(always)]
pub fn fits(product: &Product) -> bool {
    let &Product { m, n, k, a_row, a_col, out_row, .. } = product;
    m > 1 && (2..=MOST).contains(&n) && (1..=MOST).contains(&k) && a_col == 1 && a_row == k && out_row == n
}

/// Computes a product that [`fits`], on this thread.
///
/// # Safety
/// As for [`rows`].
pub unsafe fn run(level: Level, product: &Product) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(product: &Product) {
            // SAFETY: the caller's promise.
            unsafe { rows::<__m256>(product) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(product: &Product) {
            // SAFETY: the caller's promise.
            unsafe { rows::<__m512>(product) }
        }

        match level {
            // SAFETY: the level never exceeds what the processor has; the rest is the caller's promise.
            Level::Avx512 => return unsafe { avx512(product) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(product) },
            Level::Baseline => {}
        }
    }
    let _ = level;
    // SAFETY: the caller's promise.
    unsafe { rows::<Plain>(product) }
}

/// Computes a product that [`fits`].
///
/// # Safety
/// The pointers are valid for what the sizes and strides reach, and `out` overlaps nothing.
#[inline(always)]
pub unsafe fn rows<V: Vector>(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.k {
            1 => columns::<V, 1>(product),
            2 => columns::<V, 2>(product),
            3 => columns::<V, 3>(product),
            _ => columns::<V, 4>(product),
        }
    }
}

#[inline(always)]
unsafe fn columns<V: Vector, const K: usize>(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.n {
            2 => multiply::<V, K, 2>(product),
            3 => multiply::<V, K, 3>(product),
            _ => multiply::<V, K, 4>(product),
        }
    }
}

#[inline(always)]
unsafe fn multiply<V: Vector, const K: usize, const N: usize>(product: &Product) {
    // SAFETY: the caller's promise: `a[m, K]` and `out[m, N]` are gapless, `b[K, N]` and the bias lie as their strides say.
    unsafe {
        let at = |p: usize, j: usize| *product.b.add(p * product.b_row + j * product.b_col);
        let b: [[f32; K]; N] = std::array::from_fn(|j| std::array::from_fn(|p| at(p, j)));
        let a: &[[f32; K]] = from_raw_parts(product.a.cast(), product.m);
        let out: &mut [[f32; N]] = from_raw_parts_mut(product.out.cast(), product.m);
        let sum = |row: &[f32; K], j: usize| {
            let mut sum = 0.0;
            for p in 0..K {
                sum = V::fused(row[p], b[j][p], sum);
            }
            sum
        };
        match product.bias {
            Some(bias) => {
                let bias: [f32; N] = std::array::from_fn(|j| *bias.add(j * product.bias_col));
                for (row, out) in a.iter().zip(out) {
                    for j in 0..N {
                        out[j] = bias[j] + sum(row, j);
                    }
                }
            }
            None => {
                for (row, out) in a.iter().zip(out) {
                    for j in 0..N {
                        out[j] = sum(row, j);
                    }
                }
            }
        }
    }
}
