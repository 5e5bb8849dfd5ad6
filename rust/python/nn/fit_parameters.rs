//! The parameters of a training in both of its sets: found once, and made plain data for every run.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use std::sync::Arc;

use super::network::Model;
use crate::loops::dtype::Compute;
use crate::memory::placement::Streams;
use crate::memory::reserve::{OutOfMemory, Put, list};
use crate::nn::fit::Arrays;
use crate::nn::fit::step::Parameter;
use crate::program::Program;
use crate::python::array::access::{Looks, Role, Seen};
use crate::python::array::numbers::Kept;
use crate::python::array::{Look, View, span};
use crate::python::errors::asked;
use crate::python::leaf::{Access, Leaf, Moments};
use crate::python::tree::node::flatten;
use crate::python::tree::path::place_text;

/// Why a training does not run in compiled code.
pub enum Obstacle {
    /// It needs what only the loop in Python does; the words name the place.
    Beyond(String),
    /// An error on the way.
    Error(PyErr),
}

impl From<PyErr> for Obstacle {
    fn from(error: PyErr) -> Self {
        Self::Error(error)
    }
}

impl From<OutOfMemory> for Obstacle {
    fn from(none: OutOfMemory) -> Self {
        Self::Error(none.into())
    }
}

impl Obstacle {
    /// The words for the user, never empty; errors that are not about the arguments of `train` stay errors.
    pub fn words(self, py: Python<'_>) -> PyResult<String> {
        match self {
            Self::Beyond(words) => Ok(words),
            // What is wrong with the arguments is told by the loop in Python, too.
            Self::Error(error)
                if error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyTypeError>(py) =>
            {
                let text = asked(py, error.value(py).str())?.map(|text| text.to_string_lossy().into_owned());
                Ok(text.filter(|text| !text.is_empty()).unwrap_or_else(|| "the arguments do not fit".into()))
            }
            Self::Error(error) => Err(error),
        }
    }
}

/// Where an array of the network comes from.
pub enum Array {
    /// A parameter, by its number.
    Trained(usize),
    /// It is not trained.
    Fixed(Kept<f32>),
}

/// A parameter in both sets.
pub struct Trained {
    /// Its leaf in each.
    pub leaves: [Py<Leaf>; 2],
    /// Its array in each.
    pub arrays: [Py<PyAny>; 2],
    /// Where those lay when the training began.
    addresses: [usize; 2],
    /// Which of the state's leaves it is, for errors.
    pub place: usize,
    /// The array of the network whose gradient is its gradient: layer, and 0 for `W` or 1 for `b`.
    pub gradient: (usize, usize),
    /// The other ones, whose gradients are added.
    pub ties: Vec<(usize, usize)>,
}

impl Trained {
    /// The number of its array among those of the network.
    fn index(&self) -> usize {
        2 * self.gradient.0 + self.gradient.1
    }

    /// Where in a page the steps between the sets read and write.
    pub fn streams(&self) -> Streams {
        let mut streams = Streams::of(self.addresses[0]);
        streams.add(self.addresses[1], None);
        for leaf in &self.leaves {
            if let Some(guard) = leaf.get().read() {
                let Moments { program, slots, .. } = &guard.get().moments;
                slots.iter().zip(program.loops()).for_each(|(slot, link)| streams.add(slot.place.ptr as usize, link));
            }
        }
        streams
    }
}

