//! Julia's `Xoshiro` (1.7 to 1.10), bit for bit: xoshiro256++ (Blackman and Vigna, 2019), seeded through SHA-256, with
//! the eight interleaved generators that `rand!` of Julia's standard library (`XoshiroSimd.jl`) fills arrays with.
//!
//! Arrays are filled in the order of Julia's memory: column by column. A caller that wants rows transposes.
use sha2::{Digest, Sha256};

/// Generators that run side by side when an array is filled.
const LANES: usize = 8;

/// Bytes that the lanes write in one round; smaller arrays, and remainders, come from the main generator.
const ROUND: usize = 8 * LANES;

/// The multipliers that turn words of the main generator into the `s0`, `s1`, `s2`, `s3` of the lanes.
const FORK: [u64; 4] = [0x0201_1ce3_4bce_797f, 0x5a94_851f_b48a_6e05, 0x3688_cf5d_4889_9fa7, 0x867b_4bb4_c42e_5661];

/// A number type that the generator draws: uniform in `[0, 1)`.
pub trait Uniform: Copy + Default {
    /// How many numbers one word of 64 bits holds.
    const PER_WORD: usize;

    /// A single number, as Julia's `rand(rng, T)` takes it from a word.
    fn scalar(word: u64) -> Self;

    /// The `index`-th number (from 0) of a word that fills an array.
    fn part(word: u64, index: usize) -> Self;
}

impl Uniform for f32 {
    const PER_WORD: usize = 2;

    // A scalar comes from the high half of its word, while an array takes the low half first.
    fn scalar(word: u64) -> Self {
        Self::part(word, 1)
    }

    fn part(word: u64, index: usize) -> Self {
        let half = (word >> (32 * index)) & 0xffff_ffff;
        (half >> 8) as f32 * (1.0 / 16_777_216.0)
    }
}

impl Uniform for f64 {
    const PER_WORD: usize = 1;

    fn scalar(word: u64) -> Self {
        Self::part(word, 0)
    }

    fn part(word: u64, _index: usize) -> Self {
        (word >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
}

/// The generator: four words of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xoshiro {
    /// `s0` to `s3`.
    pub state: [u64; 4],
}

impl Xoshiro {
    /// Seeds with a non-negative integer of any size, given as little-endian bytes.
    #[must_use]
    pub fn from_seed(bytes: &[u8]) -> Self {
        // Julia hashes whole words of 32 bits: no leading zero words, but at least one word.
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let zeros = used.div_ceil(4).max(1) * 4 - used;
        let digest = Sha256::new().chain_update(&bytes[..used]).chain_update(&[0; 4][..zeros]).finalize();
        let mut state = [0; 4];
        for (word, chunk) in state.iter_mut().zip(digest.as_slice().chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte));
        }
        Self { state }
    }

    /// The next word of xoshiro256++.
    #[inline]
    pub fn next_word(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let (c, d) = (s2 ^ s0, s3 ^ s1);
        self.state = [s0 ^ d, s1 ^ c, c ^ (s1 << 17), d.rotate_left(45)];
        result
    }

    /// A single number: Julia's `rand(rng, T)`.
    pub fn scalar<T: Uniform>(&mut self) -> T {
        T::scalar(self.next_word())
    }

    /// Fills a whole array, column-major: Julia's `rand!(rng, out)`.
    pub fn fill<T: Uniform>(&mut self, out: &mut [T]) {
        let per_round = LANES * T::PER_WORD;
        let lanes_fill = if size_of_val(out) < ROUND { 0 } else { out.len() - out.len() % per_round };
        let (by_lanes, by_words) = out.split_at_mut(lanes_fill);
        if !by_lanes.is_empty() {
            let mut lanes = self.fork();
            for round in by_lanes.chunks_exact_mut(per_round) {
                for (lane, numbers) in lanes.iter_mut().zip(round.chunks_exact_mut(T::PER_WORD)) {
                    write_word(lane.next_word(), numbers);
                }
            }
        }
        for numbers in by_words.chunks_mut(T::PER_WORD) {
            write_word(self.next_word(), numbers);
        }
    }

    /// The lanes for one array; advances the main generator by 32 words.
    fn fork(&mut self) -> [Self; LANES] {
        let mut lanes = [Self { state: [0; 4] }; LANES];
        for (position, factor) in FORK.into_iter().enumerate() {
            for lane in &mut lanes {
                lane.state[position] = factor.wrapping_mul(self.next_word());
            }
        }
        lanes
    }
}

