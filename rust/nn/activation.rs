//! Activations: a function of each element, and the way of gradients back through it.
//!
//! Both are loops over float32 that vectorise; large arrays are shared out to threads. NaN is never hidden.

use crate::loops::math::{single::sigmoid, single::softplus, single::tanh};
use crate::loops::simd::{self, Level, per_level};
use crate::threads::parts;
use crate::threads::pool::{self, Border};

/// Elements of a task of a thread.
const TASK: usize = 1 << 15;
/// Numbers for which there is room on the stack.
const FEW: usize = 512;
/// From this number of elements on, more than one thread pays.
const PARALLEL: Border = Border { awake: 1 << 16, asleep: 1 << 18 };

/// The formulas of one activation.
trait Formula {
    /// `y` of `z`.
    fn value(z: f32) -> f32;
    /// The gradient by `z`, of the gradient `dy` by `y`.
    fn back(z: f32, y: f32, dy: f32) -> f32;
}

/// `y = z`.
struct Identity;

impl Formula for Identity {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        z
    }
    #[inline(always)]
    fn back(_z: f32, _y: f32, dy: f32) -> f32 {
        dy
    }
}

/// `y = max(z, 0)`; the slope at 0 is 0.
struct Relu;

impl Formula for Relu {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        if z < 0.0 { 0.0 } else { z }
    }
    #[inline(always)]
    fn back(_z: f32, y: f32, dy: f32) -> f32 {
        if y <= 0.0 { 0.0 } else { dy }
    }
}

/// `y = tanh(z)`, `y' = 1 - y²`.
struct Tanh;

impl Formula for Tanh {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        tanh(z)
    }
    #[inline(always)]
    fn back(_z: f32, y: f32, dy: f32) -> f32 {
        dy * (1.0 - y * y)
    }
}

/// `y = 1 / (1 + exp(-z))`, `y' = y (1 - y)`.
struct Sigmoid;

impl Formula for Sigmoid {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        sigmoid(z)
    }
    #[inline(always)]
    fn back(_z: f32, y: f32, dy: f32) -> f32 {
        dy * (y * (1.0 - y))
    }
}

/// `y = z/2 (1 + tanh(u)) = z σ(2u)`, `u = √(2/π) (z + 0.044715 z³)`, `y' = σ + z σ (1 - σ) 2u'`.
struct Gelu;

impl Gelu {
    const TWICE: f32 = 1.595_769; // 2 √(2/π)
    const CUBE: f32 = 0.044_715;

    #[inline(always)]
    fn gate(z: f32) -> f32 {
        sigmoid(Self::TWICE * (z + Self::CUBE * z * z * z))
    }
}

impl Formula for Gelu {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        let gate = Self::gate(z);
        // Where the gate is shut, -inf times 0 would be NaN.
        if gate == 0.0 { 0.0 } else { z * gate }
    }
    #[inline(always)]
    fn back(z: f32, _y: f32, dy: f32) -> f32 {
        let gate = Self::gate(z);
        let slope = gate * (1.0 - gate);
        let bent = z * slope * (Self::TWICE * (1.0 + 3.0 * Self::CUBE * z * z));
        // Where the slope is 0, z² may have become infinite.
        dy * (gate + if slope == 0.0 { 0.0 } else { bent })
    }
}

/// `y = log(1 + exp(z))`, `y' = σ(z)`.
struct Softplus;

impl Formula for Softplus {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        softplus(z)
    }
    #[inline(always)]
    fn back(z: f32, _y: f32, dy: f32) -> f32 {
        dy * sigmoid(z)
    }
}

per_level! {
    fn forward<F: Formula>(y: &mut [f32]) where [] {
        for y in y {
            *y = F::value(*y);
        }
    }
}

per_level! {
    fn backward<F: Formula>(z: &[f32], y: &[f32], d: &mut [f32]) where [] {
        let n = d.len();
        let (z, y) = (&z[..n], &y[..n]);
        for i in 0..n {
            d[i] = F::back(z[i], y[i], d[i]);
        }
    }
}

/// Defines the enum of all activations: the only list of them.
macro_rules! activations {
    ($($Name:ident $name:literal $needs_input:literal),* $(,)?) => {
        /// A function that is applied to each element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Activation {
            $(#[doc = concat!("`", $name, "`")] $Name),*
        }

        impl Activation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$Name),*];

            /// Its name in Python.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$Name => $name),* }
            }

            /// Whether the way back needs the input `z` besides the output `y`.
            #[must_use]
            pub fn needs_input(self) -> bool {
                match self { $(Self::$Name => $needs_input),* }
            }

            fn forward_part(self, y: &mut [f32]) {
                match self { $(Self::$Name => forward::<$Name>(simd::level(), y)),* }
            }

            fn backward_part(self, z: &[f32], y: &[f32], d: &mut [f32]) {
                match self { $(Self::$Name => backward::<$Name>(simd::level(), z, y, d)),* }
            }
        }
    };
}

