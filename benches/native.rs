//! `cargo bench`: the crate without Python. Every rule of the registry in cache and from memory, many small arrays in one
//! plan, and the affine layer. Set `OPTIRS_BENCH_THREADS` to measure more than one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use optirs::loops::dtype::DType;
use optirs::memory::buffer::Buffer;
use optirs::memory::placement::Streams;
use optirs::nn::affine::{self, Gradient, Shape};
use optirs::program::contract::{Entry, Hyper, Kind, Value};
use optirs::program::{Program, Spec, Start};
use optirs::rules::RULES;
use optirs::step::job::{Source, State, fill};
use optirs::step::planner::Planner;
use optirs::step::{Goal, Parameter};
use optirs::threads::pool;
use std::hint::black_box;
use std::time::Duration;

const IN_CACHE: usize = 1 << 16;
const IN_MEMORY: usize = 33_000_000;
const MANY: usize = 1000;
const SMALL: usize = 1000;

/// The rule with some hyper-parameters.
fn program(entry: &Entry) -> Program {
    let value = |&(field, kind): &(&'static str, Kind)| {
        let value = match kind {
            Kind::Float if field == "p" => Value::Float(2.0), // other norms are made of powers, and slow
            Kind::Float => Value::Float(0.5),
            Kind::Pair => Value::Pair([0.9, 0.999]),
            Kind::Flag => Value::Flag(false),
            Kind::Count => Value::Count(1),
        };
        (field.to_owned(), value)
    };
    let spec = Spec::Rule(entry.name.into(), entry.fields.iter().map(value).collect(), String::new());
    Program::new(&spec).expect("a rule of the registry")
}

/// Parameters with one rule.
struct Problem {
    program: Program,
    arrays: Vec<Arrays>,
    n: usize,
}

/// A parameter, its gradient and its state.
struct Arrays {
    x: Buffer,
    g: Buffer,
    states: Vec<Buffer>,
    counts: Vec<u64>,
}

/// A parameter that is stepped in place.
#[derive(Clone, Copy)]
struct InPlace<'a> {
    program: &'a Program,
    arrays: &'a Arrays,
    n: usize,
}

impl<'a> Parameter<'a> for InPlace<'a> {
    fn program(&self) -> &'a Program {
        self.program
    }

    fn given(&self) -> Option<&'a [Hyper]> {
        None
    }

    fn counts(&self) -> &[u64] {
        &self.arrays.counts
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn elements(&self) -> usize {
        self.n
    }

    fn gradient(&self) -> Option<Source> {
        Some(Source { ptr: self.arrays.g.ptr(), dtype: DType::F32 })
    }

    fn x(&self) -> *mut u8 {
        self.arrays.x.ptr()
    }

    fn goal(&self) -> Goal {
        Goal::Parameter(self.arrays.x.ptr())
    }

    fn slot(&self, i: usize) -> State {
        let ptr = self.arrays.states[i].ptr();
        State { from: ptr, to: ptr, size: 4 }
    }

    fn streams(&self) -> Streams {
        Streams::of(self.arrays.x.ptr() as usize)
    }
}

impl Problem {
    fn new(entry: &Entry, arrays: usize, n: usize) -> Self {
        let program = program(entry);
        let filled = |value: f64| {
            let buffer = Buffer::new(4 * n).expect("memory");
            // SAFETY: the buffer has room for `n` float32 and is nobody else's.
            unsafe { fill(buffer.ptr(), DType::F32, n, value) };
            buffer
        };
        let start = |(_, start)| if let Start::Value(value) = start { value } else { 0.5 };
        let one = || Arrays {
            x: filled(0.5),
            g: filled(1e-3),
            states: program.slots(DType::F32).into_iter().map(|slot| filled(start(slot))).collect(),
            counts: vec![0; program.counters()],
        };
        let arrays = (0..arrays).map(|_| one()).collect();
        Self { program, arrays, n }
    }

    /// Bytes read and written in a step, without those of a norm.
    fn bytes(&self) -> u64 {
        let streams = 3 + 2 * self.program.slots(DType::F32).len();
        (4 * streams * self.n * self.arrays.len()) as u64
    }

    /// One step, as `update_` takes it.
    fn step(&self) {
        let mut planner = Planner::default();
        let parameter = |i: usize| InPlace { program: &self.program, arrays: &self.arrays[i], n: self.n };
        // SAFETY: every array is a buffer of its own with room for `n` float32.
        unsafe {
            planner.plan(self.arrays.len(), parameter).expect("a step");
            planner.run();
        }
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
