//! Products shared out to threads: over rows and columns of the output, never over the terms of a sum.

use super::multiply;
use super::product::Product;
use crate::loops::simd;
use crate::threads::pool::{self, Border};

/// From this number of multiplications on they are shared out.
const PARALLEL: Border = Border { awake: 1 << 20, asleep: 4 << 20 };
/// Multiplications in a part, at least.
const PART: usize = 1 << 19;

/// A product cut into `rows * cols` parts of about equal size.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    cols: usize,
}

impl Grid {
    fn new(product: &Product, parts: usize) -> Self {
        let mut grid = Self { rows: 1, cols: 1 };
        while grid.rows * grid.cols < parts {
            if product.m / grid.rows >= product.n / grid.cols { grid.rows *= 2 } else { grid.cols *= 2 }
        }
        grid
    }

    fn part(self, product: &Product, index: usize) -> Product {
        // Multiples, so that few tiles are cut; small ones, so that the parts are about equal.
        let range = |total: usize, parts: usize, at: usize, unit: usize| {
            let step = total.div_ceil(parts).next_multiple_of(unit);
            let start = total.min(at * step);
            (start, step.min(total - start))
        };
        let (i, m) = range(product.m, self.rows, index / self.cols, 8);
        let (j, n) = range(product.n, self.cols, index % self.cols, 16);
        product.part(i, m, j, n)
    }
}

/// Computes `products`, sharing the work among the pool's threads where there is enough of it.
///
/// # Safety
/// The pointers are valid for what the sizes and strides reach; every `out` is borrowed exclusively and overlaps nothing.
pub unsafe fn run<const P: usize>(products: [Product; P]) {
    let products = products.map(Product::ready);
    let level = simd::level();
    let work = products.iter().fold(0_usize, |sum, p| sum.saturating_add(p.work()));
    let threads = pool::threads_for(work, PARALLEL);
    if threads == 1 {
        for product in &products {
            // SAFETY: the caller's promise.
            unsafe { multiply::run(product, level) };
        }
        return;
    }
    // One for every thread, as every part packs what it reads: a thread is at hand, or comes in time for its part.
    let parts = threads.min(work / PART).next_power_of_two();
    let grids = products.each_ref().map(|product| Grid::new(product, parts));
    pool::run(threads, P * parts, &|task| {
        let (product, index) = (task / parts, task % parts);
        // SAFETY: the caller's promise; the parts write to different elements.
        unsafe { multiply::run(&grids[product].part(&products[product], index), level) };
    });
}
