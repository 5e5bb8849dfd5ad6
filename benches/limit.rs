//! The limit of memory: a loop with the streams of a rule and next to no arithmetic.
//!
//! A rule with `S` state arrays reads `x`, `g` and the states, and writes `x` and the states: `limit` does the same
//! with one addition per write, over the same number of elements and with as many threads, in arrays that lie well (huge
//! pages, starts that share no cache sets). Nothing that keeps the rule's state can be faster. It is driven through its
//! standard input by `benches/contenders/limit.py`:
//!
//! `limit ELEMENTS STATES READS THREADS (in_place | pure)`, then lines with a number of steps, each answered with the
//! seconds that they took. `READS` is how often the gradient is read once more, as a norm must do. `pure` writes to arrays
//! of its own, past the caches where they are too small to hold everything.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Elements of a step of the loop: a cache line.
const LINE: usize = 16;
/// At most so many state arrays.
const MOST: usize = 10;
/// Beyond so many bytes of all streams together, results do not fit into any cache.
const CACHE: usize = 20 << 20;

#[derive(Clone, Copy)]
struct Streams {
    /// `x` and the states: read.
    from: [*mut f32; MOST + 1],
    /// `x` and the states: written. In place the same.
    to: [*mut f32; MOST + 1],
    /// The gradient.
    g: *const f32,
}

// SAFETY: threads share the pointers, each for a range of its own.
unsafe impl Sync for Streams {}

/// Room for `n` floats that starts `index` strides into a huge page.
///
/// Measured on a Zen 4, 33,000,000 elements, two states, one thread, in place: a stride of 0 takes 38 ms, 1088 bytes 25 to 32,
/// 4160 39, 17408 19, 135232 19 (of three states 24, where 17408 takes 30). In cache 1088 is best.
fn place(n: usize, index: usize) -> *mut f32 {
    const PAGE: usize = 2 << 20;
    let stride = if n * 4 < PAGE { 1088 } else { 135_232 };
    let bytes = (n * 4 + index * stride).next_multiple_of(PAGE);
    let layout = std::alloc::Layout::from_size_align(bytes, PAGE).expect("a size that fits");
    // SAFETY: the layout is not empty; the block is written before it is read, and lives as long as the process.
    unsafe {
        let block = std::alloc::alloc(layout);
        assert!(!block.is_null(), "out of memory");
        #[cfg(target_os = "linux")]
        libc::madvise(block.cast(), bytes, libc::MADV_HUGEPAGE);
        let start = block.add(index * stride).cast::<f32>();
        for i in 0..n {
            start.add(i).write(0.5);
        }
        start
    }
}

/// Writes a line, past the caches if `NT`.
#[inline(always)]
unsafe fn store<const NT: bool>(to: *mut f32, line: [f32; LINE]) {
    // SAFETY: the caller's promise; a stream that is written so is aligned to 16 bytes.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if NT {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
            for i in (0..LINE).step_by(4) {
                _mm_stream_ps(to.add(i), _mm_loadu_ps(line.as_ptr().add(i)));
            }
            return;
        }
        to.cast::<[f32; LINE]>().write_unaligned(line);
    }
}

/// One step over the lines `start..end` of `S` arrays and the gradient.
#[inline(always)]
unsafe fn step<const S: usize, const NT: bool>(s: &Streams, start: usize, end: usize) {
    for line in start..end {
        // SAFETY: the caller's promise: the lines lie within the arrays.
        unsafe {
            let g = s.g.add(line * LINE).cast::<[f32; LINE]>().read_unaligned();
            for k in 0..S {
                let mut values = s.from[k].add(line * LINE).cast::<[f32; LINE]>().read_unaligned();
                for (value, g) in values.iter_mut().zip(g) {
                    *value += g;
                }
                store::<NT>(s.to[k].add(line * LINE), values);
            }
        }
    }
}

/// Reads the gradient's lines, and something of it that the compiler must compute.
#[inline(always)]
unsafe fn read(s: &Streams, start: usize, end: usize) -> [f32; 4 * LINE] {
    let mut sums = [0.0; 4 * LINE];
    for line in (start..end.saturating_sub(3)).step_by(4) {
        // SAFETY: the caller's promise: the lines lie within the array.
        let four = unsafe { s.g.add(line * LINE).cast::<[f32; 4 * LINE]>().read_unaligned() };
        for (sum, g) in sums.iter_mut().zip(four) {
            *sum += g;
        }
    }
    sums
}

