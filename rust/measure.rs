//! Norms of whole arrays, shared out to threads by blocks.

use crate::drive::PARALLEL_BYTES;
use crate::dtype::Compute;
use crate::element::Element;
use crate::job::Source;
use crate::pool;
use crate::reduce::{BLOCK, Norm};
use crate::simd::{self, Level};
use num_complex::Complex;
use std::ops::Range;
use std::slice::from_raw_parts;
use std::sync::atomic::{AtomicU64, Ordering};

/// A norm to compute.
#[derive(Clone, Copy)]
pub struct Measure {
    /// Which.
    pub norm: Norm,
    /// Of this array,
    pub of: Source,
    /// which has so many elements.
    pub n: usize,
    /// The type in which moduli are taken.
    pub compute: Compute,
}

// SAFETY: the pointer is only read, from memory that the maker keeps alive and unwritten: `measure` asks for that.
unsafe impl Sync for Measure {}
// SAFETY: as above.
unsafe impl Send for Measure {}

/// Blocks of a task at most: 256 Ki elements.
const BLOCKS: usize = 64;

/// Measures; its lists are kept between calls.
#[derive(Default)]
pub struct Norms {
    tasks: Vec<Task>,
    /// What each block contributes.
    partial: Vec<AtomicU64>,
    blocks: Vec<f64>,
    found: Vec<f64>,
}

/// Some blocks of an array.
struct Task {
    measure: usize,
    blocks: Range<usize>,
    /// Where in the list of all arrays' blocks those of this array start.
    first: usize,
}

impl Norms {
    /// The norms of all arrays.
    ///
    /// # Safety
    /// The pointers are aligned, valid for their `n` elements, and nothing writes to them meanwhile.
    pub unsafe fn measure(&mut self, measures: &[Measure]) -> &[f64] {
        let Self { tasks, partial, blocks, found } = self;
        let bytes: usize = measures.iter().map(|m| m.n * m.of.dtype.size()).sum();
        let (level, threads) = (simd::level(), pool::threads_for(bytes, PARALLEL_BYTES));
        let all: usize = measures.iter().map(|m| m.n.div_ceil(BLOCK)).sum();
        let step = if threads == 1 { BLOCKS } else { (all / (2 * threads)).clamp(1, BLOCKS) };
        tasks.clear();
        let mut total = 0;
        for (measure, m) in measures.iter().enumerate() {
            let all = m.n.div_ceil(BLOCK);
            let task = |b| Task { measure, blocks: b..all.min(b + step), first: total };
            tasks.extend((0..all).step_by(step).map(task));
            total += all;
        }
        partial.resize_with(total, AtomicU64::default);
        pool::run(threads, tasks.len(), &|t| {
            let Task { measure, blocks, first } = &tasks[t];
            for b in blocks.clone() {
                // SAFETY: the caller's promise; the block lies within the array.
                let value = unsafe { measures[*measure].block(b, level) };
                partial[first + b].store(value.to_bits(), Ordering::Relaxed);
            }
        });
        blocks.clear();
        blocks.extend(partial.iter_mut().map(|p| f64::from_bits(*p.get_mut())));
        let mut rest = &blocks[..];
        found.clear();
        found.extend(measures.iter().map(|m| {
            let (blocks, tail) = rest.split_at(m.n.div_ceil(BLOCK));
            rest = tail;
            m.norm.finish(blocks)
        }));
        found
    }
}

impl Measure {
    unsafe fn block(&self, b: usize, level: Level) -> f64 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.compute {
                Compute::F32 => self.typed::<f32>(b, level),
                Compute::F64 => self.typed::<f64>(b, level),
                Compute::C64 => self.typed::<Complex<f32>>(b, level),
                Compute::C128 => self.typed::<Complex<f64>>(b, level),
            }
        }
    }

    unsafe fn typed<T: Element>(&self, b: usize, level: Level) -> f64 {
        let n = BLOCK.min(self.n - b * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.of.ptr.add(b * BLOCK * self.of.dtype.size());
            if self.of.dtype == T::COMPUTE.dtype() {
                return self.norm.block(level, from_raw_parts(at.cast::<T>(), n));
            }
            let mut scratch = [T::ZERO; BLOCK];
            T::load(self.of.dtype, at, &mut scratch[..n]);
            self.norm.block(level, &scratch[..n])
        }
    }
}
