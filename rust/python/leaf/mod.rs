//! `Leaf`: a rule and its state for one parameter.

pub mod create;
pub mod hold;
pub mod program;
pub mod refit;
pub mod schedules;
pub mod setup;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};
use smallvec::{SmallVec, smallvec};

use super::array::{Layout, MemoryPart, array, descriptor, shape_text};
use super::memory::lists::{Int, Items, dict, float, ints, text, tuple};
use crate::loops::dtype::DType;
use crate::memory::placement::Streams;
use crate::memory::reserve::collected;
use crate::program::{Form, Part, Program};
use create::{placed, restored, suitable};

/// A state array of a leaf.
pub struct Slot {
    /// Where it lies.
    pub place: MemoryPart,
    /// The type of its elements.
    pub dtype: DType,
}

/// The state arrays of a leaf; those of most rules lie in the leaf itself, where a walk finds them sooner.
pub type Slots = SmallVec<[Slot; 2]>;
/// The step counts of a leaf's links.
pub type Counts = SmallVec<[u64; 2]>;

/// What a leaf remembers.
pub struct Moments {
    /// The rule, compiled.
    pub program: Arc<Program>,
    /// In the order of [`Program::slots`].
    pub slots: Slots,
    /// In the order of [`Program::counters`].
    pub counts: Counts,
    /// The states of the rules of the user's own that are in it.
    pub own: Vec<OwnState>,
}

/// The state of a rule of the user's own: whatever object its `init` and `apply` returned.
pub struct OwnState(pub Py<PyAny>);

impl Drop for OwnState {
    /// A state may be a leaf whose state is a leaf, and so on: it is taken apart link by link, since each that is dropped
    /// by the one before would need room on the stack.
    fn drop(&mut self) {
        Python::try_attach(|py| {
            let mut rest = smallvec![std::mem::replace(&mut self.0, py.None())] as SmallVec<[Py<PyAny>; 4]>;
            while let Some(state) = rest.pop() {
                // SAFETY: a live object.
                let alone = unsafe { pyo3::ffi::Py_REFCNT(state.as_ptr()) } == 1;
                if alone
                    && let Ok(leaf) = state.bind(py).cast_exact::<Leaf>()
                    && let Some(mut guard) = leaf.get().write()
                    && let Some(inner) = guard.get_mut()
                {
                    rest.extend(inner.moments.own.iter_mut().map(|own| std::mem::replace(&mut own.0, py.None())));
                }
            }
        });
    }
}

/// The state of a rule in Python, with arrays of its own.
pub fn copied(py: Python<'_>, state: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    Ok(py.import(intern!(py, "copy"))?.call_method1(intern!(py, "deepcopy"), (state,))?.unbind())
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

impl Inner {
    /// Where in a page a step of a parameter at `x` starts to read.
    pub fn streams(&self, x: usize, gradient: Option<usize>) -> Streams {
        let mut streams = Streams::of(x);
        gradient.into_iter().for_each(|g| streams.add(g, None));
        let Moments { program, slots, .. } = &self.moments;
        slots.iter().zip(program.loops()).for_each(|(slot, link)| streams.add(slot.place.ptr as usize, link));
        streams
    }
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

// SAFETY: `inner` is reached only through an access, of which `users` admits one writer or many readers.
unsafe impl Sync for Leaf {}

/// Access to a leaf, released when this is dropped.
pub struct Access<'a> {
    leaf: &'a Leaf,
    write: bool,
}

impl<'a> Access<'a> {
    /// The leaf.
    pub fn leaf(&self) -> &'a Leaf {
        self.leaf
    }

    /// Whether it is a writer's.
    pub fn writes(&self) -> bool {
        self.write
    }

    /// What the leaf holds.
    pub fn get(&self) -> &Inner {
        // SAFETY: while there is this access no other one writes; its own holder does through `get_mut`.
        unsafe { &*self.leaf.inner.get() }
    }

    /// The same, to be changed; `None` for an access to read.
    pub fn get_mut(&mut self) -> Option<&mut Inner> {
        // SAFETY: an access to write is the only one.
        self.write.then(|| unsafe { &mut *self.leaf.inner.get() })
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        if self.write {
            self.leaf.users.store(0, Ordering::Release);
        } else {
            self.leaf.release();
        }
    }
}

