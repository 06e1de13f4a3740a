//! Vegas on windows, with congestion detected from throughput.

use std::collections::VecDeque;
use std::time::Duration;

use super::average::{Correlation, ExpAverage, LastPairs, MIN_PAIRS, MovingMedian};
use super::curve;
use super::limit::{Bounds, ConcurrencyLimit, Sample, bounds_setters};
use super::windowed::{Windowed, WindowedBuilder};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Estimates the queue from recent latency over a long-term average, as [`Vegas`](super::limit::Vegas) does, with
/// three additional guards:
///
/// * While the bulkhead is full, it correlates throughput and latency with the number of calls in flight. When more
///   calls in flight bring more latency but no more throughput, the limit shrinks.
/// * The limit stays below a multiple of the recent number of calls in flight, so it does not grow without load.
/// * Latencies are smoothed by a quantile of a window, a median of windows, and an average of medians, so an outlier
///   has no effect.
///
/// Source: failsafe-go's adaptive limiter, with two changes:
///
/// * There dropped calls are ignored. Here a window with more than a tenth of overloads multiplies the limit by 0.9
///   ([`WindowedBuilder::overload_share`]).
/// * There the first guard keeps shrinking the limit until the correlation forgets the queue, which can be long
///   after the queue is gone. Under a lasting overload the limit oscillates, and a quarter of the throughput is
///   lost. Here it stops when throughput is more than 5 % below the best of those windows while latency is within
///   20 % of the lowest.
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
    /// Recent peaks of the in-flight count, with their times. A new count removes the earlier ones that it reaches.
    peaks: VecDeque<(Instant, u32)>,
    /// Throughput and latency of the windows that the correlations cover.
    knee: LastPairs,
}

/// Builds a [`Correlated`].
///
/// | setting | default |
/// |---|---|
/// | [`initial`](Self::initial) / [`min`](Self::min) / [`max`](Self::max) | 20 / 1 / 200 |
/// | [`windowed`](Self::windowed) | 1 s to 30 s, at least 50 samples, 90th percentile |
/// | [`long_window`](Self::long_window) | 10 windows |
/// | [`correlation_window`](Self::correlation_window) | 50 windows |
/// | [`max_limit_factor`](Self::max_limit_factor) | 5, no decay, never below 1.2 |
/// | [`max_limit_stabilization`](Self::max_limit_stabilization) | none |
#[derive(Clone, Copy)]
#[must_use = "a builder does nothing until `build`"]
pub struct CorrelatedBuilder {
    bounds: Bounds,
    windowed: WindowedBuilder,
    long_window: u32,
    baseline: Option<Duration>,
    correlation_window: usize,
    factor: f64,
    factor_decay: f64,
    min_factor: f64,
    stabilization: Duration,
}

crate::debug::debug_settings!(CorrelatedBuilder { bounds, windowed, long_window, factor, factor_decay, min_factor; baseline, correlation_window, stabilization });

/// Number of windows that the median and the average of recent latency cover.
const SMOOTHED: usize = 5;
const WARM_UP: u32 = 10;
/// Factor of the limit after a window of overload.
const BACKOFF: f64 = 0.9;
/// Share of the best throughput below which throughput has fallen.
const KNEE_THROUGHPUT: f64 = 0.95;
/// Multiple of the lowest latency up to which there is no queue.
const KNEE_LATENCY: f64 = 1.2;
/// Most windows that a correlation covers, because each update visits all of them.
const MAX_WINDOWS: usize = 1000;

impl Correlated {
    /// Returns a builder with the default settings.
    pub const fn builder() -> CorrelatedBuilder {
        CorrelatedBuilder {
            bounds: Bounds::DEFAULT,
            windowed: Windowed::builder()
                .min_calls(50)
                .min_latency(Duration::ZERO),
            long_window: 10,
            baseline: None,
            correlation_window: 50,
            factor: 5.0,
            factor_decay: 0.0,
            min_factor: 1.2,
            stabilization: Duration::ZERO,
        }
    }

