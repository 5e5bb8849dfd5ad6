//! A training in its steady state asks the allocator for nothing, on any of its threads, whatever its layers, loss and rule.

#![cfg(not(feature = "python"))] // the module has an allocator of its own, too

use optirs::loops::dtype::DType;
use optirs::memory::recycling::release;
use optirs::nn::activation::Activation;
use optirs::nn::affine::{self, Shape};
use optirs::nn::dense::Dense;
use optirs::nn::fit::batch::{Data, Gathered};
use optirs::nn::fit::step::{Parameter, Stepper};
use optirs::nn::fit::{Arrays, End, Fit, Origin, Progress};
use optirs::nn::losses::crossentropy::Target;
use optirs::nn::losses::pointwise::Pointwise;
use optirs::nn::losses::values::Values;
use optirs::nn::losses::{Objective, Rows};
use optirs::nn::network::Network;
use optirs::nn::workspace::Floats;
use optirs::program::contract::Value;
use optirs::program::schedules::Schedule;
use optirs::program::{Program, Spec};
use optirs::threads::pool;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The system's allocator, which counts how often it is asked.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread's requests count: the harness has threads of its own.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    ASKED.fetch_add(usize::from(COUNTS.get()), Ordering::Relaxed);
}

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, size) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_IN: usize = 8;

fn rule(name: &str, values: &[(&str, Value)]) -> Spec {
    Spec::Rule(name.into(), values.iter().map(|&(n, v)| (n.into(), v)).collect(), String::new())
}

fn adam() -> Spec {
    let beta = Value::Pair([0.9, 0.999]);
    rule("Adam", &[("eta", Value::Float(1e-3)), ("beta", beta), ("epsilon", Value::Float(1e-8))])
}

fn descent() -> Spec {
    rule("Descent", &[("eta", Value::Float(1e-3))])
}

fn clip() -> Spec {
    rule("ClipNorm", &[("omega", Value::Float(1.0)), ("p", Value::Float(2.0)), ("throw", Value::Flag(true))])
}

fn accumulate() -> Spec {
    rule("AccumGrad", &[("n", Value::Count(3))])
}

fn rmsprop(centred: bool) -> Spec {
    let values = [("eta", 1e-3), ("rho", 0.9), ("epsilon", 1e-8)].map(|(name, x)| (name, Value::Float(x)));
    rule("RMSProp", &[&values[..], &[("centred", Value::Flag(centred))]].concat())
}

/// The rule with a field that changes at every step.
fn scheduled(field: &str, rule: Spec) -> Spec {
    let schedule = Schedule::Cosine { start: 1e-3, steps: 1000, end: 1e-4 };
    Spec::Scheduled(Box::new(rule), Some(vec![(field.into(), vec![schedule])]))
}

/// Numbers that differ, in ±0.5.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
}

/// How a training is made.
struct Training {
    activation: Activation,
    rule: Spec,
    hidden: usize,
    n_out: usize,
    batch: usize,
    shuffled: bool,
    /// Steps after which nothing is new.
    first: usize,
}

impl Training {
    fn new(activation: Activation, rule: Spec) -> Self {
        // Steps from either set of arrays, and what waits for every third gradient with them and without.
        let first = 6;
        Self { activation, rule, hidden: 16, n_out: 4, batch: 32, shuffled: true, first }
    }

