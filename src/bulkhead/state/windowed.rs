//! Aggregates the samples of a time window into one.

use std::time::Duration;

use super::average::Latencies;
use super::limit::{ConcurrencyLimit, OVERLOAD_SHARE, Sample, exceeds, share};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Aggregates the samples of a window into one sample for another algorithm.
///
/// The aggregate has a quantile of the latencies and the largest in-flight count. It is an overload if more than
/// a tenth of the samples were. A window lasts twice the smallest latency of the previous window, within bounds,
/// and until it has enough samples.
///
/// Source: Netflix concurrency-limits, `WindowedLimit`, with one change. There a single overload makes the whole
/// window an overload. In a large window some call is lost for unrelated reasons: with one lost call in a hundred,
/// the limit would fall to a third of the capacity. [`overload_share(0.0)`](WindowedBuilder::overload_share)
/// restores Netflix's rule.
///
/// ```
/// use backstop::Bulkhead;
/// use backstop::bulkhead::limit::{Gradient2, Windowed};
///
/// let limit = Windowed::builder().quantile(0.5).around(Gradient2::builder().build()?)?;
/// let bulkhead = Bulkhead::builder().adaptive(limit).build()?;
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Windowed<L> {
    config: WindowedBuilder,
    inner: L,
    latencies: Latencies,
    gathered: Option<Gathered>,
    end: Instant,
}

/// Counts of a window besides the latencies.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    smallest: Duration,
    in_flight: u32,
    overloads: u64,
    full: bool,
}

/// Builds a [`Windowed`].
///
/// | setting | default |
/// |---|---|
/// | [`window_between`](Self::window_between) | 1 s to 30 s |
/// | [`min_calls`](Self::min_calls) | 10 |
/// | [`quantile`](Self::quantile) | 0.9 |
/// | [`min_latency`](Self::min_latency) | 100 µs |
/// | [`overload_share`](Self::overload_share) | 0.1 |
#[derive(Clone, Copy)]
#[must_use = "a builder does nothing until `around`"]
pub struct WindowedBuilder {
    shortest: Duration,
    longest: Duration,
    min_calls: u32,
    quantile: f64,
    min_latency: Duration,
    overload_share: f64,
}

crate::debug::debug_settings!(WindowedBuilder { min_calls, quantile, overload_share; shortest, longest, min_latency });

impl Windowed<()> {
    /// Returns a builder with the default settings.
    pub const fn builder() -> WindowedBuilder {
        WindowedBuilder {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            min_calls: 10,
            quantile: 0.9,
            min_latency: Duration::from_micros(100),
            overload_share: OVERLOAD_SHARE,
        }
    }
}

impl WindowedBuilder {
    /// Sets the bounds of a window's length, which is twice the smallest latency. Default 1 s to 30 s. A
    /// window of zero length ends with the call that completes [`min_calls`](Self::min_calls).
    pub const fn window_between(mut self, shortest: Duration, longest: Duration) -> Self {
        self.shortest = shortest;
        self.longest = longest;
        self
    }

    /// Sets the least number of samples of a window, at least 1. A window lasts until it has them. Default 10.
    pub const fn min_calls(mut self, samples: u32) -> Self {
        self.min_calls = samples;
        self
    }

    /// Sets the quantile of the latencies, from 0 to 1, that the aggregate has. Default 0.9.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    /// Sets the least latency of a sample. Faster calls are ignored, because they did not reach the dependency.
    /// Default 100 µs. Zero ignores none.
    pub const fn min_latency(mut self, latency: Duration) -> Self {
        self.min_latency = latency;
        self
    }

    /// Sets the share of overloads, from 0 to 1, above which a window counts as overload. With 0 a single overload
    /// suffices. Default 0.1.
    pub const fn overload_share(mut self, share: f64) -> Self {
        self.overload_share = share;
        self
    }

    /// Builds the window around `inner`.
    ///
    /// # Errors
    ///
    /// A shortest window above the longest, no samples, or a quantile or a share outside 0 to 1.
    pub fn around<L: ConcurrencyLimit>(self, inner: L) -> Result<Windowed<L>, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("windowed", setting, problem));
        if self.shortest > self.longest {
            return error(
                "window_between",
                "must not have a shortest length above the longest",
            );
        }
        if self.min_calls == 0 {
            return error("min_calls", "must be at least 1");
        }
        share("windowed", "quantile", self.quantile)?;
        share("windowed", "overload_share", self.overload_share)?;
        Ok(Windowed {
            config: self,
            inner,
            latencies: Latencies::default(),
            gathered: None,
            end: Instant::ORIGIN,
        })
    }
}

impl<L> Windowed<L> {
    /// Returns the algorithm that gets the aggregates.
    pub const fn inner(&self) -> &L {
        &self.inner
    }

    /// Adds a sample. Returns the aggregate if the sample ends the window.
    fn gather(&mut self, sample: &Sample) -> Option<Sample> {
        let config = &self.config;
        if !sample.overloaded && sample.latency < config.min_latency {
            return None;
        }
        let gathered = self.gathered.get_or_insert(Gathered {
            smallest: Duration::MAX,
            in_flight: 0,
            overloads: 0,
            full: false,
        });
        gathered.in_flight = gathered.in_flight.max(sample.in_flight);
        gathered.overloads += u64::from(sample.overloaded);
        gathered.full |= sample.full;
        if !sample.overloaded {
            gathered.smallest = gathered.smallest.min(sample.latency);
        }
        // The latency of an overload is a lower bound: the call was cut off.
        self.latencies.add(sample.nanos(), sample.random);
        if sample.now < self.end || self.latencies.len() < u64::from(config.min_calls) {
            return None;
        }
        let gathered = self.gathered.take()?;
        let latency = self.latencies.quantile(config.quantile)?;
        let overloaded = exceeds(
            gathered.overloads,
            self.latencies.len(),
            config.overload_share,
        );
        self.latencies.clear();
        let window = match gathered.smallest {
            Duration::MAX => config.shortest,
            smallest => smallest
                .saturating_mul(2)
                .max(config.shortest)
                .min(config.longest),
        };
        self.end = sample.now + window;
        Some(Sample {
            latency: Duration::from_nanos(latency as u64),
            in_flight: gathered.in_flight,
            overloaded,
            full: gathered.full,
            ..*sample
        })
    }
}

impl<L: ConcurrencyLimit + Clone> ConcurrencyLimit for Windowed<L> {
    fn limit(&self) -> u32 {
        self.inner.limit()
    }

    fn on_sample(&mut self, sample: &Sample) {
        if let Some(gathered) = self.gather(sample) {
            self.inner.on_sample(&gathered);
        }
    }
}
