//! Elements copied between arrays of one shape that lie differently: strided, misaligned, in the other byte order.

use smallvec::SmallVec;
use std::ptr;

/// Arrays of one shape, the distances in bytes along its dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The lengths of the dimensions.
    pub shape: &'a [isize],
    /// The distances in the array that is read.
    pub from: &'a [isize],
    /// Those in the array that is written.
    pub to: &'a [isize],
    /// Bytes of an element: 2, 4, 8 or 16.
    pub size: usize,
    /// Bytes of a number whose bytes are written in reverse, if they are: half of a complex element.
    pub swap: Option<usize>,
}

/// A dimension: its length, and the distances along it.
type Axis = (usize, isize, isize);

impl Transfer<'_> {
    /// Copies all elements.
    ///
    /// # Safety
    /// Both arrays are alive, have this shape and these distances from these first elements, and share no memory; nobody
    /// writes to what is read, nor uses what is written, meanwhile.
    pub unsafe fn run(&self, from: *const u8, to: *mut u8) {
        if self.shape.contains(&0) {
            return;
        }
        let axes = self.shape.iter().zip(self.from.iter().zip(self.to));
        let mut axes: SmallVec<[Axis; 4]> =
            axes.filter(|(n, _)| **n > 1).map(|(&n, (&from, &to))| (n as usize, from, to)).collect();
        // What is written lies close together along the last one.
        axes.sort_by_key(|&(_, from, to)| std::cmp::Reverse((to.unsigned_abs(), from.unsigned_abs())));
        let (row, outer) = axes.split_last().map_or(((1, 0, 0), &[][..]), |(row, outer)| (*row, outer));
        let mut at: SmallVec<[usize; 4]> = SmallVec::from_elem(0, outer.len());
        let (mut from, mut to) = (from, to);
        loop {
            // SAFETY: the row's elements lie within the arrays.
            unsafe { self.row(row, from, to) };
            let mut axis = outer.len();
            loop {
                let Some(i) = axis.checked_sub(1) else { return };
                let (n, step_from, step_to) = outer[i];
                at[i] += 1;
                if at[i] < n {
                    (from, to) = (from.wrapping_offset(step_from), to.wrapping_offset(step_to));
                    break;
                }
                let back = n as isize - 1;
                (from, to) = (from.wrapping_offset(-back * step_from), to.wrapping_offset(-back * step_to));
                at[i] = 0;
                axis = i;
            }
        }
    }

    unsafe fn row(&self, row: Axis, from: *const u8, to: *mut u8) {
        let (n, step_from, step_to) = row;
        // SAFETY: the caller's promise.
        unsafe {
            if self.swap.is_none() && [step_from, step_to] == [self.size as isize; 2] {
                return ptr::copy_nonoverlapping(from, to, n * self.size);
            }
            match (self.size, self.swap) {
                (2, None) => each(row, from, to, |x: [u8; 2]| x),
                (4, None) => each(row, from, to, |x: [u8; 4]| x),
                (8, None) => each(row, from, to, |x: [u8; 8]| x),
                (16, None) => each(row, from, to, |x: [u8; 16]| x),
                (2, Some(_)) => each(row, from, to, reversed::<2, 2>),
                (4, Some(_)) => each(row, from, to, reversed::<4, 4>),
                (8, Some(4)) => each(row, from, to, reversed::<8, 4>),
                (8, Some(_)) => each(row, from, to, reversed::<8, 8>),
                (16, Some(_)) => each(row, from, to, reversed::<16, 8>),
                _ => debug_assert!(false, "no element has {} bytes", self.size),
            }
        }
    }
}

/// Copies the elements of a row one by one.
#[inline(always)]
unsafe fn each<const N: usize>(
    (n, step_from, step_to): Axis,
    from: *const u8,
    to: *mut u8,
    change: impl Fn([u8; N]) -> [u8; N],
) {
    for i in 0..n as isize {
        // SAFETY: the caller's promise; arrays of bytes are aligned anywhere.
        unsafe {
            let element = from.offset(i * step_from).cast::<[u8; N]>().read();
            to.offset(i * step_to).cast::<[u8; N]>().write(change(element));
        }
    }
}

/// Each of the numbers of `M` bytes in an element in reverse.
fn reversed<const N: usize, const M: usize>(mut element: [u8; N]) -> [u8; N] {
    element.chunks_exact_mut(M).for_each(<[u8]>::reverse);
    element
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The place of each element, in row-major order.
    fn places(shape: &[isize], strides: &[isize]) -> Vec<isize> {
        let mut places = vec![0];
        for (&n, &stride) in shape.iter().zip(strides) {
            places = places.iter().flat_map(|place| (0..n).map(move |i| place + i * stride)).collect();
        }
        places
    }

    /// Distances of an array with gaps, some of them negative, and where its first element lies in a buffer of this size.
    fn laid(shape: &[isize], size: usize, order: &[usize], gap: isize, negative: u8) -> (Vec<isize>, isize, usize) {
        let (mut strides, mut step, mut start) = (vec![0; shape.len()], size as isize, 0);
        for &axis in order.iter().filter(|&&axis| axis < shape.len()) {
            let back = negative >> axis & 1 == 1;
            strides[axis] = if back { -step } else { step };
            if back {
                start += step * (shape[axis] - 1).max(0);
            }
            step *= shape[axis].max(1) + gap;
        }
        (strides, start, step as usize + size)
    }

    proptest! {
        #[test]
        fn each_element_arrives_at_its_place(
            shape in prop::collection::vec(0_isize..5, 0..4),
            (size, unit) in prop::sample::select(vec![(2, 2), (4, 4), (8, 8), (8, 4), (16, 8)]),
            swaps: bool,
            orders in prop::array::uniform2(Just(vec![0_usize, 1, 2, 3]).prop_shuffle()),
            gaps in prop::array::uniform2(0_isize..3),
            negative: [u8; 2],
        ) {
            let (from, start, bytes) = laid(&shape, size, &orders[0], gaps[0], negative[0]);
            let (to, target, room) = laid(&shape, size, &orders[1], gaps[1], negative[1]);
            let source: Vec<u8> = (0..bytes).map(|i| (i * 7 + 3) as u8).collect();
            let mut sink = vec![0xAA; room];
            let transfer = Transfer { shape: &shape, from: &from, to: &to, size, swap: swaps.then_some(unit) };
            // SAFETY: `laid` has made room for each element.
            unsafe {
                transfer.run(source.as_ptr().offset(start), sink.as_mut_ptr().offset(target));
            }
            let mut expected = vec![0xAA; room];
            for (a, b) in places(&shape, &from).into_iter().zip(places(&shape, &to)) {
                let (a, b) = ((start + a) as usize, (target + b) as usize);
                let mut element = source[a..a + size].to_vec();
                if swaps {
                    element.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
                }
                expected[b..b + size].copy_from_slice(&element);
            }
            prop_assert_eq!(sink, expected);
        }
    }
}
