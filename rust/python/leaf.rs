//! `Leaf`: a rule and its state for one parameter.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arrays::{Layout, Memory, Place, View, allocate, array, descriptor, numpy, shape_text};
use super::program::program;
use crate::chain::{Form, Program};
use crate::drive::fill;
use crate::element::DType;

/// A state array of a leaf.
pub struct Slot {
    /// Where it lies.
    pub place: Place,
    /// The type of its elements.
    pub dtype: DType,
}

/// What the rule of a leaf is, and what it remembers.
pub enum Moments {
    /// A compiled rule: its arrays, and the step count of each of its links.
    Compiled {
        /// The rule.
        program: Arc<Program>,
        /// In the order of [`Program::slots`].
        slots: Vec<Slot>,
        /// One for each link.
        counts: Vec<u64>,
    },
    /// A rule with one of the user's own in it: whatever object its `init` and `apply` returned.
    Own(Py<PyAny>),
}

/// What a leaf holds.
pub struct Inner {
    /// The rule as Python sees it.
    pub rule: Py<PyAny>,
    /// Its state.
    pub moments: Moments,
    /// Whether updates skip it.
    pub frozen: bool,
}

/// The rule and the state of one trainable array: `.rule`, `.state`, `.frozen`.
#[pyclass(frozen, module = "optirs", weakref)]
pub struct Leaf {
    /// The parameter's type.
    pub dtype: DType,
    /// The parameter's shape, and the order in which the state lies.
    pub layout: Arc<Layout>,
    /// -1 while an update writes, else how many readers there are.
    users: AtomicIsize,
    inner: UnsafeCell<Inner>,
}

// SAFETY: `inner` is reached only under a guard, of which `users` admits one writer or many readers.
unsafe impl Sync for Leaf {}

/// Leave to use a leaf until it is dropped.
pub struct Guard<'a> {
    leaf: &'a Leaf,
    write: bool,
}

impl Guard<'_> {
    /// What the leaf holds.
    pub fn get(&self) -> &Inner {
        // SAFETY: while this guard lives nobody writes, except its own holder through `get_mut`.
        unsafe { &*self.leaf.inner.get() }
    }

    /// The same, to be changed; `None` for a reader's guard.
    pub fn get_mut(&mut self) -> Option<&mut Inner> {
        // SAFETY: a writer's guard is alone.
        self.write.then(|| unsafe { &mut *self.leaf.inner.get() })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.write {
            self.leaf.users.store(0, Ordering::Release);
        } else {
            self.leaf.users.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Leaf {
    /// A leaf that nobody uses yet.
    pub fn new(dtype: DType, layout: Arc<Layout>, inner: Inner) -> Self {
        Self { dtype, layout, users: AtomicIsize::new(0), inner: UnsafeCell::new(inner) }
    }

    /// Leave to read; `None` while someone writes.
    pub fn read(&self) -> Option<Guard<'_>> {
        let enter = |n| if n < 0 { None } else { Some(n + 1) };
        self.users.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).ok()?;
        Some(Guard { leaf: self, write: false })
    }

    /// Leave to write; `None` while anyone else uses it.
    pub fn write(&self) -> Option<Guard<'_>> {
        self.users.compare_exchange(0, -1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Guard { leaf: self, write: true })
    }

    fn reading(&self) -> PyResult<Guard<'_>> {
        self.read().ok_or_else(busy)
    }
}

/// The error of meeting another user of a state.
pub fn busy() -> PyErr {
    PyRuntimeError::new_err("this state is in use by another update")
}

