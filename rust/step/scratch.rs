//! Memory for what a step keeps between its phases.

use crate::memory::buffer::Buffer;
use crate::memory::placement::{LINE, Streams};
use crate::memory::reserve::{OutOfMemory, Put};

/// From this number of bytes on an array has memory of its own, placed in view of what else the step reads and writes.
const OWN: usize = 32 << 10;
/// Bytes of the memory that smaller ones share.
const SHARED: usize = 256 << 10;

/// Memory that is asked for anew at every step, and kept for the next one.
#[derive(Default)]
pub struct Scratch {
    buffers: Vec<Buffer>,
    /// How many of them are in use.
    used: usize,
    /// The one that small arrays share, and how many of its bytes are in use.
    shared: Option<(usize, usize)>,
}

impl Scratch {
    /// Takes all back.
    pub fn clear(&mut self) {
        (self.used, self.shared) = (0, None);
    }

    /// Memory for an array that is read and written beside `streams`.
    pub fn array(&mut self, bytes: usize, streams: &mut Streams) -> Result<*mut u8, OutOfMemory> {
        if bytes >= OWN {
            let i = self.buffer(bytes, streams.choose(None))?;
            return Ok(self.buffers[i].ptr());
        }
        let bytes = bytes.next_multiple_of(LINE);
        let (i, start) = match self.shared {
            Some((i, used)) if used + bytes <= SHARED => (i, used),
            _ => (self.buffer(SHARED, 0)?, 0),
        };
        self.shared = Some((i, start + bytes));
        // SAFETY: within the buffer, whose bytes from `start` on nothing has.
        Ok(unsafe { self.buffers[i].ptr().add(start) })
    }

    /// The next buffer: the one of the step before, if it is large enough.
    fn buffer(&mut self, bytes: usize, place: usize) -> Result<usize, OutOfMemory> {
        let i = self.used;
        if self.buffers.get(i).is_none_or(|known| known.len() < bytes) {
            let new = Buffer::at(bytes, place).ok_or(OutOfMemory { bytes })?;
            match self.buffers.get_mut(i) {
                Some(known) => *known = new,
                None => self.buffers.put(new)?,
            }
        }
        self.used += 1;
        Ok(i)
    }
}
