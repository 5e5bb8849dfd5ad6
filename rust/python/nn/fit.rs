//! `Fit`: a training of built-in layers with a built-in loss and compiled rules, whose loop needs no Python.

use bumpalo::Bump;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::time::Duration;

use super::fit_parameters::{Array, Obstacle, Trained, alike, arrays, look_again, parameter, set_counts};
use super::losses::{Kind, Targets};
use super::network::{Input, Model, workspace};
use crate::memory::reserve::{OutOfMemory, collected, list, listed};
use crate::nn::fit::batch::{Data, Gathered};
use crate::nn::fit::step::Stepper;
use crate::nn::fit::{Arrays, End, Origin, Progress};
use crate::nn::network::Network;
use crate::nn::workspace::Workspace;
use crate::python::array::access::{Looks, Wanted, integers, run};
use crate::python::array::numbers::{Kept, KeptReals, Reals, shape_text};
use crate::python::array::{Load, of_values};
use crate::python::leaf::{Access, Leaf, busy};
use crate::python::memory::lists::text;
use crate::python::update::parameter::Names;
use crate::python::update::refusal::{Skipped, refusal};

/// A training under way, between two equal sets of state and model: every step reads one and writes the other.
#[pyclass(module = "optirs._core")]
pub struct Fit {
    network: Network,
    /// `None` once the collector of cycles has found that it cannot be gone on with.
    held: Option<Objects>,
    rows: usize,
    batch: usize,
    work: Workspace,
    arrays: Arrays,
    gathered: Gathered,
    progress: Progress,
    failed: Option<f64>,
}

/// The objects of Python's that a training holds.
struct Objects {
    state: Py<PyAny>,
    parameters: Vec<Trained>,
    origins: Vec<Array>,
    x: Kept<f32>,
    /// The targets, but for those in an array.
    kind: Kind,
    y: Option<KeptReals>,
}

impl Objects {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.state)?;
        for p in &self.parameters {
            p.leaves.iter().try_for_each(|leaf| visit.call(leaf))?;
            p.arrays.iter().try_for_each(|array| visit.call(array))?;
        }
        self.fixed().try_for_each(|array| visit.call(array.array()))?;
        visit.call(self.x.array())?;
        self.y.as_ref().map_or(Ok(()), |y| visit.call(y.array()))
    }
}

#[pymethods]
impl Fit {
    /// The training of two equal pairs `(state, model)`, of which the first one is current; a str where it needs Python,
    /// which says why.
    #[staticmethod]
    fn start<'py>(
        name: &str,
        sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        batch: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        match prepare(name, sets, x, y, batch) {
            Ok(fit) => Ok(Bound::new(py, fit)?.into_any()),
            Err(obstacle) => Ok(text(py, &obstacle.words(py)?)?.into_any()),
        }
    }

    /// Goes on with two other equal pairs, of which the first one is current. The answer says why that needs Python; it is
    /// empty where it does not.
    fn restart<'py>(&mut self, sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2]) -> PyResult<Bound<'py, PyString>> {
        let py = sets[0].0.py();
        match self.replace(&sets) {
            Ok(()) => text(py, ""),
            Err(obstacle) => text(py, &obstacle.words(py)?),
        }
    }

    /// Goes on until `epochs` epochs are complete (with an order of the rows: one more), or for `seconds` seconds. Whether it
    /// got there; not so either where the loss has become infinite or NaN, see `failed`.
    #[pyo3(signature = (epochs, order, seconds, /))]
    fn run(&mut self, py: Python<'_>, epochs: usize, order: Option<&Bound<'_, PyAny>>, seconds: f64) -> PyResult<bool> {
        let order = order.map(|order| row_numbers(order, self.rows)).transpose()?;
        let time = Duration::try_from_secs_f64(seconds).map_err(|e| PyValueError::new_err(e.to_string()))?;
        match self.go(py, epochs, order.as_deref(), time)? {
            End::Done => Ok(true),
            End::Pause => Ok(false),
            End::NotFinite(loss) => {
                self.failed = Some(loss);
                Ok(false)
            }
            End::OutOfMemory(none) => Err(none.into()),
            End::Refused(why) => {
                let held = self.held.as_ref().ok_or_else(ended)?;
                Err(refusal(py, why, |i| held.place(py, i))?)
            }
        }
    }

    /// The number of the epoch that the last step belongs to, or the one that failed.
    #[getter]
    fn epoch(&self) -> usize {
        self.progress.epochs + usize::from(self.progress.row > 0 || self.failed.is_some())
    }

    /// Which of the two sets is current.
    #[getter]
    fn current(&self) -> usize {
        self.progress.side
    }

    /// Which of them holds the last model whose loss was found finite.
    #[getter]
    fn good(&self) -> usize {
        self.progress.good
    }

    /// The loss that was not finite.
    #[getter]
    fn failed(&self) -> Option<f64> {
        self.failed
    }

    /// The losses of the steps from number `start` on.
    fn losses<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyAny>> {
        of_values(py, &self.progress.losses[start.min(self.progress.losses.len())..])
    }

    /// Says that the loss of the current model was found finite.
    fn accept(&mut self) {
        self.progress.good = self.progress.side;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.held.as_ref().map_or(Ok(()), |held| held.traverse(&visit))
    }

    fn __clear__(&mut self) {
        self.held = None;
    }
}

