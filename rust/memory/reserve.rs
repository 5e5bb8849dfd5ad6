//! Collections that ask for their memory: where the standard library's own methods end the process, these return an error.
//!
//! They are for whatever grows with the user's data: elements, rows, classes, leaves, steps. What is bounded by a constant, by
//! the dimensions of an array or the links of a rule is left to the standard methods.

use smallvec::SmallVec;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory that the system does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How many bytes were asked for.
    pub bytes: usize,
}

impl OutOfMemory {
    /// No memory for `n` values of type `T`.
    #[must_use]
    #[cold]
    pub fn of<T>(n: usize) -> Self {
        Self { bytes: n.saturating_mul(size_of::<T>()) }
    }
}

/// Whether the system has refused a request that could not be, so that it was met from elsewhere: then no collection grows.
pub static LOW: AtomicBool = AtomicBool::new(false);

/// Whether memory is still so low. Once there is some again, it is not.
#[inline]
fn is_low() -> bool {
    LOW.load(Ordering::Relaxed) && stays_low()
}

#[cold]
fn stays_low() -> bool {
    let low = Vec::<u8>::new().try_reserve_exact(1 << 20).is_err();
    LOW.store(low, Ordering::Relaxed);
    low
}

/// An error while memory is low, for loops whose every turn asks for a little that cannot be refused.
#[inline]
pub fn check<T>(n: usize) -> Result<(), OutOfMemory> {
    if is_low() { Err(OutOfMemory::of::<T>(n)) } else { Ok(()) }
}

/// A collection that can be given room for more.
pub trait Reserve {
    /// Makes room for `more` entries, which then go in without asking for memory.
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory>;
}

impl<T> Reserve for Vec<T> {
    #[inline]
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        if self.capacity() - self.len() >= more {
            return Ok(());
        }
        check::<T>(self.len().saturating_add(more))?;
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<T>(self.len().saturating_add(more)))
    }
}

impl<T> Reserve for VecDeque<T> {
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<T>(self.len().saturating_add(more)))
    }
}

impl<A: smallvec::Array> Reserve for SmallVec<A> {
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<A::Item>(self.len().saturating_add(more)))
    }
}

impl Reserve for String {
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<u8>(self.len().saturating_add(more)))
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> Reserve for HashMap<K, V, S> {
    #[inline]
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        check::<(K, V)>(self.len().saturating_add(more))?;
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<(K, V)>(self.len().saturating_add(more)))
    }
}

impl<K: Eq + Hash, S: BuildHasher> Reserve for HashSet<K, S> {
    fn make_room(&mut self, more: usize) -> Result<(), OutOfMemory> {
        check::<K>(self.len().saturating_add(more))?;
        self.try_reserve(more).map_err(|_| OutOfMemory::of::<K>(self.len().saturating_add(more)))
    }
}

/// A list that grows by one.
pub trait Put<T> {
    /// Adds `value` at the end.
    fn put(&mut self, value: T) -> Result<(), OutOfMemory>;
}

impl<T> Put<T> for Vec<T> {
    #[inline]
    fn put(&mut self, value: T) -> Result<(), OutOfMemory> {
        self.make_room(1)?;
        self.push(value);
        Ok(())
    }
}

impl<A: smallvec::Array> Put<A::Item> for SmallVec<A> {
    #[inline]
    fn put(&mut self, value: A::Item) -> Result<(), OutOfMemory> {
        if self.len() == self.capacity() {
            check::<A::Item>(self.len().saturating_add(1))?;
            self.make_room(1)?;
        }
        self.push(value);
        Ok(())
    }
}

/// Whether there are `bytes` just now: asked before calls of other crates that take so much without asking.
pub fn probe(bytes: usize) -> Result<(), OutOfMemory> {
    let room = list::<u8>(bytes)?;
    drop(std::hint::black_box(room));
    Ok(())
}

/// An empty list with room for just `n` entries.
pub fn list<T>(n: usize) -> Result<Vec<T>, OutOfMemory> {
    check::<T>(n)?;
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(|_| OutOfMemory::of::<T>(n))?;
    Ok(list)
}

/// All of `items`.
pub fn listed<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>, OutOfMemory> {
    collected(items.into_iter().map(Ok))
}

/// All of `items`, or the first error among them.
pub fn collected<T, E: From<OutOfMemory>>(items: impl IntoIterator<Item = Result<T, E>>) -> Result<Vec<T>, E> {
    let items = items.into_iter();
    let mut all = list(items.size_hint().0)?;
    for item in items {
        all.put(item?)?;
    }
    Ok(all)
}

/// A copy of `text`.
pub fn owned(text: &str) -> Result<String, OutOfMemory> {
    let mut copy = String::new();
    copy.make_room(text.len())?;
    copy.push_str(text);
    Ok(copy)
}

/// `n` times `value`.
pub fn repeated<T: Clone>(value: T, n: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut all = list(n)?;
    all.resize(n, value);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_an_error() {
        let refused = |bytes| Err(OutOfMemory { bytes });
        assert_eq!(Vec::<u64>::new().make_room(usize::MAX / 16), refused(usize::MAX / 16 * 8));
        assert_eq!(VecDeque::from([1_u8]).make_room(usize::MAX), refused(usize::MAX));
        assert_eq!(SmallVec::<[u64; 1]>::new().make_room(usize::MAX), refused(usize::MAX));
        assert_eq!(String::from("some").make_room(usize::MAX - 9), refused(usize::MAX - 5));
        assert_eq!(HashMap::<u64, u64>::new().make_room(usize::MAX), refused(usize::MAX));
        assert_eq!(HashSet::<u64>::new().make_room(usize::MAX), refused(usize::MAX));
        assert_eq!(list::<u16>(usize::MAX / 2).map(|_| ()), refused(usize::MAX - 1));
        assert_eq!(repeated(0_u8, usize::MAX).map(|_| ()), refused(usize::MAX));
        assert_eq!((probe(1), probe(usize::MAX)), (Ok(()), refused(usize::MAX)));
    }

    #[test]
    fn items_are_listed_in_order() {
        assert_eq!(listed((0..9).filter(|i| i % 2 == 1)), Ok(vec![1, 3, 5, 7]));
        assert_eq!(repeated('a', 3), Ok(vec!['a'; 3]));
        assert_eq!(owned("some"), Ok("some".to_owned()));
        #[derive(Debug, PartialEq)]
        enum Error {
            Memory,
            Other(i32),
        }
        impl From<OutOfMemory> for Error {
            fn from(_: OutOfMemory) -> Self {
                Self::Memory
            }
        }
        let until = |last| collected((0..5).map(move |i| if i < last { Ok(i) } else { Err(Error::Other(i)) }));
        assert_eq!(until(5), Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(until(3), Err(Error::Other(3)));
        assert_ne!(Error::Memory, Error::Other(0));
    }
}
