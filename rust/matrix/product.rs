//! Products of matrices, `out = start + a b`, added up in one order whatever the shape, the threads and the instruction
//! set.

use super::kernel::{Start, Tile};
use super::narrow;
use super::pack::Lines;
use super::thin;
use super::vector::{Plain, Square, Vector};
use crate::loops::simd::Level;
use crate::memory::buffer::Buffer;
use std::cell::Cell;
use std::mem::MaybeUninit;

/// Terms that are added up in registers before they join the sum: part of the result's definition.
pub const BLOCK: usize = 256;
/// Rows of `a` that are packed at a time, for every lane: they stay in the second-level cache, of which processors with
/// longer vectors have more.
const M_PACK: usize = 64;
/// From so many rows of `a` on, the next columns of `b` are asked for ahead.
const FAR: usize = 128;
/// The greatest width of a panel of `b`.
const WIDEST: usize = 32;

/// One panel of `b`, aligned so that no vector of it lies in two cache lines.
#[repr(align(64))]
struct Panel([MaybeUninit<f32>; BLOCK * WIDEST + 8]);

thread_local! {
    /// Where this thread packs, kept for its next product.
    static ROOM: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Room to pack in, if the system has so much. Taken, not borrowed: nothing can be in its way.
fn room(bytes: usize) -> Option<Buffer> {
    ROOM.take().filter(|room| room.len() >= bytes).or_else(|| Buffer::new(bytes))
}

/// One product, all strides in elements. `b` or its transpose is contiguous along rows, `a` likewise, `out` is.
#[derive(Clone, Copy)]
pub struct Product {
    /// Rows of `a` and `out`.
    pub m: usize,
    /// Columns of `b` and `out`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// `a[0, 0]`.
    pub a: *const f32,
    /// From row to row of `a`.
    pub a_row: usize,
    /// From column to column of `a`.
    pub a_col: usize,
    /// `b[0, 0]`.
    pub b: *const f32,
    /// From row to row of `b`.
    pub b_row: usize,
    /// From column to column of `b`.
    pub b_col: usize,
    /// What the sums start with: a number for every column, or nothing.
    pub bias: Option<*const f32>,
    /// From column to column of the bias: 1, or 0 in a product turned round.
    pub bias_col: usize,
    /// `out[0, 0]`.
    pub out: *mut f32,
    /// From row to row of `out`.
    pub out_row: usize,
    /// How the sums are added up: a property of the whole product, which its parts share.
    pub way: Way,
}

/// The order of a sum.
#[derive(Clone, Copy)]
pub enum Way {
    /// Term by term, in blocks of [`BLOCK`].
    Tiles,
    /// In lanes, for one row times contiguous columns.
    Dots,
}

// SAFETY: plain pointers; whoever runs a product promises that they are valid and that nobody else writes there.
unsafe impl Sync for Product {}

impl Product {
    /// Multiplications.
    pub fn work(&self) -> usize {
        self.m.saturating_mul(self.n).saturating_mul(self.k)
    }

    /// The product of the rows `i` to `i + m` and columns `j` to `j + n` of `out`.
    pub fn part(&self, i: usize, m: usize, j: usize, n: usize) -> Self {
        Self {
            m,
            n,
            a: self.a.wrapping_add(i * self.a_row),
            b: self.b.wrapping_add(j * self.b_col),
            bias: self.bias.map(|b| b.wrapping_add(j * self.bias_col)),
            out: self.out.wrapping_add(i * self.out_row + j),
            ..*self
        }
    }

    /// Computes it on this thread.
    ///
    /// # Safety
    /// The pointers are valid for what the sizes and strides reach, and `out` overlaps nothing.
    pub unsafe fn run(&self, level: Level) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m256, __m512};

            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe { product.multiply::<__m256, __m256, 6>() }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe { product.multiply::<__m512, __m256, 8>() }
            }

            match level {
                // SAFETY: the level never exceeds what the processor has; the rest is the caller's promise.
                Level::Avx512 => return unsafe { avx512(self) },
                // SAFETY: as above.
                Level::Avx2 => return unsafe { avx2(self) },
                Level::Baseline => {}
            }
        }
        let _ = level;
        // SAFETY: the caller's promise.
        unsafe { self.multiply::<Plain, Plain, 6>() }
    }

    #[inline(always)]
    unsafe fn multiply<V: Vector, S: Square, const ROWS: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.m.min(self.n) == 0 {
                return;
            }
            match self.way {
                _ if self.k == 0 => return self.empty(),
                Way::Dots => return thin::dots::<S>(self),
                Way::Tiles if self.m == 1 && self.b_col == 1 => return thin::sums::<V>(self),
                Way::Tiles if narrow::fits(self) => return narrow::rows::<V>(self),
                Way::Tiles => {}
            }
            let packs = self.m > 2 * ROWS && self.n > V::LANES && self.k >= 16 && self.work() > 1 << 15;
            let room = if packs { room((M_PACK * V::LANES + WIDEST + 8) * BLOCK * size_of::<f32>()) } else { None };
            match room {
                Some(room) => {
                    self.packed::<V, S, ROWS>(room.ptr().cast());
                    ROOM.set(Some(room));
                }
                None => self.direct::<V, S, ROWS>(),
            }
        }
    }

    /// The same product with one column turned into one row, and the way to add it up.
    pub fn ready(self) -> Self {
        let mut product = self;
        if self.n == 1 && self.out_row == 1 {
            product = Self {
                m: 1,
                n: self.m,
                a: self.b,
                a_row: self.b_col,
                a_col: self.b_row,
                b: self.a,
                b_row: self.a_col,
                b_col: self.a_row,
                bias_col: 0,
                ..self
            };
        }
        let dots = product.m == 1 && product.a_col == 1 && product.b_row == 1;
        Self { way: if dots { Way::Dots } else { Way::Tiles }, ..product }
    }

    /// A sum of no terms.
    unsafe fn empty(&self) {
        for i in 0..self.m {
            for j in 0..self.n {
                // SAFETY: the caller's promise.
                unsafe {
                    *self.out.add(i * self.out_row + j) = self.bias.map_or(0.0, |bias| *bias.add(j * self.bias_col))
                }
            }
        }
    }

    /// The tile `(i, j)` of the terms from `k0` on, as it would be with nothing packed.
    pub fn tile(&self, i: usize, j: usize, k0: usize) -> Tile {
        Tile {
            k: BLOCK.min(self.k - k0),
            a: self.a.wrapping_add(i * self.a_row + k0 * self.a_col),
            a_row: self.a_row,
            a_col: self.a_col,
            b: self.b.wrapping_add(k0 * self.b_row + j * self.b_col),
            b_row: self.b_row,
            start: match self.bias {
                _ if k0 > 0 => Start::Output,
                Some(bias) => Start::Bias(bias.wrapping_add(j * self.bias_col)),
                None => Start::Nothing,
            },
            out: self.out.wrapping_add(i * self.out_row + j),
            out_row: self.out_row,
        }
    }

    /// Reads the operands where they lie, except for a `b` whose columns are contiguous.
    #[inline(always)]
    unsafe fn direct<V: Vector, S: Square, const ROWS: usize>(&self) {
        let width = 2 * V::LANES;
        let mut panel = Panel([const { MaybeUninit::uninit() }; BLOCK * WIDEST + 8]);
        // SAFETY: the caller's promise; the panel has room for `width <= WIDEST` columns.
        unsafe {
            for k0 in (0..self.k).step_by(BLOCK) {
                if self.b_col == 1 {
                    for i in (0..self.m).step_by(ROWS) {
                        for j in (0..self.n).step_by(width) {
                            self.tile(i, j, k0).sized::<V, false>(ROWS.min(self.m - i), width.min(self.n - j));
                        }
                    }
                    continue;
                }
                for j in (0..self.n).step_by(width) {
                    let cols = width.min(self.n - j);
                    let Tile { b, k, .. } = self.tile(0, j, k0);
                    Lines { from: b, lines: cols, k, line: self.b_col, step: 1 }
                        .pack::<S>(width, panel.0.as_mut_ptr().cast());
                    for i in (0..self.m).step_by(ROWS) {
                        let tile = Tile { b: panel.0.as_ptr().cast(), b_row: width, ..self.tile(i, j, k0) };
                        tile.sized::<V, false>(ROWS.min(self.m - i), cols);
                    }
                }
            }
        }
    }

    /// Packs both operands, block by block: many rows of `a`, and for them the columns of `b` a panel at a time, which stays
    /// in the first-level cache.
    #[inline(always)]
    unsafe fn packed<V: Vector, S: Square, const ROWS: usize>(&self, buffer: *mut f32) {
        let width = 2 * V::LANES;
        let most = M_PACK * V::LANES / ROWS * ROWS;
        let step = self.m.div_ceil(self.m.div_ceil(most)).next_multiple_of(ROWS);
        // SAFETY: the caller's promise; the buffer has room for `WIDEST` columns and `most` rows of `BLOCK` elements, a
        // multiple of the panels' height, and eight elements more.
        unsafe {
            let (b, a) = (buffer, buffer.add(WIDEST * BLOCK));
            for i0 in (0..self.m).step_by(step) {
                let m = step.min(self.m - i0);
                for k0 in (0..self.k).step_by(BLOCK) {
                    let Tile { k, a: from, .. } = self.tile(i0, 0, k0);
                    Lines { from, lines: m, k, line: self.a_row, step: self.a_col }.pack::<S>(ROWS, a);
                    let columns = |j: usize| Lines {
                        from: self.tile(i0, j, k0).b,
                        lines: width.min(self.n - j),
                        k,
                        line: self.b_col,
                        step: self.b_row,
                    };
                    for j in (0..self.n).step_by(width) {
                        columns(j).pack::<S>(width, b);
                        // A few rows come from near anyway.
                        let next = if m >= FAR && j + width < self.n { Some(columns(j + width)) } else { None };
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
                                ..self.tile(i0 + i, j, k0)
                            };
                            tile.sized::<V, true>(ROWS.min(m - i), width.min(self.n - j));
                        }
                    }
                }
            }
        }
    }
}