/// Row numbers from Python.
fn row_numbers(order: &Bound<'_, PyAny>, rows: usize) -> PyResult<Vec<usize>> {
    let wrong = || PyValueError::new_err(format!("the order of the rows must be {rows} numbers below {rows}"));
    let row = |&i: &i64| usize::try_from(i).ok().filter(|&i| i < rows).ok_or(None);
    let copied =
        integers::<i64, _>(order, |all| if all.len() == rows { collected(all.iter().map(row)) } else { Err(None) });
    copied.unwrap_or(Err(None)).map_err(|none: Option<OutOfMemory>| none.map_or_else(wrong, Into::into))
}

fn prepare<'py>(
    name: &str,
    sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    batch: usize,
) -> Result<Fit, Obstacle> {
    let py = x.py();
    let model = Model::read(&sets[0].1)?.ok_or_else(other_layers)?;
    let input = Input::new(&model, x)?;
    let &[rows, _] = input.x.shape() else {
        let words = format!("data[0] has shape {}, it must have rows and columns", shape_text(input.x.shape()));
        return Err(Obstacle::Beyond(words));
    };
    if batch == 0 {
        return Err(Obstacle::Beyond("a batch of 0 rows is no batch".into()));
    }
    let Targets { kind, numbers } = Targets::new(name, &input.output, y)?;
    let y = numbers.map(Reals::keep);
    let (parameters, origins) = arrays(py, &sets, &model)?;
    let batch = batch.min(rows);
    let work = workspace(&model.network, batch)?;
    let arrays = memory(&model.network, &parameters)?;
    let network = model.network;
    Ok(Fit {
        network,
        held: Some(Objects { state: sets[0].0.clone().unbind(), parameters, origins, x: input.x.keep(), kind, y }),
        rows,
        batch,
        work,
        arrays,
        gathered: Gathered::default(),
        progress: Progress::default(),
        failed: None,
    })
}

/// A model of something else, which `optirs.training._compiled` finds and names.
fn other_layers() -> Obstacle {
    Obstacle::Beyond("the model has no layers of this library".into())
}

/// Memory for the gradients and copies of these parameters.
fn memory(network: &Network, parameters: &[Trained]) -> PyResult<Arrays> {
    let shapes = listed(parameters.iter().map(|p| (p.leaves[0].get().dtype, p.leaves[0].get().layout.len)))?;
    let place = |layer, array| {
        let of = parameters.iter().find(|p| p.gradient == (layer, array));
        of.map_or(0, |p| p.streams().choose(None))
    };
    Arrays::new(network, &shapes, place).ok_or_else(|| PyMemoryError::new_err("no memory for the gradients"))
}

/// The error of going on with a training that holds nothing any more.
fn ended() -> PyErr {
    PyRuntimeError::new_err("train: this training is over")
}

impl Objects {
    /// Where a parameter stands, and its leaf.
    fn place(&self, py: Python<'_>, i: usize) -> PyResult<(String, &Leaf)> {
        let p = &self.parameters[i];
        Ok((Names(self.state.bind(py)).of(p.place)?, p.leaves[0].get()))
    }

    /// Gradients that are added to another one: from, to, length.
    fn ties(&self, arrays: &Arrays) -> Result<Vec<(*const f32, *mut f32, usize)>, OutOfMemory> {
        let gradient = |(layer, array): (usize, usize)| arrays.gradient(layer, array);
        let of = |p: &Trained, from| (gradient(from).cast_const(), gradient(p.gradient), p.leaves[0].get().layout.len);
        listed(self.parameters.iter().flat_map(|p| p.ties.iter().map(move |&from| of(p, from))))
    }

    /// The arrays of the network that are not trained.
    fn fixed(&self) -> impl Iterator<Item = &Kept<f32>> {
        self.origins.iter().filter_map(|origin| if let Array::Fixed(array) = origin { Some(array) } else { None })
    }