type Step = unsafe fn(&Streams, usize, usize);
type Read = unsafe fn(&Streams, usize, usize) -> [f32; 4 * LINE];

/// The loops, compiled for an instruction set.
macro_rules! level {
    ($name:ident, $($feature:literal)?) => {
        mod $name {
            use super::{LINE, Read, Step, Streams};

            $(#[target_feature(enable = $feature)])?
            unsafe fn step<const S: usize, const NT: bool>(s: &Streams, start: usize, end: usize) {
                // SAFETY: the caller's promise.
                unsafe { super::step::<S, NT>(s, start, end) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn read(s: &Streams, start: usize, end: usize) -> [f32; 4 * LINE] {
                // SAFETY: the caller's promise.
                unsafe { super::read(s, start, end) }
            }

            pub(super) fn loops(streams: usize, past: bool) -> (Step, Read) {
                macro_rules! table {
                    ($nt:literal) => {
                        [
                            step::<1, $nt>, step::<2, $nt>, step::<3, $nt>, step::<4, $nt>, step::<5, $nt>,
                            step::<6, $nt>, step::<7, $nt>, step::<8, $nt>, step::<9, $nt>, step::<10, $nt>,
                            step::<11, $nt>,
                        ]
                    };
                }
                let steps: [Step; 11] = if past { table!(true) } else { table!(false) };
                (steps[streams - 1], read)
            }
        }
    };
}
level!(baseline,);
#[cfg(target_arch = "x86_64")]
level!(avx2, "avx2");
#[cfg(target_arch = "x86_64")]
level!(avx512, "avx512f");

fn loops(streams: usize, past: bool) -> (Step, Read) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return avx512::loops(streams, past);
        }
        if is_x86_feature_detected!("avx2") {
            return avx2::loops(streams, past);
        }
    }
    baseline::loops(streams, past)
}

/// Waits until all threads have come here as often as this one. It spins: to sleep would cost more than small steps.
fn meet(arrived: &AtomicUsize, times: &mut usize, threads: usize) {
    *times += 1;
    arrived.fetch_add(1, Ordering::AcqRel);
    while arrived.load(Ordering::Acquire) < *times * threads {
        std::hint::spin_loop();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [n, states, reads, threads, mode] = arguments.as_slice() else {
        eprintln!("limit ELEMENTS STATES READS THREADS (in_place | pure)");
        std::process::exit(2);
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (n, states, reads, threads) = (number(n), number(states), number(reads), number(threads));
    assert!(states <= MOST, "more than {MOST} state arrays");
    let pure = mode == "pure";
    let lines = n.div_ceil(LINE);
    let mut streams = Streams {
        from: [std::ptr::null_mut(); MOST + 1],
        to: [std::ptr::null_mut(); MOST + 1],
        g: place(lines * LINE, 0),
    };
    for k in 0..=states {
        streams.from[k] = place(lines * LINE, 1 + k);
        streams.to[k] = if pure { place(lines * LINE, 2 + states + k) } else { streams.from[k] };
    }
    let past = pure && n * 4 * (2 * states + 3) > CACHE;
    let (step, read) = loops(states + 1, past);

    let share = |i: usize| (lines * i / threads, lines * (i + 1) / threads);
    let work = |i: usize, steps: usize, arrived: &AtomicUsize| {
        let (mut times, (start, end)) = (0, share(i));
        for _ in 0..steps {
            // SAFETY: the shares lie within the arrays and are disjoint.
            unsafe {
                for _ in 0..reads {
                    std::hint::black_box(read(&streams, start, end));
                    meet(arrived, &mut times, threads);
                }
                step(&streams, start, end);
            }
            meet(arrived, &mut times, threads);
        }
    };
    for line in std::io::stdin().lock().lines() {
        let steps = line.expect("standard input").trim().parse::<usize>().expect("a number of steps");
        let (ready, arrived) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let seconds = std::thread::scope(|scope| {
            for i in 1..threads {
                let (ready, arrived, work) = (&ready, &arrived, &work);
                scope.spawn(move || {
                    meet(ready, &mut 0, threads);
                    work(i, steps, arrived);
                });
            }
            meet(&ready, &mut 0, threads);
            let start = Instant::now();
            work(0, steps, &arrived);
            start.elapsed().as_secs_f64()
        });
        println!("{seconds:e}");
        std::io::stdout().flush().expect("standard output");
    }
}
