//! `Fit`: a training of built-in layers with a built-in loss and compiled rules, whose loop needs no Python.
use numpy::PyArrayDyn;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::sync::Arc;
use std::time::Duration;

use super::arrays::{View, span};
use super::entry::Names;
use super::inputs::Float32;
use super::leaf::{Guard, Leaf, Moments, busy};
use super::losses::Targets;
use super::network::{Input, Model, workspace};
use super::tree::flatten;
use super::update::refused;
use crate::chain::Program;
use crate::dtype::DType;
use crate::fit::batch::{Data, Gathered};
use crate::fit::step::{Parameter, Stepper};
use crate::fit::{Arrays, End, Origin, Progress};
use crate::layers::network::Network;
use crate::layers::workspace::Workspace;
use crate::losses::{Objective, Pointwise, Target};

/// Targets that outlive a call.
enum Kept {
    Pointwise(Pointwise, Py<PyArrayDyn<f32>>),
    Classes(Vec<usize>),
    Rows(Py<PyArrayDyn<f32>>),
}

/// Where an array of the network comes from.
enum Array {
    /// A parameter, by its number.
    Trained(usize),
    /// It is not trained.
    Fixed(Py<PyArrayDyn<f32>>),
}

/// A parameter in both sets.
struct Trained {
    leaves: [Py<Leaf>; 2],
    arrays: [Py<PyAny>; 2],
    /// Which of the state's leaves it is, for errors.
    place: usize,
    /// The array of the network whose gradient is its gradient: layer, and 0 for `W` or 1 for `b`.
    gradient: (usize, usize),
    /// The other ones, whose gradients are added.
    ties: Vec<(usize, usize)>,
}

/// A training under way, between two equal sets of state and model: every step reads one and writes the other.
#[pyclass(module = "optirs._core")]
pub struct Fit {
    network: Network,
    state: Py<PyAny>,
    parameters: Vec<Trained>,
    origins: Vec<Array>,
    x: Py<PyArrayDyn<f32>>,
    y: Kept,
    rows: usize,
    batch: usize,
    work: Workspace,
    arrays: Arrays,
    gathered: Gathered,
    progress: Progress,
    failed: Option<f64>,
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
            End::Refused(why) => {
                let place = Names(self.state.bind(py)).of(self.parameters[why.parameter].place);
                Err(refused(&place, &why.reason))
            }
        }
    }

    /// How many epochs are complete.
    #[getter]
    fn epochs(&self) -> usize {
        self.progress.epochs
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
    fn losses<'py>(&self, py: Python<'py>, start: usize) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, &self.progress.losses[start.min(self.progress.losses.len())..])
    }

    /// Says that the loss of the current model was found finite.
    fn accept(&mut self) {
        self.progress.good = self.progress.side;
    }
}

fn is_about_arguments(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyTypeError>(py)
}

/// Row numbers from Python.
fn row_numbers(order: &Bound<'_, PyArray1<i64>>, rows: usize) -> PyResult<Vec<usize>> {
    let numbers: Option<Vec<usize>> =
        order.to_vec()?.into_iter().map(|i| usize::try_from(i).ok().filter(|&i| i < rows)).collect();
    numbers
        .filter(|n| n.len() == rows)
        .ok_or_else(|| PyValueError::new_err(format!("the order of the rows must be {rows} numbers below {rows}")))
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
        Targets::Rows(y) => Kept::Rows(y.keep()),
    };
    let Some((parameters, origins)) = arrays(py, &sets, &model)? else { return Ok(None) };
    let batch = batch.min(rows);
    let work = workspace(&model.network, batch)?;
    let shapes: Vec<_> = parameters.iter().map(|p| (p.leaves[0].get().dtype, p.leaves[0].get().layout.len)).collect();
    let network = model.network;
    let arrays = Arrays::new(&network, &shapes).ok_or_else(|| PyMemoryError::new_err("no memory for the gradients"))?;
    Ok(Some(Fit {
        network,
        state: sets[0].0.clone().unbind(),
        parameters,
        origins,
        x: input.x.keep(),
        y,
        rows,
        batch,
        work,
        arrays,
        gathered: Gathered::default(),
        progress: Progress::default(),
        failed: None,
    }))
}

