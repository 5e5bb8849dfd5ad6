//! The innermost loops: a tile of the product in registers, added up along `k` in order.

use super::vector::Vector;

/// What the first block of a sum is added to.
#[derive(Clone, Copy)]
pub enum Start {
    /// Nothing: the block is the value.
    Nothing,
    /// A bias for every column.
    Bias(*const f32),
    /// What stands in the output.
    Output,
}

/// Where a tile reads and writes, all strides in elements: `out[i, j] = start + sum over p < k of a[i, p] b[p, j]`.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Terms of the sums.
    pub k: usize,
    /// `a[0, 0]`.
    pub a: *const f32,
    /// From row to row of `a`.
    pub a_row: usize,
    /// From column to column of `a`.
    pub a_col: usize,
    /// `b[0, 0]`, whose rows are contiguous.
    pub b: *const f32,
    /// From row to row of `b`.
    pub b_row: usize,
    /// What is added to.
    pub start: Start,
    /// `out[0, 0]`, whose rows are contiguous.
    pub out: *mut f32,
    /// From row to row of `out`.
    pub out_row: usize,
}

/// Terms by which packed rows are asked for ahead.
const AHEAD: usize = 16;

impl Tile {
    /// `M` rows and `(N - 1) * LANES + last` columns; `PART` says that `last` is less than `LANES`.
    ///
    /// # Safety
    /// The pointers are valid for what the sizes and strides reach, and `out` overlaps nothing.
    #[inline(always)]
    unsafe fn run<V: Vector, const M: usize, const N: usize, const PART: bool, const PACKED: bool>(&self, last: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[V::zero(); N]; M];
            let (mut a, mut b) = (self.a, self.b);
            if PACKED {
                // What the sums are added to has time to arrive while they are formed, a row at a time: all at once they
                // would hold up the loads.
                let (mut left, mut ahead) = (self.k, self.out);
                while left > 0 {
                    V::prefetch(ahead);
                    V::prefetch(ahead.wrapping_add(N * V::LANES - 1));
                    ahead = ahead.wrapping_add(self.out_row);
                    let terms = left.min(self.k.div_ceil(M));
                    left -= terms;
                    for _ in 0..terms {
                        V::prefetch(a.wrapping_add(AHEAD * M));
                        // Packed panels are whole.
                        add_term::<V, M, N, false>(&mut sums, a, 1, b, last);
                        a = a.wrapping_add(self.a_col);
                        b = b.wrapping_add(self.b_row);
                    }
                }
            } else {
                for _ in 0..self.k {
                    add_term::<V, M, N, PART>(&mut sums, a, self.a_row, b, last);
                    a = a.wrapping_add(self.a_col);
                    b = b.wrapping_add(self.b_row);
                }
            }
            if PART {
                // By way of memory: with masks in it this loop is not unrolled, and the sums would not stay in registers.
                let mut spilled = [[[0.0_f32; 16]; N]; M];
                for i in 0..M {
                    for j in 0..N {
                        sums[i][j].store(spilled[i][j].as_mut_ptr());
                    }
                }
                return self.finish_part::<V>(spilled.as_flattened(), N, last);
            }
            for i in 0..M {
                let out = self.out.add(i * self.out_row);
                for j in 0..N {
                    let out = out.add(j * V::LANES);
                    let sum = match self.start {
                        Start::Nothing => sums[i][j],
                        Start::Bias(bias) => V::load(bias.add(j * V::LANES)).add(sums[i][j]),
                        Start::Output => V::load(out).add(sums[i][j]),
                    };
                    sum.store(out);
                }
            }
        }
    }

    /// Writes rows of `vectors` sums each, of which the last has `last` lanes.
    #[inline(always)]
    unsafe fn finish_part<V: Vector>(&self, sums: &[[f32; 16]], vectors: usize, last: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for (i, row) in sums.chunks_exact(vectors).enumerate() {
                for (j, sum) in row.iter().enumerate() {
                    let out = self.out.add(i * self.out_row + j * V::LANES);
                    let n = if j + 1 == vectors { last } else { V::LANES };
                    let sum = V::load(sum.as_ptr());
                    let sum = match self.start {
                        Start::Nothing => sum,
                        Start::Bias(bias) => V::load_part(bias.add(j * V::LANES), n).add(sum),
                        Start::Output => V::load_part(out, n).add(sum),
                    };
                    sum.store_part(out, n);
                }
            }
        }
    }

    /// `rows` (1 to 8) rows and `cols` (1 to `2 * LANES`) columns.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    pub unsafe fn sized<V: Vector, const PACKED: bool>(&self, rows: usize, cols: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match (cols > V::LANES, cols.is_multiple_of(V::LANES)) {
                (true, true) => self.rows::<V, 2, false, PACKED>(rows, V::LANES),
                (true, false) => self.rows::<V, 2, true, PACKED>(rows, cols - V::LANES),
                (false, true) => self.rows::<V, 1, false, PACKED>(rows, V::LANES),
                (false, false) => self.rows::<V, 1, true, PACKED>(rows, cols),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector, const N: usize, const PART: bool, const PACKED: bool>(&self, rows: usize, last: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => self.run::<V, 1, N, PART, PACKED>(last),
                2 => self.run::<V, 2, N, PART, PACKED>(last),
                3 => self.run::<V, 3, N, PART, PACKED>(last),
                4 => self.run::<V, 4, N, PART, PACKED>(last),
                5 => self.run::<V, 5, N, PART, PACKED>(last),
                6 => self.run::<V, 6, N, PART, PACKED>(last),
                7 if V::LANES > 8 => self.run::<V, 7, N, PART, PACKED>(last),
                8 if V::LANES > 8 => self.run::<V, 8, N, PART, PACKED>(last),
                _ => unreachable!("a tile of {rows} rows"),
            }
        }
    }
}

/// Adds the product of a column of `a` and a row of `b`.
#[inline(always)]
unsafe fn add_term<V: Vector, const M: usize, const N: usize, const PART: bool>(
    sums: &mut [[V; N]; M],
    a: *const f32,
    a_row: usize,
    b: *const f32,
    last: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = [V::zero(); N];
        for j in 0..N {
            row[j] = load::<V, N, PART>(b, j, last);
        }
        for i in 0..M {
            let factor = V::splat(*a.add(i * a_row));
            for j in 0..N {
                sums[i][j] = sums[i][j].add_product(factor, row[j]);
            }
        }
    }
}

/// The vector `j` of `N` at `from`; the last one has `last` lanes.
#[inline(always)]
unsafe fn load<V: Vector, const N: usize, const PART: bool>(from: *const f32, j: usize, last: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let from = from.add(j * V::LANES);
        if PART && j == N - 1 { V::load_part(from, last) } else { V::load(from) }
    }
}
