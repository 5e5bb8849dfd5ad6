//! What NumPy arrays are made of, as a look at them finds it.

use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PY_ARRAY_API,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;
use std::os::raw::c_int;

use super::fields::{Fields, elements, itemsize, reach};
use super::layout::Layout;
use super::owner::is_held;
use crate::loops::dtype::DType;
use crate::memory::strides::Strided;

/// The lengths of an array's dimensions, or the distances along them.
pub type Extents = SmallVec<[isize; 4]>;

/// What a NumPy array was made of when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where the first element lay: a number to compare. [`super::access`] alone follows it.
    pub address: usize,
    /// The lengths of the dimensions.
    pub shape: Extents,
    /// The distances between neighbours along each dimension, in bytes.
    pub strides: Extents,
    /// The type of the elements, if rules can step it.
    pub dtype: Option<DType>,
    /// NumPy's number of that type, and its letter.
    pub code: (c_int, u8),
    /// Bytes of an element.
    pub itemsize: usize,
    /// Whether each element is aligned.
    pub aligned: bool,
    /// Whether elements are in the other byte order than this machine's.
    pub swapped: bool,
    /// Whether elements may be written.
    pub writeable: bool,
    /// Whether they lie gapless in C order.
    pub c_order: bool,
    /// Whether they lie gapless in Fortran's order.
    pub fortran_order: bool,
}

/// What a step asks of an array, found without a copy of anything.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Where the first element lay: a number to compare.
    pub address: usize,
    /// The type of the elements, if rules can step it.
    pub dtype: Option<DType>,
    /// Whether it has the layout's shape.
    pub fits: bool,
    /// Whether the elements, besides, are aligned, in this machine's byte order, and lie just as the layout says.
    pub laid: bool,
    /// Whether elements may be written.
    pub writeable: bool,
    /// Whether the memory is still there: the array is no view of one that was resized.
    pub held: bool,
}

impl Look {
    /// Compares an array with a layout; `None` if it is none.
    #[inline]
    pub fn at(object: &Bound<'_, PyAny>, layout: &Layout) -> Option<Self> {
        let fields = Fields::of(object)?;
        let fits = layout.has_shape(fields.shape);
        Some(Self {
            address: fields.data as usize,
            dtype: fields.dtype,
            fits,
            laid: fits && is_laid(&fields, layout),
            writeable: fields.has(NPY_ARRAY_WRITEABLE),
            held: is_held(&fields, object.py()),
        })
    }
}

/// Whether the elements of an array, which have this layout's shape, are aligned, in this machine's byte order, and lie just so.
#[inline]
fn is_laid(fields: &Fields<'_>, layout: &Layout) -> bool {
    fields.has(NPY_ARRAY_ALIGNED) && !fields.swapped && {
        let c_order = fields.has(NPY_ARRAY_C_CONTIGUOUS);
        fields.dtype.is_some_and(|d| layout.matches(fields.strides, d.size(), c_order))
    }
}

impl View {
    /// What `object` is made of now, if it is a NumPy array.
    pub fn of(object: &Bound<'_, PyAny>) -> Option<Self> {
        let fields = Fields::of(object)?;
        // SAFETY: the descriptor is a live object.
        let (number, kind) = unsafe { ((*fields.descr).fields.type_num, (*fields.descr).fields.kind as u8) };
        Some(Self {
            address: fields.data as usize,
            shape: fields.shape.into(),
            strides: fields.strides.into(),
            dtype: fields.dtype,
            code: (number, kind),
            itemsize: itemsize(object.py(), fields.descr),
            aligned: fields.has(NPY_ARRAY_ALIGNED),
            swapped: fields.swapped,
            writeable: fields.has(NPY_ARRAY_WRITEABLE),
            c_order: fields.has(NPY_ARRAY_C_CONTIGUOUS),
            fortran_order: fields.has(NPY_ARRAY_F_CONTIGUOUS),
        })
    }

    /// Whether elements are aligned and in this machine's byte order.
    pub fn is_plain(&self) -> bool {
        self.aligned && !self.swapped
    }

    /// Whether the elements are plain and lie as the layout, which has this shape, says.
    pub fn is_laid(&self, layout: &Layout) -> bool {
        self.is_plain() && layout.has_shape(&self.shape) && layout.matches(&self.strides, self.itemsize, self.c_order)
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// The addresses from the first byte to behind the last one; empty for an empty array.
    pub fn span(&self) -> (usize, usize) {
        reach(self.address, &self.shape, &self.strides, self.itemsize)
    }

    /// Where the elements lie; `None` if there are none.
    pub fn strided(&self) -> Option<Strided> {
        Strided::new(self.address, self.itemsize, &self.shape, &self.strides)
    }
}

/// The addresses from an array's first byte to behind its last one, whatever its type; `None` if it is no array.
pub fn span(object: &Bound<'_, PyAny>) -> Option<(usize, usize)> {
    View::of(object).map(|view| view.span())
}

/// Whether the elements of two arrays are of one type, byte order included.
pub fn same_type(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    let Some((x, y)) = Fields::of(a).zip(Fields::of(b)) else { return false };
    // SAFETY: two live descriptors.
    unsafe { PY_ARRAY_API.PyArray_EquivTypes(a.py(), x.descr, y.descr) != 0 }
}

/// As [`span`], for Python.
#[pyfunction(name = "span")]
pub fn array_span(x: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    span(x).ok_or_else(|| PyTypeError::new_err("span: not an array"))
}

/// A shape as Python prints it.
pub fn shape_text(py: Python<'_>, shape: &[isize]) -> String {
    PyTuple::new(py, shape).map_or_else(|_| format!("{shape:?}"), |t| t.to_string())
}
