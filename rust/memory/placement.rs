//! Where in a page an array of ours starts: as far as can be from everything that one loop reads or writes beside it.
//!
//! A processor compares a load with the stores before it by the low twelve bits of their addresses first. Where a stream that
//! is read runs a little ahead of one that is written, modulo a page, its loads wait for stores that have nothing to do with
//! them; and streams that start at one place of a page crowd one set of the first-level cache.
//!
//! Modulo a line of the cache, it starts where the parameter does: a loop that leaves the first elements to another one then
//! has all of its vectors within lines.

use smallvec::SmallVec;

/// A page of the system's, and the reach of those twelve bits.
pub const PAGE: usize = 4 << 10;
/// A line of the caches.
pub const LINE: usize = 64;
/// What all of our arrays are aligned to, at least: as the C library's memory is.
pub const ALIGN: usize = 16;
/// Streams of one loop that are nearer to each other within a page slow it down.
pub const NEAR: usize = 256;

/// Where the streams of one parameter's step start, modulo a page.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Where in a line the parameter starts.
    lead: usize,
    /// Each with the number of the only link whose loop has it; without one, all loops may.
    starts: SmallVec<[(usize, Option<usize>); 16]>,
}

impl Streams {
    /// Those of the step of a parameter that starts at `address`.
    #[must_use]
    pub fn of(address: usize) -> Self {
        let lead = if address.is_multiple_of(ALIGN) { address % LINE } else { 0 };
        let mut streams = Self { lead, ..Self::default() };
        streams.add(address, None);
        streams
    }

    /// Adds one that starts at `address`.
    pub fn add(&mut self, address: usize, link: Option<usize>) {
        self.starts.push((address % PAGE, link));
    }

    /// Chooses where one more starts, and adds it: far from all others as long as there is room for that, else from those that
    /// share a loop with it.
    pub fn choose(&mut self, link: Option<usize>) -> usize {
        let shares = |other: Option<usize>| link.is_none() || other.is_none() || other == link;
        let (mut start, gap) = middle(self.starts.iter().map(|s| s.0));
        if gap < 2 * NEAR + LINE {
            start = middle(self.starts.iter().filter(|s| shares(s.1)).map(|s| s.0)).0;
        }
        start = (start.wrapping_sub(self.lead) % PAGE + LINE / 2) / LINE * LINE + self.lead;
        self.add(start, link);
        start % PAGE
    }
}

/// Where the gradient of a parameter at `address` starts that is made before its step is known: far from two state arrays, too,
/// which is what most rules have.
#[must_use]
pub fn of_gradient(address: usize) -> usize {
    let mut streams = Streams::of(address);
    (0..3).map(|_| streams.choose(None)).last().unwrap_or(0)
}

/// The middle of the largest gap between `places` of a page, and the size of the gap.
fn middle(places: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut places: SmallVec<[usize; 16]> = places.collect();
    places.sort_unstable();
    let Some((&first, &last)) = places.first().zip(places.last()) else { return (0, PAGE) };
    let mut largest = (last, first + PAGE - last);
    for pair in places.windows(2) {
        if pair[1] - pair[0] > largest.1 {
            largest = (pair[0], pair[1] - pair[0]);
        }
    }
    let (start, gap) = largest;
    (start + gap / 2, gap)
}

/// How far two places of a page are from each other, around its end if that is nearer.
#[must_use]
pub fn distance(a: usize, b: usize) -> usize {
    let ahead = a.wrapping_sub(b) % PAGE;
    ahead.min(PAGE - ahead)
}

/// What starts where a cache line does: vectors that lie across two lines take longer, and much longer across two pages.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Aligned<T>(pub T);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A loop has a parameter, a gradient and a result, and up to three old and three new state arrays.
        #[test]
        fn streams_of_one_loop_are_far_from_each_other(
            x in 0..4 * PAGE, g in 0..4 * PAGE, slots in prop::collection::vec(0..=3_usize, 1..=8), pure in any::<bool>()
        ) {
            let mut streams = Streams::of(x);
            let mut placed: Vec<(usize, Option<usize>)> = Vec::new();
            let mut place = |streams: &mut Streams, link| placed.push((streams.choose(link), link));
            for (link, n) in slots.iter().enumerate() {
                (0..*n).for_each(|_| place(&mut streams, Some(link)));
            }
            streams.add(g, None);
            if pure {
                place(&mut streams, None);
                for (link, n) in slots.iter().enumerate() {
                    (0..*n).for_each(|_| place(&mut streams, Some(link)));
                }
            }
            for (i, &(a, link)) in placed.iter().enumerate() {
                prop_assert!(a < PAGE && a.is_multiple_of(ALIGN));
                prop_assert!(!x.is_multiple_of(ALIGN) || a % LINE == x % LINE);
                prop_assert!(distance(a, x) >= 128, "{a} {x}");
                for &(b, other) in &placed[..i] {
                    if link.is_none() || other.is_none() || link == other {
                        prop_assert!(distance(a, b) >= 128, "{placed:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_aligned_starts_at_a_line() {
        assert_eq!(align_of::<Aligned<[f32; 3]>>(), LINE);
    }

    #[test]
    fn a_few_streams_have_the_page_to_themselves() {
        let mut streams = Streams::of(16);
        let places: Vec<_> = (0..3).map(|link| streams.choose(Some(link))).collect();
        assert_eq!(places, [2064, 3088, 1040]);
        assert_eq!((of_gradient(16), Streams::of(4).choose(None)), (1040, 2048));
        assert_eq!((distance(16, 4096), distance(4090, 10), distance(0, 2048)), (16, 16, 2048));
    }
}
