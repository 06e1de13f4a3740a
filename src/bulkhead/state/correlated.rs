//! Vegas on windows, with a look at whether more in flight still brings more throughput.

use std::collections::VecDeque;
use std::time::Duration;

use super::average::{Correlation, ExpAverage, LastPairs, MovingMedian};
use super::limit::{Bounds, ConcurrencyLimit, Sample, bounds_setters, log10_root};
use super::windowed::{Windowed, WindowedBuilder};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Estimates the queue from recent latency over a slow average, as [`Vegas`](super::limit::Vegas)
/// does, and has three guards more.
///
/// * While the bulkhead is full it watches how throughput and latency move with the number in flight.
///   When more in flight does not bring more throughput, but more latency, the limit shrinks.
/// * The limit stays below a multiple of what was lately in flight, so it does not wander off while
///   there is little to do.
/// * Latencies are a percentile of a window, then a median, then an average: an outlier moves nothing.
///
/// Source: failsafe-go's adaptive limiter, with two changes:
///
/// * There dropped calls are left out; here a window of which more than a tenth were overloads
///   multiplies the limit with 0.9 ([`WindowedBuilder::overload_share`]).
/// * There the first guard goes on shrinking for as long as the correlation remembers the queue, which
///   can be long after it is gone: under an overload that lasts, the limit swings, and a quarter of the
///   throughput is lost. Here it stops as soon as throughput is more than 5 % below the best of those
///   windows while latency is within 20 % of the lowest.
///
/// ```
/// use backstop::Bulkhead;
/// use backstop::bulkhead::limit::Correlated;
///
/// let bulkhead = Bulkhead::builder().adaptive(Correlated::builder().build()?).build()?;
/// assert_eq!(bulkhead.limit(), 20);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Correlated {
    config: CorrelatedBuilder,
    limit: f64,
    last_median: f64,
    median: MovingMedian<SMOOTHED>,
    recent: ExpAverage,
    baseline: ExpAverage,
    throughput: Correlation,
    latency: Correlation,
    /// What was in flight lately: ever smaller counts, each the largest since its time.
    peaks: VecDeque<(Instant, u32)>,
    /// Throughput and latency of the windows that the correlations go over.
    knee: LastPairs,
}

/// Builds a [`Correlated`].
///
/// | setting | default |
/// |---|---|
/// | [`initial`](Self::initial) / [`min`](Self::min) / [`max`](Self::max) | 20 / 1 / 200 |
/// | [`window`](Self::window) | 1 s to 30 s, at least 50 samples, 90th percentile |
/// | [`baseline_age`](Self::baseline_age) | 10 windows |
/// | [`correlation_window`](Self::correlation_window) | 50 windows |
/// | [`max_limit_factor`](Self::max_limit_factor) | 5, no decay, never below 1.2 |
/// | [`max_limit_stabilization`](Self::max_limit_stabilization) | none |
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CorrelatedBuilder {
    bounds: Bounds,
    window: WindowedBuilder,
    baseline_age: u32,
    baseline: Option<Duration>,
    correlation_window: usize,
    factor: f64,
    factor_decay: f64,
    min_factor: f64,
    stabilization: Duration,
}

/// How many windows the median and the average of recent latency go over.
const SMOOTHED: usize = 5;
const WARM_UP: u32 = 10;
/// What a window with an overload multiplies the limit with.
const BACKOFF: f64 = 0.9;
/// Below this share of the best throughput it has begun to fall.
const KNEE_THROUGHPUT: f64 = 0.95;
/// Up to this multiple of the lowest latency there is as good as no queue.
const KNEE_LATENCY: f64 = 1.2;
/// The most windows that may be compared: each update looks at all of them.
const MOST_WINDOWS: usize = 1000;

impl Correlated {
    /// Sets everything.
    pub const fn builder() -> CorrelatedBuilder {
        CorrelatedBuilder {
            bounds: Bounds::DEFAULT,
            window: Windowed::builder()
                .min_samples(50)
                .min_latency(Duration::ZERO),
            baseline_age: 10,
            baseline: None,
            correlation_window: 50,
            factor: 5.0,
            factor_decay: 0.0,
            min_factor: 1.2,
            stabilization: Duration::ZERO,
        }
    }

    /// Returns the average latency that recent latency is compared with. Pass it to
    /// [`CorrelatedBuilder::baseline`] in the next run of the program. `None` before the first window.
    pub fn baseline(&self) -> Option<Duration> {
        latency(self.baseline.value())
    }

    /// Returns the median latency of the last windows; of the last one while there are fewer than five. `None`
    /// before the first window.
    pub fn median_latency(&self) -> Option<Duration> {
        latency(self.last_median)
    }

    /// Returns recent latency: the average of the medians. `None` before the first window.
    pub fn recent_latency(&self) -> Option<Duration> {
        latency(self.recent.value())
    }