#[pymethods]
impl Leaf {
    /// The rule.
    #[getter]
    fn rule(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.reading()?.get().rule.clone_ref(py))
    }

    /// Whether updates skip this leaf.
    #[getter]
    fn frozen(&self) -> PyResult<bool> {
        Ok(self.reading()?.get().frozen)
    }

    /// The state: None, a dict from names to arrays and counts, or a tuple for a chain. The arrays are views.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let guard = self.reading()?;
        match &guard.get().moments {
            Moments::Own(state) => Ok(state.bind(py).clone()),
            Moments::Compiled { program, slots, counts } => self.show(py, program, slots, counts, &program.form),
        }
    }

    /// The shape of the parameter.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.layout.shape)
    }

    /// NumPy's name of the parameter's type.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let guard = self.reading()?;
        let inner = guard.get();
        let rule = inner.rule.bind(py).repr()?;
        let shape = shape_text(py, &self.layout.shape);
        let frozen = if inner.frozen { ", frozen" } else { "" };
        Ok(format!("Leaf({rule}, {} {shape}{frozen})", self.dtype.name()))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast_exact::<Self>() else { return Ok(py.NotImplemented()) };
        let other = other.get();
        let same = std::ptr::eq(self, other) || self.equals(py, other)?;
        Ok(same.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    #[classattr]
    const __hash__: Option<Py<PyAny>> = None;

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let leaf = slf.get();
        let make = py.import("optirs._core")?.getattr("restore")?;
        let args = (
            leaf.rule(py)?,
            leaf.layout.shape.clone(),
            leaf.layout.strides.clone(),
            leaf.dtype.name(),
            leaf.state(py)?,
            leaf.frozen()?,
        );
        (make, args).into_pyobject(py).map(Bound::into_any)
    }

    /// A copy with another rule of the same form.
    fn _with_rule(&self, py: Python<'_>, rule: Py<PyAny>) -> PyResult<Self> {
        let (state, frozen) = (self.state(py)?, self.frozen()?);
        let leaf = restored(py, rule, self.dtype, self.layout.clone(), &state)?;
        Ok(Self::new(leaf.dtype, leaf.layout.clone(), Inner { frozen, ..leaf.inner.into_inner() }))
    }

    /// Replaces the rule by one of the same form.
    fn _set_rule(&self, py: Python<'_>, rule: Py<PyAny>) -> PyResult<()> {
        let mut guard = self.write().ok_or_else(busy)?;
        let compiled = program(py, rule.bind(py))?;
        let Some(inner) = guard.get_mut() else { return Err(busy()) };
        if let (Moments::Compiled { program, .. }, Some(new)) = (&mut inner.moments, compiled) {
            *program = new;
        }
        inner.rule = rule;
        Ok(())
    }

    /// Freezes or thaws.
    fn _set_frozen(&self, frozen: bool) -> PyResult<()> {
        let mut guard = self.write().ok_or_else(busy)?;
        let Some(inner) = guard.get_mut() else { return Err(busy()) };
        inner.frozen = frozen;
        Ok(())
    }
}

impl Leaf {
    fn show<'py>(
        &self,
        py: Python<'py>,
        program: &Program,
        slots: &[Slot],
        counts: &[u64],
        form: &Form,
    ) -> PyResult<Bound<'py, PyAny>> {
        let view = |slot: &Slot| self.view(py, slot);
        match form {
            Form::Chain(forms) => {
                let states =
                    forms.iter().map(|f| self.show(py, program, slots, counts, f)).collect::<PyResult<Vec<_>>>()?;
                Ok(PyTuple::new(py, states)?.into_any())
            }
            Form::Mixed(rule) => {
                (view(&slots[0])?, self.show(py, program, slots, counts, rule)?).into_pyobject(py).map(Bound::into_any)
            }
            &Form::Link(i) => {
                let link = &program.links[i];
                if link.slots().is_empty() && link.counter().is_none() {
                    return Ok(py.None().into_bound(py));
                }
                let state = PyDict::new(py);
                for (slot, named) in slots[program.slots_of(i)].iter().zip(link.slots()) {
                    state.set_item(named.name, view(slot)?)?;
                }
                if let Some(counter) = link.counter() {
                    state.set_item(counter, counts[i])?;
                }
                Ok(state.into_any())
            }
        }
    }

    fn view<'py>(&self, py: Python<'py>, slot: &Slot) -> PyResult<Bound<'py, PyAny>> {
        array(py, &slot.place, &descriptor(py, slot.dtype)?, slot.dtype.size(), &self.layout)
    }

    fn equals(&self, py: Python<'_>, other: &Self) -> PyResult<bool> {
        let (mine, theirs) = (self.reading()?, other.reading()?);
        let (a, b) = (mine.get(), theirs.get());
        if self.dtype != other.dtype
            || self.layout.shape != other.layout.shape
            || a.frozen != b.frozen
            || !a.rule.bind(py).eq(&b.rule)?
        {
            return Ok(false);
        }
        drop((mine, theirs));
        py.import("optirs.state")?.getattr("_same_bits")?.call1((self.state(py)?, other.state(py)?))?.is_truthy()
    }
}

