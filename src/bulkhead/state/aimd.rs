//! Additive increase, multiplicative decrease.

use std::time::Duration;

use super::limit::{
    Bounds, ConcurrencyLimit, OncePerRoundTrip, Sample, bounds_setters, share, utilization_setter,
};
use crate::error::ConfigError;

/// Adds one permit per round trip of successes while the limit is used, and removes a tenth after an overload.
///
/// Source: Netflix concurrency-limits, `AIMDLimit`, with one change: the limit grows and shrinks at most once per
/// round trip, as in TCP. Otherwise a hundred calls that time out together would cause a hundred decreases.
/// [`every_sample`](AimdBuilder::every_sample) restores Netflix's rule.
///
/// ```
/// use std::time::Duration;
/// use backstop::Bulkhead;
/// use backstop::bulkhead::limit::Aimd;
///
/// let limit = Aimd::builder().initial(10).max(100).timeout(Duration::from_secs(1)).build()?;
/// let bulkhead = Bulkhead::builder().adaptive(limit).build()?;
/// assert_eq!(bulkhead.limit(), 10);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Aimd {
    config: AimdBuilder,
    limit: u32,
    /// Limits growth to once per round trip after any change.
    moves: OncePerRoundTrip,
    /// Limits decreases to one per round trip.
    shrinks: OncePerRoundTrip,
}

/// Builds an [`Aimd`].
///
/// | setting | default |
/// |---|---|
/// | [`initial`](Self::initial) / [`min`](Self::min) / [`max`](Self::max) | 20 / 1 / 200 |
/// | [`utilization`](Self::utilization) | 0.5 |
/// | [`increase_by`](Self::increase_by) | 1 |
/// | [`decrease_factor`](Self::decrease_factor) | 0.9 |
/// | [`timeout`](Self::timeout) | 5 s |
/// | [`every_sample`](Self::every_sample) | no: once per round trip |
#[derive(Clone, Copy)]
#[must_use = "a builder does nothing until `build`"]
pub struct AimdBuilder {
    bounds: Bounds,
    increase: u32,
    decrease_factor: f64,
    timeout: Duration,
    every_sample: bool,
}

crate::debug::debug_settings!(AimdBuilder { bounds, increase, decrease_factor, every_sample; timeout });

impl Aimd {
    /// Returns a builder with the default settings.
    pub const fn builder() -> AimdBuilder {
        AimdBuilder {
            bounds: Bounds::DEFAULT,
            increase: 1,
            decrease_factor: 0.9,
            timeout: Duration::from_secs(5),
            every_sample: false,
        }
    }
}

impl AimdBuilder {
    bounds_setters!();
    utilization_setter!();

    /// Sets the number of permits that an increase adds, at least 1. Default 1. A larger step reaches a distant limit
    /// sooner, and overshoots more.
    pub const fn increase_by(mut self, permits: u32) -> Self {
        self.increase = permits;
        self
    }

    /// Sets the factor of a decrease, from 0 to 1. Default 0.9. With 0 the limit drops to the minimum at once.
    pub const fn decrease_factor(mut self, factor: f64) -> Self {
        self.decrease_factor = factor;
        self
    }

    /// Sets the latency above which a call counts as overload. Default 5 s. With zero every call does.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether every sample changes the limit, instead of one per round trip. Default `false`.
    pub const fn every_sample(mut self, every: bool) -> Self {
        self.every_sample = every;
        self
    }

    /// Builds the algorithm.
    ///
    /// # Errors
    ///
    /// A minimum or an initial limit of 0, a maximum below the minimum, an increase of 0, or a factor or a share
    /// outside 0 to 1.
    pub fn build(self) -> Result<Aimd, ConfigError> {
        self.bounds.check("aimd")?;
        share("aimd", "decrease_factor", self.decrease_factor)?;
        if self.increase == 0 {
            return Err(ConfigError::new(
                "aimd",
                "increase_by",
                "must be at least 1",
            ));
        }
        Ok(Aimd {
            limit: self.bounds.initial,
            config: self,
            moves: OncePerRoundTrip::default(),
            shrinks: OncePerRoundTrip::default(),
        })
    }
}

impl ConcurrencyLimit for Aimd {
    fn limit(&self) -> u32 {
        self.limit
    }

    fn on_sample(&mut self, sample: &Sample) {
        let config = &self.config;
        let limit = if sample.overloaded || sample.latency > config.timeout {
            if !self.shrinks.allows(sample) && !config.every_sample {
                return;
            }
            self.shrinks.moved(sample);
            f64::from(self.limit) * config.decrease_factor
        } else {
            let may_grow = self.moves.allows(sample) || config.every_sample;
            if !(may_grow && sample.uses_share(f64::from(self.limit), config.bounds.utilization)) {
                return;
            }
            f64::from(self.limit) + f64::from(config.increase)
        };
        self.moves.moved(sample);
        self.limit = config.bounds.clamp(limit.floor()) as u32;
    }
}