    /// How much more than now may be in flight shows in how the two measures move with that number.
    /// `median` is the latency before it was averaged: it says earlier that a queue is gone.
    fn is_congested(&mut self, sample: &Sample, latency: f64, median: f64) -> bool {
        let in_flight = f64::from(sample.in_flight);
        let throughput = self.throughput.add(in_flight, in_flight / latency);
        let latency = self.latency.add(in_flight, latency);
        let slower = latency.coefficient > 0.5;
        let is_below = self.is_below_the_knee(in_flight, median);
        sample.full
            && !is_below
            && (throughput.coefficient < 0.0
                || (throughput.coefficient < 0.3 && slower)
                || (throughput.variation < 0.2 && slower))
    }

    /// Whether throughput has begun to fall and latency is about as low as it gets: fewer in flight
    /// would only cost more throughput, whatever the correlation remembers.
    fn is_below_the_knee(&mut self, in_flight: f64, latency: f64) -> bool {
        let now = (in_flight / latency, latency);
        self.knee.add(now);
        let (best, lowest) = self
            .knee
            .iter()
            .fold(now, |(best, lowest), (throughput, latency)| {
                (best.max(throughput), lowest.min(latency))
            });
        now.0 < best * KNEE_THROUGHPUT && now.1 <= lowest * KNEE_LATENCY
    }

    /// The largest number in flight within the stabilization window.
    fn recent_peak(&mut self, sample: &Sample) -> u32 {
        while self
            .peaks
            .back()
            .is_some_and(|(_, peak)| *peak <= sample.in_flight)
        {
            self.peaks.pop_back();
        }
        self.peaks.push_back((sample.now, sample.in_flight));
        let window = self.config.stabilization;
        while self
            .peaks
            .front()
            .is_some_and(|(at, _)| *at + window < sample.now)
        {
            self.peaks.pop_front();
        }
        self.peaks
            .front()
            .map_or(sample.in_flight, |(_, peak)| *peak)
    }
}

/// A latency in nanoseconds; 0 before the first one.
fn latency(nanos: f64) -> Option<Duration> {
    (nanos > 0.0).then(|| Duration::from_nanos(nanos as u64))
}

impl CorrelatedBuilder {
    bounds_setters!();

    /// How samples are gathered before they count.
    pub const fn window(mut self, window: WindowedBuilder) -> Self {
        self.window = window;
        self
    }

    /// Over how many windows the average goes that recent latency is compared with.
    pub const fn baseline_age(mut self, windows: u32) -> Self {
        self.baseline_age = windows;
        self
    }

    /// The average latency known from before, say from the last run of the program.
    pub const fn baseline(mut self, latency: Duration) -> Self {
        self.baseline = Some(latency);
        self
    }

    /// Over how many windows throughput and latency are compared with the number in flight; more than
    /// 1000 count as 1000. Fewer than ten are too few to tell, which switches this guard off.
    pub const fn correlation_window(mut self, windows: usize) -> Self {
        self.correlation_window = if windows < MOST_WINDOWS {
            windows
        } else {
            MOST_WINDOWS
        };
        self
    }

    /// The limit stays below the number in flight times `factor − decay · log10(in flight)`, and that
    /// factor above `min`. Above it, the limit shrinks by a step a window.
    pub const fn max_limit_factor(mut self, factor: f64, decay: f64, min: f64) -> Self {
        self.factor = factor;
        self.factor_decay = decay;
        self.min_factor = min;
        self
    }

    /// For how long a peak in flight counts for [`max_limit_factor`](Self::max_limit_factor), so that a
    /// dip does not lower the limit.
    pub const fn max_limit_stabilization(mut self, window: Duration) -> Self {
        self.stabilization = window;
        self
    }

    /// The largest limit allowed while so many calls are in flight.
    pub fn max_limit_at(&self, in_flight: u32) -> f64 {
        let in_flight = f64::from(in_flight);
        let factor = self.factor - self.factor_decay * in_flight.max(1.0).log10();
        in_flight * factor.max(self.min_factor)
    }

    /// The algorithm, with its window.
    ///
    /// # Errors
    ///
    /// Bounds or a window that make no sense, a baseline of no windows, a factor that is not a number
    /// or below 1.
    pub fn build(self) -> Result<Windowed<Correlated>, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("correlated", setting, problem));
        self.bounds.check("correlated")?;
        if self.baseline_age == 0 {
            return error("baseline_age", "must be at least 1");
        }
        let factors = [self.factor, self.min_factor];
        if !factors
            .iter()
            .all(|factor| *factor >= 1.0 && factor.is_finite())
        {
            return error("max_limit_factor", "must be numbers of 1 or more");
        }
        if !(self.factor_decay >= 0.0 && self.factor_decay.is_finite()) {
            return error("max_limit_factor", "needs a decay of 0 or more");
        }
        self.window.around(self.machine())
    }

    /// Without its window.
    fn machine(self) -> Correlated {
        let mut baseline = ExpAverage::new(self.baseline_age, WARM_UP);
        if let Some(latency) = self.baseline {
            for _ in 0..WARM_UP {
                baseline.add(crate::instant::nanos(latency) as f64);
            }
        }
        Correlated {
            limit: f64::from(self.bounds.initial),
            last_median: 0.0,
            median: MovingMedian::new(),
            recent: ExpAverage::new(SMOOTHED as u32, WARM_UP),
            baseline,
            throughput: Correlation::new(self.correlation_window),
            latency: Correlation::new(self.correlation_window),
            knee: LastPairs::new(self.correlation_window),
            peaks: VecDeque::new(),
            config: self,
        }
    }
}