impl Leaf {
    /// A new leaf, to which there is no access yet.
    pub fn new(dtype: DType, layout: Arc<Layout>, inner: Inner) -> Self {
        Self { dtype, layout, users: AtomicIsize::new(0), inner: UnsafeCell::new(inner) }
    }

    /// As a Python object.
    pub fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        let leaf = Bound::new(py, self)?;
        watch(&leaf, leaf.get().reading()?.get());
        Ok(leaf)
    }

    /// The same leaf, frozen or not.
    pub fn with_frozen(self, frozen: bool) -> Self {
        Self::new(self.dtype, self.layout, Inner { frozen, ..self.inner.into_inner() })
    }

    /// What a leaf held to which there is no access.
    pub fn into_inner(self) -> Inner {
        self.inner.into_inner()
    }

    /// What a leaf holds to which there is no other access.
    pub fn inner_mut(&mut self) -> &mut Inner {
        self.inner.get_mut()
    }

    /// Access to read; `None` while another one writes.
    pub fn read(&self) -> Option<Access<'_>> {
        let enter = |n| if n < 0 { None } else { Some(n + 1) };
        self.users.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).ok()?;
        Some(Access { leaf: self, write: false })
    }

    /// Releases one access to read.
    pub fn release(&self) {
        self.users.fetch_sub(1, Ordering::Release);
    }

    /// Access to write; `None` while there is another one.
    pub fn write(&self) -> Option<Access<'_>> {
        self.users.compare_exchange(0, -1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Access { leaf: self, write: true })
    }

    /// Access to read, or the error of meeting a writer.
    pub fn reading(&self) -> PyResult<Access<'_>> {
        self.read().ok_or_else(busy)
    }
}

/// Has the collector of cycles look at a leaf or, where nothing that this holds can lead back to it, leave it out.
pub fn watch(leaf: &Bound<'_, Leaf>, inner: &Inner) {
    let wanted = !inner.moments.program.plain;
    let object = leaf.as_ptr();
    // SAFETY: a live object of a class that the collector knows, and whose content is complete.
    unsafe {
        match (wanted, pyo3::ffi::PyObject_GC_IsTracked(object) != 0) {
            (true, false) => pyo3::ffi::PyObject_GC_Track(object.cast()),
            (false, true) => pyo3::ffi::PyObject_GC_UnTrack(object.cast()),
            _ => {}
        }
    }
}

/// The process that imported the module. A child of a fork is another one.
static PROCESS: OnceLock<u32> = OnceLock::new();

/// Remembers the process.
pub fn begin() {
    PROCESS.get_or_init(std::process::id);
}

