//! Which of many arrays may share memory, where many lie among each other: in `n log n` for `n` views of one array that take
//! turns, such as columns of a matrix.
//!
//! Arrays whose addresses are apart are apart. Of the rest, those whose places repeat after multiples of one distance are
//! apart, too, if what they take of that distance is: it is looked at like a clock's face. What is left is compared in
//! pairs.

use super::reserve::{OutOfMemory, Put, Reserve, list, listed};
use super::strides::Strided;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// So few are compared in pairs at once.
const FEW: usize = 8;
/// So often a set of arrays is parted by distances, at most.
const DEEP: usize = 16;

/// Arrays, of which the first few may share memory with none.
pub struct Arrays<'a> {
    /// All of them.
    pub all: &'a [Strided],
    /// How many may share memory with none; the rest may share it among each other.
    pub alone: usize,
}

impl Arrays<'_> {
    /// Calls `meet` with the numbers of every two arrays that may share memory and may not: some pairs that do not, but all
    /// that do.
    pub fn pairs<E: From<OutOfMemory>>(&self, meet: &mut dyn FnMut(usize, usize) -> Result<(), E>) -> Result<(), E> {
        let mut members: Vec<usize> = listed(0..self.all.len())?;
        self.part(&mut members, 0, meet)
    }

    /// The same of some of them, parted by addresses.
    fn part<E: From<OutOfMemory>>(
        &self,
        members: &mut [usize],
        depth: usize,
        meet: &mut dyn FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        members.sort_unstable_by_key(|&i| (self.all[i].low, i)); // which asks for no memory
        let (mut start, mut high) = (0, 0);
        for end in 1..=members.len() {
            high = high.max(self.all[members[end - 1]].high());
            if members.get(end).is_none_or(|&next| self.all[next].low >= high) {
                self.cluster(&members[start..end], depth, meet)?;
                start = end;
            }
        }
        Ok(())
    }

    /// The same of those whose addresses meet, in order: parted by what they take of a distance.
    fn cluster<E: From<OutOfMemory>>(
        &self,
        members: &[usize],
        depth: usize,
        meet: &mut dyn FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if members.iter().all(|&i| i >= self.alone) {
            return Ok(());
        }
        if members.len() > FEW && depth < DEEP {
            for distance in self.distances(members)? {
                let Some((mut groups, odd)) = self.fold(members, distance)? else { continue };
                for (i, &a) in odd.iter().enumerate() {
                    for &b in odd[i + 1..].iter().chain(groups.iter().flatten()) {
                        self.compare(a, b, meet)?;
                    }
                }
                return groups.iter_mut().try_for_each(|group| self.part(group, depth + 1, meet));
            }
        }
        self.sweep(members, meet)
    }

    /// Distances after which the places of most of these repeat, the shortest first.
    fn distances(&self, members: &[usize]) -> Result<SmallVec<[usize; 4]>, OutOfMemory> {
        let mut counts: FxHashMap<SmallVec<[usize; 4]>, usize> = FxHashMap::default();
        for &i in members {
            let strides: SmallVec<[usize; 4]> = self.all[i].axes.iter().map(|(stride, _)| *stride).collect();
            counts.make_room(1)?;
            *counts.entry(strides).or_default() += 1;
        }
        let common = counts.into_iter().filter(|(strides, _)| !strides.is_empty());
        let Some((strides, _)) = common.max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0))) else {
            return Ok(SmallVec::new());
        };
        let mut distance = 0;
        let mut found: SmallVec<[usize; 4]> = strides
            .iter()
            .map(|&stride| {
                distance = gcd(distance, stride);
                distance
            })
            .collect();
        found.reverse();
        found.retain(|distance| *distance > 0);
        found.dedup();
        Ok(found)
    }

    /// Groups of those that take different parts of `distance`, and the odd ones that may take any; `None` where there is one
    /// group, or many odd ones.
    fn fold(&self, members: &[usize], distance: usize) -> Result<Option<Folded>, OutOfMemory> {
        let (mut parts, mut odd) = (list(members.len())?, Vec::new());
        for &i in members {
            let extent = self.all[i].extent(|stride| !stride.is_multiple_of(distance));
            if extent <= distance {
                let start = self.all[i].low % distance;
                parts.push((start, start + extent, i));
            } else {
                odd.put(i)?;
            }
        }
        if odd.len() > FEW {
            return Ok(None);
        }
        parts.sort_unstable();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut ends: Vec<(usize, usize)> = Vec::new(); // where each group starts and ends
        for (start, end, i) in parts {
            match (groups.last_mut(), ends.last_mut()) {
                (Some(group), Some(last)) if start < last.1 => {
                    group.put(i)?;
                    last.1 = last.1.max(end);
                }
                _ => {
                    groups.put(listed([i])?)?;
                    ends.put((start, end))?;
                }
            }
        }
        // What reaches beyond the distance goes on at its beginning.
        let Some(last) = ends.last() else { return Ok(None) };
        let beyond = last.1.saturating_sub(distance);
        let wrapped = ends.iter().take_while(|(start, _)| *start < beyond).count().min(groups.len() - 1);
        let first: Vec<usize> = listed(groups.drain(..wrapped).flatten())?;
        if let Some(last) = groups.last_mut() {
            last.make_room(first.len())?;
            last.extend(first);
        }
        Ok((groups.len() > 1).then_some((groups, odd)))
    }

    /// The same in pairs, of members in the order of their addresses.
    fn sweep<E: From<OutOfMemory>>(
        &self,
        members: &[usize],
        meet: &mut dyn FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut alone, mut others): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for &b in members {
            let open = |a: &usize| self.all[*a].high() > self.all[b].low;
            alone.retain(open);
            alone.iter().try_for_each(|&a| self.compare(a, b, meet))?;
            if b < self.alone {
                others.retain(open);
                others.iter().try_for_each(|&a| self.compare(a, b, meet))?;
                alone.put(b)?;
            } else {
                others.put(b)?;
            }
        }
        Ok(())
    }

    /// Calls `meet` with two arrays if one of them may share memory with none, and their addresses meet.
    fn compare<E>(&self, a: usize, b: usize, meet: &mut dyn FnMut(usize, usize) -> Result<(), E>) -> Result<(), E> {
        let (i, j) = (a.min(b), a.max(b));
        let (x, y) = (&self.all[i], &self.all[j]);
        if i < self.alone && x.low < y.high() && y.low < x.high() { meet(i, j) } else { Ok(()) }
    }
}