    /// How often the allocator is asked in `epochs` epochs, after the first steps, and large blocks' bytes.
    fn allocations(&self, rows: usize, objective: Objective<'_>, epochs: usize) -> usize {
        let last = Dense { n_in: self.hidden, n_out: self.n_out, activation: Activation::Identity };
        let first = Dense { n_in: N_IN, n_out: self.hidden, activation: self.activation };
        let network = Network::new(vec![first, last]).unwrap();
        let lengths: Vec<usize> = network.layers().iter().flat_map(|l| [l.n_out * l.n_in, l.n_out]).collect();
        let sizes: Vec<_> = lengths.iter().map(|&n| (DType::F32, n)).collect();
        let mut arrays = Arrays::new(&network, &sizes, |_, _| 0).unwrap();
        let program = Program::new(&self.rule).unwrap();
        let mut memory = Vec::new();
        let mut both = |start: &[f32]| {
            [(); 2].map(|()| {
                let mut floats = Floats::new(start.len()).unwrap();
                floats.copy_from_slice(start);
                let ptr = floats.ptr();
                memory.push(floats); // whose memory stays where it is
                ptr.cast::<u8>()
            })
        };
        let parameters = lengths.iter().enumerate().map(|(i, &n)| Parameter {
            program: &program,
            dtype: DType::F32,
            n,
            x: both(&numbers(n, i)),
            slots: program.slots(DType::F32).into_iter().map(|(dtype, _)| (dtype, both(&vec![0.0; n]))).collect(),
            counts: vec![0; program.counters()],
            before: vec![0; program.counters()],
            gradient: arrays.gradient(i / 2, i % 2),
        });
        let stepper = Stepper::new(parameters.collect());
        let starts = arrays.starts(&[0, 2].map(|i| [Origin::Trained(i), Origin::Trained(i + 1)]), &stepper).unwrap();
        let mut work = network.workspace(self.batch).unwrap();
        let mut gathered = Gathered::default();
        let mut fit = Fit {
            network: &network,
            starts,
            stepper,
            ties: &[],
            arrays: &mut arrays,
            work: &mut work,
            gathered: &mut gathered,
            batch: self.batch,
        };
        let order: Vec<usize> = (0..rows).rev().collect();
        let x = numbers(rows * N_IN, 77);
        let data = Data { rows, x: &x, objective, order: self.shuffled.then_some(&order[..]) };
        let mut progress = Progress { losses: Vec::with_capacity(10_000), ..Progress::default() };
        let first = self.first.div_ceil(rows.div_ceil(self.batch));
        let mut asked = 0;
        for epoch in 1..=first + epochs {
            if epoch == first + 1 {
                release();
            }
            let before = ASKED.load(Ordering::Relaxed);
            // SAFETY: the arrays are of the network's sizes, aligned, and used by nothing else.
            let end = unsafe { fit.run(&data, &mut progress, epoch, Duration::from_secs(86_400)) };
            asked += if epoch > first { ASKED.load(Ordering::Relaxed) - before } else { 0 };
            assert_eq!(end, End::Done);
        }
        assert_eq!(progress.losses.len(), (first + epochs) * rows.div_ceil(self.batch));
        // Large blocks are not the allocator's: one that was taken and given back is kept.
        asked + release()
    }
}

/// Sets the number of threads. From now on each of them counts, and has the room that it keeps for itself: else it would
/// come by that at the first step for which it is not too late.
fn set_threads(threads: usize) {
    pool::set_threads(threads);
    let inside = AtomicUsize::new(0);
    pool::run(threads, threads, &|_| {
        inside.fetch_add(1, Ordering::Relaxed);
        while inside.load(Ordering::Relaxed) < threads {
            std::thread::yield_now();
        }
        let (shape, ones) = (Shape { batch: 32, n_in: 32, n_out: 64 }, [1.0; 64 * 32]);
        affine::forward(shape, &ones, &ones[..64], &ones[..32 * 32], &mut [0.0; 32 * 64]);
        let logits = Objective::Crossentropy(Target::Classes(&[0]));
        assert!(logits.loss(Rows { batch: 1, n: ones.len() }, &ones).unwrap() > 0.0);
        COUNTS.set(true);
    });
}

/// What the tests compare predictions with.
struct Targets {
    y: Vec<f32>,
    shares: Vec<f32>,
    one_hot: Vec<f32>,
    /// The same in float64.
    wide: [Vec<f64>; 2],
    classes: Vec<usize>,
}

impl Targets {
    fn new(rows: usize, n_out: usize) -> Self {
        let y = numbers(rows * n_out, 5);
        let one_hot = (0..rows * n_out).map(|i| if i % n_out == i / n_out % n_out { 1.0 } else { 0.0 });
        let one_hot: Vec<f32> = one_hot.collect();
        let wide = [&y, &one_hot].map(|numbers| numbers.iter().map(|&x| x.into()).collect());
        Self {
            shares: y.iter().map(|y| y + 0.5).collect(),
            one_hot,
            wide,
            classes: (0..rows).map(|i| i % n_out).collect(),
            y,
        }
    }

