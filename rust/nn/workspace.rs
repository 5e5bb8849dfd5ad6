//! The memory of a network at work: what the way forward leaves for the way back.

use super::dense::Dense;
use crate::memory::buffer::Buffer;
use crate::memory::reserve::list;
use std::ops::{Deref, DerefMut};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Float32 numbers in recycled memory, any ones at first.
pub struct Floats {
    buffer: Buffer,
    len: usize,
}

impl Floats {
    /// Room for `len` numbers; `None` where the system has none.
    #[must_use]
    pub fn new(len: usize) -> Option<Self> {
        Some(Self::over(Buffer::new(len.checked_mul(size_of::<f32>())?)?, len))
    }

    /// The same, from `place` of a page on.
    #[must_use]
    pub fn at(len: usize, place: usize) -> Option<Self> {
        Some(Self::over(Buffer::at(len.checked_mul(size_of::<f32>())?, place)?, len))
    }

    fn over(buffer: Buffer, len: usize) -> Self {
        if !buffer.is_initialised() {
            // SAFETY: the buffer is this long and used by nothing else.
            unsafe { buffer.ptr().write_bytes(0, buffer.len()) };
        }
        let mut floats = Self { buffer, len };
        if cfg!(debug_assertions) {
            floats.fill(f32::NAN); // shows where numbers are read that were not written
        }
        floats
    }

    /// The first of them.
    #[must_use]
    pub fn ptr(&self) -> *mut f32 {
        self.buffer.ptr().cast()
    }
}

impl Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the buffer is aligned, owned, of this length, and was initialised when it was made.
        unsafe { from_raw_parts(self.ptr(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { from_raw_parts_mut(self.ptr(), self.len) }
    }
}

/// What one layer leaves.
pub(super) struct Kept {
    /// Its `z[batch, n_out]`; empty where `y` is enough.
    pub(super) z: Floats,
    /// Its `y[batch, n_out]`.
    pub(super) y: Floats,
}

/// Memory for batches of up to this number of rows, for one network.
pub struct Workspace {
    pub(super) kept: Vec<Kept>,
    /// The gradient by a layer's output, and room for the one by its input.
    pub(super) d: [Floats; 2],
}

impl Workspace {
    /// Memory for `layers` at `batch` rows; `None` where the system has none.
    pub(super) fn new(layers: &[Dense], batch: usize) -> Option<Self> {
        let mut kept = list(layers.len()).ok()?;
        let mut widest = 0;
        for layer in layers {
            let len = batch.checked_mul(layer.n_out)?;
            widest = widest.max(len);
            let z = Floats::new(if layer.activation.needs_input() { len } else { 0 })?;
            kept.push(Kept { z, y: Floats::new(len)? });
        }
        Some(Self { kept, d: [Floats::new(widest)?, Floats::new(widest)?] })
    }
}
