//! Durations counted in few bytes, close enough for percentiles.

/// Buckets within each doubling.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 3;

/// Durations from here on, 71 minutes, share the last bucket.
const BITS_MAX: u32 = 32;

const BUCKETS: usize = ((BITS_MAX - STEP_BITS + 1) as usize) * STEPS as usize;

/// A histogram of microseconds: exact below 8, then eight buckets for each doubling up to 71 minutes.
/// What [`Self::quantile`] gives is the middle of a bucket, so it is at most 1/16 (6.25 %) beside the
/// duration that was recorded.
///
/// 960 bytes. When a bucket is full, at 4 billion, all are halved: older durations count less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency([u32; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latency {
    /// The bucket of a duration, for [`Self::count`].
    #[inline]
    pub fn bucket(us: u64) -> usize {
        if us < STEPS {
            return us as usize;
        }
        let bits = us.ilog2();
        if bits >= BITS_MAX {
            return BUCKETS - 1;
        }
        // The highest bits: 1 and the step within its doubling.
        let step = us >> (bits - STEP_BITS);
        (u64::from(bits - STEP_BITS) * STEPS + step) as usize
    }

    /// One more duration in a bucket.
    #[inline]
    pub fn count(&mut self, bucket: usize) {
        let count = &mut self.0[bucket.min(BUCKETS - 1)];
        *count += 1;
        if *count == u32::MAX {
            self.halve();
        }
    }

    pub fn record(&mut self, us: u64) {
        self.count(Self::bucket(us));
    }

    #[cold]
    fn halve(&mut self) {
        self.0.iter_mut().for_each(|count| *count /= 2);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.0.iter().zip(&other.0).any(|(a, b)| a.checked_add(*b).is_none_or(|sum| sum == u32::MAX)) {
            self.halve();
            let mut other = other.clone();
            other.halve();
            return self.merge(&other);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }

    /// The microseconds that the part `q` of all durations (0.5 is the median) does not exceed; 0 when
    /// there are none.
    pub fn quantile(&self, q: f64) -> u64 {
        let total: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = ((q * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return middle(bucket);
            }
        }
        0
    }
}

/// The duration that stands for a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let low = (STEPS + bucket % STEPS) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_told_within_a_sixteenth() {
        let mut us: u64 = 0;
        let mut last = 0;
        while us < 1 << BITS_MAX {
            let bucket = Latency::bucket(us);
            assert!(bucket >= last && bucket < BUCKETS, "{us}");
            last = bucket;
            assert!(middle(bucket).abs_diff(us) * 16 <= us, "{us} became {}", middle(bucket));
            us += 1 + us / 37;
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(Latency::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_two_are_those_of_both() {
        let (mut fast, mut slow) = (Latency::default(), Latency::default());
        assert_eq!(fast.quantile(0.5), 0);
        (0..98).for_each(|_| fast.record(5));
        (0..2).for_each(|_| slow.record(7));
        fast.merge(&slow);
        assert_eq!([0.5, 0.95, 0.98, 0.99, 1.0].map(|q| fast.quantile(q)), [5, 5, 5, 7, 7]);
    }

    #[test]
    fn a_full_bucket_halves_all() {
        let mut full = Latency::default();
        full.0[3] = u32::MAX - 1;
        full.0[9] = 100;
        full.record(3);
        assert_eq!((full.0[3], full.0[9]), (u32::MAX / 2, 50));
        let mut sum = full.clone();
        sum.merge(&full);
        sum.merge(&full);
        assert!(sum.0[3] > u32::MAX / 2, "{}", sum.0[3]);
    }
}
