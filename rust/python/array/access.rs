//! Arrays opened: the one place that takes pointers to elements.
//!
//! [`run`] looks at every array of a call again, after the last Python code that the call runs, and refuses those that have
//! changed since the call looked first. Then it hands their elements to a function that cannot run any: being [`Send`], it
//! holds no Python object, and what it gets does not outlive it.

use bumpalo::Bump;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::marker::PhantomData;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use super::create::Fresh;
use super::fields::Fields;
use super::layout::Layout;
use super::owner::{is_held, moved};
use super::pins::{Load, Pins};
use super::view::{Look, View, shape_text};
use crate::loops::dtype::DType;
use crate::loops::element::Real;
use crate::memory::reserve::{OutOfMemory, Put, collected};
use crate::python::memory::arena::{List, list_in};
use crate::python::memory::collector::Rest;

/// What lives as long as arrays are open.
pub struct Session(());

/// What [`run`] opens: an array, or several.
pub trait Access {
    /// Their elements.
    type Open<'a>: Send;

    /// About how much memory they take.
    fn load(&self) -> Load;

    /// Looks at the arrays again, and pins them; a `RuntimeError` names one that has changed. Runs no Python code unless one
    /// has.
    fn check(&self, pins: &mut Pins) -> PyResult<()>;

    /// Takes the pointers.
    ///
    /// # Safety
    /// [`Self::check`] has just passed, and no Python code runs on this thread before the session ends; `self` outlives it.
    unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory>;
}

/// Calls `f` with the elements of `arrays`, without the interpreter's lock where that takes some time.
///
/// Another thread may run Python code meanwhile: what it does to the numbers shows, as beside a call of NumPy's own that gives
/// the lock away. It cannot resize the arrays, which are pinned ([`Pins`]).
pub fn run<A: Access, R: Send>(
    py: Python<'_>,
    arrays: &A,
    f: impl for<'a> FnOnce(A::Open<'a>) -> R + Send,
) -> PyResult<R> {
    let mut pins = Pins::new(py, arrays.load());
    arrays.check(&mut pins)?;
    let session = Session(());
    // SAFETY: checked; `f` holds no Python object, and this thread does nothing else until it returns.
    let open = unsafe { arrays.open(&session) }?;
    pins.close();
    Ok(if pins.are_wanted() { py.detach(move || f(open)) } else { f(open) })
}

/// The same with the interpreter's lock, for a look that takes less time than to give it away.
pub fn read<A: Access, R>(py: Python<'_>, arrays: &A, f: impl for<'a> FnOnce(A::Open<'a>) -> R + Send) -> PyResult<R> {
    let mut pins = Pins::none(py);
    arrays.check(&mut pins)?;
    let session = Session(());
    // SAFETY: as above.
    Ok(f(unsafe { arrays.open(&session) }?))
}

/// How an array lay when a call looked at it.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    /// Aligned, in this machine's byte order, and as a layout says.
    Laid {
        /// Where the first element lay.
        address: usize,
        /// The type of its elements.
        dtype: DType,
        /// The shape, and the order in which the elements lie.
        layout: &'a Layout,
    },
    /// In any other way.
    Other(&'a View),
}

impl Seen<'_> {
    /// The array's first element, if it still lies so.
    #[inline]
    fn again(&self, array: &Bound<'_, PyAny>, writes: bool) -> Option<*mut u8> {
        let (address, same, writeable) = match *self {
            Self::Laid { address, dtype, layout } => {
                let look = Look::at(array, layout)?;
                let same = look.address == address && look.laid && look.held && look.dtype == Some(dtype);
                (address, same, look.writeable)
            }
            Self::Other(view) => {
                let now = View::of(array).filter(|_| Fields::of(array).is_some_and(|f| is_held(&f, array.py())))?;
                let writeable = now.writeable;
                (view.address, View { writeable: view.writeable, ..now } == *view, writeable)
            }
        };
        (same && (writeable || !writes)).then_some(address as *mut u8)
    }

    /// Refuses an array, called `name`, that does not lie so any more.
    pub fn check(&self, array: &Bound<'_, PyAny>, name: impl FnOnce() -> PyResult<String>) -> PyResult<()> {
        self.again(array, false).map_or_else(|| Err(self.changed(&name()?, array)), |_| Ok(()))
    }

    /// The error of an array that does not.
    #[cold]
    fn changed(&self, name: &str, array: &Bound<'_, PyAny>) -> PyErr {
        let was = match *self {
            Self::Laid { address, dtype, layout } => Was::laid(address, dtype, layout),
            Self::Other(view) => Was::seen(view),
        };
        was.changed(name, array)
    }
}