impl ConcurrencyLimit for Correlated {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn on_sample(&mut self, sample: &Sample) {
        let bounds = self.config.bounds;
        if sample.overloaded {
            self.limit = bounds.clamp(self.limit * BACKOFF);
            return;
        }
        let median = self.median.add(sample.nanos());
        self.last_median = median;
        let latency = self.recent.add(median);
        let baseline = self.baseline.add(latency);
        let queue = (self.limit * (1.0 - baseline / latency)).ceil();
        let congested = self.is_congested(sample, latency, median);
        let step = log10_root(self.limit as u32);
        let moved = if queue > 6.0 * step || congested {
            self.limit - step
        } else if queue < 3.0 * step {
            self.limit + step
        } else {
            self.limit
        };
        let peak = self.recent_peak(sample);
        let cap = self.config.max_limit_at(peak);
        self.limit = bounds.clamp(if moved <= cap {
            moved
        } else if self.limit > cap {
            // Step by step: what is in flight goes up and down.
            self.limit - step
        } else {
            cap
        });
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    /// Whether more than now may be in flight after fifty windows of so many, of such a latency.
    fn is_congested(
        full: bool,
        in_flight: impl Fn(u32) -> u32,
        latency: impl Fn(u32, f64) -> f64,
    ) -> bool {
        let mut correlated = Correlated::builder().machine();
        let mut congested = false;
        for window in 0..50 {
            let in_flight = in_flight(window);
            let latency = latency(window, f64::from(in_flight));
            let mut sample = Sample::new(Instant::ORIGIN, Duration::ZERO, in_flight);
            sample.full = full;
            congested = correlated.is_congested(&sample, latency, latency);
        }
        congested
    }

    /// Spread evenly over `[0, 1)`.
    fn spread(window: u32) -> f64 {
        (f64::from(window) * 0.618_034).fract()
    }

    const fn wave(window: u32) -> u32 {
        10 + 7 * (window % 10)
    }

    #[test]
    fn each_sign_of_congestion_is_enough_where_all_permits_are_out() {
        // Throughput falls, although latency has little to do with it: −0.21, and 0.47.
        let falls = |full| {
            let latency =
                |window: u32, _| 100.0 + f64::from(window % 10 * 6) + 120.0 * spread(window);
            is_congested(full, |window| 40 + window % 10, latency)
        };
        // Throughput varies by 0.26 and hardly follows (0.19), latency does: 0.87.
        let hardly = |full| {
            let latency =
                |window, in_flight: f64| in_flight.powf(0.9) * (0.6 + 0.8 * spread(window));
            is_congested(full, wave, latency)
        };
        // Throughput follows, but varies by 0.06 only, and latency follows more.
        let flat = |full| is_congested(full, wave, |_, in_flight: f64| in_flight.powf(0.9));
        for (name, sign) in [
            ("falls", &falls as &dyn Fn(bool) -> bool),
            ("hardly", &hardly),
            ("flat", &flat),
        ] {
            assert!(sign(true), "{name}");
            assert!(!sign(false), "{name}: permits are left");
        }
        // Throughput follows, and varies by 0.27.
        assert!(!is_congested(true, wave, |_, in_flight: f64| in_flight.sqrt()));
    }

    #[test]
    fn below_the_knee_there_is_no_congestion_whatever_is_remembered() {
        // A queue until the fortieth window, then ever fewer in flight.
        let in_flight = |window: u32| 49 - window.saturating_sub(40) * 2;
        let queue = |in_flight: f64| 100.0 + 8.0 * (in_flight - 40.0).max(0.0);
        assert!(!is_congested(true, in_flight, |_, in_flight| queue(
            in_flight
        )));
        // The same, but latency has not come down.
        let stays = |window, in_flight| match window {
            49 => 130.0,
            _ => queue(in_flight),
        };
        assert!(is_congested(true, in_flight, stays));
        // Or throughput has not: the best is 0.39.
        assert!(is_congested(
            true,
            |window| in_flight(window).max(38),
            |_, in_flight| queue(in_flight)
        ));
    }
}