/// The leaves of these parameters: each a rule, an array and its key path.
#[pyfunction]
pub fn make_leaves(
    py: Python<'_>,
    items: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyTuple>)>,
) -> PyResult<Vec<Leaf>> {
    let mut drafts = Vec::with_capacity(items.len());
    let mut requests = Vec::new();
    let mut last: Option<(Bound<'_, PyAny>, Option<Arc<Program>>)> = None;
    for (rule, x, path) in &items {
        let compiled = match &last {
            Some((r, p)) if r.is(rule) => p.clone(),
            _ => program(py, rule)?,
        };
        last = Some((rule.clone(), compiled.clone()));
        let Some((view, dtype)) = View::of(x).and_then(|v| v.dtype.map(|d| (v, d))) else {
            return Err(PyTypeError::new_err(format!("{} is not a trainable array", super::tree::path_text(path))));
        };
        let layout = Arc::new(Layout::of(&view));
        let slots = match &compiled {
            Some(program) => suits(program, dtype, || super::tree::path_text(path)).map(|()| program.slots(dtype))?,
            None => Vec::new(),
        };
        requests.extend(slots.iter().enumerate().map(|(i, (dtype, _))| (i, layout.len * dtype.size())));
        drafts.push((compiled, dtype, layout, slots));
    }
    let mut places = allocate(py, &requests)?.into_iter();
    let mut leaves = Vec::with_capacity(items.len());
    for ((rule, x, _), (compiled, dtype, layout, slots)) in items.iter().zip(drafts) {
        let moments = match compiled {
            None => Moments::Own(own_state(py, rule, x)?),
            Some(program) => {
                let counts = vec![0; program.links.len()];
                let places = places.by_ref().take(slots.len());
                let slots = slots.into_iter().zip(places).map(|((dtype, initial), place)| {
                    if let Some(value) = initial {
                        // SAFETY: just allocated with this size; nobody else has it.
                        unsafe { fill(place.ptr, dtype, layout.len, value) };
                    }
                    Slot { place, dtype }
                });
                Moments::Compiled { program, slots: slots.collect(), counts }
            }
        };
        let inner = Inner { rule: rule.clone().unbind(), moments, frozen: false };
        let leaf = Leaf::new(dtype, layout, inner);
        leaf.copy_master(py, x)?;
        leaves.push(leaf);
    }
    Ok(leaves)
}

fn own_state(py: Python<'_>, rule: &Bound<'_, PyAny>, x: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    Ok(py.import("optirs.rules")?.call_method1("init", (rule, x))?.unbind())
}

/// Whether the rules of `program` make sense for this type; if not, the error says so.
fn suits(program: &Program, dtype: DType, place: impl Fn() -> String) -> PyResult<()> {
    if !dtype.is_complex() {
        return Ok(());
    }
    let real_only = program.links.iter().zip(&program.names).find(|(l, _)| !l.complex()).map(|(_, n)| n.clone());
    let reason = match (real_only, program.master) {
        (Some(name), _) => format!("{name} has no meaning for complex numbers"),
        (None, Some(DType::F16 | DType::BF16)) => "MixedPrecision has no 16-bit complex type".into(),
        _ => return Ok(()),
    };
    Err(PyTypeError::new_err(format!("the parameter at {} is {}: {reason}", place(), dtype.name())))
}

impl Leaf {
    /// Starts the master copy, if there is one, as `x`.
    fn copy_master(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = self.reading()?;
        if let Moments::Compiled { program, slots, .. } = &guard.get().moments
            && program.master.is_some()
        {
            let kwargs = PyDict::new(py);
            kwargs.set_item(intern!(py, "casting"), "unsafe")?;
            numpy(py)?.call_method("copyto", (self.view(py, &slots[0])?, x), Some(&kwargs))?;
        }
        Ok(())
    }
}

/// A leaf with this state, copied: what pickle calls.
#[pyfunction]
pub fn restore(
    py: Python<'_>,
    rule: Py<PyAny>,
    shape: Vec<isize>,
    strides: Vec<isize>,
    dtype: &str,
    state: &Bound<'_, PyAny>,
    frozen: bool,
) -> PyResult<Leaf> {
    let Some(dtype) = DType::from_name(dtype) else { return Err(PyValueError::new_err(format!("no type {dtype}"))) };
    let layout =
        Layout::checked(shape, strides).ok_or_else(|| PyValueError::new_err("the strides do not fit the shape"))?;
    let leaf = restored(py, rule, dtype, Arc::new(layout), state)?;
    Ok(Leaf::new(dtype, leaf.layout.clone(), Inner { frozen, ..leaf.inner.into_inner() }))
}

/// A leaf whose state is a copy of `state`, which has the form that `leaf.state` has.
pub fn restored(
    py: Python<'_>,
    rule: Py<PyAny>,
    dtype: DType,
    layout: Arc<Layout>,
    state: &Bound<'_, PyAny>,
) -> PyResult<Leaf> {
    let Some(program) = program(py, rule.bind(py))? else {
        return Ok(Leaf::new(
            dtype,
            layout,
            Inner { rule, moments: Moments::Own(state.clone().unbind()), frozen: false },
        ));
    };
    suits(&program, dtype, || "the top".into())?;
    let slots = program.slots(dtype);
    let requests: Vec<_> = slots.iter().enumerate().map(|(i, (d, _))| (i, layout.len * d.size())).collect();
    let places = allocate(py, &requests)?;
    let slots: Vec<_> = slots.into_iter().zip(places).map(|((dtype, _), place)| Slot { place, dtype }).collect();
    let counts = vec![0; program.links.len()];
    let mut leaf = Leaf::new(
        dtype,
        layout,
        Inner { rule, moments: Moments::Compiled { program: program.clone(), slots, counts }, frozen: false },
    );
    let mut counts = vec![0; program.links.len()];
    leaf.read_state(py, &program, &program.form, state, &mut counts)?;
    if let Moments::Compiled { counts: c, .. } = &mut leaf.inner.get_mut().moments {
        *c = counts;
    }
    Ok(leaf)
}

impl Leaf {
    fn read_state(
        &self,
        py: Python<'_>,
        program: &Program,
        form: &Form,
        state: &Bound<'_, PyAny>,
        counts: &mut [u64],
    ) -> PyResult<()> {
        let wrong = |what: String| PyValueError::new_err(format!("the state does not fit the rule: {what}"));
        match form {
            Form::Chain(forms) => {
                let states = state.cast::<PyTuple>().map_err(|_| wrong("a chain's state is a tuple".into()))?;
                if states.len() != forms.len() {
                    return Err(wrong(format!("{} states for {} rules", states.len(), forms.len())));
                }
                forms.iter().zip(states.iter()).try_for_each(|(f, s)| self.read_state(py, program, f, &s, counts))
            }
            Form::Mixed(rule) => {
                let pair = state.cast::<PyTuple>().ok().filter(|t| t.len() == 2);
                let pair = pair.ok_or_else(|| wrong("MixedPrecision's state is (master, state)".into()))?;
                self.read_slot(py, 0, "master", &pair.get_item(0)?)?;
                self.read_state(py, program, rule, &pair.get_item(1)?, counts)
            }
            &Form::Link(i) => {
                let (link, name) = (&program.links[i], &program.names[i]);
                if link.slots().is_empty() && link.counter().is_none() {
                    return if state.is_none() { Ok(()) } else { Err(wrong(format!("{name} has none"))) };
                }
                let dict = state.cast::<PyDict>().map_err(|_| wrong(format!("{name}'s is a dict")))?;
                let item = |key: &str| dict.get_item(key)?.ok_or_else(|| wrong(format!("{name} lacks {key}")));
                for (slot, named) in program.slots_of(i).zip(link.slots()) {
                    self.read_slot(py, slot, named.name, &item(named.name)?)?;
                }
                if let Some(counter) = link.counter() {
                    counts[i] = item(counter)?.extract()?;
                }
                let expected = link.slots().len() + usize::from(link.counter().is_some());
                if dict.len() == expected {
                    Ok(())
                } else {
                    Err(wrong(format!("{name} has {expected} entries, not {}", dict.len())))
                }
            }
        }
    }

    fn read_slot(&self, py: Python<'_>, slot: usize, name: &str, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let guard = self.reading()?;
        let Moments::Compiled { slots, .. } = &guard.get().moments else { return Ok(()) };
        let to = self.view(py, &slots[slot])?;
        let Some(view) = View::of(values) else {
            return Err(PyTypeError::new_err(format!("state {name} is no array, but {}", values.get_type().name()?)));
        };
        if view.shape != self.layout.shape {
            let (a, b) = (shape_text(py, view.shape), shape_text(py, &self.layout.shape));
            return Err(PyValueError::new_err(format!("state {name} has shape {a}, the parameter has {b}")));
        }
        numpy(py)?.call_method1("copyto", (to, values))?;
        Ok(())
    }
}

/// The memory of every state array of a leaf.
pub fn memories(moments: &Moments) -> impl Iterator<Item = &Py<Memory>> {
    let slots = if let Moments::Compiled { slots, .. } = moments { &slots[..] } else { &[] };
    slots.iter().map(|s| &s.place.memory)
}
