//! `Fit`: a training of built-in layers with a built-in loss and compiled rules, whose loop needs no Python.

use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use std::time::Duration;

use super::entry::Names;
use super::inputs::{Float32, KeptReals, Reals, new_array};
use super::leaf::busy;
use super::losses::Targets;
use super::network::{Input, Model, workspace};
use super::trained::{Array, Trained, arrays, parameter, program, set_counts};
use super::update::{refused, unusable};
use crate::fit::batch::{Data, Gathered};
use crate::fit::step::{Reason, Stepper};
use crate::fit::{Arrays, End, Origin, Progress};
use crate::layers::network::Network;
use crate::layers::workspace::Workspace;
use crate::losses::{Objective, Pointwise, Target, Values};
use crate::reserve::{OutOfMemory, collected, list, listed};

/// Targets that outlive a call.
enum Kept {
    Pointwise(Pointwise, KeptReals),
    Classes(Vec<usize>),
    Rows(KeptReals),
}

impl Kept {
    /// The targets that are no classes.
    fn rows(&self) -> Option<&KeptReals> {
        match self {
            Self::Pointwise(_, y) | Self::Rows(y) => Some(y),
            Self::Classes(_) => None,
        }
    }

    /// The loss with these targets; `y` are those of [`Self::rows`].
    fn objective<'a>(&'a self, y: Values<'a>) -> Objective<'a> {
        match self {
            Self::Pointwise(loss, _) => Objective::Pointwise(*loss, y),
            Self::Classes(classes) => Objective::Crossentropy(Target::Classes(classes)),
            Self::Rows(_) => Objective::Crossentropy(Target::Rows(y)),
        }
    }
}

/// A training under way, between two equal sets of state and model: every step reads one and writes the other.
#[pyclass(module = "optirs._core")]
pub struct Fit {
    network: Network,
    /// `None` once the collector of cycles has found that nobody can go on with it.
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
    x: Py<PyArrayDyn<f32>>,
    y: Kept,
}