/// The error of meeting another user of a state.
pub fn busy() -> PyErr {
    let is_child = PROCESS.get().is_some_and(|process| *process != std::process::id());
    PyRuntimeError::new_err(if is_child {
        "this state is in use by another update, or was when this process was forked: then make another one, with setup or load"
    } else {
        "this state is in use by another update"
    })
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
        self.shown(py, &self.reading()?.get().moments)
    }

    /// The shape of the parameter.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.layout.shape.iter().map(|&n| Int(n as i64)))
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

    /// For the collector of cycles: the rule, and the state of one in Python. A leaf that an update writes to is passed over,
    /// and so counts as in use. Guards change hands only while their thread may run Python code, so not during a collection,
    /// whose visits must agree with each other.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(guard) = self.read() else { return Ok(()) };
        visit.call(&guard.get().rule)?;
        guard.get().moments.own.iter().try_for_each(|own| visit.call(&own.0))
    }

    /// Lets go of them; what meets the leaf after that finds None.
    fn __clear__(&self, py: Python<'_>) {
        let Some(mut guard) = self.write() else { return };
        let old = guard.get_mut().map(|inner| {
            let none = inner.moments.own.iter().map(|_| OwnState(py.None())).collect();
            (std::mem::replace(&mut inner.rule, py.None()), std::mem::replace(&mut inner.moments.own, none))
        });
        drop(guard); // first: dropping a rule may run Python code
        drop(old);
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // A copy: an update may come before the arrays are read.
        let copy = Bound::new(py, self.with_rule(py, self.rule(py)?)?)?;
        let args =
            copy.get()._parts(py)?.as_sequence().concat(tuple(py, [stamps(&copy)?])?.as_sequence())?.to_tuple()?;
        Ok(tuple(py, [py.import("optirs._core")?.getattr("restore")?, args.into_any()])?.into_any())
    }

    fn __deepcopy__(&self, py: Python<'_>, memo: &Bound<'_, PyAny>) -> PyResult<Self> {
        let _guard = self.reading()?;
        let copy = |object: Py<PyAny>| py.import("copy")?.call_method1("deepcopy", (object, memo));
        let mut state = self.state(py)?;
        if self.reading()?.get().moments.program.owns > 0 {
            state = copy(state.unbind())?;
        }
        let (rule, frozen) = (copy(self.rule(py)?)?.unbind(), self.frozen()?);
        let copy = restored(py, rule, self.dtype, self.layout.clone(), &state)?.with_frozen(frozen);
        self.with_stamps_of(copy)
    }

    /// What `restore` makes it of again; the arrays are views.
    fn _parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let extents = |all: &[isize]| ints(py, all.iter().map(|&n| n as i64));
        let (shape, strides) = (extents(&self.layout.shape)?, extents(&self.layout.strides)?);
        let (rule, dtype, state) = (self.rule(py)?.into_bound(py), text(py, self.dtype.name())?, self.state(py)?);
        let frozen = PyBool::new(py, self.frozen()?).to_owned().into_any();
        tuple(py, [rule, shape.into_any(), strides.into_any(), dtype.into_any(), state, frozen])
    }

    /// A copy with another rule, for which the state is fit; errors name the path.
    #[pyo3(signature = (rule, path=None))]
    fn _with_rule(&self, py: Python<'_>, rule: Py<PyAny>, path: Option<Bound<'_, PyTuple>>) -> PyResult<Self> {
        suitable(py, rule.bind(py), self.dtype, path.as_ref())?;
        self.with_rule(py, rule).map_err(|error| placed(py, error, path.as_ref()))
    }
}

/// Freezes or thaws leaves: all of them or, if one is in use, none.
#[pyfunction]
pub fn set_frozen(leaves: Items<Bound<'_, Leaf>>, frozen: bool) -> PyResult<()> {
    for guard in &mut writing(&leaves.0)? {
        if let Some(inner) = guard.get_mut() {
            inner.frozen = frozen;
        }
    }
    Ok(())
}

/// For each rule about a group inside the rule of a leaf that knows it, which of the group's steps was the last one that it took
/// part in.
#[pyfunction]
pub fn stamps<'py>(leaf: &Bound<'py, Leaf>) -> PyResult<Bound<'py, PyTuple>> {
    let guard = leaf.get().reading()?;
    let Moments { program, counts, .. } = &guard.get().moments;
    let stamps: Vec<_> = program.stamps(counts).map(|stamp| Int(stamp as i64)).collect();
    tuple(leaf.py(), stamps)
}