/// Groups of arrays, and odd ones.
type Folded = (Vec<Vec<usize>>, Vec<usize>);

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(all: &[Strided], alone: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        Arrays { all, alone }.pairs(&mut |i, j| found.put((i, j))).unwrap();
        found
    }

    fn strided(data: usize, shape: &[isize], strides: &[isize]) -> Strided {
        Strided::new(data, 8, shape, strides).unwrap()
    }

    proptest! {
        #[test]
        fn all_that_share_memory_are_found(
            drawn in proptest::collection::vec((0..400_usize, 1..5_isize, 0..3_usize, 1..4_isize, 0..3_usize), 2..40),
            alone in 0..40_usize,
        ) {
            let rows = [480, 240, 40];
            let columns = [8, 16, 24];
            let array = |&(at, n, s, m, t): &(usize, isize, usize, isize, usize)| {
                strided(4096 + 8 * at, &[n, m], &[rows[s], columns[t]])
            };
            let all: Vec<_> = drawn.iter().map(array).collect();
            let alone = alone.min(all.len());
            let mut found = pairs(&all, alone);
            found.sort_unstable();
            let count = found.len();
            found.dedup();
            prop_assert_eq!(count, found.len(), "each pair once");
            for i in 0..alone {
                for j in i + 1..all.len() {
                    let shared = all[i].overlaps(&all[j]).advance(usize::MAX) == Some(true);
                    prop_assert!(!shared || found.contains(&(i, j)), "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn views_that_take_turns_are_not_compared() {
        let n = 3000;
        let columns: Vec<_> = (0..n).map(|i| strided(8 * i, &[50], &[8 * n as isize])).collect();
        assert_eq!(pairs(&columns, n), []);
        let blocks = |i: usize| strided(8 * (10 * i), &[50, 7], &[80 * n as isize, 8]);
        assert_eq!(pairs(&(0..n).map(blocks).collect::<Vec<_>>(), n), []);
        // Each takes turns with the others in two ways.
        let nested = |i: usize| strided(8 * i, &[20, 5], &[8 * 10 * n as isize, 8 * n as isize]);
        assert_eq!(pairs(&(0..n).map(nested).collect::<Vec<_>>(), n), []);
        let mut all = columns;
        all.extend((0..n).map(|_| strided(0, &[50], &[8 * n as isize])));
        assert_eq!(pairs(&all, n).len(), n, "others are compared with the one that they are");
    }
}
