//! Whichever request for memory is refused, the answer is an orderly one: an error, or the same numbers another way.

#![cfg(not(feature = "python"))] // the module has an allocator of its own, too

use optirs::loops::dtype::{Compute, DType};
use optirs::loops::norm::Norm;
use optirs::memory::meet;
use optirs::memory::reserve::{OutOfMemory, Put};
use optirs::memory::strides::Strided;
use optirs::nn::activation::Activation;
use optirs::nn::affine::{self, Gradient, Shape};
use optirs::nn::dense::Dense;
use optirs::nn::fit::batch::{Data, Gathered};
use optirs::nn::fit::step::{Parameter, Stepper};
use optirs::nn::fit::{Arrays, End, Fit, Origin, Progress};
use optirs::nn::losses::crossentropy::Target;
use optirs::nn::losses::pointwise::Pointwise;
use optirs::nn::losses::values::Values;
use optirs::nn::losses::{Objective, Rows};
use optirs::nn::network::Network;
use optirs::program::contract::{Rounding, Value};
use optirs::program::{Program, Spec};
use optirs::step::drive::{Copy, Plan};
use optirs::step::job::{Job, Sink, Source, Tables};
use optirs::step::norms::{Measure, Norms};
use optirs::threads::pool;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The system's allocator, which refuses what it is told to.
struct Refusing;

/// Smaller requests are always met: they are for what a constant, or the number of dimensions or links, bounds.
const LEAST: usize = 256;

/// The number of the request that is refused, from 1; 0 while all are met.
static REFUSED: AtomicUsize = AtomicUsize::new(0);
/// Whether those after it are refused, too.
static FOR_EVER: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicUsize = AtomicUsize::new(0);

fn refuses(size: usize) -> bool {
    let refused = REFUSED.load(Ordering::SeqCst);
    if refused == 0 || size < LEAST {
        return false;
    }
    let number = ASKED.fetch_add(1, Ordering::SeqCst) + 1;
    number == refused || number > refused && FOR_EVER.load(Ordering::SeqCst)
}

// SAFETY: what is not refused is passed on to the system's allocator.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if refuses(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        if refuses(size) { std::ptr::null_mut() } else { unsafe { System.realloc(ptr, layout, size) } }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Calls `work` on a thread of its own, which keeps no room from before, with its first request refused, then its second and
/// so on until it makes no more: once each, and from there on all. `None` or `expected` must come of it. Says how many requests
/// there are.
fn each_refused<T: PartialEq + Debug + Send>(what: &str, expected: &T, work: &(dyn Fn() -> Option<T> + Sync)) -> usize {
    let mut most = 0;
    for for_ever in [false, true] {
        for refused in 1.. {
            let (asked, found) = std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    FOR_EVER.store(for_ever, Ordering::SeqCst);
                    ASKED.store(0, Ordering::SeqCst);
                    REFUSED.store(refused, Ordering::SeqCst);
                    let found = work();
                    REFUSED.store(0, Ordering::SeqCst);
                    (ASKED.load(Ordering::SeqCst), found)
                });
                worker.join().unwrap()
            });
            if let Some(found) = &found {
                assert!(found == expected, "{what}, request {refused}: {found:?}, not {expected:?}");
            }
            if asked < refused {
                assert!(found.is_some(), "{what}: none of {asked} requests was refused");
                most = most.max(asked);
                break;
            }
        }
    }
    most
}

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn rule(name: &str, values: &[(&str, Value)]) -> Spec {
    Spec::Rule(name.into(), values.iter().map(|&(n, v)| (n.into(), v)).collect(), String::new())
}

fn descent() -> Spec {
    rule("Descent", &[("eta", Value::Float(0.125))])
}

fn clip() -> Spec {
    rule("ClipNorm", &[("omega", Value::Float(0.5)), ("p", Value::Float(2.0)), ("throw", Value::Flag(true))])
}