/// The parameters of the two sets, and what each array of the network is.
pub fn arrays<'py>(
    py: Python<'py>,
    sets: &[(Bound<'py, PyAny>, Bound<'py, PyAny>); 2],
    model: &Model<'py>,
) -> Result<(Vec<Trained>, Vec<Array>), Obstacle> {
    let states = [flatten(&sets[0].0, true)?, flatten(&sets[1].0, true)?];
    let models = [flatten(&sets[0].1, true)?, flatten(&sets[1].1, true)?];
    let len = 2 * model.network.layers().len();
    if states.iter().chain(&models).any(|leaves| leaves.len() != len) {
        return Err(Obstacle::Beyond("the layers of model or state have other children than W and b".into()));
    }
    let name = |i: usize| place_text(&models[0][i].0);
    let differ = |i| PyResult::Ok(Obstacle::Beyond(format!("the two states at {} differ", name(i)?)));
    let (mut parameters, mut origins, mut place) = (Vec::<Trained>::new(), list(len)?, 0);
    for i in 0..len {
        let at = (i / 2, i % 2);
        let Ok(leaf) = states[0][i].1.cast_exact::<Leaf>() else {
            if is_missed(&models[0][i].1)? {
                return Err(Obstacle::Beyond(format!("the array at {} is of a type that no rule steps", name(i)?)));
            }
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        };
        let Ok(other) = states[1][i].1.cast_exact::<Leaf>() else { return Err(differ(i)?) };
        if !alike(&leaf.get().reading()?, &other.get().reading()?) {
            return Err(differ(i)?);
        }
        place += 1;
        if leaf.get().reading()?.get().frozen {
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        }
        let arrays = [&models[0][i].1, &models[1][i].1];
        let known = parameters.iter().position(|p| p.leaves[0].is(leaf));
        let addresses = plain(py, leaf.get(), arrays, known.is_some(), || name(i))?;
        if let Some(p) = known {
            if (0..2).any(|side| !same_data(parameters[p].arrays[side].bind(py), arrays[side])) {
                let first = name(parameters[p].index())?;
                let words = format!("{first} and {} are one parameter in the state, but different arrays", name(i)?);
                return Err(Obstacle::Beyond(words));
            }
            parameters[p].ties.put(at)?;
        } else {
            parameters.put(Trained {
                leaves: [leaf.clone().unbind(), other.clone().unbind()],
                arrays: arrays.map(|a| a.clone().unbind()),
                addresses,
                place: place - 1,
                gradient: at,
                ties: Vec::new(),
            })?;
        }
        origins.push(Array::Trained(known.unwrap_or(parameters.len() - 1)));
    }
    // An update carries a parameter to the places without a leaf, too; the loop would read the first set's there for ever.
    for i in (0..len).filter(|&i| !states[0][i].1.is_exact_instance_of::<Leaf>()) {
        if let Some(p) = parameters.iter().find(|p| overlap(&models[0][i].1, p.arrays[0].bind(py))) {
            let first = name(p.index())?;
            let words = format!("the parameter at {first} also stands at {}, where it is not trained", name(i)?);
            return Err(Obstacle::Beyond(words));
        }
    }
    Ok((parameters, origins))
}

/// Whether two leaves are of one type and layout, and their states lie alike, so that a step can read one and write the other.
pub fn alike(first: &Access<'_>, second: &Access<'_>) -> bool {
    let (a, b) = (first.leaf(), second.leaf());
    let [one, two] = [first, second].map(|guard| &guard.get().moments);
    let same = Arc::ptr_eq(&one.program, &two.program) || one.program.lies_like(&two.program);
    let types = one.slots.iter().map(|slot| slot.dtype).eq(two.slots.iter().map(|slot| slot.dtype));
    let states = same && one.counts.len() == two.counts.len() && types;
    states && a.dtype == b.dtype && a.layout == b.layout
}

/// Whether an array without a leaf is of floats that no rule steps, such as longdouble: of its gradient `update` warns.
fn is_missed(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = array.py();
    if View::of(array).is_none_or(|view| view.dtype.is_some()) {
        return Ok(false);
    }
    array.getattr(intern!(py, "dtype"))?.getattr(intern!(py, "kind"))?.eq("f")
}