/// Access to write to all of `leaves`, no two of which are the same.
pub fn writing<'a>(leaves: &'a [Bound<'_, Leaf>]) -> PyResult<Vec<Access<'a>>> {
    collected(leaves.iter().map(|leaf| leaf.get().write().ok_or_else(busy)))
}

impl Leaf {
    /// A copy with a rule for which the state is fit.
    fn with_rule(&self, py: Python<'_>, rule: Py<PyAny>) -> PyResult<Self> {
        let _guard = self.reading()?;
        let (state, frozen) = (self.state(py)?, self.frozen()?);
        self.with_stamps_of(restored(py, rule, self.dtype, self.layout.clone(), &state)?.with_frozen(frozen))
    }

    /// A copy of this leaf with its stamps, which `state` does not show.
    fn with_stamps_of(&self, mut copy: Self) -> PyResult<Self> {
        let guard = self.reading()?;
        let Moments { program, counts, .. } = &guard.get().moments;
        copy.stamp(program.stamps(counts));
        Ok(copy)
    }

    /// Sets the stamps; for those of another number of rules they stay as they are.
    pub fn stamp(&mut self, stamps: impl Iterator<Item = u64>) {
        let Moments { program, counts, .. } = &mut self.inner_mut().moments;
        let places: SmallVec<[usize; 4]> = program.stamp_places().collect();
        let stamps: SmallVec<[u64; 4]> = stamps.collect();
        if places.len() == stamps.len() {
            places.into_iter().zip(stamps).for_each(|(at, stamp)| counts[at] = stamp);
        }
    }

    /// The state of a leaf with these moments, as Python sees it.
    pub fn shown<'py>(&self, py: Python<'py>, moments: &Moments) -> PyResult<Bound<'py, PyAny>> {
        self.show(py, moments, &moments.program.form)
    }

    fn show<'py>(&self, py: Python<'py>, moments: &Moments, form: &Form) -> PyResult<Bound<'py, PyAny>> {
        let Moments { program, slots, counts, own } = moments;
        let view = |slot: &Slot| self.view(py, slot);
        match form {
            Form::Chain(forms) => {
                let states = forms.iter().map(|form| self.show(py, moments, form)).collect::<PyResult<Vec<_>>>()?;
                Ok(tuple(py, states)?.into_any())
            }
            Form::Mixed(rule) => Ok(tuple(py, [view(&slots[0])?, self.show(py, moments, rule)?])?.into_any()),
            Form::Scheduled(timer, rule) => {
                let state = self.show(py, moments, rule)?;
                let count = Int(counts[program.counter_of(*timer)] as i64).into_pyobject(py)?;
                Ok(tuple(py, [count.into_any(), state])?.into_any())
            }
            &Form::Link(i) => {
                if let Some(k) = program.links[i].own {
                    return Ok(own[k].0.bind(py).clone());
                }
                let mut parts = program.parts(i).peekable();
                if parts.peek().is_none() {
                    return Ok(py.None().into_bound(py));
                }
                let state = dict(py)?;
                for (name, part) in parts {
                    let value = match part {
                        Part::Array(slot) => view(&slots[slot])?,
                        Part::Count(at) => Int(counts[at] as i64).into_pyobject(py)?.into_any(),
                        Part::Float(at) => float(py, f64::from_bits(counts[at]))?,
                    };
                    state.set_item(text(py, name)?, value)?;
                }
                Ok(state.into_any())
            }
        }
    }

    /// A state array as NumPy sees it.
    pub fn view<'py>(&self, py: Python<'py>, slot: &Slot) -> PyResult<Bound<'py, PyAny>> {
        array(py, &slot.place, &descriptor(py, slot.dtype)?, slot.dtype.size(), &self.layout)
    }

    fn equals(&self, py: Python<'_>, other: &Self) -> PyResult<bool> {
        let (mine, theirs) = (self.reading()?, other.reading()?);
        let (a, b) = (mine.get(), theirs.get());
        if a.frozen != b.frozen || !a.rule.bind(py).eq(&b.rule)? {
            return Ok(false);
        }
        drop((mine, theirs));
        py.import("optirs._equality")?.getattr("same_bits")?.call1((self.state(py)?, other.state(py)?))?.is_truthy()
    }
}