/// A plan of many arrays, shared out to threads.
fn drive(threads: usize) {
    let program = Program::new(&descent()).unwrap();
    let scalars =
        [program.scalars(0, &program.links[0].hyper, &vec![0; program.counters()], Rounding::of(Compute::F32))];
    let (n, len) = (40, 100_000);
    let step = || {
        let refused = REFUSED.swap(0, Ordering::SeqCst);
        let g = numbers(len, 1);
        let mut x: Vec<Vec<f32>> = (0..n).map(|i| numbers(len, i)).collect();
        let mut copied: Vec<Vec<f32>> = vec![vec![0.0; len]; 8];
        let jobs = x.iter_mut().map(|x| {
            let at = x.as_mut_ptr().cast::<u8>();
            Job {
                links: &program.links,
                lands: 0,
                scalars: 0,
                states: 0..0,
                n: len,
                compute: Compute::F32,
                gradient: Source { ptr: g.as_ptr().cast(), dtype: DType::F32 },
                x: Source { ptr: at, dtype: DType::F32 },
                y: Some(Sink { ptr: at, dtype: DType::F32 }),
                rounded: None,
                dx: None,
            }
        });
        let jobs: Vec<_> = jobs.collect();
        let to =
            copied.iter_mut().map(|to| Copy { from: g.as_ptr().cast(), to: to.as_mut_ptr().cast(), bytes: 4 * len });
        let copies: Vec<_> = to.collect();
        let plan = Plan::new(&jobs, Tables { scalars: &scalars, states: &[] }, &copies);
        REFUSED.store(refused, Ordering::SeqCst);
        // SAFETY: the arrays are of these lengths, apart from each other, and used by nothing else.
        unsafe { plan.run() };
        REFUSED.store(0, Ordering::SeqCst);
        drop((jobs, copies));
        let sums = x.iter().chain(&copied).map(|x| x.iter().map(|&x| f64::from(x)).sum::<f64>());
        Some(sums.collect::<Vec<_>>())
    };
    let expected = step().unwrap();
    let asked = each_refused("an update", &expected, &step);
    assert_eq!(asked > 0, threads > 1);
}

/// Norms, one of which is read again.
fn norms() {
    let (long, huge) = (numbers(3_000_000, 1), [3e200; 5000]);
    let norm = |p| Norm::of(p);
    let work = || {
        let all = [
            Measure { norm: norm(2.0), of: source(&long, DType::F32), n: long.len(), compute: Compute::F32 },
            Measure { norm: norm(1.0), of: source(&huge, DType::F64), n: huge.len(), compute: Compute::F64 },
            Measure { norm: norm(2.0), of: source(&huge, DType::F64), n: huge.len(), compute: Compute::F64 },
        ];
        let mut norms = Norms::default();
        // SAFETY: the arrays are alive, and none is written to.
        <[f64; 3]>::try_from(unsafe { norms.measure(&all) }.ok()?).ok()
    };
    let expected = work().unwrap();
    assert!(expected.iter().all(|norm| norm.is_finite()));
    assert!(each_refused("norms", &expected, &work) > 0);
}

fn source<T>(values: &[T], dtype: DType) -> Source {
    Source { ptr: values.as_ptr().cast(), dtype }
}

