#![cfg_attr(feature = "tokio", doc = include_str!("../../../docs/patterns/adaptive-concurrency.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Algorithms that find the limit of an adaptive bulkhead."
)]

use std::fmt::Debug;
use std::time::Duration;

use crate::error::ConfigError;
use crate::instant::Instant;

pub use super::aimd::{Aimd, AimdBuilder};
pub use super::average::ExpAverage;
pub use super::correlated::{Correlated, CorrelatedBuilder};
pub use super::fixed::Fixed;
pub use super::gradient::{Gradient, GradientBuilder};
pub use super::gradient2::{Gradient2, Gradient2Builder};
pub use super::probe::Probe;
pub use super::vegas::{Vegas, VegasBuilder};
pub use super::windowed::{Windowed, WindowedBuilder};

/// Finds a concurrency limit from what calls went through.
///
/// The bulkhead gives it one sample at a time and applies [`limit`](Self::limit) after each, at
/// least 1. It is called outside all locks.
pub trait ConcurrencyLimit: Debug + Send + 'static {
    /// The limit now.
    fn limit(&self) -> u32;

    /// A call has ended.
    fn on_sample(&mut self, sample: &Sample);
}

impl ConcurrencyLimit for Box<dyn ConcurrencyLimit> {
    fn limit(&self) -> u32 {
        (**self).limit()
    }

    fn on_sample(&mut self, sample: &Sample) {
        (**self).on_sample(sample);
    }
}

/// What one call went through.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// When it ended.
    pub now: Instant,
    /// When its work began; the wait for a permit was before that.
    pub started: Instant,
    /// How long the work took.
    pub latency: Duration,
    /// How many permits were out when it began, its own included.
    pub in_flight: u32,
    /// It timed out, was refused as too much, or was dropped half-way. Its latency means nothing.
    pub overloaded: bool,
    /// All permits were out when it ended.
    pub full: bool,
    /// A random number in `[0, 1)`, for algorithms that spread their actions.
    pub random: f64,
}

impl Sample {
    /// A call that went well: it ended at `now` after `latency`, with `in_flight` permits out.
    pub fn new(now: Instant, latency: Duration, in_flight: u32) -> Self {
        let latency_nanos = crate::instant::nanos(latency);
        Self {
            now,
            started: Instant::from_nanos(now.as_nanos().saturating_sub(latency_nanos)),
            latency,
            in_flight,
            overloaded: false,
            full: false,
            random: 0.5,
        }
    }

    /// The same call, but it showed an overload.
    #[must_use]
    pub const fn overloaded(mut self) -> Self {
        self.overloaded = true;
        self
    }

    /// Whether at least half of `limit` was in use: only then does a good latency say that more
    /// would do no harm.
    pub const fn uses(&self, limit: u32) -> bool {
        self.in_flight as u64 * 2 >= limit as u64
    }

    /// Whether at least `share` of `limit` was in use.
    pub(super) fn uses_share(&self, limit: f64, share: f64) -> bool {
        f64::from(self.in_flight) >= limit * share
    }

    /// The latency as a number; never zero, so that it can be divided by.
    pub(super) fn nanos(&self) -> f64 {
        (crate::instant::nanos(self.latency) as f64).max(1.0)
    }
}

/// The number of digits of `limit` but one, at least 1: the step of Vegas.
pub fn log10_root(limit: u32) -> f64 {
    f64::from(limit.max(1).ilog10().max(1))
}

/// The square root of `limit` rounded down, at least `baseline`.
pub fn sqrt_root(limit: u32, baseline: u32) -> u32 {
    limit.isqrt().max(baseline)
}

/// Where a limit starts, and between what it stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) initial: u32,
    pub(super) min: u32,
    pub(super) max: u32,
    /// The share of the limit that must be in use for it to grow.
    pub(super) utilization: f64,
}

impl Bounds {
    pub(super) const DEFAULT: Self = Self {
        initial: 20,
        min: 1,
        max: 200,
        utilization: UTILIZATION,
    };

    pub(super) fn check(&self, policy: &'static str) -> Result<(), ConfigError> {
        let error = |setting, problem| Err(ConfigError::new(policy, setting, problem));
        if self.min == 0 {
            return error(
                "min",
                "must be at least 1: a limit of 0 could never rise again",
            );
        }
        if self.max < self.min {
            return error("max", "must not be below min");
        }
        if self.initial == 0 {
            return error("initial", "must be at least 1");
        }
        share(policy, "utilization", self.utilization)
    }

    pub(super) fn clamp(&self, limit: f64) -> f64 {
        // Not `clamp`: it would let NaN through.
        limit.min(f64::from(self.max)).max(f64::from(self.min))
    }
}

/// A check for settings that are shares.
pub(super) fn share(
    policy: &'static str,
    setting: &'static str,
    value: f64,
) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(policy, setting, "must be in 0 to 1"))
    }
}

/// The share of a limit that must be in use for it to grow.
pub(super) const UTILIZATION: f64 = 0.5;

/// The share of the calls of a window that may be overloads before the window is one.
pub(super) const OVERLOAD_SHARE: f64 = 0.1;

/// Whether `some` of `all` are more than a `share` of them.
pub(super) fn exceeds(some: u64, all: u64, share: f64) -> bool {
    some as f64 > all as f64 * share
}

/// Lets a limit move once per round trip: a call that began before the last move says nothing about
/// it. Moving with every sample would overshoot by as much as calls are in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OncePerRoundTrip {
    last: Option<Instant>,
}

impl OncePerRoundTrip {
    pub(super) fn allows(&self, sample: &Sample) -> bool {
        self.last.is_none_or(|last| sample.started >= last)
    }

    pub(super) const fn moved(&mut self, sample: &Sample) {
        self.last = Some(sample.now);
    }
}

/// The setters of `initial`, `min` and `max`.
macro_rules! bounds_setters {
    () => {
        /// The limit until the first sample has changed it, also when it is outside of
        /// [`min`](Self::min) and [`max`](Self::max). Default 20.
        pub const fn initial(mut self, limit: u32) -> Self {
            self.bounds.initial = limit;
            self
        }

        /// The smallest limit, at least 1. Default 1.
        pub const fn min(mut self, limit: u32) -> Self {
            self.bounds.min = limit;
            self
        }

        /// The largest limit. Default 200.
        pub const fn max(mut self, limit: u32) -> Self {
            self.bounds.max = limit;
            self
        }
    };
}
pub(super) use bounds_setters;

/// The setter of `utilization`.
macro_rules! utilization_setter {
    () => {
        /// The share of the limit that must be in use for it to grow: 0 to 1. Default 0.5; with 0.8 the
        /// limit stays closer to what is used.
        pub const fn utilization(mut self, share: f64) -> Self {
            self.bounds.utilization = share;
            self
        }
    };
}
pub(super) use utilization_setter;