/// The parameters of the two sets, and what each array of the network is; `None` where a step would need Python.
fn arrays<'py>(
    py: Python<'py>,
    sets: &[(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
    model: &Model<'py>,
) -> PyResult<Option<(Vec<Trained>, Vec<Array>)>> {
    let states = [flatten(&sets[0].0, true)?, flatten(&sets[1].0, true)?];
    let models = [flatten(&sets[0].1, true)?, flatten(&sets[1].1, true)?];
    let len = 2 * model.network.layers().len();
    if states.iter().chain(&models).any(|leaves| leaves.len() != len) {
        return Ok(None);
    }
    let (mut parameters, mut origins, mut place) = (Vec::<Trained>::new(), Vec::with_capacity(len), 0);
    for i in 0..len {
        let at = (i / 2, i % 2);
        let Ok(leaf) = states[0][i].1.cast_exact::<Leaf>() else {
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        };
        let Ok(other) = states[1][i].1.cast_exact::<Leaf>() else { return Ok(None) };
        place += 1;
        if leaf.get().reading()?.get().frozen {
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        }
        let arrays = [&models[0][i].1, &models[1][i].1];
        let known = parameters.iter().position(|p| p.leaves[0].is(leaf));
        if !is_plain(leaf.get(), arrays, known.is_some())? {
            return Ok(None);
        }
        if let Some(p) = known {
            if (0..2).any(|side| !same_data(parameters[p].arrays[side].bind(py), arrays[side])) {
                return Ok(None);
            }
            parameters[p].ties.push(at);
        } else {
            parameters.push(Trained {
                leaves: [leaf.clone().unbind(), other.clone().unbind()],
                arrays: arrays.map(|a| a.clone().unbind()),
                place: place - 1,
                gradient: at,
                ties: Vec::new(),
            });
        }
        origins.push(Array::Trained(known.unwrap_or(parameters.len() - 1)));
    }
    // An update carries a parameter to the places without a leaf, too; the loop would read the first set's there for ever.
    let mut beside = (0..len).filter(|&i| !states[0][i].1.is_exact_instance_of::<Leaf>()).map(|i| &models[0][i].1);
    if beside.any(|array| parameters.iter().any(|p| overlap(array, p.arrays[0].bind(py)))) {
        return Ok(None);
    }
    Ok(Some((parameters, origins)))
}

/// Whether a parameter is stepped where it lies, by a compiled rule that takes its gradient as float32.
fn is_plain(leaf: &Leaf, arrays: [&Bound<'_, PyAny>; 2], tied: bool) -> PyResult<bool> {
    let guard = leaf.reading()?;
    let Moments::Compiled { program, .. } = &guard.get().moments else { return Ok(false) };
    if program.asks_python {
        return Ok(false); // a schedule is a function of the user's
    }
    let takes = match program.working(leaf.dtype) {
        DType::F32 => true,
        DType::F64 => !tied,
        _ => false,
    };
    let lies = |array: &Bound<'_, PyAny>| {
        View::of(array).is_some_and(|v| {
            v.dtype == Some(leaf.dtype) && v.plain && v.shape == leaf.layout.shape && leaf.layout.matches(&v)
        })
    };
    Ok(takes && leaf.layout.c_order && arrays.into_iter().all(lies))
}

/// The error of an array of the user's that is not what it was when the training began.
fn resized() -> PyErr {
    PyRuntimeError::new_err("train: an array of the data or the model was resized during the training")
}

fn same_data(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    match (View::of(a), View::of(b)) {
        (Some(a), Some(b)) => a.data == b.data && a.shape == b.shape,
        _ => false,
    }
}

/// Whether the addresses of two arrays meet.
fn overlap(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    span(a).zip(span(b)).is_some_and(|(a, b)| a.0 < b.1 && b.0 < a.1)
}

impl Fit {
    fn go(&mut self, py: Python<'_>, epochs: usize, order: Option<&[usize]>, time: Duration) -> PyResult<End> {
        let mut guards = Vec::with_capacity(self.parameters.len());
        for p in &self.parameters {
            let [a, b] = [0, 1].map(|side| p.leaves[side].get().write().ok_or_else(busy));
            guards.push([a?, b?]);
        }
        let side = self.progress.side;
        let programs = guards.iter().map(|g| program(&g[side])).collect::<PyResult<Vec<_>>>()?;
        let parameters = self.parameters.iter().zip(&guards).zip(&programs);
        let parameters = parameters
            .map(|((p, g), program)| parameter(py, p, g, program, side, &self.arrays))
            .collect::<PyResult<_>>()?;
        let Some(stepper) = Stepper::new(parameters) else {
            return Err(PyMemoryError::new_err("no memory for a step"));
        };
        let mut ties = Vec::new();
        for p in &self.parameters {
            let (to, len) = (self.arrays.gradient(p.gradient.0, p.gradient.1), p.leaves[0].get().layout.len);
            ties.extend(p.ties.iter().map(|t| (self.arrays.gradient(t.0, t.1).cast_const(), to, len)));
        }
        let fixed = |array: &Array, len: usize| match array {
            Array::Trained(p) => Ok(Origin::Trained(*p)),
            Array::Fixed(array) => {
                let array = Float32::kept(array, py);
                let elements = array.as_slice()?;
                if elements.len() == len { Ok(Origin::Fixed(elements.as_ptr())) } else { Err(resized()) }
            }
        };
        let layers = self.network.layers().iter();
        let origins = self.origins.chunks(2).zip(layers);
        let origins = origins.map(|(pair, l)| Ok([fixed(&pair[0], l.n_out * l.n_in)?, fixed(&pair[1], l.n_out)?]));
        let origins: Vec<[Origin; 2]> = origins.collect::<PyResult<_>>()?;
        let (x, y) = (
            Float32::kept(&self.x, py),
            match &self.y {
                Kept::Pointwise(_, y) | Kept::Rows(y) => Some(Float32::kept(y, py)),
                Kept::Classes(_) => None,
            },
        );
        let y = y.as_ref().map_or(Ok(&[][..]), Float32::as_slice)?;
        let objective = match &self.y {
            Kept::Pointwise(loss, _) => Objective::Pointwise(*loss, y),
            Kept::Classes(classes) => Objective::Crossentropy(Target::Classes(classes)),
            Kept::Rows(_) => Objective::Crossentropy(Target::Rows(y)),
        };
        let data = Data { rows: self.rows, x: x.as_slice()?, objective, order };
        let targets = if matches!(self.y, Kept::Classes(_)) { 0 } else { self.rows * self.network.n_out() };
        if (data.x.len(), y.len()) != (self.rows * self.network.n_in(), targets) {
            return Err(resized());
        }
        let mut fit = crate::fit::Fit {
            network: &self.network,
            origins: &origins,
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
        let counts: Vec<_> = fit.stepper.parameters.into_iter().map(|p| (p.counts, p.before)).collect();
        if progress.losses.len() > steps {
            for (guards, (now, before)) in guards.iter_mut().zip(counts) {
                set_counts(&mut guards[progress.side], &now);
                set_counts(&mut guards[1 - progress.side], &before);
            }
        }
        Ok(end)
    }
}

fn program(guard: &Guard<'_>) -> PyResult<Arc<Program>> {
    match &guard.get().moments {
        Moments::Compiled { program, .. } => Ok(program.clone()),
        Moments::Own(_) => Err(busy()),
    }
}

fn set_counts(guard: &mut Guard<'_>, new: &[u64]) {
    if let Some(inner) = guard.get_mut()
        && let Moments::Compiled { counts, .. } = &mut inner.moments
    {
        counts.copy_from_slice(new);
    }
}

/// The plain data of a parameter.
fn parameter<'a>(
    py: Python<'_>,
    p: &Trained,
    guards: &[Guard<'_>; 2],
    program: &'a Program,
    side: usize,
    gradients: &Arrays,
) -> PyResult<Parameter<'a>> {
    let leaf = p.leaves[0].get();
    let data = |side: usize| View::of(p.arrays[side].bind(py)).map(|v| v.data).ok_or_else(busy);
    let sets = guards.each_ref().map(|guard| match &guard.get().moments {
        Moments::Compiled { slots, counts, .. } => (&slots[..], &counts[..]),
        Moments::Own(_) => (&[][..], &[][..]),
    });
    let slots = sets[0].0.iter().zip(sets[1].0).map(|(a, b)| (a.dtype, [a.place.ptr, b.place.ptr]));
    Ok(Parameter {
        program,
        dtype: leaf.dtype,
        n: leaf.layout.len,
        x: [data(0)?, data(1)?],
        slots: slots.collect(),
        counts: sets[side].1.to_vec(),
        before: sets[1 - side].1.to_vec(),
        gradient: gradients.gradient(p.gradient.0, p.gradient.1).cast_const(),
    })
}