    /// Where the network's arrays are, `fixed` those of [`Self::fixed`].
    fn origins(&self, fixed: &[&[f32]]) -> Result<Vec<[Origin; 2]>, OutOfMemory> {
        let mut fixed = fixed.iter();
        let mut origin = |array: &Array| match array {
            Array::Trained(p) => Origin::Trained(*p),
            Array::Fixed(_) => Origin::Fixed(fixed.next().map_or(std::ptr::null(), |elements| elements.as_ptr())),
        };
        listed(self.origins.chunks(2).map(|pair| [origin(&pair[0]), origin(&pair[1])]))
    }
}

impl Fit {
    /// Takes these sets instead of its own, if they have the same network.
    fn replace(&mut self, sets: &[(Bound<'_, PyAny>, Bound<'_, PyAny>); 2]) -> Result<(), Obstacle> {
        let model = Model::read(&sets[0].1)?.ok_or_else(other_layers)?;
        if model.network != self.network {
            return Err(Obstacle::Beyond("the model has other layers than before".into()));
        }
        let (parameters, origins) = arrays(sets[0].0.py(), sets, &model)?;
        let held = self.held.as_mut().ok_or_else(ended)?;
        self.arrays = memory(&self.network, &parameters)?;
        (held.parameters, held.origins, held.state) = (parameters, origins, sets[0].0.clone().unbind());
        (self.progress.side, self.progress.good) = (0, 0);
        Ok(())
    }

    fn go(&mut self, py: Python<'_>, epochs: usize, order: Option<&[usize]>, time: Duration) -> PyResult<End> {
        let held = self.held.as_ref().ok_or_else(ended)?;
        let mut guards = list(held.parameters.len())?;
        for p in &held.parameters {
            let [a, b] = [0, 1].map(|side| p.leaves[side].get().write().ok_or_else(busy));
            let pair = [a?, b?];
            if !alike(&pair[0], &pair[1]) {
                return Err(PyRuntimeError::new_err("train: the rule of a Leaf was changed while it was in use"));
            }
            guards.push(pair);
        }
        let side = self.progress.side;
        let programs: Vec<_> = listed(guards.iter().map(|g: &[Access<'_>; 2]| g[side].get().moments.program.clone()))?;
        let (arena, names) = (Bump::new(), Names(held.state.bind(py)));
        let looks = |looks: &mut Looks<'_, '_, '_>| look_again(py, &held.parameters, looks);
        let wanted = Wanted::new(&arena, 2 * held.parameters.len(), Load::LONG, &names, looks);
        let fixed = listed(held.fixed().map(|array| array.bind(py)))?;
        let data = (held.x.bind(py), held.y.as_ref().map(|y| y.bind(py)));
        let Self { network, rows, batch, work, arrays, gathered, progress, .. } = self;
        let (network, rows, batch, steps) = (&*network, *rows, *batch, progress.losses.len());
        let ended = run(py, &(wanted, fixed, data), |(trained, fixed, (x, y))| {
            let parameters = held.parameters.iter().zip(&guards).zip(&programs).enumerate();
            let parameters = parameters.map(|(i, ((p, g), program))| {
                parameter(p, g, program, side, [2 * i, 2 * i + 1].map(|array| trained.of(array)), arrays)
            });
            let (ties, origins) = (held.ties(arrays)?, held.origins(&fixed)?);
            let stepper = Stepper::new(listed(parameters)?);
            let mut fit = crate::nn::fit::Fit {
                network,
                starts: arrays.starts(&origins, &stepper)?,
                stepper,
                ties: &ties,
                arrays,
                work,
                gathered,
                batch,
            };
            let data = Data { rows, x, objective: held.kind.objective(y), order };
            let mut counts = list(fit.stepper.parameters.len())?; // before anything is written
            // SAFETY: all arrays are open, and as they were when the training started; those that are written are its own, and
            // the guards keep updates of the leaves out.
            let end = unsafe { fit.run(&data, progress, epochs, time) };
            counts.extend(fit.stepper.parameters.into_iter().map(|p| (p.counts, p.before)));
            Ok::<_, OutOfMemory>((end, counts, fit.stepper.skips))
        })?;
        let (end, counts, skips) = ended?;
        let progress = &self.progress;
        if progress.losses.len() > steps {
            for (guards, (now, before)) in guards.iter_mut().zip(counts) {
                set_counts(&mut guards[progress.side], &now);
                set_counts(&mut guards[1 - progress.side], &before);
            }
        }
        drop(guards);
        for skip in skips {
            let (place, leaf) = held.place(py, skip.parameter)?;
            let rule = programs[skip.rule.0].links[skip.rule.1].name();
            Skipped::of(py, rule, place, leaf, &skip)?.tell(py);
        }
        Ok(end)
    }
}
