//! Models of built-in layers alone, run by one call each: `forward`, `supervised` and `supervised_loss`.
//!
//! They return None for any other model, which then takes the general road through its own methods; both give the same
//! bits.
use numpy::{PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};
use std::slice::from_raw_parts_mut;

use super::affine::{Array, with_columns};
use super::arrays::{View, array, descriptor};
use super::inputs::{Float32, empty, rows, shape_error, shape_text};
use super::layers::activation;
use super::layout::Layout;
use super::lists::Items;
use super::losses::Targets;
use super::memory::allocate;
use super::tree::unflatten;
use crate::dtype::DType;
use crate::layers::activation::Activation;
use crate::layers::dense::Dense;
use crate::layers::network::{Gradients, Network, Weights};
use crate::layers::workspace::Workspace;
use crate::reserve::{OutOfMemory, Put, collected, list, listed};

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
    // SAFETY: the array is new, so this is the only reference to its elements.
    let out = unsafe { y.as_slice_mut() }?;
    let mut work = workspace(&model.network, input.batch)?;
    let (weights, x) = (model.weights()?, input.x.as_slice()?);
    py.detach(|| out.copy_from_slice(model.network.forward(&weights, input.batch, x, &mut work)));
    Ok(Some(y))
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
    let (arrays, mut gradients) = gradients(py, &model.network)?;
    let (weights, x, objective) = (model.weights()?, input.x.as_slice()?, targets.objective()?);
    let loss = py.detach(|| {
        let loss = model.network.pullback(&weights, input.batch, x, objective, &mut work)?;
        model.network.backward(&weights, input.batch, x, &mut work, &mut gradients);
        Ok::<_, OutOfMemory>(loss)
    })?;
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
    let (weights, x, objective) = (model.weights()?, input.x.as_slice()?, targets.objective()?);
    Ok(Some(py.detach(|| model.network.loss(&weights, input.batch, x, objective, &mut work))?))
}

/// A model of built-in layers: what it is, and its arrays.
pub struct Model<'py> {
    /// Its layers in the order in which rows pass them.
    pub network: Network,
    /// `W` and `b` of each, as float32.
    arrays: Vec<[Float32<'py>; 2]>,
}

/// The slices of a [`Model`], which can leave the GIL behind.
pub struct Slices<'a>(Vec<(&'a [f32], &'a [f32])>);

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
    pub fn array(&self, i: usize, k: usize) -> Py<PyArrayDyn<f32>> {
        self.arrays[i][k].share()
    }

    /// The numbers.
    pub fn weights(&self) -> PyResult<Slices<'_>> {
        collected(self.arrays.iter().map(|[w, b]| Ok((w.as_slice()?, b.as_slice()?)))).map(Slices)
    }
}

struct Reader<'py> {
    layers: Vec<Dense>,
    arrays: Vec<[Float32<'py>; 2]>,
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
        if View::of(&w).is_none() || View::of(&b).is_none() {
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
        let w = Float32::new(&at(place, "W"), w)?;
        let b = Float32::new(&at(place, "b"), b)?;
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
        self.arrays.put([w, b])?;
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

/// The slices of new gradient arrays.
struct Parts<'a>(Vec<(&'a mut [f32], &'a mut [f32])>);

impl Gradients for Parts<'_> {
    fn layer(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        let (dw, db) = &mut self.0[i];
        (dw, db)
    }
}

/// New arrays for the gradient of `network`, in the order of its parameters, and their elements.
fn gradients<'py, 'a>(py: Python<'py>, network: &Network) -> PyResult<(Vec<Bound<'py, PyAny>>, Parts<'a>)> {
    const SIZE: usize = size_of::<f32>();
    let layers = network.layers();
    let requests = listed(layers.iter().flat_map(|l| [(0, l.n_out * l.n_in * SIZE), (0, l.n_out * SIZE)]))?;
    let mut places = allocate(py, &requests)?.into_iter();
    let (mut arrays, mut parts) = (list(requests.len())?, list(layers.len())?);
    let float32 = descriptor(py, DType::F32)?;
    let mut part = |shape: &[isize]| -> PyResult<&'a mut [f32]> {
        let layout = Layout::row_major(shape);
        let Some(place) = places.next() else { return Ok(&mut []) };
        arrays.push(array(py, &place, &float32, SIZE, &layout)?);
        // SAFETY: the memory is new, of this size, aligned, kept alive by the array, and nobody else's until the tree that
        // the array goes into is returned; the slices do not outlive that call.
        Ok(unsafe { from_raw_parts_mut(place.ptr.cast(), layout.len) })
    };
    for layer in layers {
        let (n_out, n_in) = (layer.n_out as isize, layer.n_in as isize);
        parts.push((part(&[n_out, n_in])?, part(&[n_out])?));
    }
    Ok((arrays, Parts(parts)))
}
