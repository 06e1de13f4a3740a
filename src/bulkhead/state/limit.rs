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
pub use super::calibration::Calibration;
pub use super::correlated::{Correlated, CorrelatedBuilder};
pub use super::curve;
pub use super::fixed::Fixed;
pub use super::gradient::{Gradient, GradientBuilder};
pub use super::gradient2::{Gradient2, Gradient2Builder};
pub use super::vegas::{Vegas, VegasBuilder};
pub use super::windowed::{Windowed, WindowedBuilder};

/// Finds a concurrency limit from samples of calls.
///
/// The bulkhead passes one sample at a time and applies [`limit`](Self::limit) after each. A limit of 0 counts as
/// 1, so there is always a call that can show that the dependency has recovered. No lock is held.
///
/// An algorithm is `Clone` and `Sync`, so that a [`BulkheadBuilder`](super::super::BulkheadBuilder) can be the
/// template of a [`Keyed`](crate::Keyed) set.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an algorithm that finds a limit",
    note = "algorithms are `Aimd`, `Vegas`, `Gradient`, `Gradient2`, `Correlated`, and `Windowed`; one of your own is `Clone`, `Debug`, `Send`, and `Sync`",
    note = "for a builder of one: is its `build()?` missing?"
)]
pub trait ConcurrencyLimit: CloneLimit + Debug + Send + Sync + 'static {
    /// Returns the current limit.
    fn limit(&self) -> u32;

    /// Records a finished call.
    fn on_sample(&mut self, sample: &Sample);
}

/// Clones an algorithm behind a trait object. Implemented for every algorithm that is `Clone`.
#[doc(hidden)]
pub trait CloneLimit {
    fn clone_boxed(&self) -> Box<dyn ConcurrencyLimit>;
}

impl<L: ConcurrencyLimit + Clone> CloneLimit for L {
    fn clone_boxed(&self) -> Box<dyn ConcurrencyLimit> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn ConcurrencyLimit> {
    fn clone(&self) -> Self {
        (**self).clone_boxed()
    }
}

impl ConcurrencyLimit for Box<dyn ConcurrencyLimit> {
    fn limit(&self) -> u32 {
        (**self).limit()
    }

    fn on_sample(&mut self, sample: &Sample) {
        (**self).on_sample(sample);
    }
}

/// One finished call, as an algorithm sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// When the call ended.
    pub now: Instant,
    /// When the operation started, after any wait for a permit.
    pub started: Instant,
    /// Latency of the operation.
    pub latency: Duration,
    /// Number of permits in flight when the operation started, including its own.
    pub in_flight: u32,
    /// Whether the call showed overload: it timed out, was throttled, or was dropped while it ran. Then its latency
    /// means nothing.
    pub overloaded: bool,
    /// Whether all permits were in flight when the call ended.
    pub full: bool,
    /// A random number in `[0, 1)`, for algorithms that need chance.
    pub random: f64,
}

impl Sample {
    /// Returns the sample of a successful call that ended at `now` after `latency`, with `in_flight` permits in
    /// flight.
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

    /// Returns the sample of the same call, marked as overload.
    #[must_use]
    pub const fn overloaded(mut self) -> Self {
        self.overloaded = true;
        self
    }

    /// Returns whether at least half of `limit` was in use. A good latency below that does not show that a higher
    /// limit is safe.
    pub const fn uses(&self, limit: u32) -> bool {
        self.in_flight as u64 * 2 >= limit as u64
    }

    /// Returns whether at least `share` of `limit` was in use.
    pub(super) fn uses_share(&self, limit: f64, share: f64) -> bool {
        f64::from(self.in_flight) >= limit * share
    }

    /// Returns the latency in nanoseconds, at least 1, because algorithms divide by it.
    pub(super) fn nanos(&self) -> f64 {
        (crate::instant::nanos(self.latency) as f64).max(1.0)
    }
}

/// The initial value, the bounds, and the growth condition of a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) initial: u32,
    pub(super) min: u32,
    pub(super) max: u32,
    /// Share of the limit that must be in use for the limit to grow.
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
                "must be at least 1, because a limit of 0 could never grow",
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
        // Not `f64::clamp`, which returns NaN for NaN.
        limit.min(f64::from(self.max)).max(f64::from(self.min))
    }
}

/// Checks a setting that is a share.
pub(super) fn share(
    policy: &'static str,
    setting: &'static str,
    value: f64,
) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(policy, setting, "must be from 0 to 1"))
    }
}

/// Default share of a limit that must be in use for the limit to grow.
pub(super) const UTILIZATION: f64 = 0.5;

/// Default share of a window's calls above which the window counts as overload.
pub(super) const OVERLOAD_SHARE: f64 = 0.1;

/// Returns whether `count` is more than `share` of `total`.
pub(super) fn exceeds(count: u64, total: u64, share: f64) -> bool {
    count as f64 > total as f64 * share
}

/// Limits changes to one per round trip. The latency of a call that started before the last change does not reflect it,
/// so a change with every sample would overshoot by the number of calls in flight.
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
        /// Sets the limit until the first change. It may be outside [`min`](Self::min) and [`max`](Self::max).
        /// Default 20.
        pub const fn initial(mut self, limit: u32) -> Self {
            self.bounds.initial = limit;
            self
        }

        /// Sets the smallest limit, at least 1. Default 1.
        pub const fn min(mut self, limit: u32) -> Self {
            self.bounds.min = limit;
            self
        }

        /// Sets the largest limit. Default 200.
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
        /// Sets the share of the limit that must be in use for the limit to grow, from 0 to 1. Default 0.5. With
        /// 0 the limit grows at any use, with 0.8 it stays closer to the number of calls in flight.
        pub const fn utilization(mut self, share: f64) -> Self {
            self.bounds.utilization = share;
            self
        }
    };
}
pub(super) use utilization_setter;
