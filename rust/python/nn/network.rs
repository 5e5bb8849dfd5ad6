//! Models of built-in layers alone, run by one call each: `forward`, `supervised` and `supervised_loss`.
//!
//! They return None for any other model, which then takes the general road through its own methods; both give the same
//! bits.
use pyo3::exceptions::PyMemoryError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::affine::{Array, with_columns};
use super::dense::activation;
use super::losses::Targets;
use crate::memory::placement::of_gradient;
use crate::memory::reserve::{OutOfMemory, Put, collected, listed};
use crate::nn::activation::Activation;
use crate::nn::dense::Dense;
use crate::nn::network::{Gradients, Network, Weights};
use crate::nn::workspace::Workspace;
use crate::python::array::access::{Takes, run};
use crate::python::array::numbers::{Float32, Kept, rows, shape_error, shape_text};
use crate::python::array::{Fresh, Load, Request, allocate, empty, is_array};
use crate::python::memory::lists::Items;
use crate::python::tree::node::unflatten;

/// Chains in chains up to this depth are built in.
const MAX_DEPTH: usize = 100;

/// The output of `model` for `x`; None unless it is made of built-in layers.
#[pyfunction]
#[pyo3(signature = (model, x, /))]
pub fn forward<'py>(model: &Bound<'py, PyAny>, x: &Bound<'py, PyAny>) -> PyResult<Option<Array<'py>>> {
    let py = model.py();
    let Some(model) = Model::read(model)? else { return Ok(None) };
    let input = Input::new(&model, x)?;
    let y = empty(py, &input.output)?;
    let mut work = workspace(&model.network, input.batch)?;
    let (network, batch) = (&model.network, input.batch);
    run(py, &(&model.arrays, &input.x, &y, takes(network, batch)), |(weights, x, out, ())| {
        out.copy_from_slice(network.forward(&Slices(weights), batch, x, &mut work));
    })?;
    Ok(Some(y.into_array()))
}

/// The loss called `name` of `model(x)` against `y`, and its gradient by the model; None unless it is made of built-in
/// layers.
#[pyfunction]
#[pyo3(signature = (name, model, x, y, /))]
pub fn supervised<'py>(
    name: &str,
    model: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
) -> PyResult<Option<(f64, Bound<'py, PyAny>)>> {
    let py = model.py();
    let tree = model;
    let Some(model) = Model::read(model)? else { return Ok(None) };
    let input = Input::new(&model, x)?;
    let targets = Targets::new(name, &input.output, y)?;
    let mut work = workspace(&model.network, input.batch)?;
    let gradients = gradients(py, &model)?;
    let (network, batch, kind) = (&model.network, input.batch, &targets.kind);
    let read = (&model.arrays, &input.x, &targets.numbers);
    let loss = run(py, &(read, &gradients, takes(network, batch)), |((weights, x, y), gradients, ())| {
        let weights = Slices(weights);
        let loss = network.pullback(&weights, batch, x, kind.objective(y), &mut work)?;
        network.backward(&weights, batch, x, &mut work, &mut Parts(gradients));
        Ok::<_, OutOfMemory>(loss)
    })??;
    let arrays = listed(gradients.into_iter().flat_map(|(dw, db)| [dw.into_array(), db.into_array()]))?;
    Ok(Some((loss, unflatten(tree, Items(arrays), true, false)?)))
}

/// The loss called `name` of `model(x)` against `y`; None unless it is made of built-in layers.
#[pyfunction]
#[pyo3(signature = (name, model, x, y, /))]
pub fn supervised_loss<'py>(
    name: &str,
    model: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
) -> PyResult<Option<f64>> {
    let py = model.py();
    let Some(model) = Model::read(model)? else { return Ok(None) };
    let input = Input::new(&model, x)?;
    let targets = Targets::new(name, &input.output, y)?;
    let mut work = workspace(&model.network, input.batch)?;
    let (network, batch, kind) = (&model.network, input.batch, &targets.kind);
    let read = (&model.arrays, &input.x, &targets.numbers, takes(network, batch));
    let loss =
        run(py, &read, |(weights, x, y, ())| network.loss(&Slices(weights), batch, x, kind.objective(y), &mut work))??;
    Ok(Some(loss))
}

/// How long a network takes for this number of rows.
fn takes(network: &Network, batch: usize) -> Takes {
    let weights: usize = network.layers().iter().map(|l| l.n_out * (l.n_in + 1)).sum();
    Takes(Load::of_products(weights.saturating_mul(batch)))
}

/// A model of built-in layers: what it is, and its arrays.
pub struct Model<'py> {
    /// Its layers in the order in which rows pass them.
    pub network: Network,
    /// `W` and `b` of each, as float32.
    arrays: Vec<(Float32<'py>, Float32<'py>)>,
}

/// The elements of the arrays of a [`Model`].
struct Slices<'a>(Vec<(&'a [f32], &'a [f32])>);

impl Weights for Slices<'_> {
    fn layer(&self, i: usize) -> (&[f32], &[f32]) {
        self.0[i]
    }
}

impl<'py> Model<'py> {
    /// Reads `model`; `None` unless it is made of built-in layers.
    pub fn read(model: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let mut reader = Reader { layers: Vec::new(), arrays: Vec::new() };
        if !reader.read(model, &mut Vec::new())? {
            return Ok(None);
        }
        // Without a single layer there is nothing to run.
        Ok(Network::new(reader.layers).map(|network| Self { network, arrays: reader.arrays }))
    }

    /// `W` (0) or `b` (1) of layer `i`, to be kept.
    pub fn array(&self, i: usize, k: usize) -> Kept<f32> {
        let (w, b) = &self.arrays[i];
        [w, b][k].share()
    }
}