impl Objects {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.state)?;
        for p in &self.parameters {
            p.leaves.iter().try_for_each(|leaf| visit.call(leaf))?;
            p.arrays.iter().try_for_each(|array| visit.call(array))?;
        }
        for origin in &self.origins {
            if let Array::Fixed(array) = origin {
                visit.call(array)?;
            }
        }
        visit.call(&self.x)?;
        match self.y.rows() {
            Some(KeptReals::Single(y)) => visit.call(y),
            Some(KeptReals::Double(y)) => visit.call(y),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl Fit {
    /// The training of two equal pairs `(state, model)`, of which the first one is current; None where it needs Python.
    #[staticmethod]
    fn start<'py>(
        name: &str,
        sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        batch: usize,
    ) -> PyResult<Option<Self>> {
        match prepare(name, sets, x, y, batch) {
            // What is wrong with the arguments is told by the loop in Python, in its own words.
            Err(error) if is_about_arguments(x.py(), &error) => Ok(None),
            answer => answer,
        }
    }

    /// Goes on with two other equal pairs, of which the first one is current. False where that needs Python.
    fn restart<'py>(&mut self, sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2]) -> PyResult<bool> {
        match self.replace(&sets) {
            Err(error) if is_about_arguments(sets[0].0.py(), &error) => Ok(false),
            answer => answer,
        }
    }

    /// Goes on until `epochs` epochs are complete (with an order of the rows: one more), or for so many seconds. Whether it
    /// got there; not so either where the loss has become infinite or NaN, see `failed`.
    #[pyo3(signature = (epochs, order, seconds, /))]
    fn run(
        &mut self,
        py: Python<'_>,
        epochs: usize,
        order: Option<&Bound<'_, PyArray1<i64>>>,
        seconds: f64,
    ) -> PyResult<bool> {
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
                let place = Names(held.state.bind(py)).of(held.parameters[why.parameter].place);
                Err(match why.reason {
                    Reason::Norm(reason) => refused(&place, &reason),
                    Reason::Value(reason) => unusable(&place, &reason),
                    Reason::OutOfMemory(none) => none.into(),
                })
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
    fn losses<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyArrayDyn<f64>>> {
        new_array(py, &self.progress.losses[start.min(self.progress.losses.len())..])
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

fn is_about_arguments(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyTypeError>(py)
}

/// Row numbers from Python.
fn row_numbers(order: &Bound<'_, PyArray1<i64>>, rows: usize) -> PyResult<Vec<usize>> {
    let wrong = || PyValueError::new_err(format!("the order of the rows must be {rows} numbers below {rows}"));
    // SAFETY: the array is read under the GIL and copied; whatever it holds, the numbers are checked.
    let numbers = unsafe { order.as_slice() }?.iter();
    let row = |&i: &i64| usize::try_from(i).ok().filter(|&i| i < rows).ok_or_else(wrong);
    if numbers.len() == rows { collected(numbers.map(row)) } else { Err(wrong()) }
}

fn prepare<'py>(
    name: &str,
    sets: [(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    batch: usize,
) -> PyResult<Option<Fit>> {
    let py = x.py();
    let Some(model) = Model::read(&sets[0].1)? else { return Ok(None) };
    let input = Input::new(&model, x)?;
    let (&[rows, _], true) = (input.x.shape(), batch > 0) else { return Ok(None) };
    let y = match Targets::new(name, &input.output, y)? {
        Targets::Pointwise(loss, y) => Kept::Pointwise(loss, y.keep()),
        Targets::Classes(classes) => Kept::Classes(classes),
        Targets::Rows(y, _) => Kept::Rows(y.keep()),
    };
    let Some((parameters, origins)) = arrays(py, &sets, &model)? else { return Ok(None) };
    let batch = batch.min(rows);
    let work = workspace(&model.network, batch)?;
    let arrays = memory(&model.network, &parameters)?;
    let network = model.network;
    Ok(Some(Fit {
        network,
        held: Some(Objects { state: sets[0].0.clone().unbind(), parameters, origins, x: input.x.share(), y }),
        rows,
        batch,
        work,
        arrays,
        gathered: Gathered::default(),
        progress: Progress::default(),
        failed: None,
    }))
}

/// Memory for the gradients and copies of these parameters.
fn memory(network: &Network, parameters: &[Trained]) -> PyResult<Arrays> {
    let shapes = listed(parameters.iter().map(|p| (p.leaves[0].get().dtype, p.leaves[0].get().layout.len)))?;
    Arrays::new(network, &shapes).ok_or_else(|| PyMemoryError::new_err("no memory for the gradients"))
}

/// The error of going on with a training that holds nothing any more.
fn ended() -> PyErr {
    PyRuntimeError::new_err("train: this training is over")
}

/// The error of an array of the user's that is not what it was when the training began.
fn resized() -> PyErr {
    PyRuntimeError::new_err("train: an array of the data or the model was resized during the training")
}

impl Objects {
    /// Gradients that are added to another one: from, to, length.
    fn ties(&self, arrays: &Arrays) -> Result<Vec<(*const f32, *mut f32, usize)>, OutOfMemory> {
        let gradient = |(layer, array): (usize, usize)| arrays.gradient(layer, array);
        let of = |p: &Trained, from| (gradient(from).cast_const(), gradient(p.gradient), p.leaves[0].get().layout.len);
        listed(self.parameters.iter().flat_map(|p| p.ties.iter().map(move |&from| of(p, from))))
    }

    /// Where the network's arrays are.
    fn origins(&self, py: Python<'_>, network: &Network) -> PyResult<Vec<[Origin; 2]>> {
        let origin = |array: &Array, len: usize| match array {
            Array::Trained(p) => Ok(Origin::Trained(*p)),
            Array::Fixed(array) => {
                let array = Float32::kept(array, py);
                let elements = array.as_slice()?;
                if elements.len() == len { Ok(Origin::Fixed(elements.as_ptr())) } else { Err(resized()) }
            }
        };
        let layers = self.origins.chunks(2).zip(network.layers());
        collected(layers.map(|(pair, l)| Ok([origin(&pair[0], l.n_out * l.n_in)?, origin(&pair[1], l.n_out)?])))
    }
}

impl Fit {
    /// Takes these sets instead of its own, if they have the same network.
    fn replace(&mut self, sets: &[(Bound<'_, PyAny>, Bound<'_, PyAny>); 2]) -> PyResult<bool> {
        let Some(model) = Model::read(&sets[0].1)?.filter(|model| model.network == self.network) else {
            return Ok(false);
        };
        let Some((parameters, origins)) = arrays(sets[0].0.py(), sets, &model)? else { return Ok(false) };
        let held = self.held.as_mut().ok_or_else(ended)?;
        self.arrays = memory(&self.network, &parameters)?;
        (held.parameters, held.origins, held.state) = (parameters, origins, sets[0].0.clone().unbind());
        (self.progress.side, self.progress.good) = (0, 0);
        Ok(true)
    }

    fn go(&mut self, py: Python<'_>, epochs: usize, order: Option<&[usize]>, time: Duration) -> PyResult<End> {
        let held = self.held.as_ref().ok_or_else(ended)?;
        let mut guards = list(held.parameters.len())?;
        for p in &held.parameters {
            let [a, b] = [0, 1].map(|side| p.leaves[side].get().write().ok_or_else(busy));
            guards.push([a?, b?]);
        }
        let side = self.progress.side;
        let programs = collected(guards.iter().map(|g: &[_; 2]| program(&g[side])))?;
        let parameters = held.parameters.iter().zip(&guards).zip(&programs);
        let parameters =
            collected(parameters.map(|((p, g), program)| parameter(py, p, g, program, side, &self.arrays)))?;
        let Some(stepper) = Stepper::new(parameters) else {
            return Err(PyMemoryError::new_err("no memory for a step"));
        };
        let (ties, origins) = (held.ties(&self.arrays)?, held.origins(py, &self.network)?);
        let (x, y) = (Float32::kept(&held.x, py), held.y.rows().map(|y| Reals::kept(y, py)));
        let y = y.as_ref().map_or(Ok(Values::Single(&[])), Reals::values)?;
        let data = Data { rows: self.rows, x: x.as_slice()?, objective: held.y.objective(y), order };
        let targets = held.y.rows().map_or(0, |_| self.rows * self.network.n_out());
        if (data.x.len(), y.len()) != (self.rows * self.network.n_in(), targets) {
            return Err(resized());
        }
        let mut fit = crate::fit::Fit {
            network: &self.network,
            starts: self.arrays.starts(&origins, &stepper)?,
            stepper,
            ties: &ties,
            arrays: &mut self.arrays,
            work: &mut self.work,
            gathered: &mut self.gathered,
            batch: self.batch,
        };
        let steps = self.progress.losses.len();
        let progress = &mut self.progress;
        // SAFETY: all arrays were checked when the training started and are kept alive by it; those that are written are
        // its own, and the guards keep updates of the leaves out.
        let end = py.detach(|| unsafe { fit.run(&data, progress, epochs, time) });
        let counts = fit.stepper.parameters.into_iter().map(|p| (p.counts, p.before));
        if progress.losses.len() > steps {
            for (guards, (now, before)) in guards.iter_mut().zip(counts) {
                set_counts(&mut guards[progress.side], &now);
                set_counts(&mut guards[1 - progress.side], &before);
            }
        }
        Ok(end)
    }
}