/// Losses of many rows, and of rows too long for the stack.
fn losses(threads: usize) {
    for (batch, n) in [(3, 200_000), (300_000, 2)] {
        let (yhat, y) = (numbers(batch * n, 3), vec![1.0 / n as f32; batch * n]);
        let classes: Vec<usize> = (0..batch).map(|i| i % n).collect();
        let objectives = [
            ("classes", Objective::Crossentropy(Target::Classes(&classes))),
            ("rows", Objective::Crossentropy(Target::Rows(Values::Single(&y)))),
            ("mse", Objective::Pointwise(Pointwise::Mse, Values::Single(&y))),
        ];
        let rows = Rows { batch, n };
        for (name, objective) in objectives {
            let both = || {
                let refused = REFUSED.swap(0, Ordering::SeqCst);
                let mut slopes = vec![0.0; yhat.len()];
                REFUSED.store(refused, Ordering::SeqCst);
                let loss = objective.pullback(rows, &yhat, &mut slopes).ok()?;
                let again = objective.loss(rows, &yhat).ok()?;
                REFUSED.store(0, Ordering::SeqCst);
                Some((loss.to_bits(), again.to_bits(), slopes.iter().sum::<f64>().to_bits()))
            };
            let expected = both().unwrap();
            let asked = each_refused(name, &expected, &both);
            // For rows too long for the stack, and for the sums of many blocks.
            let long = name != "mse" && n > 1024;
            assert_eq!(asked > 0, long || threads > 1 && batch > 10, "{name} {batch} {n}");
        }
    }
}

/// Products that are packed.
fn products() {
    let shape = Shape { batch: 64, n_in: 300, n_out: 70 };
    let Shape { batch, n_in, n_out } = shape;
    let (w, b, x, dy) =
        (numbers(n_out * n_in, 1), numbers(n_out, 2), numbers(batch * n_in, 3), numbers(batch * n_out, 4));
    let work = || {
        let refused = REFUSED.swap(0, Ordering::SeqCst);
        let (mut y, mut dw, mut db, mut dx) =
            (vec![0.0; batch * n_out], vec![0.0; w.len()], vec![0.0; n_out], vec![0.0; x.len()]);
        REFUSED.store(refused, Ordering::SeqCst);
        affine::forward(shape, &w, &b, &x, &mut y);
        affine::gradient(shape, &w, &x, &dy, Gradient { dw: &mut dw, db: &mut db, dx: &mut dx });
        Some([y, dw, db, dx].map(|numbers| numbers.iter().map(|&x| f64::from(x)).sum::<f64>()))
    };
    for threads in [1, 2] {
        pool::set_threads(threads);
        let expected = work().unwrap();
        each_refused("products", &expected, &work); // where large blocks are the system's own, they ask the allocator for none
    }
}