struct Reader<'py> {
    layers: Vec<Dense>,
    arrays: Vec<(Float32<'py>, Float32<'py>)>,
}

impl<'py> Reader<'py> {
    /// Adds the layers of `object`, which stands at `place`; whether it is built in.
    fn read(&mut self, object: &Bound<'py, PyAny>, place: &mut Vec<usize>) -> PyResult<bool> {
        let py = object.py();
        let kind = object.get_type();
        if kind.is(class(py, &CHAIN, "Chain")?) {
            let layers = object.getattr(intern!(py, "layers"))?;
            let Ok(layers) = layers.cast_exact::<PyTuple>() else { return Ok(false) };
            for (i, layer) in layers.iter().enumerate() {
                place.push(i);
                if place.len() > MAX_DEPTH || !self.read(&layer, place)? {
                    return Ok(false);
                }
                place.pop();
            }
            return Ok(true);
        }
        let activation = if kind.is(class(py, &DENSE, "Dense")?) {
            activation(&object.getattr(intern!(py, "activation"))?)?
        } else if kind.is(class(py, &AFFINE, "Affine")?) {
            Activation::Identity
        } else {
            return Ok(false);
        };
        let (w, b) = (object.getattr(intern!(py, "W"))?, object.getattr(intern!(py, "b"))?);
        if !is_array(&w) || !is_array(&b) {
            return Ok(false);
        }
        self.layer(&w, &b, activation, place)?;
        Ok(true)
    }

    fn layer(
        &mut self,
        w: &Bound<'py, PyAny>,
        b: &Bound<'py, PyAny>,
        activation: Activation,
        place: &[usize],
    ) -> PyResult<()> {
        let w = Float32::new(at(place, "W"), w)?;
        let b = Float32::new(at(place, "b"), b)?;
        let found = shape_text(w.shape());
        let &[n_out, n_in] = w.shape() else {
            return Err(shape_error(format!("{} has shape {found}, it must be (n_out, n_in)", at(place, "W"))));
        };
        if b.shape() != [n_out] {
            let (bias, expected) = (shape_text(b.shape()), shape_text(&[n_out]));
            return Err(shape_error(format!("{} has shape {bias}, W {found} takes {expected}", at(place, "b"))));
        }
        if let Some(before) = self.layers.last()
            && before.n_out != n_in
        {
            let (place, columns) = (at(place, "W"), before.n_out);
            return Err(shape_error(format!("{place} has shape {found}, the layer before gives rows of {columns}")));
        }
        self.layers.put(Dense { n_in, n_out, activation })?;
        self.arrays.put((w, b))?;
        Ok(())
    }
}

/// The key path of an array of the layer at `place`.
fn at(place: &[usize], name: &str) -> String {
    let mut text: String = place.iter().map(|i| format!("layers[{i}].")).collect();
    text.push_str(name);
    text
}

static AFFINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DENSE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static CHAIN: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// A class of `optirs.layers`.
fn class<'a, 'py>(py: Python<'py>, slot: &'a PyOnceLock<Py<PyType>>, name: &str) -> PyResult<&'a Bound<'py, PyType>> {
    slot.import(py, "optirs.layers", name)
}

/// Rows that fit a model.
pub struct Input<'py> {
    /// The rows.
    pub x: Float32<'py>,
    /// How many there are.
    pub batch: usize,
    /// The shape of the model's output for them.
    pub output: Vec<usize>,
}

impl<'py> Input<'py> {
    /// Checks `x` as the input of `model`.
    pub fn new(model: &Model<'_>, x: &Bound<'py, PyAny>) -> PyResult<Self> {
        let x = Float32::new("x", x)?;
        let n_in = model.network.n_in();
        match rows(x.shape()) {
            Some((batch, columns)) if columns == n_in => {
                let output = with_columns(x.shape(), model.network.n_out(), &mut [0; 2]).to_vec();
                Ok(Self { batch, output, x })
            }
            _ => {
                let found = shape_text(x.shape());
                let message = format!("x has shape {found}, the model takes ({n_in},) or (batch, {n_in})");
                Err(shape_error(message))
            }
        }
    }
}

/// The memory for a run with `batch` rows.
pub fn workspace(network: &Network, batch: usize) -> PyResult<Workspace> {
    let none = || PyMemoryError::new_err(format!("no memory for the layers of a batch of {batch}"));
    network.workspace(batch).ok_or_else(none)
}

/// The elements of new gradient arrays.
struct Parts<'a>(Vec<(&'a mut [f32], &'a mut [f32])>);

impl Gradients for Parts<'_> {
    fn layer(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        let (dw, db) = &mut self.0[i];
        (dw, db)
    }
}

/// New arrays for the gradient by `W` and `b` of each layer.
fn gradients<'py>(py: Python<'py>, model: &Model<'py>) -> PyResult<Vec<(Fresh<'py, f32>, Fresh<'py, f32>)>> {
    const SIZE: usize = size_of::<f32>();
    let layers = model.network.layers();
    let request = |of: &Float32<'_>| Request {
        group: 0,
        bytes: of.shape().iter().product::<usize>() * SIZE,
        place: of_gradient(of.address()),
    };
    let requests = listed(model.arrays.iter().flat_map(|(w, b)| [request(w), request(b)]))?;
    let places = allocate(py, &requests)?;
    let arrays = layers.iter().zip(places.chunks_exact(2)).map(|(layer, places)| {
        let (n_out, n_in) = (layer.n_out as isize, layer.n_in as isize);
        Ok((Fresh::over(py, &places[0], &[n_out, n_in])?, Fresh::over(py, &places[1], &[n_out])?))
    });
    collected(arrays)
}
