//! Products computed on one thread: packed or as they lie, by whichever loop fits their shape.

use super::kernel::Tile;
use super::pack::Lines;
use super::product::{BLOCK, Product, SumOrder};
use super::vector::{Plain, Square, Vector};
use super::{narrow, thin};
use crate::loops::simd::Level;
use crate::memory::buffer::Buffer;
use std::cell::Cell;
use std::mem::MaybeUninit;

/// Rows of `a` that are packed at a time, for every lane: they stay in the second-level cache, of which processors with
/// longer vectors have more.
const M_PACK: usize = 64;
/// From this number of rows of `a` on, the next columns of `b` are prefetched.
const PREFETCH_ROWS: usize = 128;
/// The greatest width of a panel of `b`.
const WIDEST: usize = 32;

/// One panel of `b`, aligned so that no vector of it lies in two cache lines.
#[repr(align(64))]
struct Panel([MaybeUninit<f32>; BLOCK * WIDEST + 8]);

thread_local! {
    /// Where this thread packs, kept for its next product.
    static ROOM: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Memory to pack in; `None` where the system has none. It is taken, not borrowed: so no borrow can fail.
fn room(bytes: usize) -> Option<Buffer> {
    ROOM.take().filter(|room| room.len() >= bytes).or_else(|| Buffer::new(bytes))
}

/// Computes a product on this thread.
///
/// # Safety
/// The pointers are valid for what the sizes and strides reach, and `out` overlaps nothing.
pub unsafe fn run(product: &Product, level: Level) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(product: &Product) {
            // SAFETY: the caller's promise.
            unsafe { multiply::<__m256, __m256, 6>(product) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(product: &Product) {
            // SAFETY: the caller's promise.
            unsafe { multiply::<__m512, __m256, 8>(product) }
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
    unsafe { multiply::<Plain, Plain, 6>(product) }
}

#[inline(always)]
unsafe fn multiply<V: Vector, S: Square, const ROWS: usize>(product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        if product.m.min(product.n) == 0 {
            return;
        }
        match product.order {
            _ if product.k == 0 => return product.empty(),
            SumOrder::Dots => return thin::dots::<S>(product),
            SumOrder::Tiles if product.m == 1 && product.b_col == 1 => return thin::sums::<V>(product),
            SumOrder::Tiles if narrow::fits(product) => return narrow::rows::<V>(product),
            SumOrder::Tiles => {}
        }
        let packs = product.m > 2 * ROWS && product.n > V::LANES && product.k >= 16 && product.work() > 1 << 15;
        let room = if packs { room((M_PACK * V::LANES + WIDEST + 8) * BLOCK * size_of::<f32>()) } else { None };
        match room {
            Some(room) => {
                packed::<V, S, ROWS>(product, room.ptr().cast());
                ROOM.set(Some(room));
            }
            None => direct::<V, S, ROWS>(product),
        }
    }
}

/// Reads the operands where they lie, except for a `b` whose columns are contiguous.
#[inline(always)]
unsafe fn direct<V: Vector, S: Square, const ROWS: usize>(product: &Product) {
    let width = 2 * V::LANES;
    let mut panel = Panel([const { MaybeUninit::uninit() }; BLOCK * WIDEST + 8]);
    // SAFETY: the caller's promise; the panel has room for `width <= WIDEST` columns.
    unsafe {
        for k0 in (0..product.k).step_by(BLOCK) {
            if product.b_col == 1 {
                for i in (0..product.m).step_by(ROWS) {
                    for j in (0..product.n).step_by(width) {
                        product.tile(i, j, k0).sized::<V, false>(ROWS.min(product.m - i), width.min(product.n - j));
                    }
                }
                continue;
            }
            for j in (0..product.n).step_by(width) {
                let cols = width.min(product.n - j);
                let Tile { b, k, .. } = product.tile(0, j, k0);
                Lines { from: b, lines: cols, k, line: product.b_col, step: 1 }
                    .pack::<S>(width, panel.0.as_mut_ptr().cast());
                for i in (0..product.m).step_by(ROWS) {
                    let tile = Tile { b: panel.0.as_ptr().cast(), b_row: width, ..product.tile(i, j, k0) };
                    tile.sized::<V, false>(ROWS.min(product.m - i), cols);
                }
            }
        }
    }
}

/// Packs both operands, block by block: many rows of `a`, and for them the columns of `b` a panel at a time, which stays
/// in the first-level cache.
#[inline(always)]
unsafe fn packed<V: Vector, S: Square, const ROWS: usize>(product: &Product, buffer: *mut f32) {
    let width = 2 * V::LANES;
    let most = M_PACK * V::LANES / ROWS * ROWS;
    let step = product.m.div_ceil(product.m.div_ceil(most)).next_multiple_of(ROWS);
    // SAFETY: the caller's promise; the buffer has room for `WIDEST` columns and `most` rows of `BLOCK` elements, a
    // multiple of the panels' height, and eight elements more.
    unsafe {
        let (b, a) = (buffer, buffer.add(WIDEST * BLOCK));
        for i0 in (0..product.m).step_by(step) {
            let m = step.min(product.m - i0);
            for k0 in (0..product.k).step_by(BLOCK) {
                let Tile { k, a: from, .. } = product.tile(i0, 0, k0);
                Lines { from, lines: m, k, line: product.a_row, step: product.a_col }.pack::<S>(ROWS, a);
                let columns = |j: usize| Lines {
                    from: product.tile(i0, j, k0).b,
                    lines: width.min(product.n - j),
                    k,
                    line: product.b_col,
                    step: product.b_row,
                };
                for j in (0..product.n).step_by(width) {
                    columns(j).pack::<S>(width, b);
                    // A few rows come from near anyway.
                    let next =
                        if m >= PREFETCH_ROWS && j + width < product.n { Some(columns(j + width)) } else { None };
                    for i in (0..m).step_by(ROWS) {
                        if let Some(next) = next {
                            next.prefetch::<V>(i / ROWS, m.div_ceil(ROWS));
                        }
                        let tile = Tile {
                            a: a.add(i * k),
                            a_row: 1,
                            a_col: ROWS,
                            b,
                            b_row: width,
                            ..product.tile(i0 + i, j, k0)
                        };
                        tile.sized::<V, true>(ROWS.min(m - i), width.min(product.n - j));
                    }
                }
            }
        }
    }
}
