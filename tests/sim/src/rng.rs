//! Random numbers from one seed.

use std::ops::Range;

/// `SplitMix64` (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Of a seed, and of what it is for: an extra draw for one thing must not change the others.
    pub fn new(seed: u64, what: u64) -> Self {
        let mut rng = Self(seed ^ what.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.draw();
        rng
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of a range.
    pub fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start).max(1)
    }

    /// Whether something happens that does so many times in a thousand.
    pub fn per_mille(&mut self, times: u64) -> bool {
        self.draw() % 1_000 < times
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.of(0..from.len() as u64)).unwrap_or(0)]
    }
}
