//! Gradient2: current latency against its long-term average.

use super::average::ExpAverage;
use super::limit::{
    Bounds, ConcurrencyLimit, OncePerRoundTrip, Sample, bounds_setters, share, utilization_setter,
};
use crate::error::ConfigError;

/// Decreases the limit when latency rises above its long-term average, otherwise increases it by a small queue.
///
/// With `g = clamp(tolerance · long / latency, 0.5, 1)` the limit moves towards `limit · g + queue_size` by the
/// share `smoothing`. While the long-term average is more than twice the latency, each sample multiplies it by
/// [`recovery`](Gradient2Builder::recovery), so it forgets an overload quickly.
///
/// Use it in a [`Windowed`](super::limit::Windowed). The long-term average covers a number of samples: with one
/// sample per call, a busy bulkhead would forget the latency before an overload within a second.
///
/// Source: Netflix concurrency-limits, `Gradient2Limit`, with one change. There an overload is ignored. Here it
/// multiplies the limit by [`decrease_factor`](Gradient2Builder::decrease_factor), once per round trip.
#[derive(Clone, Debug)]
pub struct Gradient2 {
    config: Gradient2Builder,
    limit: f64,
    long: ExpAverage,
    overload: OncePerRoundTrip,
}

/// Builds a [`Gradient2`].
///
/// | setting | default |
/// |---|---|
/// | [`initial`](Self::initial) / [`min`](Self::min) / [`max`](Self::max) | 20 / 1 / 200 |
/// | [`utilization`](Self::utilization) | 0.5 |
/// | [`smoothing`](Self::smoothing) | 0.2 |
/// | [`queue_size`](Self::queue_size) | 4 |
/// | [`tolerance`](Self::tolerance) | 1.5 |
/// | [`long_window`](Self::long_window) | 600 |
/// | [`recovery`](Self::recovery) | 0.95 |
/// | [`decrease_factor`](Self::decrease_factor) | 0.9 |
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Gradient2Builder {
    bounds: Bounds,
    smoothing: f64,
    queue_size: u32,
    tolerance: f64,
    long_window: u32,
    recovery: f64,
    decrease_factor: f64,
}

const WARM_UP: u32 = 10;

impl Gradient2 {
    /// Returns a builder with the default settings.
    pub const fn builder() -> Gradient2Builder {
        Gradient2Builder {
            bounds: Bounds::DEFAULT,
            smoothing: 0.2,
            queue_size: 4,
            tolerance: 1.5,
            long_window: 600,
            recovery: 0.95,
            decrease_factor: 0.9,
        }
    }
}

impl Gradient2Builder {
    bounds_setters!();
    utilization_setter!();

    /// Sets how far one sample moves the limit towards its target: above 0, at most 1. Default 0.2.
    pub const fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// Sets the number of calls that may queue in the dependency, by which the limit grows while latency is good.
    /// Default 4. With 0 the limit does not grow.
    pub const fn queue_size(mut self, calls: u32) -> Self {
        self.queue_size = calls;
        self
    }

    /// Sets the factor by which latency may exceed its long-term average without a decrease, at least 1. Default
    /// 1.5.
    pub const fn tolerance(mut self, factor: f64) -> Self {
        self.tolerance = factor;
        self
    }

    /// Sets the number of samples that the long-term average covers, at least 1. Default 600.
    pub const fn long_window(mut self, samples: u32) -> Self {
        self.long_window = samples;
        self
    }

    /// Sets the factor of the long-term average per sample while it is more than twice the latency: above 0,
    /// at most 1. Default 0.95. 1 turns this off. The Go port of the source uses 0.9.
    pub const fn recovery(mut self, factor: f64) -> Self {
        self.recovery = factor;
        self
    }

    /// Sets the factor of the limit after an overload, from 0 to 1. Default 0.9.
    pub const fn decrease_factor(mut self, factor: f64) -> Self {
        self.decrease_factor = factor;
        self
    }

    /// Builds the algorithm.
    ///
    /// # Errors
    ///
    /// A minimum or an initial limit of 0, a maximum below the minimum, a smoothing, a factor, or a share outside its
    /// range, a tolerance below 1, or a window of 0.
    pub fn build(self) -> Result<Gradient2, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("gradient2", setting, problem));
        self.bounds.check("gradient2")?;
        share("gradient2", "smoothing", self.smoothing)?;
        share("gradient2", "recovery", self.recovery)?;
        share("gradient2", "decrease_factor", self.decrease_factor)?;
        if self.smoothing == 0.0 {
            return error("smoothing", "must be above 0");
        }
        if self.recovery == 0.0 {
            return error("recovery", "must be above 0");
        }
        if !(self.tolerance >= 1.0 && self.tolerance.is_finite()) {
            return error("tolerance", "must be a number of 1 or more");
        }
        if self.long_window == 0 {
            return error("long_window", "must be at least 1");
        }
        Ok(Gradient2 {
            limit: f64::from(self.bounds.initial),
            long: ExpAverage::new(self.long_window, WARM_UP),
            config: self,
            overload: OncePerRoundTrip::default(),
        })
    }
}

impl ConcurrencyLimit for Gradient2 {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn on_sample(&mut self, sample: &Sample) {
        let config = &self.config;
        if sample.overloaded {
            if self.overload.allows(sample) {
                self.overload.moved(sample);
                self.limit = config.bounds.clamp(self.limit * config.decrease_factor);
            }
            return;
        }
        let short = sample.nanos();
        let long = self.long.add(short);
        if long / short > 2.0 {
            self.long.scale(config.recovery);
        }
        // Latency gives no information about a limit that is not used.
        if !sample.uses_share(self.limit, config.bounds.utilization) {
            return;
        }
        let gradient = (config.tolerance * long / short).clamp(0.5, 1.0);
        let target = self.limit * gradient + f64::from(config.queue_size);
        let moved = self.limit * (1.0 - config.smoothing) + target * config.smoothing;
        self.limit = config.bounds.clamp(moved);
    }
}
