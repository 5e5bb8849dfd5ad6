//! The training loop without Python: batch, forward, loss, backward, update, again and again.

pub mod batch;
pub mod step;

use super::dense::Dense;
use super::network::{Gradients, Network, Weights};
use super::workspace::{Floats, Workspace};
use crate::loops::dtype::DType;
use crate::loops::element::Element;
use crate::memory::reserve::{OutOfMemory, Reserve, collected, listed};
use crate::step::{Reason, Refused};
use batch::{Data, Gathered};
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::time::{Duration, Instant};
use step::Stepper;

/// Where the numbers of a layer come from.
#[derive(Clone, Copy)]
pub enum Origin {
    /// A parameter that is trained, by its number.
    Trained(usize),
    /// An array that stays as it is.
    Fixed(*const f32),
}

/// Where `W` and `b` of each layer start, in each of the two sets.
pub type Starts = [Vec<[*const f32; 2]>; 2];

/// All of `items`; `None` where one is missing, or the list has no memory.
fn gathered<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    collected(items.map(|item| item.ok_or(OutOfMemory { bytes: 0 }))).ok()
}

/// The arrays of a network: one gradient for each array, and float32 copies of parameters of another type.
pub struct Arrays {
    gradients: Vec<[Floats; 2]>,
    /// For each parameter that is not float32.
    copies: Vec<Option<Floats>>,
    /// Whether there are any.
    is_copied: bool,
}

impl Arrays {
    /// Those for `network`, whose parameters have these types and lengths; `place` says where in a page the gradient of an array
    /// of a layer starts. `None` where the system has no memory.
    #[must_use]
    pub fn new(
        network: &Network,
        parameters: &[(DType, usize)],
        place: impl Fn(usize, usize) -> usize,
    ) -> Option<Self> {
        let pair = |(i, l): (usize, &Dense)| {
            Some([Floats::at(l.n_out * l.n_in, place(i, 0))?, Floats::at(l.n_out, place(i, 1))?])
        };
        let copy = |&(dtype, n): &(DType, usize)| match dtype {
            DType::F32 => Some(None),
            _ => Floats::new(n).map(Some),
        };
        let copies = gathered(parameters.iter().map(copy))?;
        Some(Self {
            gradients: gathered(network.layers().iter().enumerate().map(pair))?,
            is_copied: copies.iter().any(Option::is_some),
            copies,
        })
    }

    /// Where the gradient of array `k` (0 for `W`, 1 for `b`) of layer `i` is written.
    #[must_use]
    pub fn gradient(&self, i: usize, k: usize) -> *mut f32 {
        self.gradients[i][k].ptr()
    }

    /// Where the arrays of each layer start in each of the two sets of `stepper`, or their copies do.
    pub fn starts(&self, origins: &[[Origin; 2]], stepper: &Stepper<'_>) -> Result<Starts, OutOfMemory> {
        let starts = |side: usize| {
            let start = |origin: Origin| match origin {
                Origin::Fixed(ptr) => ptr,
                Origin::Trained(p) => match &self.copies[p] {
                    Some(copy) => copy.ptr().cast_const(),
                    None => stepper.parameters[p].x[side].cast_const().cast(),
                },
            };
            listed(origins.iter().map(|pair| pair.map(start)))
        };
        Ok([starts(0)?, starts(1)?])
    }
}

impl Gradients for Vec<[Floats; 2]> {
    fn layer(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        let [dw, db] = &mut self[i];
        (dw, db)
    }
}

/// The numbers of the network in one of the two sets: where `W` and `b` of each layer start.
struct Numbers<'a> {
    network: &'a Network,
    starts: &'a [[*const f32; 2]],
}

impl Weights for Numbers<'_> {
    #[inline(always)]
    fn layer(&self, i: usize) -> (&[f32], &[f32]) {
        let (layer, [w, b]) = (self.network.layers()[i], self.starts[i]);
        // SAFETY: `Fit::run` asks its caller for arrays of the network's sizes that no other thread writes to, and itself
        // writes to the other set only.
        unsafe { (from_raw_parts(w, layer.n_out * layer.n_in), from_raw_parts(b, layer.n_out)) }
    }
}

/// How far a training has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Epochs that are complete.
    pub epochs: usize,
    /// Rows of the current epoch that have been seen.
    pub row: usize,
    /// The set that holds the current model.
    pub side: usize,
    /// The set that holds the last model whose loss was found finite.
    pub good: usize,
    /// The loss of every step.
    pub losses: Vec<f64>,
}

/// Why a run came to its end.
#[derive(Debug, PartialEq)]
pub enum End {
    /// As many epochs as were asked for are complete.
    Done,
    /// The time is up; another run goes on.
    Pause,
    /// The loss of the current model is this, which is not finite.
    NotFinite(f64),
    /// A rule has refused a step.
    Refused(Refused),
    /// A step was not made: it had no memory.
    OutOfMemory(OutOfMemory),
}

