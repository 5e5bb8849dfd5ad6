//! On one thread, a training in its steady state asks the allocator for nothing, whatever its layers and loss, and its rule unless
//! that has a schedule. (To share a step out among threads takes some small lists.)

use optirs::chain::{Program, Spec};
use optirs::dtype::DType;
use optirs::fit::batch::{Data, Gathered};
use optirs::fit::step::{Parameter, Stepper};
use optirs::fit::{Arrays, End, Fit, Origin, Progress};
use optirs::layers::activation::Activation;
use optirs::layers::dense::Dense;
use optirs::layers::network::Network;
use optirs::layers::workspace::Floats;
use optirs::losses::{Objective, Pointwise, Target};
use optirs::pool;
use optirs::rule::Value;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// The system's allocator, and how often it was asked by each thread: the harness has threads of its own.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
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
    Spec::Rule(name.into(), values.iter().map(|&(n, v)| (n.into(), v)).collect())
}

fn adam() -> Spec {
    let beta = Value::Pair([0.9, 0.999]);
    rule("Adam", &[("eta", Value::Float(1e-3)), ("beta", beta), ("epsilon", Value::Float(1e-8))])
}

fn clip() -> Spec {
    rule("ClipNorm", &[("omega", Value::Float(1.0)), ("p", Value::Float(2.0)), ("throw", Value::Flag(true))])
}

fn accumulate() -> Spec {
    rule("AccumGrad", &[("n", Value::Count(3))])
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
}

impl Training {
    fn new(activation: Activation, rule: Spec) -> Self {
        Self { activation, rule, hidden: 16, n_out: 4, batch: 32, shuffled: true }
    }

    /// How often the allocator is asked in `epochs` epochs, after the first one.
    fn allocations(&self, rows: usize, objective: Objective<'_>, epochs: usize) -> usize {
        let last = Dense { n_in: self.hidden, n_out: self.n_out, activation: Activation::Identity };
        let first = Dense { n_in: N_IN, n_out: self.hidden, activation: self.activation };
        let network = Network::new(vec![first, last]).unwrap();
        let lengths: Vec<usize> = network.layers().iter().flat_map(|l| [l.n_out * l.n_in, l.n_out]).collect();
        let sizes: Vec<_> = lengths.iter().map(|&n| (DType::F32, n)).collect();
        let mut arrays = Arrays::new(&network, &sizes).unwrap();
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
            now: None,
            dtype: DType::F32,
            n,
            x: both(&numbers(n, i)),
            slots: program.slots(DType::F32).into_iter().map(|(dtype, _)| (dtype, both(&vec![0.0; n]))).collect(),
            counts: vec![0; program.counters()],
            before: vec![0; program.counters()],
            gradient: arrays.gradient(i / 2, i % 2),
        });
        let stepper = Stepper::new(parameters.collect()).unwrap();
        let origins = [0, 2].map(|i| [Origin::Trained(i), Origin::Trained(i + 1)]);
        let mut work = network.workspace(self.batch).unwrap();
        let mut gathered = Gathered::default();
        let mut fit = Fit {
            network: &network,
            origins: &origins,
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
        let mut asked = 0;
        for epoch in 1..=epochs + 1 {
            let before = ASKED.get();
            // SAFETY: the arrays are of the network's sizes, aligned, and nobody else's.
            let end = unsafe { fit.run(&data, &mut progress, epoch, Duration::from_secs(60)) };
            asked += if epoch > 1 { ASKED.get() - before } else { 0 };
            assert_eq!(end, End::Done);
        }
        assert_eq!(progress.losses.len(), (epochs + 1) * rows.div_ceil(self.batch));
        asked
    }
}

#[test]
fn a_step_asks_for_no_memory() {
    pool::set_threads(1);
    let (rows, n_out) = (100, 4);
    let y = numbers(rows * n_out, 5);
    let shares: Vec<f32> = y.iter().map(|y| y + 0.5).collect();
    let one_hot: Vec<f32> = (0..rows * n_out).map(|i| if i % n_out == i / n_out % n_out { 1.0 } else { 0.0 }).collect();
    let classes: Vec<usize> = (0..rows).map(|i| i % n_out).collect();
    let mut objectives =
        vec![Objective::Crossentropy(Target::Classes(&classes)), Objective::Crossentropy(Target::Rows(&one_hot))];
    for &loss in Pointwise::ALL {
        let targets = if loss == Pointwise::BinaryCrossentropy { &shares } else { &y };
        objectives.push(Objective::Pointwise(loss, targets));
    }
    for &activation in Activation::ALL {
        for &objective in &objectives {
            for shuffled in [false, true] {
                let training = Training { shuffled, ..Training::new(activation, adam()) };
                assert_eq!(training.allocations(rows, objective, 5), 0, "{activation:?} {objective:?}");
            }
        }
    }
    let rules = [
        Spec::Chain(vec![clip(), adam()]),
        Spec::Chain(vec![adam(), clip()]),
        Spec::Chain(vec![accumulate(), adam(), clip()]),
        Spec::Mixed(Box::new(adam()), DType::F32),
    ];
    for rule in rules {
        let text = format!("{rule:?}");
        let training = Training::new(Activation::Relu, rule);
        assert_eq!(training.allocations(rows, objectives[0], 5), 0, "{text}");
    }
    // Products that are packed, and more classes than there is room for on the stack.
    let wide = Training { hidden: 64, n_out: 1100, batch: 32, ..Training::new(Activation::Gelu, adam()) };
    let classes: Vec<usize> = (0..64).collect();
    assert_eq!(wide.allocations(64, Objective::Crossentropy(Target::Classes(&classes)), 3), 0);
}
