//! Norms of whole arrays, shared out to threads by blocks.

use super::drive::PARALLEL_BYTES;
use super::job::Source;
use crate::loops::dtype::Compute;
use crate::loops::norm::{BLOCK, Norm, Reading, Scale, Wide};
use crate::loops::simd::{self, Level};
use crate::memory::placement::Aligned;
use crate::memory::reserve::{OutOfMemory, Reserve};
use crate::threads::pool;
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
    /// which has this number of elements.
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
    /// What the blocks of each array contribute together.
    totals: Vec<f64>,
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
    /// The norms of all arrays; 0 of an empty one. An error where there is no memory for the lists.
    ///
    /// # Safety
    /// The pointers are aligned, valid for their `n` elements, and nothing writes to them meanwhile.
    pub unsafe fn measure(&mut self, measures: &[Measure]) -> Result<&[f64], OutOfMemory> {
        // SAFETY: the caller's promise.
        unsafe { self.read(measures, Reading::Plain)? };
        self.found.clear();
        self.found.make_room(self.totals.len())?;
        self.found.extend_from_slice(&self.totals);
        for (i, m) in measures.iter().enumerate() {
            let total = self.found[i];
            let mut norm = if m.n == 0 { 0.0 } else { m.norm.of_total(total) };
            if m.n > 0 && !m.norm.is_sure(total, m.is_narrow()) {
                // SAFETY: the caller's promise.
                norm = unsafe { self.scaled(m)? }.unwrap_or(norm);
            }
            self.found[i] = norm;
        }
        Ok(&self.found)
    }

    /// The norm of an array whose elements are brought near 1 before they are raised to a power; `None` where they are all 0
    /// or not all finite.
    ///
    /// # Safety
    /// As for [`Norms::measure`].
    #[cold]
    unsafe fn scaled(&mut self, m: &Measure) -> Result<Option<f64>, OutOfMemory> {
        let m = Measure { norm: m.norm.of_one().unwrap_or(m.norm), ..*m };
        let mut read = |reading| {
            // SAFETY: the caller's promise.
            unsafe { self.read(std::slice::from_ref(&m), reading)? };
            Ok(self.totals[0])
        };
        let Some(unit) = Norm::unit(read(Reading::Part)?) else { return Ok(None) };
        let scale = Scale { unit, modulus: read(Reading::Modulus(unit))? };
        Ok(Some(m.norm.of_scaled(read(Reading::Scaled(scale))?, scale)))
    }

    /// Reads all arrays in one way; what each comes to stands in `totals`.
    ///
    /// # Safety
    /// As for [`Norms::measure`].
    unsafe fn read(&mut self, measures: &[Measure], reading: Reading) -> Result<(), OutOfMemory> {
        let Self { tasks, partial, blocks, totals, .. } = self;
        let bytes: usize = measures.iter().map(|m| m.n * m.of.dtype.size()).sum();
        let (level, threads) = (simd::level(), pool::threads_for(bytes, PARALLEL_BYTES));
        let all: usize = measures.iter().map(|m| m.n.div_ceil(BLOCK)).sum();
        let step = if threads == 1 { BLOCKS } else { (all / (2 * threads)).clamp(1, BLOCKS) };
        tasks.clear();
        tasks.make_room(measures.iter().map(|m| m.n.div_ceil(BLOCK).div_ceil(step)).sum())?;
        let mut total = 0;
        for (measure, m) in measures.iter().enumerate() {
            let all = m.n.div_ceil(BLOCK);
            let task = |b| Task { measure, blocks: b..all.min(b + step), first: total };
            tasks.extend((0..all).step_by(step).map(task));
            total += all;
        }
        partial.make_room(total.saturating_sub(partial.len()))?;
        partial.resize_with(total, AtomicU64::default);
        pool::run(threads, tasks.len(), &|t| {
            let Task { measure, blocks, first } = &tasks[t];
            for b in blocks.clone() {
                // SAFETY: the caller's promise; the block lies within the array.
                let value = unsafe { measures[*measure].block(reading, b, level) };
                partial[first + b].store(value.to_bits(), Ordering::Relaxed);
            }
        });
        blocks.clear();
        blocks.make_room(total)?;
        blocks.extend(partial.iter_mut().map(|p| f64::from_bits(*p.get_mut())));
        let mut rest = &blocks[..];
        totals.clear();
        totals.make_room(measures.len())?;
        totals.extend(measures.iter().map(|m| {
            let (blocks, tail) = rest.split_at(m.n.div_ceil(BLOCK));
            rest = tail;
            m.norm.total(reading, blocks)
        }));
        Ok(())
    }
}