impl From<OutOfMemory> for End {
    fn from(none: OutOfMemory) -> Self {
        Self::OutOfMemory(none)
    }
}

impl From<Refused> for End {
    fn from(refused: Refused) -> Self {
        match refused.reason {
            Reason::OutOfMemory(none) => Self::OutOfMemory(none),
            _ => Self::Refused(refused),
        }
    }
}

/// A training at work.
pub struct Fit<'a, 'p> {
    /// The model's layers.
    pub network: &'a Network,
    /// Where its arrays start in each of the two sets: what [`Arrays::starts`] finds.
    pub starts: Starts,
    /// Steps its parameters.
    pub stepper: Stepper<'p>,
    /// Gradients that are added to another one, since their parameters are one: from, to, length.
    pub ties: &'a [(*const f32, *mut f32, usize)],
    /// Memory for the arrays of the network.
    pub arrays: &'a mut Arrays,
    /// Memory for `batch` rows.
    pub work: &'a mut Workspace,
    /// Memory for a batch.
    pub gathered: &'a mut Gathered,
    /// Rows of a batch.
    pub batch: usize,
}

// SAFETY: the pointers are to memory that only `Fit::run` uses while it runs, which asks its caller for that.
unsafe impl Send for Fit<'_, '_> {}

/// Looks at the clock now and then: not so often that it costs, not so rarely that a pause comes late.
struct Clock {
    /// `None` for a time so long that no clock shows its end.
    end: Option<Instant>,
    last: Instant,
    every: u32,
    left: u32,
}

impl Clock {
    fn new(time: Duration) -> Self {
        let last = Instant::now();
        Self { end: last.checked_add(time), last, every: 1, left: 1 }
    }

    /// Whether the time is up, as far as is known.
    fn is_up(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        let now = Instant::now();
        if now - self.last < Duration::from_millis(2) {
            self.every = (2 * self.every).min(1 << 12);
        } else {
            self.every = (self.every / 4).max(1);
        }
        (self.last, self.left) = (now, self.every);
        self.end.is_some_and(|end| now >= end)
    }
}

impl Fit<'_, '_> {
    /// Goes on until `epochs` epochs are complete or the `time` is up.
    ///
    /// # Safety
    /// The pointers of the parameters, starts and ties are to aligned arrays of the network's sizes, those of the parameters
    /// as [`Stepper::step`] asks for; no other thread writes to any of them meanwhile.
    pub unsafe fn run(&mut self, data: &Data<'_>, progress: &mut Progress, epochs: usize, time: Duration) -> End {
        let mut clock = Clock::new(time);
        self.convert(progress.side);
        while progress.epochs < epochs {
            while progress.row < data.rows {
                let end = data.rows.min(progress.row + self.batch);
                // SAFETY: the caller's promise.
                if let Err(end) = unsafe { self.step(data, progress, progress.row..end) } {
                    return end;
                }
                progress.row = end;
                if clock.is_up() {
                    return End::Pause;
                }
            }
            progress.row = 0;
            progress.epochs += 1;
            if data.order.is_some() {
                break; // the next epoch has another order
            }
        }
        End::Done
    }

    /// One step on the rows `range`, or why there is none.
    unsafe fn step(&mut self, data: &Data<'_>, progress: &mut Progress, range: Range<usize>) -> Result<(), End> {
        let (batch, side) = (range.len(), progress.side);
        let Self { network, starts, stepper, ties, arrays, work, gathered, .. } = self;
        let (x, objective) = gathered.batch(data, [network.n_in(), network.n_out()], range)?;
        let weights = Numbers { network, starts: &starts[side] };
        let loss = network.pullback(&weights, batch, x, objective, work)?;
        if !loss.is_finite() {
            return Err(End::NotFinite(loss));
        }
        progress.losses.make_room(1)?; // so that nothing fails behind the step
        progress.good = side;
        network.backward(&weights, batch, x, work, &mut arrays.gradients);
        for &(from, to, len) in *ties {
            // SAFETY: the caller's promise: two gradients of this length, which nothing else uses now.
            unsafe { add(from_raw_parts(from, len), from_raw_parts_mut(to, len)) };
        }
        // SAFETY: the caller's promise.
        unsafe { stepper.step(side)? };
        progress.losses.push(loss);
        progress.side = 1 - side;
        self.convert(progress.side);
        Ok(())
    }

    /// Converts the parameters that are not float32.
    fn convert(&mut self, side: usize) {
        if !self.arrays.is_copied {
            return;
        }
        for (copy, p) in self.arrays.copies.iter_mut().zip(&self.stepper.parameters) {
            if let Some(copy) = copy {
                // SAFETY: the parameter has as many elements as its copy.
                unsafe { f32::load(p.dtype, p.x[side], copy) };
            }
        }
    }
}

fn add(from: &[f32], to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