/// A training that is made, and goes on where it had no memory.
fn training() {
    let (n_in, hidden, n_out, rows, batch) = (8, 300, 1500, 48, 16);
    let (x, order) = (numbers(rows * n_in, 7), (0..rows).rev().collect::<Vec<_>>());
    let classes: Vec<usize> = (0..rows).map(|i| i % n_out).collect();
    let beta = Value::Pair([0.9, 0.999]);
    let adam = rule("Adam", &[("eta", Value::Float(1e-3)), ("beta", beta), ("epsilon", Value::Float(1e-8))]);
    for spec in [Spec::Chain(vec![clip(), adam.clone()]), Spec::Chain(vec![adam, clip()])] {
        let program = Program::new(&spec).unwrap();
        let layers = [(n_in, hidden, Activation::Gelu), (hidden, n_out, Activation::Identity)];
        let layers = layers.map(|(n_in, n_out, activation)| Dense { n_in, n_out, activation });
        let network = Network::new(layers.to_vec()).unwrap();
        let lengths: Vec<_> = layers.iter().flat_map(|l| [l.n_out * l.n_in, l.n_out]).collect();
        let sizes: Vec<_> = lengths.iter().map(|&n| (DType::F32, n)).collect();
        let trained = || {
            let refused = REFUSED.swap(0, Ordering::SeqCst);
            // The numbers of both sets, which are the test's own.
            let mut memory: Vec<Vec<f32>> = Vec::new();
            let mut own = |numbers: Vec<f32>| {
                memory.push(numbers);
                memory.last_mut().map(|numbers| numbers.as_mut_ptr().cast::<u8>()).unwrap()
            };
            let mut parameters = Vec::new();
            for (i, &n) in lengths.iter().enumerate() {
                let slots = program
                    .slots(DType::F32)
                    .into_iter()
                    .map(|(dtype, _)| (dtype, [own(vec![0.0; n]), own(vec![0.0; n])]));
                let (slots, counts) = (slots.collect(), vec![0; program.counters()]);
                let x = [own(numbers(n, i)), own(numbers(n, i))];
                let before = counts.clone();
                parameters.push(Parameter {
                    program: &program,
                    dtype: DType::F32,
                    n,
                    x,
                    slots,
                    counts,
                    before,
                    gradient: std::ptr::null(),
                });
            }
            let mut gathered = Gathered::default();
            REFUSED.store(refused, Ordering::SeqCst);
            let mut arrays = Arrays::new(&network, &sizes, |_, _| 0)?;
            for (i, p) in parameters.iter_mut().enumerate() {
                p.gradient = arrays.gradient(i / 2, i % 2);
            }
            let (stepper, mut work) = (Stepper::new(parameters), network.workspace(batch)?);
            let origins = [0, 2].map(|i| [Origin::Trained(i), Origin::Trained(i + 1)]);
            let starts = arrays.starts(&origins, &stepper).ok()?;
            let mut fit = Fit {
                network: &network,
                starts,
                stepper,
                ties: &[],
                arrays: &mut arrays,
                work: &mut work,
                gathered: &mut gathered,
                batch,
            };
            let objective = Objective::Crossentropy(Target::Classes(&classes));
            let data = Data { rows, x: &x, objective, order: Some(&order) };
            let mut progress = Progress::default();
            for epoch in 1..=3 {
                loop {
                    let steps = progress.losses.len();
                    // SAFETY: the arrays are of the network's sizes, aligned, and used by nothing else.
                    let end = unsafe { fit.run(&data, &mut progress, epoch, Duration::from_secs(86_400)) };
                    match end {
                        End::Done => break,
                        // It goes on as if nothing had happened.
                        End::OutOfMemory(_) if !FOR_EVER.load(Ordering::SeqCst) => {}
                        End::OutOfMemory(_) if progress.losses.len() == steps => {
                            REFUSED.store(0, Ordering::SeqCst); // now there is memory again
                        }
                        End::OutOfMemory(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            REFUSED.store(0, Ordering::SeqCst);
            let losses: Vec<_> = progress.losses.iter().map(|loss| loss.to_bits()).collect();
            Some((losses, memory.iter().map(|x| x.iter().map(|&x| f64::from(x)).sum::<f64>()).collect::<Vec<_>>()))
        };
        let expected = trained().unwrap();
        assert_eq!(expected.0.len(), 9);
        assert!(each_refused("a training", &expected, &trained) > 10);
    }
}

/// The search for arrays that share memory.
fn overlaps() {
    let n = 300;
    let column = |i: usize| Strided::new(8 * i, 8, &[50], &[8 * n as isize]).unwrap();
    let mut all: Vec<_> = (0..n).map(column).collect();
    all.extend((0..40).map(|i| Strided::new(8 * i, 8, &[20, 3], &[8 * n as isize, 16]).unwrap()));
    let work = || {
        let mut found = Vec::new();
        let mut meet = |i: usize, j: usize| -> Result<(), OutOfMemory> {
            let shared = all[i].overlaps(&all[j]).advance(usize::MAX) == Some(true);
            if shared { found.put((i, j)) } else { Ok(()) }
        };
        meet::Arrays { all: &all, alone: n }.pairs(&mut meet).ok()?;
        found.sort_unstable();
        Some(found)
    };
    let expected = work().unwrap();
    assert!(!expected.is_empty());
    assert!(each_refused("overlaps", &expected, &work) > 10);
}

#[test]
fn whatever_is_refused_the_answer_is_orderly() {
    for threads in [1, 3] {
        pool::set_threads(threads);
        // The helpers, which are made once.
        pool::run(threads, threads, &|_| std::thread::sleep(Duration::from_millis(20)));
        drive(threads);
        norms();
        losses(threads);
        training();
        overlaps();
    }
    products();
}