/// What is said of an array that has changed.
struct Was<'a> {
    address: usize,
    dtype: Option<DType>,
    itemsize: usize,
    shape: &'a [isize],
    /// In bytes, where an array with these lengths can have others.
    strides: Cow<'a, [isize]>,
}

impl<'a> Was<'a> {
    fn laid(address: usize, dtype: DType, layout: &'a Layout) -> Self {
        let size = dtype.size();
        let strides = layout.strides.iter().map(|s| s.wrapping_mul(size as isize)).collect();
        Self { address, dtype: Some(dtype), itemsize: size, shape: &layout.shape, strides }
    }

    fn seen(view: &'a View) -> Self {
        let View { address, dtype, itemsize, ref shape, ref strides, .. } = *view;
        Self { address, dtype, itemsize, shape, strides: strides[..].into() }
    }

    fn changed(&self, name: &str, array: &Bound<'_, PyAny>) -> PyErr {
        let py = array.py();
        let text = |shape: &[isize]| shape_text(py, shape);
        let what = match View::of(array) {
            Some(now) if now.dtype != self.dtype || now.itemsize != self.itemsize => {
                let found = array.getattr("dtype").map_or_else(|_| "another".into(), |dtype| dtype.to_string());
                match self.dtype {
                    Some(was) => format!("its dtype was {} and is {found}", was.name()),
                    None => format!("its dtype is {found}"),
                }
            }
            Some(now) if now.shape[..] != *self.shape => {
                format!("its shape was {} and is {}", text(self.shape), text(&now.shape))
            }
            Some(now) if now.address != self.address => "its memory is another".into(),
            Some(now) if now.strides[..] != *self.strides => {
                format!("its strides were {} and are {}", text(&self.strides), text(&now.strides))
            }
            Some(_) if Fields::of(array).is_some_and(|fields| !is_held(&fields, array.py())) => return moved(name),
            Some(now) if !now.writeable => "it is read-only".into(),
            _ => "its byte order or alignment is another".into(),
        };
        PyRuntimeError::new_err(format!("{name} was changed while it was in use: {what} now"))
    }
}

/// What an array is to a step.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// What is stepped.
    Parameter,
    /// Its gradient.
    Gradient,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Parameter => "parameter at",
            Self::Gradient => "gradient at",
        }
    }
}

/// What places are called, by their numbers.
pub trait Places {
    /// The name of place `i`, for errors.
    fn name(&self, i: usize) -> PyResult<String>;
}

/// Arrays that a step reads or writes where they lie, which `each` names one by one, without running Python code.
pub struct Wanted<'b, 'p, F> {
    arena: &'b Bump,
    n: usize,
    load: Load,
    each: F,
    places: &'p dyn Places,
    pointers: OnceCell<List<'b, *mut u8>>,
}

impl<'b, 'p, F: Fn(&mut Looks<'b, 'p, '_>) -> PyResult<()>> Wanted<'b, 'p, F> {
    /// Those that `each` names, in their order; about `n` of them.
    pub fn new(arena: &'b Bump, n: usize, load: Load, places: &'p dyn Places, each: F) -> Self {
        Self { arena, n, load, each, places, pointers: OnceCell::new() }
    }
}

/// Second looks at [`Wanted`] arrays.
pub struct Looks<'b, 'p, 's> {
    pointers: List<'b, *mut u8>,
    places: &'p dyn Places,
    pins: &'s mut Pins,
}

impl Looks<'_, '_, '_> {
    /// Looks at the array with the next number, which stands at a place, and is written if `writes` says so.
    #[inline]
    pub fn at(
        &mut self,
        array: &Bound<'_, PyAny>,
        seen: Seen<'_>,
        writes: bool,
        role: Role,
        place: usize,
    ) -> PyResult<()> {
        let Some(pointer) = seen.again(array, writes) else {
            self.pins.close(); // the words of the error may run code of others, to which the collector is as it was
            return Err(seen.changed(&format!("{} {}", role.name(), self.places.name(place)?), array));
        };
        self.pins.add(array)?;
        Ok(self.pointers.put(pointer)?)
    }

    /// There is none with the next number.
    #[inline]
    pub fn none(&mut self) -> Result<(), OutOfMemory> {
        self.pointers.put(std::ptr::null_mut())
    }
}

