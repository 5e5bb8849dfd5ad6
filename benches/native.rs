//! `cargo bench`: the crate without Python. Every rule of the registry in cache and from memory, many small arrays in one
//! plan, and the affine layer. Set `OPTIRS_BENCH_THREADS` to measure more than one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use optirs::affine::{self, Gradient, Shape};
use optirs::buffer::Buffer;
use optirs::drive::Plan;
use optirs::dtype::{Compute, DType};
use optirs::job::{Job, Sink, Source, State, Tables, fill};
use optirs::measure::{Measure, Norms};
use optirs::pool;
use optirs::rule::{Entry, Kernel, Rounding, Scalars, Value};
use optirs::rules::RULES;
use std::collections::HashMap;
use std::hint::black_box;
use std::ops::Range;
use std::time::Duration;

const IN_CACHE: usize = 1 << 16;
const IN_MEMORY: usize = 33_000_000;
const MANY: usize = 1000;
const SMALL: usize = 1000;

/// The rule with some hyper-parameters: for each field the first kind of value that it takes.
fn build(entry: &Entry) -> Box<dyn Kernel> {
    let kinds = [Value::Float(0.5), Value::Pair([0.9, 0.999]), Value::Flag(false), Value::Count(1)];
    let mut chosen: HashMap<&str, usize> = HashMap::new();
    loop {
        let look_up = |field: &'static str| match field {
            "p" => Some(Value::Float(2.0)), // other norms are made of powers, and slow
            _ => Some(kinds[chosen.get(field).copied().unwrap_or(0)]),
        };
        match (entry.build)(&look_up) {
            Ok(kernel) => return kernel,
            Err(field) => *chosen.entry(field).or_insert(0) += 1,
        }
    }
}

/// A rule with the arrays that it steps.
struct Problem {
    links: Vec<Box<dyn Kernel>>,
    scalars: Vec<Scalars>,
    arrays: Vec<Arrays>,
    n: usize,
}

/// A parameter, its gradient and its states.
struct Arrays {
    x: Buffer,
    g: Buffer,
    states: Vec<Buffer>,
}

impl Problem {
    fn new(entry: &Entry, arrays: usize, n: usize) -> Self {
        let kernel = build(entry);
        let filled = |value: f64| {
            let buffer = Buffer::new(4 * n).expect("memory");
            // SAFETY: the buffer has room for `n` float32 and is nobody else's.
            unsafe { fill(buffer.ptr(), DType::F32, n, value) };
            buffer
        };
        let initial = kernel.initial();
        let one = || Arrays {
            x: filled(0.5),
            g: filled(1e-3),
            states: initial[..kernel.slots().len()].iter().map(|&value| filled(value)).collect(),
        };
        let arrays = (0..arrays).map(|_| one()).collect();
        let scalars = vec![kernel.prepare(1, Rounding::of(Compute::F32))];
        Self { links: vec![kernel], scalars, arrays, n }
    }

    /// Bytes read and written in a step, without those of a norm.
    fn bytes(&self) -> u64 {
        let streams = 3 + 2 * self.links[0].slots().len();
        (4 * streams * self.n * self.arrays.len()) as u64
    }

    /// The step of one array.
    fn job(&self, a: &Arrays, states: Range<usize>) -> Job<'_> {
        Job {
            links: &self.links,
            scalars: 0,
            states,
            n: self.n,
            compute: Compute::F32,
            gradient: Source { ptr: a.g.ptr(), dtype: DType::F32 },
            x: Source { ptr: a.x.ptr(), dtype: DType::F32 },
            y: Some(Sink { ptr: a.x.ptr(), dtype: DType::F32 }),
            rounded: None,
            dx: None,
        }
    }

    /// One step, as `update_` does it: a norm if the rule needs one, a plan, and its run.
    fn step(&mut self) {
        if let Some(reduction) = self.links[0].reduction() {
            let norm = |a: &Arrays| Measure {
                norm: reduction.norm(),
                of: Source { ptr: a.g.ptr(), dtype: DType::F32 },
                n: self.n,
                compute: Compute::F32,
            };
            let measures: Vec<Measure> = self.arrays.iter().map(norm).collect();
            // SAFETY: the arrays hold `n` float32 and nobody writes to them.
            let norm = unsafe { Norms::default().measure(&measures).unwrap()[0] };
            self.scalars[0] = reduction.scalars(norm, Rounding::of(Compute::F32));
        }
        let in_place = |b: &Buffer| State { from: b.ptr(), to: b.ptr(), size: 4 };
        let states: Vec<State> = self.arrays.iter().flat_map(|a| a.states.iter().map(in_place)).collect();
        let slots = self.links[0].slots().len();
        let jobs = self.arrays.iter().enumerate().map(|(i, a)| self.job(a, i * slots..(i + 1) * slots));
        let jobs: Vec<Job> = jobs.collect();
        let tables = Tables { scalars: &self.scalars, states: &states };
        let plan = Plan::new(&jobs, tables, &[]);
        // SAFETY: every array is a buffer of its own with room for `n` float32.
        unsafe { plan.run() };
    }
}

fn rules(c: &mut Criterion) {
    pool::set_threads(std::env::var("OPTIRS_BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1));
    for (name, arrays, n) in [("in cache", 1, IN_CACHE), ("from memory", 1, IN_MEMORY), ("1000 small", MANY, SMALL)] {
        let mut group = c.benchmark_group(name);
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for entry in RULES {
            let mut problem = None; // made only if it is asked for by name
            group.bench_function(BenchmarkId::from_parameter(entry.name), |b| {
                let problem = problem.get_or_insert_with(|| Problem::new(entry, arrays, n));
                b.iter(|| problem.step());
            });
            if let Some(problem) = problem {
                println!("{} bytes a step", problem.bytes());
            }
        }
        group.finish();
    }
}

fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("affine");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (batch, n_in, n_out) in [(1, 784, 128), (32, 784, 128), (256, 784, 128), (1024, 1024, 1024), (100, 3, 2)] {
        let shape = Shape { batch, n_in, n_out };
        let (w, b, x) = (vec![0.5; n_out * n_in], vec![0.5; n_out], vec![0.5; batch * n_in]);
        let mut y = vec![0.0; batch * n_out];
        let (mut dw, mut db, mut dx) = (w.clone(), b.clone(), x.clone());
        group.throughput(Throughput::Elements((batch * n_in * n_out) as u64));
        let name = format!("{batch}x{n_in} to {n_out}");
        group.bench_function(BenchmarkId::new("forward", &name), |bench| {
            bench.iter(|| affine::forward(shape, &w, &b, black_box(&x), &mut y));
        });
        group.bench_function(BenchmarkId::new("gradient", &name), |bench| {
            bench.iter(|| {
                let out = Gradient { dw: &mut dw, db: &mut db, dx: &mut dx };
                affine::gradient(shape, &w, black_box(&x), &y, out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rules, layers);
criterion_main!(benches);