/// Splits one word into the numbers it holds; a last partial word fills what is left.
#[inline]
fn write_word<T: Uniform>(word: u64, numbers: &mut [T]) {
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = T::part(word, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rand<T: Uniform>(rng: &mut Xoshiro, len: usize) -> Vec<T> {
        let mut out = vec![T::default(); len];
        rng.fill(&mut out);
        out
    }

    fn seeded(seed: u64) -> Xoshiro {
        Xoshiro::from_seed(&seed.to_le_bytes())
    }

    #[test]
    fn scalars_are_the_ones_in_julias_manual() {
        let mut rng = seeded(1234);
        let drawn: [f64; 2] = [rng.scalar(), rng.scalar()];
        assert_eq!(drawn, [0.325_976_728_863_594_86, 0.549_051_136_315_566_9]);
        assert_eq!(rand::<f64>(&mut seeded(1234), 2), drawn);
    }

    #[test]
    fn the_notebook_is_drawn_bit_for_bit() {
        // rand(rng, Float32, 2, 3), rand(rng, Float32, 2), then rand(rng, Float32, 3, 100).
        let mut rng = seeded(12345);
        let columns = [0.997_472_94, 0.944_790_54, 0.324_765_62, 0.866_894_84, 0.078_954_34, 0.339_611_47];
        assert_eq!(rand::<f32>(&mut rng, 6), columns);
        assert_eq!(rand::<f32>(&mut rng, 2), [0.074_357_27, 0.136_116_5]);
        let columns = rand::<f32>(&mut rng, 300);
        assert_eq!(columns[..3], [0.443_032_8, 0.796_629_2, 0.093_535_42]);
        assert_eq!(columns[297..], [0.247_187_38, 0.356_479_23, 0.493_369_22]);
    }

    #[test]
    fn seeds_of_any_width_hash_whole_words() {
        assert_eq!(Xoshiro::from_seed(&[]), seeded(0));
        assert_eq!(Xoshiro::from_seed(&[7]), seeded(7));
        assert_ne!(Xoshiro::from_seed(&[0, 0, 0, 0, 1]), seeded(0));
        // Nine bytes: a seed above 2^64.
        assert_ne!(Xoshiro::from_seed(&[1, 0, 0, 0, 0, 0, 0, 0, 1]), seeded(1));
    }

    #[test]
    fn a_large_array_is_whole_rounds_of_the_lanes_and_then_the_main_generator() {
        let mut rng = seeded(99);
        let mut main = rng;
        let lanes = main.fork();
        let out: Vec<f64> = rand(&mut rng, 21);
        for (index, mut lane) in lanes.into_iter().enumerate() {
            assert_eq!([out[index], out[8 + index]], [lane.scalar::<f64>(), lane.scalar()]);
        }
        let tail: Vec<f64> = (0..5).map(|_| main.scalar()).collect();
        assert_eq!((&out[16..], rng), (tail.as_slice(), main));
    }

    #[test]
    fn below_64_bytes_no_lane_is_forked() {
        for (len, words) in [(0, 0), (1, 1), (15, 8), (16, 32), (17, 33)] {
            let (mut rng, mut main) = (seeded(5), seeded(5));
            rand::<f32>(&mut rng, len);
            for _ in 0..words {
                main.next_word();
            }
            assert_eq!(rng, main, "{len} numbers");
        }
    }

    #[test]
    fn float32_arrays_take_the_low_half_first_and_scalars_the_high_half() {
        let word = 0x8000_0000_4000_0000;
        assert_eq!([f32::part(word, 0), f32::part(word, 1), f32::scalar(word)], [0.25, 0.5, 0.5]);
        assert_eq!(f64::scalar(u64::MAX), 1.0 - f64::EPSILON / 2.0);
    }
}
