//! Which instruction set the loops use: chosen once at run time, and only faster, never different.
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set for which every loop is compiled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON on Arm.
    Baseline = 1,
    /// 256-bit vectors, with a fused multiply-add.
    Avx2 = 2,
    /// 512-bit vectors.
    Avx512 = 3,
}

/// 0 until the processor has been asked.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level in use.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let best = best();
            LEVEL.store(best as u8, Ordering::Relaxed);
            best
        }
    }
}

/// The highest level that this processor has.
#[must_use]
pub fn best() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        // Every processor with AVX2 but a few of VIA's has the fused multiply-add too; the matrix products use it.
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if avx512 && avx2 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// The levels that this processor has.
#[must_use]
pub fn levels() -> Vec<Level> {
    [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|&l| l <= best()).collect()
}

/// Uses `level` from now on, or the best one below it. For tests and measurements.
pub fn set_level(level: Level) {
    LEVEL.store(level.min(best()) as u8, Ordering::Relaxed);
}

/// Defines `$name(level, args)`: `$body`, compiled for every [`Level`].
macro_rules! per_level {
    (fn $name:ident<$($G:ident: $B:path),* $(,)?>($($arg:ident: $t:ty),* $(,)?) where [$($w:tt)*] $body:block) => {
        #[inline(always)]
        #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
        fn $name<$($G: $B),*>(level: Level, $($arg: $t),*) where $($w)* {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
            fn body<$($G: $B),*>($($arg: $t),*) where $($w)* $body

            #[inline(never)]
            #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
            fn baseline<$($G: $B),*>($($arg: $t),*) where $($w)* {
                body::<$($G),*>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
            fn avx2<$($G: $B),*>($($arg: $t),*) where $($w)* {
                body::<$($G),*>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            #[allow(clippy::too_many_arguments, reason = "separate slices are what vectorises")]
            fn avx512<$($G: $B),*>($($arg: $t),*) where $($w)* {
                body::<$($G),*>($($arg),*);
            }

            match level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` never exceeds what the processor has.
                Level::Avx512 => unsafe { avx512::<$($G),*>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Level::Avx2 => unsafe { avx2::<$($G),*>($($arg),*) },
                _ => baseline::<$($G),*>($($arg),*),
            }
        }
    };
}
pub(crate) use per_level;
