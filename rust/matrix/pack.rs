//! Operands in the order in which the tiles read them: panels of some rows of `a`, or columns of `b`, column by column.

use super::vector::{Square, Vector};

/// A part of a matrix to be packed: `lines` rows of `a` or columns of `b`, each `k` long.
///
/// Lines are `line` elements apart and the elements of a line `step`; one of the two is 1.
#[derive(Clone, Copy)]
pub struct Lines {
    /// The first element.
    pub from: *const f32,
    /// How many lines, at least one.
    pub lines: usize,
    /// Elements of a line.
    pub k: usize,
    /// From line to line.
    pub line: usize,
    /// From element to element of a line.
    pub step: usize,
}

impl Lines {
    /// Packs panels of `width` lines one after the other, `width * k` elements each. The last one is as long as the
    /// others; what stands in place of lines that there are not is arbitrary.
    ///
    /// # Safety
    /// `from` is valid for what the sizes and strides reach, and `to` for the panels and eight elements more.
    #[inline(always)]
    pub unsafe fn pack<S: Square>(self, width: usize, to: *mut f32) {
        // Where lines lie side by side, some elements of all of them at a time, to read along memory. Not where a panel spills
        // into the next one, which must be written after it.
        let chunk = if self.step == 1 || !width.is_multiple_of(8) { self.k } else { 8 };
        // SAFETY: the caller's promise; every panel lies inside the lines.
        unsafe {
            for k in (0..self.k).step_by(chunk) {
                for (panel, first) in (0..self.lines).step_by(width).enumerate() {
                    let to = to.add(panel * width * self.k + k * width);
                    let lines = self.lines - first;
                    let from = self.from.add(first * self.line + k * self.step);
                    let panel = Self { from, lines, k: chunk.min(self.k - k), ..self };
                    match width {
                        16 if self.step != 1 && lines >= 16 => panel.copy::<S, 2>(width, to),
                        32 if self.step != 1 && lines >= 32 => panel.copy::<S, 4>(width, to),
                        _ => panel.eights::<S>(width, to),
                    }
                }
            }
        }
    }

    /// Asks for the part `index` of `parts` to be brought near.
    #[inline(always)]
    pub unsafe fn prefetch<V: Vector>(self, index: usize, parts: usize) {
        let (rows, row, len) =
            if self.step == 1 { (self.lines, self.line, self.k) } else { (self.k, self.step, self.lines) };
        for i in rows * index / parts..rows * (index + 1) / parts {
            for at in (0..len).step_by(16) {
                // SAFETY: a hint, which no address makes fail.
                unsafe { V::prefetch_far(self.from.wrapping_add(i * row + at)) }
            }
        }
    }

    /// A panel in strips of eight lines, of which the last may spill into the next column, written after it.
    #[inline(always)]
    unsafe fn eights<S: Square>(self, width: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            for at in (0..width.min(self.lines)).step_by(8) {
                let lines = self.lines - at;
                let part = Self { from: self.from.add(at * self.line), lines, ..self };
                let to = to.add(at);
                match (self.step, lines >= 8) {
                    (1, _) => part.transpose::<S>(width, to),
                    (_, true) => part.copy::<S, 1>(width, to),
                    (_, false) => part.copy_part::<S>(width, to),
                }
            }
        }
    }

    /// Eight lines, each contiguous.
    #[inline(always)]
    unsafe fn transpose<S: Square>(self, width: usize, to: *mut f32) {
        // SAFETY: the caller's promise; where there are fewer than eight lines the last one stands in.
        unsafe {
            let rows = self.rows();
            let whole = self.k / 8 * 8;
            for k in (0..whole).step_by(8) {
                let columns = S::columns(&rows, k);
                for j in 0..8 {
                    columns[j].store(to.add((k + j) * width));
                }
            }
            for k in whole..self.k {
                for i in 0..8.min(width) {
                    *to.add(k * width + i) = *rows[i].add(k);
                }
            }
        }
    }

    /// Where the first eight lines start; the last line again where there are fewer.
    #[inline(always)]
    pub fn rows(self) -> [*const f32; 8] {
        let mut rows = [self.from; 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.from.wrapping_add(i.min(self.lines - 1) * self.line);
        }
        rows
    }

    /// `8 * N` neighbouring lines, whose elements lie side by side.
    #[inline(always)]
    unsafe fn copy<S: Square, const N: usize>(self, width: usize, to: *mut f32) {
        // SAFETY: the caller's promise; there are this many lines.
        unsafe {
            for k in 0..self.k {
                for i in 0..N {
                    S::load(self.from.add(k * self.step + 8 * i)).store(to.add(k * width + 8 * i));
                }
            }
        }
    }

    /// The same for fewer than eight, with zeros in place of the others.
    #[inline(always)]
    unsafe fn copy_part<S: Square>(self, width: usize, to: *mut f32) {
        // SAFETY: the caller's promise; only the lines that there are are read.
        unsafe {
            for k in 0..self.k {
                S::load_part(self.from.add(k * self.step), self.lines).store(to.add(k * width));
            }
        }
    }
}