    fn objectives(&self) -> Vec<Objective<'_>> {
        let pointwise = Pointwise::ALL.iter().map(|&loss| {
            let y = if loss == Pointwise::BinaryCrossentropy { &self.shares } else { &self.y };
            Objective::Pointwise(loss, Values::Single(y))
        });
        let [wide, wide_rows] = self.wide.each_ref().map(|numbers| Values::Double(numbers));
        [Target::Classes(&self.classes), Target::Rows(Values::Single(&self.one_hot)), Target::Rows(wide_rows)]
            .map(Objective::Crossentropy)
            .into_iter()
            .chain([Objective::Pointwise(Pointwise::Mse, wide)])
            .chain(pointwise)
            .collect()
    }
}

/// Every activation with every loss, and rules of every kind.
fn small() {
    let rows = 100;
    let targets = Targets::new(rows, 4);
    let objectives = targets.objectives();
    for &activation in Activation::ALL {
        for &objective in &objectives {
            for shuffled in [false, true] {
                let training = Training { shuffled, ..Training::new(activation, adam()) };
                assert_eq!(training.allocations(rows, objective, 3), 0, "{activation:?} {objective:?}");
            }
        }
    }
    let rules = [
        Spec::Chain(vec![clip(), adam()]),
        Spec::Chain(vec![adam(), clip()]),
        Spec::Chain(vec![accumulate(), adam(), clip()]),
        Spec::Mixed(Box::new(adam()), DType::F32),
        scheduled("eta", adam()),
        scheduled("rho", rmsprop(false)),
        scheduled("rho", rmsprop(true)),
        scheduled("eta", Spec::Chain(vec![accumulate(), scheduled("omega", clip()), adam()])),
    ];
    for rule in rules {
        let text = format!("{rule:?}");
        let training = Training::new(Activation::Relu, rule);
        assert_eq!(training.allocations(rows, objectives[0], 3), 0, "{text}");
    }
}

/// Products that are packed, and more classes than there is room for on the stack.
fn wide() {
    let wide = Training { hidden: 64, n_out: 1100, ..Training::new(Activation::Gelu, adam()) };
    assert_eq!(wide.allocations(64, Targets::new(64, 1100).objectives()[0], 3), 0);
}

/// Batches so long that layers and losses are shared out also to helpers that are asleep.
fn long() {
    let (batch, n_out) = (8192, 32);
    let targets = Targets::new(batch, n_out);
    let objectives = targets.objectives();
    for (&activation, &objective) in Activation::ALL.iter().cycle().zip(&objectives) {
        let training = Training { hidden: 32, n_out, batch, first: 2, ..Training::new(activation, adam()) };
        let text = match objective {
            Objective::Pointwise(loss, _) => loss.name(),
            Objective::Crossentropy(_) => "crossentropy",
        };
        assert_eq!(training.allocations(batch, objective, 2), 0, "{activation:?} {text}");
    }
}

/// Parameters so large that their updates, and in the first two their norms, are shared out also to helpers that are asleep.
fn large() {
    let batch = 4;
    let rules = [
        (2100, Spec::Chain(vec![accumulate(), descent(), clip()])),
        (2100, Spec::Chain(vec![scheduled("omega", clip()), scheduled("eta", descent())])),
        (350, Spec::Mixed(Box::new(adam()), DType::F32)),
        (350, scheduled("eta", adam())),
    ];
    for (n_out, rule) in rules {
        let (text, targets) = (format!("{rule:?}"), Targets::new(batch, n_out));
        let training = Training { hidden: 1024, n_out, batch, ..Training::new(Activation::Relu, rule) };
        assert_eq!(training.allocations(batch, targets.objectives()[0], 3), 0, "{text}");
    }
}

#[test]
fn a_step_asks_for_no_memory() {
    set_threads(1);
    small();
    wide();
    for threads in [2, 3] {
        set_threads(threads);
        wide();
        long();
        large();
    }
}