impl<'b, 'p, F: Fn(&mut Looks<'b, 'p, '_>) -> PyResult<()>> Access for Wanted<'b, 'p, F> {
    type Open<'a> = Pointers<'a>;

    fn load(&self) -> Load {
        self.load
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        let mut looks = Looks { pointers: list_in(self.n, self.arena)?, places: self.places, pins };
        (self.each)(&mut looks)?;
        // The first list stays: nothing opens arrays twice.
        let _ = self.pointers.set(looks.pointers);
        Ok(())
    }

    unsafe fn open<'a>(&self, _: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        let all = self.pointers.get().map_or(&[][..], |all| all);
        // SAFETY: the list is not changed any more, and outlives the session with `self`.
        Ok(Pointers { all: unsafe { from_raw_parts(all.as_ptr(), all.len()) }, of: PhantomData })
    }
}

/// The first elements of [`Wanted`] arrays, by their numbers.
#[derive(Clone, Copy)]
pub struct Pointers<'a> {
    all: &'a [*mut u8],
    of: PhantomData<&'a mut [u8]>,
}

// SAFETY: addresses; code that reads or writes what lies there says why it may.
unsafe impl Send for Pointers<'_> {}

impl Pointers<'_> {
    /// The pointer to array number `i`.
    #[inline]
    pub fn of(&self, i: usize) -> *mut u8 {
        self.all[i]
    }
}

/// A C-contiguous array of one type, as it was when a call looked at it.
pub(super) struct Slice<'a> {
    pub(super) name: &'a str,
    pub(super) address: usize,
    pub(super) dtype: DType,
    pub(super) shape: &'a [usize],
}

impl Slice<'_> {
    pub(super) fn load(&self) -> Load {
        Load::of(self.shape.iter().product::<usize>() * self.dtype.size())
    }

    pub(super) fn check(&self, array: &Bound<'_, PyAny>, pins: &mut Pins) -> PyResult<()> {
        let same = Fields::of(array).is_some_and(|fields| {
            let alike = |(a, b): (&isize, &usize)| usize::try_from(*a) == Ok(*b);
            fields.data as usize == self.address
                && fields.dtype == Some(self.dtype)
                && fields.is_plain_and_in_c_order()
                && is_held(&fields, array.py())
                && fields.shape.len() == self.shape.len()
                && fields.shape.iter().zip(self.shape).all(alike)
        });
        if same {
            pins.add(array)
        } else {
            pins.close();
            Err(self.changed(array))
        }
    }

    #[cold]
    fn changed(&self, array: &Bound<'_, PyAny>) -> PyErr {
        let shape: Vec<isize> = self.shape.iter().map(|&n| n as isize).collect();
        Was::laid(self.address, self.dtype, &Layout::row_major(&shape)).changed(self.name, array)
    }
}

/// That a kernel takes so long, beside its arrays.
pub struct Takes(pub Load);

impl Access for Takes {
    type Open<'a> = ();

    fn load(&self) -> Load {
        self.0
    }

    fn check(&self, _: &mut Pins) -> PyResult<()> {
        Ok(())
    }

    unsafe fn open<'a>(&self, _: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        Ok(())
    }
}

impl<T: Real> Access for Fresh<'_, T> {
    type Open<'a> = &'a mut [T];

    fn load(&self) -> Load {
        Load::of(self.len * size_of::<T>())
    }

    fn check(&self, _: &mut Pins) -> PyResult<()> {
        Ok(()) // nothing else has it, so nothing has changed it
    }

    unsafe fn open<'a>(&self, _: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        let Some(fields) = Fields::of(&self.array).filter(|_| self.len > 0) else { return Ok(&mut []) };
        // SAFETY: an array of ours, of this type and with `len` elements in a row; nothing else has it.
        Ok(unsafe { from_raw_parts_mut(fields.data.cast(), self.len) })
    }
}

/// The elements of a C-contiguous array that was just checked to have type `T` and this many.
///
/// # Safety
/// As for [`Access::open`].
pub(super) unsafe fn elements<'a, T>(array: &Bound<'_, PyAny>, len: usize) -> &'a [T] {
    let Some(fields) = Fields::of(array).filter(|_| len > 0) else { return &[] };
    // SAFETY: checked; the array is kept alive by whoever has it. Python code that writes to it from another thread while
    // the lock is given away races with us as it would with NumPy itself; every bit pattern is a number.
    unsafe { from_raw_parts(fields.data.cast_const().cast(), len) }
}

/// Whole numbers of 64 bits.
pub trait Whole: Copy {
    /// NumPy's letter for their kind.
    const KIND: u8;
}