activations! {
    Identity "identity" false,
    Relu "relu" false,
    Tanh "tanh" false,
    Sigmoid "sigmoid" false,
    Gelu "gelu" true,
    Softplus "softplus" true,
}

impl Activation {
    /// The activation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }

    /// Replaces every `z` in `y` by its value.
    #[inline]
    pub fn forward(self, y: &mut [f32]) {
        if self != Self::Identity {
            self.forward_all(y);
        }
    }

    fn forward_all(self, y: &mut [f32]) {
        let threads = pool::threads_for(y.len(), PARALLEL);
        if threads == 1 {
            return self.forward_part(y);
        }
        parts::run(threads, y, TASK, &|_, part| self.forward_part(part));
    }

    /// Replaces every `dy` in `d` by the gradient by `z`. Unless [`Self::needs_input`], `z` may be `y`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn backward(self, z: &[f32], y: &[f32], d: &mut [f32]) {
        assert!(z.len() == d.len() && y.len() == d.len());
        if self != Self::Identity {
            self.backward_all(z, y, d);
        }
    }

    /// The same where `y` is not at hand: it is computed again, a few numbers at a time.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn backward_from_input(self, z: &[f32], d: &mut [f32]) {
        assert!(z.len() == d.len());
        if self == Self::Identity {
            return;
        }
        let threads = pool::threads_for(d.len(), PARALLEL);
        parts::run(threads, d, TASK, &|at, part| {
            let mut room = [0.0; FEW];
            for (z, d) in z[at..at + part.len()].chunks(FEW).zip(part.chunks_mut(FEW)) {
                let y = &mut room[..z.len()];
                y.copy_from_slice(z);
                self.forward_part(y);
                self.backward_part(z, y, d);
            }
        });
    }

    fn backward_all(self, z: &[f32], y: &[f32], d: &mut [f32]) {
        let threads = pool::threads_for(d.len(), PARALLEL);
        if threads == 1 {
            return self.backward_part(z, y, d);
        }
        parts::run(threads, d, TASK, &|at, part| {
            let range = at..at + part.len();
            self.backward_part(&z[range.clone()], &y[range], part);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(activation: Activation, z: f32) -> (f32, f32) {
        let mut y = [z];
        activation.forward(&mut y);
        let mut d = [1.0];
        activation.backward(&[z], &y, &mut d);
        (y[0], d[0])
    }

    #[test]
    fn slopes_are_the_derivatives() {
        for &activation in Activation::ALL {
            for z in [-4.0_f32, -1.3, -0.2, 0.4, 1.1, 5.0] {
                let h = 0.01;
                let finite = (one(activation, z + h).0 - one(activation, z - h).0) / (2.0 * h);
                assert!((one(activation, z).1 - finite).abs() < 2e-4, "{activation:?} at {z}");
            }
        }
    }

    #[test]
    fn an_output_that_is_not_at_hand_is_computed_again() {
        for &activation in Activation::ALL {
            for n in [0, 1, FEW, 3 * FEW + 5, PARALLEL.asleep + 3] {
                let z: Vec<f32> = (0..n).map(|i| (i % 211) as f32 * 0.1 - 10.0).collect();
                let (mut y, mut d, mut again) = (z.clone(), vec![0.5; n], vec![0.5; n]);
                activation.forward(&mut y);
                activation.backward(&z, &y, &mut d);
                activation.backward_from_input(&z, &mut again);
                assert!(d == again, "{activation:?} {n}");
            }
        }
    }

    #[test]
    fn huge_inputs_and_nan() {
        for &activation in Activation::ALL {
            for z in [1e30, -1e30, 1000.0, -1000.0] {
                let (y, slope) = one(activation, z);
                assert!(y.is_finite() && slope.is_finite(), "{activation:?} at {z}: {y}, {slope}");
            }
            assert!(one(activation, f32::NAN).0.is_nan(), "{activation:?}");
        }
        assert_eq!(one(Activation::Gelu, f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(one(Activation::Relu, 0.0), (0.0, 0.0));
    }

    #[test]
    fn threads_and_instruction_sets_change_nothing() {
        let z: Vec<f32> = (0..PARALLEL.asleep + 77).map(|i| (i % 4001) as f32 * 0.01 - 20.0).collect();
        for &activation in Activation::ALL {
            let run = || {
                let (mut y, mut d) = (z.clone(), z.clone());
                activation.forward(&mut y);
                activation.backward(&z, &y, &mut d);
                (y, d)
            };
            let first = run();
            for (part, &z) in first.0.iter().zip(&z) {
                assert_eq!(part.to_bits(), one(activation, z).0.to_bits());
            }
            for level in simd::levels() {
                simd::set_level(level);
                assert!(run() == first, "{activation:?} {level:?}");
            }
            simd::set_level(simd::best());
        }
    }
}
