//! A slice that several threads write to, each to parts of its own.

use super::pool;
use std::slice::from_raw_parts_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Calls `work` with every part of `len` elements of `data` (the last one may be shorter) and where it starts, on up to
/// `threads` threads.
pub fn run<T: Send>(threads: usize, data: &mut [T], len: usize, work: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let (first, total) = (AtomicPtr::new(data.as_mut_ptr()), data.len());
    pool::run(threads, total.div_ceil(len), &|i| {
        let at = i * len;
        // SAFETY: the part lies within `data`, which is borrowed until `pool::run` returns; that calls every number once, so
        // nothing else has this part.
        let part = unsafe { from_raw_parts_mut(first.load(Ordering::Relaxed).add(at), len.min(total - at)) };
        work(at, part);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_part() {
        for (total, len) in [(0, 3), (1, 3), (9, 3), (10, 3), (1000, 7)] {
            let mut data = vec![0; total];
            run(3, &mut data, len, &|at, part| {
                assert!(part.len() == len.min(total - at));
                for (i, x) in part.iter_mut().enumerate() {
                    *x += at + i + 1;
                }
            });
            assert!(data.iter().enumerate().all(|(i, &x)| x == i + 1));
        }
    }
}
