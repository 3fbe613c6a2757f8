//! Random: a seed -> numbers that are the same on every machine. Nothing here is worth a dependency.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0 and below 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// At least `least` and below `end`.
    pub fn between(&mut self, least: usize, end: usize) -> usize {
        least + (self.share() * (end - least) as f64) as usize
    }

    pub fn choice<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len())]
    }

    /// Of the normal distribution around 0.
    pub fn gauss(&mut self, deviation: f64) -> f64 {
        let (radius, turn) = ((-2.0 * (1.0 - self.share()).ln()).sqrt(), std::f64::consts::TAU * self.share());
        radius * turn.cos() * deviation
    }

    /// How long something lasts that ends at any moment alike.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.share()).ln() * mean
    }

    /// How long something lasts that has lasted the longer, the longer it will still last.
    pub fn pareto(&mut self, least: f64, shape: f64) -> f64 {
        least / (1.0 - self.share()).powf(1.0 / shape)
    }
}