/// Where the arrays of a parameter lie, if it is stepped there by a compiled rule that takes its gradient as float32, as
/// `update` does. `name` is for the words why not.
fn plain(
    py: Python<'_>,
    leaf: &Leaf,
    arrays: [&Bound<'_, PyAny>; 2],
    tied: bool,
    name: impl Fn() -> PyResult<String>,
) -> Result<[usize; 2], Obstacle> {
    let guard = leaf.reading()?;
    let program = &guard.get().moments.program;
    if program.owns > 0 {
        let rule = guard.get().rule.clone_ref(py);
        drop(guard); // before code of the user's may run
        let class: String =
            py.import(intern!(py, "optirs.rules"))?.call_method1(intern!(py, "own"), (rule,))?.extract()?;
        return Err(Obstacle::Beyond(format!("the rule at {} is one of your own: {class}", name()?)));
    }
    if program.asks_python {
        return Err(Obstacle::Beyond(format!("a schedule of the rule at {} is a function", name()?)));
    }
    match program.working(leaf.dtype).compute() {
        Compute::F32 => {}
        Compute::F64 if !tied => {}
        Compute::F64 => {
            let words = format!("{} stands at several places, whose gradients are added up in float64", name()?);
            return Err(Obstacle::Beyond(words));
        }
        Compute::C64 | Compute::C128 => {
            return Err(Obstacle::Beyond(format!("the parameter at {} is complex", name()?)));
        }
    }
    let look = |array| Look::at(array, &leaf.layout).filter(|look| look.laid && look.dtype == Some(leaf.dtype));
    match arrays.map(|array| look(array).filter(|_| leaf.layout.c_order)) {
        [Some(a), Some(b)] => Ok([a.address, b.address]),
        [first, _] => {
            let words = how_it_lies(arrays[usize::from(first.is_some())], leaf);
            Err(Obstacle::Beyond(format!("the parameter at {} {words}", name()?)))
        }
    }
}

/// What keeps the array of a parameter from being stepped where it lies.
fn how_it_lies(array: &Bound<'_, PyAny>, leaf: &Leaf) -> &'static str {
    match View::of(array) {
        None => "is no NumPy array",
        Some(view) if view.dtype != Some(leaf.dtype) => "is of another type than its Leaf",
        Some(view) if !leaf.layout.has_shape(&view.shape) => "has another shape than its Leaf",
        Some(view) if view.swapped => "is in the byte order of other machines",
        Some(view) if !view.aligned => "is not aligned",
        Some(view) if !view.c_order => "is not C-contiguous",
        Some(_) => "lies in another order than its Leaf says",
    }
}

fn same_data(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    match (View::of(a), View::of(b)) {
        (Some(a), Some(b)) => a.address == b.address && a.shape == b.shape,
        _ => false,
    }
}

/// Whether the addresses of two arrays meet.
fn overlap(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    span(a).zip(span(b)).is_some_and(|(a, b)| a.0 < b.1 && b.0 < a.1)
}

/// Replaces the step counts of a leaf.
pub fn set_counts(guard: &mut Access<'_>, new: &[u64]) {
    if let Some(inner) = guard.get_mut() {
        inner.moments.counts.copy_from_slice(new);
    }
}

/// Looks again at the arrays of these parameters: that of the first set, and that of the second.
pub fn look_again(py: Python<'_>, parameters: &[Trained], looks: &mut Looks<'_, '_, '_>) -> PyResult<()> {
    for p in parameters {
        let leaf = p.leaves[0].get();
        for (array, &address) in p.arrays.iter().zip(&p.addresses) {
            let seen = Seen::Laid { address, dtype: leaf.dtype, layout: &leaf.layout };
            looks.at(array.bind(py), seen, true, Role::Parameter, p.place)?;
        }
    }
    Ok(())
}

/// The plain data of a parameter, whose arrays start at `x`.
pub fn parameter<'a>(
    p: &Trained,
    guards: &[Access<'_>; 2],
    program: &'a Program,
    side: usize,
    x: [*mut u8; 2],
    gradients: &Arrays,
) -> Parameter<'a> {
    let leaf = p.leaves[0].get();
    let sets = guards.each_ref().map(|guard| (&guard.get().moments.slots[..], &guard.get().moments.counts[..]));
    let slots = sets[0].0.iter().zip(sets[1].0).map(|(a, b)| (a.dtype, [a.place.ptr, b.place.ptr]));
    Parameter {
        program,
        dtype: leaf.dtype,
        n: leaf.layout.len,
        x,
        slots: slots.collect(),
        counts: sets[side].1.to_vec(),
        before: sets[1 - side].1.to_vec(),
        gradient: gradients.gradient(p.gradient.0, p.gradient.1).cast_const(),
    }
}