    /// Returns the long-term average that recent latency is compared with, or `None` before the first window. Pass
    /// it to [`CorrelatedBuilder::baseline`] in the next run of the program.
    pub fn baseline(&self) -> Option<Duration> {
        latency(self.baseline.value())
    }

    /// Returns the median latency of the last five windows, the latency of the last window while there are fewer,
    /// or `None` before the first window.
    pub fn median_latency(&self) -> Option<Duration> {
        latency(self.last_median)
    }

    /// Returns recent latency, the average of the medians, or `None` before the first window.
    pub fn recent_latency(&self) -> Option<Duration> {
        latency(self.recent.value())
    }

    /// Detects congestion from the correlation of latency and throughput with concurrency. `median` is the latency
    /// before averaging, which shows earlier that a queue has drained.
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

    /// Returns whether throughput has fallen while latency is near its lowest. Then a lower limit would only cost
    /// throughput, even if the correlation still includes the queue.
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

    /// Returns the largest in-flight count within the stabilization window.
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

/// Converts a latency in nanoseconds, which is 0 before the first window.
fn latency(nanos: f64) -> Option<Duration> {
    (nanos > 0.0).then(|| Duration::from_nanos(nanos as u64))
}

impl CorrelatedBuilder {
    bounds_setters!();

    /// Sets the window that aggregates samples. Default 1 s to 30 s, at least 50 samples, the 0.9 quantile.
    pub const fn windowed(mut self, window: WindowedBuilder) -> Self {
        self.windowed = window;
        self
    }

    /// Sets the number of windows that the long-term average covers, at least 1. Default 10.
    pub const fn long_window(mut self, windows: u32) -> Self {
        self.long_window = windows;
        self
    }

    /// Sets the initial long-term average, such as one from the last run of the program. Above
    /// zero. Default none.
    pub const fn baseline(mut self, latency: Duration) -> Self {
        self.baseline = Some(latency);
        self
    }

    /// Sets the number of windows that the correlations cover, from 10 to 1000. Default 50. 0 turns this guard off.
    pub const fn correlation_window(mut self, windows: usize) -> Self {
        self.correlation_window = windows;
        self
    }

    /// Bounds the limit by the number of calls in flight times `max(factor − decay · log10(in flight), min)`. Above
    /// that bound the limit shrinks by one step per window. `factor` is at least `min`. Default 5, 0, 1.2.
    pub const fn max_limit_factor(mut self, factor: f64, decay: f64, min: f64) -> Self {
        self.factor = factor;
        self.factor_decay = decay;
        self.min_factor = min;
        self
    }

    /// Sets how long a peak of calls in flight counts for [`max_limit_factor`](Self::max_limit_factor), so that a
    /// short dip does not lower the limit. Default zero: only the current number counts.
    pub const fn max_limit_stabilization(mut self, window: Duration) -> Self {
        self.stabilization = window;
        self
    }

    /// Returns the largest limit allowed with this number of calls in flight.
    pub fn max_limit_at(&self, in_flight: u32) -> f64 {
        let in_flight = f64::from(in_flight);
        let factor = self.factor - self.factor_decay * in_flight.max(1.0).log10();
        in_flight * factor.max(self.min_factor)
    }

