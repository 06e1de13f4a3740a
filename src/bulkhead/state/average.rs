//! Statistics: averages, medians, correlations, quantiles.

use std::collections::VecDeque;

/// An exponential moving average, for algorithms of your own. Starts as the mean of its first values.
///
/// Source: Netflix concurrency-limits, `ExpAvgMeasurement`. After the first `warm_up` values, each new value has
/// the weight `2 / (window + 1)`.
///
/// ```
/// use backstop::bulkhead::limit::ExpAverage;
///
/// let mut average = ExpAverage::new(100, 2);
/// assert_eq!(average.add(10.0), 10.0);
/// assert_eq!(average.add(20.0), 15.0);
/// assert!((average.add(100.0) - 16.68).abs() < 0.01);
/// ```
#[derive(Clone, Debug)]
pub struct ExpAverage {
    weight: f64,
    warm_up: u32,
    count: u32,
    value: f64,
}

impl ExpAverage {
    /// Returns an average over about `window` values, the first `warm_up` of which have equal weights.
    pub fn new(window: u32, warm_up: u32) -> Self {
        Self {
            weight: 2.0 / (f64::from(window) + 1.0),
            warm_up,
            count: 0,
            value: 0.0,
        }
    }

    /// Adds a value and returns the average.
    pub fn add(&mut self, value: f64) -> f64 {
        let weight = if self.count < self.warm_up.max(1) {
            self.count += 1;
            1.0 / f64::from(self.count)
        } else {
            self.weight.min(1.0)
        };
        self.value += (value - self.value) * weight;
        self.value
    }

    /// Returns the current average, or 0 before the first value.
    pub const fn value(&self) -> f64 {
        self.value
    }

    pub(super) const fn scale(&mut self, factor: f64) {
        self.value *= factor;
    }
}

/// The median of the last `N` values, or the latest value while there are fewer.
#[derive(Clone, Debug)]
pub(super) struct MovingMedian<const N: usize> {
    values: [f64; N],
    known: usize,
    next: usize,
}

impl<const N: usize> MovingMedian<N> {
    pub(super) const fn new() -> Self {
        Self {
            values: [0.0; N],
            known: 0,
            next: 0,
        }
    }

    pub(super) fn add(&mut self, value: f64) -> f64 {
        self.values[self.next] = value;
        self.next = (self.next + 1) % N;
        self.known = (self.known + 1).min(N);
        if self.known < N {
            return value;
        }
        let mut sorted = self.values;
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[N / 2]
    }
}

/// The last pairs of two measurements.
#[derive(Clone, Debug)]
pub(super) struct LastPairs {
    size: usize,
    pairs: VecDeque<(f64, f64)>,
}

impl LastPairs {
    pub(super) const fn new(size: usize) -> Self {
        Self {
            size,
            pairs: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, pair: (f64, f64)) {
        if self.pairs.len() >= self.size {
            self.pairs.pop_front();
        }
        self.pairs.push_back(pair);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, f64)> {
        self.pairs.iter().copied()
    }
}

/// The correlation of the last pairs of two measurements.
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    pairs: LastPairs,
}

/// Statistics of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Correlated {
    /// Pearson's coefficient, −1 to 1. 0 while there are fewer than `MIN_PAIRS`, or one of the two is constant.
    pub(super) coefficient: f64,
    /// Coefficient of variation of the second: standard deviation / mean.
    pub(super) variation: f64,
}

/// Fewer pairs give no statistics.
pub(super) const MIN_PAIRS: usize = 10;
/// A measurement with a smaller coefficient of variation counts as constant.
const CONSTANT: f64 = 0.01;

impl Correlation {
    pub(super) const fn new(size: usize) -> Self {
        Self {
            pairs: LastPairs::new(size),
        }
    }