impl Whole for i64 {
    const KIND: u8 = b'i';
}

impl Whole for u64 {
    const KIND: u8 = b'u';
}

/// Calls `f` with the elements of a C-contiguous array of such numbers; `None` if it is another one.
pub fn integers<T: Whole, R>(array: &Bound<'_, PyAny>, f: impl for<'a> FnOnce(&'a [T]) -> R + Send) -> Option<R> {
    let _rest = Rest::begin(array.py());
    let view = View::of(array)?;
    let alike = view.code.1 == T::KIND && view.itemsize == size_of::<T>();
    let fits = alike && view.is_plain() && view.c_order && is_held(&Fields::of(array)?, array.py());
    // SAFETY: just looked at; `f` holds no Python object.
    fits.then(|| f(unsafe { elements::<T>(array, view.len()) }))
}

/// Calls `f` with the bytes of an array; `None` if it is not one of this number of bytes in C order.
pub fn bytes<R>(array: &Bound<'_, PyAny>, len: usize, f: impl for<'a> FnOnce(&'a [u8]) -> R + Send) -> Option<R> {
    let _rest = Rest::begin(array.py());
    // SAFETY: just looked at, and in C order; `f` holds no Python object.
    in_c_order(array, len).map(|()| f(unsafe { elements(array, len) }))
}

/// Copies `from` to the bytes from `offset` on of an array of ours that nothing else has; `None` if it is not one of that many
/// bytes in C order.
pub fn fill_bytes(array: &Bound<'_, PyAny>, len: usize, offset: usize, from: &[u8]) -> Option<()> {
    let _rest = Rest::begin(array.py());
    in_c_order(array, len)?;
    let fields = Fields::of(array).filter(|_| from.len() <= len.saturating_sub(offset))?;
    // SAFETY: just looked at; the bytes lie within the array, which the caller has for itself.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), fields.data.add(offset), from.len()) };
    Some(())
}

fn in_c_order(array: &Bound<'_, PyAny>, len: usize) -> Option<()> {
    let view = View::of(array)?;
    let lengths = view.shape.iter().map(|&n| n as usize).try_fold(view.itemsize, usize::checked_mul);
    let held = is_held(&Fields::of(array)?, array.py());
    (view.c_order && lengths == Some(len) && held).then_some(())
}

impl<A: Access> Access for &A {
    type Open<'a> = A::Open<'a>;

    fn load(&self) -> Load {
        A::load(self)
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        A::check(self, pins)
    }

    unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        // SAFETY: the caller's promise.
        unsafe { A::open(self, session) }
    }
}

impl<A: Access> Access for Option<A> {
    type Open<'a> = Option<A::Open<'a>>;

    fn load(&self) -> Load {
        self.as_ref().map_or(Load::NONE, A::load)
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        self.as_ref().map_or(Ok(()), |a| a.check(pins))
    }

    unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        // SAFETY: the caller's promise.
        self.as_ref().map(|a| unsafe { a.open(session) }).transpose()
    }
}

impl<A: Access> Access for Vec<A> {
    type Open<'a> = Vec<A::Open<'a>>;

    fn load(&self) -> Load {
        self.iter().map(A::load).fold(Load::NONE, Load::and)
    }

    fn check(&self, pins: &mut Pins) -> PyResult<()> {
        self.iter().try_for_each(|a| a.check(pins))
    }

    unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
        // SAFETY: the caller's promise.
        collected(self.iter().map(|a| unsafe { a.open(session) }))
    }
}

macro_rules! together {
    ($($name:ident $i:tt),+) => {
        impl<$($name: Access),+> Access for ($($name,)+) {
            type Open<'a> = ($($name::Open<'a>,)+);

            fn load(&self) -> Load {
                Load::NONE $(.and(self.$i.load()))+
            }

            fn check(&self, pins: &mut Pins) -> PyResult<()> {
                $(self.$i.check(pins)?;)+
                Ok(())
            }

            unsafe fn open<'a>(&self, session: &'a Session) -> Result<Self::Open<'a>, OutOfMemory> {
                // SAFETY: the caller's promise.
                unsafe { Ok(($(self.$i.open(session)?,)+)) }
            }
        }
    };
}

together!(A 0, B 1);
together!(A 0, B 1, C 2);
together!(A 0, B 1, C 2, D 3);
together!(A 0, B 1, C 2, D 3, E 4);
together!(A 0, B 1, C 2, D 3, E 4, F 5);