    /// Builds the algorithm and its window.
    ///
    /// # Errors
    ///
    /// A minimum or an initial limit of 0, a maximum below the minimum, an invalid window, a long-term average of 0
    /// windows, correlations of 1 to 9 or more than 1000 windows, or a factor that is below 1 or not finite.
    pub fn build(self) -> Result<Windowed<Correlated>, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("correlated", setting, problem));
        self.bounds.check("correlated")?;
        if self.baseline == Some(Duration::ZERO) {
            return error("baseline", "must be above zero");
        }
        if self.long_window == 0 {
            return error("long_window", "must be at least 1");
        }
        if self.correlation_window != 0
            && !(MIN_PAIRS..=MAX_WINDOWS).contains(&self.correlation_window)
        {
            return error("correlation_window", "must be 0, or from 10 to 1000");
        }
        let factors = [self.factor, self.min_factor];
        if !factors
            .iter()
            .all(|factor| *factor >= 1.0 && factor.is_finite())
        {
            return error("max_limit_factor", "must be numbers of 1 or more");
        }
        if self.factor < self.min_factor {
            return error("max_limit_factor", "must not have a factor below its min");
        }
        if !(self.factor_decay >= 0.0 && self.factor_decay.is_finite()) {
            return error("max_limit_factor", "needs a decay of 0 or more");
        }
        self.windowed.around(self.machine())
    }

    /// Builds the algorithm without its window.
    fn machine(self) -> Correlated {
        let mut baseline = ExpAverage::new(self.long_window, WARM_UP);
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
        let step = curve::log10(self.limit as u32);
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
            // By steps, because the in-flight count fluctuates.
            self.limit - step
        } else {
            cap
        });
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    /// Returns whether fifty windows with these in-flight counts and latencies end in congestion.
    fn is_congested(
        full: bool,
        in_flight: impl Fn(u32) -> u32,
        latency: impl Fn(u32, f64) -> f64,
    ) -> bool {
        is_congested_in(Correlated::builder(), full, in_flight, latency)
    }

    fn is_congested_in(
        builder: CorrelatedBuilder,
        full: bool,
        in_flight: impl Fn(u32) -> u32,
        latency: impl Fn(u32, f64) -> f64,
    ) -> bool {
        let mut correlated = builder.machine();
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

    /// Returns numbers spread evenly over `[0, 1)`.
    fn spread(window: u32) -> f64 {
        (f64::from(window) * 0.618_034).fract()
    }

    const fn wave(window: u32) -> u32 {
        10 + 7 * (window % 10)
    }

    #[test]
    fn each_sign_of_congestion_suffices_while_all_permits_are_in_flight() {
        // Throughput falls. Its coefficient is −0.21, that of latency 0.47.
        let falls = |full| {
            let latency =
                |window: u32, _| 100.0 + f64::from(window % 10 * 6) + 120.0 * spread(window);
            is_congested(full, |window| 40 + window % 10, latency)
        };
        // Throughput varies by 0.26 and hardly correlates (0.19), latency does (0.87).
        let hardly = |full| {
            let latency =
                |window, in_flight: f64| in_flight.powf(0.9) * (0.6 + 0.8 * spread(window));
            is_congested(full, wave, latency)
        };
        // Throughput correlates, but varies by only 0.06, and latency correlates more.
        let flat = |full| is_congested(full, wave, |_, in_flight: f64| in_flight.powf(0.9));
        for (name, sign) in [
            ("falls", &falls as &dyn Fn(bool) -> bool),
            ("hardly", &hardly),
            ("flat", &flat),
        ] {
            assert!(sign(true), "{name}");
            assert!(!sign(false), "{name}: permits are free");
        }
        // Throughput correlates, and varies by 0.27.
        assert!(!is_congested(true, wave, |_, in_flight: f64| in_flight.sqrt()));
    }

    #[test]
    fn without_correlations_nothing_is_congested() {
        let builder = Correlated::builder();
        let latency = |_, in_flight: f64| in_flight.powf(0.9);
        assert!(is_congested_in(builder, true, wave, latency));
        let off = builder.correlation_window(0);
        assert!(!is_congested_in(off, true, wave, latency));
    }

    #[test]
    fn below_the_knee_there_is_no_congestion_even_while_the_queue_is_remembered() {
        // A queue until the fortieth window, then fewer and fewer calls in flight.
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
        // The same, but throughput has not fallen: the best is 0.39.
        assert!(is_congested(
            true,
            |window| in_flight(window).max(38),
            |_, in_flight| queue(in_flight)
        ));
    }
}