    pub(super) fn add(&mut self, x: f64, y: f64) -> Correlated {
        self.pairs.add((x, y));
        let count = self.pairs.iter().count();
        if count < MIN_PAIRS {
            return Correlated::default();
        }
        let n = count as f64;
        let (sum_x, sum_y) = self
            .pairs
            .iter()
            .fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
        for (x, y) in self.pairs.iter() {
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            yy += dy * dy;
            xy += dx * dy;
        }
        let variation = |squares: f64, mean: f64| {
            if mean > 0.0 {
                (squares / n).sqrt() / mean
            } else {
                0.0
            }
        };
        let moves = variation(xx, mean_x) >= CONSTANT && variation(yy, mean_y) >= CONSTANT;
        Correlated {
            coefficient: if moves { xy / (xx * yy).sqrt() } else { 0.0 },
            variation: variation(yy, mean_y),
        }
    }
}

/// Latencies of a window: all up to a bound, then a uniform sample of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    kept: Vec<f64>,
    seen: u64,
}

/// Most latencies that a window keeps.
const KEPT: usize = 512;

impl Latencies {
    pub(super) fn add(&mut self, nanos: f64, random: f64) {
        self.seen += 1;
        if self.kept.len() < KEPT {
            self.kept.push(nanos);
        } else {
            // Reservoir sampling: each latency is kept with the same probability.
            let index = (random * self.seen as f64) as usize;
            if let Some(kept) = self.kept.get_mut(index) {
                *kept = nanos;
            }
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.seen
    }

    /// Returns the latency that a share `quantile` of the calls did not exceed, or `None` without calls.
    pub(super) fn quantile(&mut self, quantile: f64) -> Option<f64> {
        let last = self.kept.len().checked_sub(1)?;
        // The nearest rank.
        let rank = (self.kept.len() as f64 * quantile).ceil() as usize;
        let (_, value, _) = self
            .kept
            .select_nth_unstable_by(rank.saturating_sub(1).min(last), f64::total_cmp);
        Some(*value)
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.seen = 0;
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_exact_for_few_latencies_and_close_for_many() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        for value in [5.0, 1.0, 4.0, 2.0, 3.0] {
            latencies.add(value, 0.0);
        }
        for (quantile, value) in [(0.0, 1.0), (0.5, 3.0), (0.9, 5.0), (1.0, 5.0)] {
            assert_eq!(latencies.quantile(quantile), Some(value));
        }
        for i in 0..100_000_u32 {
            latencies.add(f64::from(i), f64::from(i % 997) / 997.0);
        }
        assert_eq!(latencies.kept.len(), KEPT);
        let median = latencies.quantile(0.5).unwrap();
        assert!((30_000.0..70_000.0).contains(&median), "{median}");
    }

    #[test]
    fn the_coefficient_needs_enough_pairs_that_vary() {
        let (mut up, mut down, mut flat) = (
            Correlation::new(50),
            Correlation::new(50),
            Correlation::new(50),
        );
        for i in 1..=MIN_PAIRS as u32 {
            let x = f64::from(i);
            let (a, b, c) = (
                up.add(x, 2.0 * x),
                down.add(x, 99.0 - x),
                flat.add(x, 7.0 + x / 1000.0),
            );
            if i == MIN_PAIRS as u32 {
                assert!((a.coefficient - 1.0).abs() < 1e-9);
                assert!((b.coefficient + 1.0).abs() < 1e-9);
                assert_eq!(c.coefficient, 0.0, "varies by less than a hundredth");
                assert!((0.0..CONSTANT).contains(&c.variation));
            } else {
                assert_eq!(a, Correlated::default(), "too few samples");
            }
        }
    }

    #[test]
    fn a_median_ignores_an_outlier() {
        let mut median = MovingMedian::<5>::new();
        for value in [10.0, 11.0, 13.0, 12.0] {
            assert_eq!(median.add(value), value, "too few for a median");
        }
        for (value, expected) in [
            (1000.0, 12.0),
            (10.0, 12.0),
            (9.0, 12.0),
            (9.0, 10.0),
            (9.0, 9.0),
        ] {
            assert_eq!(median.add(value), expected);
        }
    }
}
