//! Chance that only depends on the seed: a stream per topic, and hashes of numbers where no state is wanted.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The random stream of one generator.
#[derive(Debug, Clone)]
pub struct Chance {
    rng: ChaCha8Rng,
}

impl Chance {
    /// The stream of a seed and a purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(mix(seed ^ mix(purpose))) }
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        self.rng.random::<f64>()
    }

    /// Uniform in `low..high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        // multiply-shift: no division, and the bias of n / 2^64 is far below anything visible
        ((u128::from(self.rng.random::<u64>()) * u128::from(n)) >> 64) as u64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// About normal with mean 0 and deviation 1, within -3.5..3.5 (sum of 12 uniforms of 16 bits each).
    pub fn normal(&mut self) -> f64 {
        let mut sum = 0u32;
        for _ in 0..3 {
            let bits = self.rng.random::<u64>();
            sum += (bits & 0xffff) as u32 + (bits >> 16 & 0xffff) as u32 + (bits >> 32 & 0xffff) as u32 + (bits >> 48) as u32;
        }
        let centred = f64::from(sum) / 65_536.0 - 6.0;
        centred.clamp(-3.5, 3.5)
    }

    /// Skewed in `0..n`: small numbers are common (the density of `n * u^power`).
    pub fn skewed(&mut self, n: u64, power: i32) -> u64 {
        ((self.unit().powi(power) * n as f64) as u64).min(n - 1)
    }
}

/// splitmix64: a bijection whose outputs look random.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A hash in 0..1.
pub fn mix_unit(x: u64) -> f64 {
    (mix(x) >> 11) as f64 / (1u64 << 53) as f64
}
