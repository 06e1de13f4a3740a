//! Many samples become one.

use std::time::Duration;

use super::average::Latencies;
use super::limit::{ConcurrencyLimit, OVERLOAD_SHARE, Sample, exceeds, share};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Gathers samples over a window and feeds one that stands for all of them to another algorithm.
///
/// Its latency is a percentile, its in-flight count the largest, and it is an overload if more than a
/// tenth of them were. A window lasts twice the smallest latency seen in the one before, within the
/// bounds, and until it has samples enough.
///
/// Source: Netflix concurrency-limits, `WindowedLimit`, with one change: there a single overload makes the
/// window one. The more calls a window has, the likelier one of them is lost for a reason of its own;
/// with one in a hundred lost that way the limit would fall to a third of what the dependency can do.
/// [`overload_share(0.0)`](WindowedBuilder::overload_share) is Netflix's way.
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

/// What a window has seen beside the latencies.
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
/// | [`window`](Self::window) | 1 s to 30 s |
/// | [`min_samples`](Self::min_samples) | 10 |
/// | [`quantile`](Self::quantile) | 0.9 |
/// | [`min_latency`](Self::min_latency) | 100 µs |
/// | [`overload_share`](Self::overload_share) | 0.1 |
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `around`"]
pub struct WindowedBuilder {
    shortest: Duration,
    longest: Duration,
    min_samples: u32,
    quantile: f64,
    min_latency: Duration,
    overload_share: f64,
}

impl Windowed<()> {
    /// Sets everything.
    pub const fn builder() -> WindowedBuilder {
        WindowedBuilder {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            min_samples: 10,
            quantile: 0.9,
            min_latency: Duration::from_micros(100),
            overload_share: OVERLOAD_SHARE,
        }
    }
}

impl WindowedBuilder {
    /// How long a window lasts: twice the smallest latency, but within these.
    pub const fn window(mut self, shortest: Duration, longest: Duration) -> Self {
        self.shortest = shortest;
        self.longest = longest;
        self
    }

    /// How many samples a window has at least, however long that takes.
    pub const fn min_samples(mut self, samples: u32) -> Self {
        self.min_samples = samples;
        self
    }

    /// Which latency stands for all: 0.5 is the median, 0.9 the one that nine in ten did not exceed.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    /// Calls quicker than this are left out: they did not reach the dependency.
    pub const fn min_latency(mut self, latency: Duration) -> Self {
        self.min_latency = latency;
        self
    }

    /// A window is an overload when more than this share of its calls were: 0 to 1. With 0 a single
    /// one is enough.
    pub const fn overload_share(mut self, share: f64) -> Self {
        self.overload_share = share;
        self
    }

    /// The window in front of `inner`.
    ///
    /// # Errors
    ///
    /// A shortest window above the longest, no samples, a quantile or a share outside 0 to 1.
    pub fn around<L: ConcurrencyLimit>(self, inner: L) -> Result<Windowed<L>, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("windowed", setting, problem));
        if self.shortest > self.longest {
            return error("window", "must not be shortest above longest");
        }
        if self.min_samples == 0 {
            return error("min_samples", "must be at least 1");
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
    /// Returns the algorithm behind the window.
    pub const fn inner(&self) -> &L {
        &self.inner
    }

    /// Adds a sample, and returns the one that stands for the window if it is over with it.
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
        // A call that was cut off took at least this long.
        self.latencies.add(sample.nanos(), sample.random);
        if sample.now < self.end || self.latencies.len() < u64::from(config.min_samples) {
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

impl<L: ConcurrencyLimit> ConcurrencyLimit for Windowed<L> {
    fn limit(&self) -> u32 {
        self.inner.limit()
    }

    fn on_sample(&mut self, sample: &Sample) {
        if let Some(gathered) = self.gather(sample) {
            self.inner.on_sample(&gathered);
        }
    }
}
