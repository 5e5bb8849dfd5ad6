//! The parameters of a training in both of its sets: found once, and made plain data for every run.

use pyo3::intern;
use pyo3::prelude::*;
use std::sync::Arc;

use super::array::access::{Looks, Role, Seen};
use super::array::numbers::Kept;
use super::array::{Look, View, span};
use super::leaf::{Guard, Leaf, Moments, busy};
use super::network::Model;
use super::tree::flatten;
use crate::dtype::Compute;
use crate::fit::Arrays;
use crate::fit::step::Parameter;
use crate::placement::Streams;
use crate::program::Program;
use crate::reserve::{Put, list};

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
    /// Where in a page the steps between the sets read and write.
    pub fn streams(&self) -> Streams {
        let mut streams = Streams::of(self.addresses[0]);
        streams.add(self.addresses[1], None);
        for leaf in &self.leaves {
            if let Some(guard) = leaf.get().read()
                && let Moments::Compiled { program, slots, .. } = &guard.get().moments
            {
                slots.iter().zip(program.loops()).for_each(|(slot, link)| streams.add(slot.place.ptr as usize, link));
            }
        }
        streams
    }
}

/// The parameters of the two sets, and what each array of the network is; `None` where a step would need Python.
pub fn arrays<'py>(
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
    let (mut parameters, mut origins, mut place) = (Vec::<Trained>::new(), list(len)?, 0);
    for i in 0..len {
        let at = (i / 2, i % 2);
        let Ok(leaf) = states[0][i].1.cast_exact::<Leaf>() else {
            if is_missed(&models[0][i].1)? {
                return Ok(None);
            }
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        };
        let Ok(other) = states[1][i].1.cast_exact::<Leaf>() else { return Ok(None) };
        if !alike(&leaf.get().reading()?, &other.get().reading()?) {
            return Ok(None);
        }
        place += 1;
        if leaf.get().reading()?.get().frozen {
            origins.push(Array::Fixed(model.array(at.0, at.1)));
            continue;
        }
        let arrays = [&models[0][i].1, &models[1][i].1];
        let known = parameters.iter().position(|p| p.leaves[0].is(leaf));
        let Some(addresses) = plain(leaf.get(), arrays, known.is_some())? else { return Ok(None) };
        if let Some(p) = known {
            if (0..2).any(|side| !same_data(parameters[p].arrays[side].bind(py), arrays[side])) {
                return Ok(None);
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
    let mut beside = (0..len).filter(|&i| !states[0][i].1.is_exact_instance_of::<Leaf>()).map(|i| &models[0][i].1);
    if beside.any(|array| parameters.iter().any(|p| overlap(array, p.arrays[0].bind(py)))) {
        return Ok(None);
    }
    Ok(Some((parameters, origins)))
}

/// Whether two leaves are of one type and layout, and their states lie alike, so that a step can read one and write the other.
pub fn alike(first: &Guard<'_>, second: &Guard<'_>) -> bool {
    let (a, b) = (first.leaf(), second.leaf());
    let states = match (&first.get().moments, &second.get().moments) {
        (
            Moments::Compiled { program: p, slots: s, counts: c },
            Moments::Compiled { program: q, slots: t, counts: d },
        ) => {
            let same = Arc::ptr_eq(p, q) || p.lies_like(q);
            same && c.len() == d.len() && s.iter().map(|slot| slot.dtype).eq(t.iter().map(|slot| slot.dtype))
        }
        (Moments::Own(_), Moments::Own(_)) => true,
        _ => false,
    };
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

/// Where the arrays of a parameter lie that is stepped there, by a compiled rule that takes its gradient as float32, as `update`
/// does; `None` of any other one.
fn plain(leaf: &Leaf, arrays: [&Bound<'_, PyAny>; 2], tied: bool) -> PyResult<Option<[usize; 2]>> {
    let guard = leaf.reading()?;
    let Moments::Compiled { program, .. } = &guard.get().moments else { return Ok(None) };
    if program.asks_python {
        return Ok(None); // a schedule is a function of the user's
    }
    let takes = match program.working(leaf.dtype).compute() {
        Compute::F32 => true,
        Compute::F64 => !tied, // `update` adds up the gradients of its places in float64
        Compute::C64 | Compute::C128 => false,
    };
    let looks = arrays.map(|array| Look::at(array, &leaf.layout).filter(|l| l.laid && l.dtype == Some(leaf.dtype)));
    let [Some(a), Some(b)] = looks else { return Ok(None) };
    Ok((takes && leaf.layout.c_order).then_some([a.address, b.address]))
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

/// The rule that a leaf's guard shows.
pub fn program(guard: &Guard<'_>) -> PyResult<Arc<Program>> {
    match &guard.get().moments {
        Moments::Compiled { program, .. } => Ok(program.clone()),
        Moments::Own(_) => Err(busy()),
    }
}

/// Replaces the step counts of a leaf.
pub fn set_counts(guard: &mut Guard<'_>, new: &[u64]) {
    if let Some(inner) = guard.get_mut()
        && let Moments::Compiled { counts, .. } = &mut inner.moments
    {
        counts.copy_from_slice(new);
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
    guards: &[Guard<'_>; 2],
    program: &'a Program,
    side: usize,
    x: [*mut u8; 2],
    gradients: &Arrays,
) -> Parameter<'a> {
    let leaf = p.leaves[0].get();
    let sets = guards.each_ref().map(|guard| match &guard.get().moments {
        Moments::Compiled { slots, counts, .. } => (&slots[..], &counts[..]),
        Moments::Own(_) => (&[][..], &[][..]),
    });
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