/// The first element of an array that is not finite in the type `compute`; `None` if all are.
///
/// # Safety
/// The pointer is aligned, valid for `n` elements, and nothing writes to them meanwhile.
#[cold]
pub unsafe fn first_not_finite(of: Source, n: usize, compute: Compute) -> Option<usize> {
    // SAFETY: the caller's promise.
    unsafe {
        match compute {
            Compute::F32 => first::<f32>(of, n),
            Compute::F64 => first::<f64>(of, n),
            Compute::C64 => first::<Complex<f32>>(of, n),
            Compute::C128 => first::<Complex<f64>>(of, n),
        }
    }
}

unsafe fn first<T: Wide>(of: Source, n: usize) -> Option<usize> {
    let mut scratch = Aligned([T::ZERO; BLOCK]);
    (0..n).step_by(BLOCK).find_map(|start| {
        let part = &mut scratch.0[..BLOCK.min(n - start)];
        // SAFETY: the caller's promise; these elements lie within the array.
        unsafe { T::load(of.dtype, of.ptr.add(start * of.dtype.size()), part) };
        part.iter().position(|z| !z.parts().iter().all(|part| part.is_finite())).map(|i| start + i)
    })
}

impl Measure {
    /// Whether the elements are within the range of float32.
    fn is_narrow(&self) -> bool {
        matches!(self.compute, Compute::F32 | Compute::C64)
    }

    unsafe fn block(&self, reading: Reading, b: usize, level: Level) -> f64 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.compute {
                Compute::F32 => self.typed::<f32>(reading, b, level),
                Compute::F64 => self.typed::<f64>(reading, b, level),
                Compute::C64 => self.typed::<Complex<f32>>(reading, b, level),
                Compute::C128 => self.typed::<Complex<f64>>(reading, b, level),
            }
        }
    }

    unsafe fn typed<T: Wide>(&self, reading: Reading, b: usize, level: Level) -> f64 {
        let n = BLOCK.min(self.n - b * BLOCK);
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.of.ptr.add(b * BLOCK * self.of.dtype.size());
            if self.of.dtype == T::COMPUTE.dtype() {
                return self.norm.block(reading, level, from_raw_parts(at.cast::<T>(), n));
            }
            let mut scratch = Aligned([T::ZERO; BLOCK]);
            T::load(self.of.dtype, at, &mut scratch.0[..n]);
            self.norm.block(reading, level, &scratch.0[..n])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn norm(p: f64, ptr: *const u8, compute: Compute, n: usize) -> f64 {
        let of = Source { ptr, dtype: compute.dtype() };
        let measure = Measure { norm: Norm::of(p), of, n, compute };
        // SAFETY: the callers' slices live until they have the answer.
        unsafe { Norms::default().measure(&[measure]).unwrap()[0] }
    }

    #[test]
    fn an_empty_array_has_norm_zero() {
        for p in [0.0, 1.0, 2.0, -1.0, 0.01, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(norm(p, std::ptr::dangling(), Compute::F64, 0), 0.0);
        }
    }

    proptest! {
        #[test]
        fn float32_loses_no_digits(
            g in proptest::collection::vec((prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL, 0.1..10_f32), 1..100),
            p in prop_oneof![Just(1.0), Just(2.0), Just(f64::INFINITY), Just(f64::NEG_INFINITY), -1e3..1e3_f64],
        ) {
            let narrow: Vec<_> = g.iter().map(|&(re, ratio)| Complex::new(re * 0.01, re * 0.01 * ratio)).collect();
            let wide: Vec<_> = narrow.iter().map(|z| Complex::new(f64::from(z.re), f64::from(z.im))).collect();
            let found = norm(p, narrow.as_ptr().cast(), Compute::C64, g.len());
            let expected = norm(p, wide.as_ptr().cast(), Compute::C128, g.len());
            prop_assert!((found - expected).abs() <= 1e-12 * expected || found == expected, "{found} {expected}");
            let narrow: Vec<f32> = g.iter().map(|g| g.0).collect();
            let wide: Vec<f64> = narrow.iter().copied().map(f64::from).collect();
            let found = norm(p, narrow.as_ptr().cast(), Compute::F32, g.len());
            prop_assert_eq!(found, norm(p, wide.as_ptr().cast(), Compute::F64, g.len()));
        }
    }
}
