//! Norms of whole arrays, shared out to threads by blocks.

use crate::drive::PARALLEL_BYTES;
use crate::dtype::Compute;
use crate::element::Element;
use crate::job::Source;
use crate::pool;
use crate::reduce::{BLOCK, Norm};
use crate::simd::{self, Level};
use num_complex::Complex;
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

/// The norms of all arrays.
///
/// # Safety
/// The pointers are aligned, valid for their `n` elements, and nothing writes to them meanwhile.
#[must_use]
pub unsafe fn measure(measures: &[Measure]) -> Vec<f64> {
    const BLOCKS: usize = 64; // of a task: 256 Ki elements at most
    let level = simd::level();
    let bytes: usize = measures.iter().map(|m| m.n * m.of.dtype.size()).sum();
    let threads = pool::threads_for(bytes, PARALLEL_BYTES);
    let all: usize = measures.iter().map(|m| m.n.div_ceil(BLOCK)).sum();
    let share = if threads == 1 { BLOCKS } else { (all / (2 * threads)).clamp(1, BLOCKS) };
    let mut tasks = Vec::new();
    let mut total = 0;
    for (i, m) in measures.iter().enumerate() {
        let blocks = m.n.div_ceil(BLOCK);
        tasks.extend((0..blocks).step_by(share).map(|b| (i, b..blocks.min(b + share), total)));
        total += blocks;
    }
    let partial: Vec<AtomicU64> = (0..total).map(|_| AtomicU64::new(0)).collect();
    pool::run(threads, tasks.len(), &|t| {
        let (i, blocks, first) = &tasks[t];
        for b in blocks.clone() {
            // SAFETY: the caller's promise; the block lies within the array.
            let value = unsafe { measures[*i].block(b, level) };
            partial[first + b].store(value.to_bits(), Ordering::Relaxed);
        }
    });
    let partial: Vec<f64> = partial.into_iter().map(|p| f64::from_bits(p.into_inner())).collect();
    let mut rest = &partial[..];
    let norms = measures.iter().map(|m| {
        let (blocks, tail) = rest.split_at(m.n.div_ceil(BLOCK));
        rest = tail;
        m.norm.finish(blocks)
    });
    norms.collect()
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
