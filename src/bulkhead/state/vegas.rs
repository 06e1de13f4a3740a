//! Vegas: estimates the queue in the dependency.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::calibration::{Calibration, Calibrator, Progress};
use super::curve;
use super::limit::{
    Bounds, ConcurrencyLimit, OncePerRoundTrip, Sample, bounds_setters, utilization_setter,
};
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::Instant;

/// Estimates the queue inside the dependency from the latency, and keeps it between two bounds.
///
/// With `queue = ⌈limit · (1 − baseline / latency)⌉`, where the baseline is the smallest latency:
///
/// | queue | limit |
/// |---|---|
/// | up to `threshold` | grows by `beta` |
/// | below `alpha` | grows to `increase` |
/// | from `alpha` to `beta` | stays |
/// | above `beta`, or an overload | shrinks to `decrease` |
///
/// All five are functions of the limit.
///
/// Suits calls of similar length. Any latency above the baseline counts as queueing, so with exponentially
/// distributed latencies it uses less than a third of the capacity.
///
/// The baseline would become stale when the dependency becomes permanently slower, so it is measured
/// [periodically](Calibration). Netflix instead takes the latency of one call every few hundred samples, with or
/// without load, which lets the limit drift upwards.
///
/// Source: Netflix concurrency-limits, `VegasLimit`, with one change. There every sample changes the limit. Here
/// one per round trip does, as in TCP Vegas, because otherwise the limit overshoots by the number of calls in
/// flight. [`every_sample`](VegasBuilder::every_sample) restores Netflix's rule.
#[derive(Clone, Debug)]
pub struct Vegas {
    config: VegasBuilder,
    limit: f64,
    smallest: Smallest,
    calibrator: Option<Calibrator>,
    /// Limits changes by latencies to one per round trip.
    moves: OncePerRoundTrip,
    /// Limits decreases by overloads to one per round trip.
    shrinks: OncePerRoundTrip,
}

type Curve = Arc<dyn Fn(f64) -> f64 + Send + Sync>;

/// Builds a [`Vegas`].
///
/// | setting | default |
/// |---|---|
/// | [`initial`](Self::initial) / [`min`](Self::min) / [`max`](Self::max) | 20 / 1 / 200 |
/// | [`utilization`](Self::utilization) | 0.5 |
/// | [`alpha`](Self::alpha) / [`beta`](Self::beta) | 3 / 6 · log10(limit) |
/// | [`threshold`](Self::threshold) | log10(limit) |
/// | [`increase`](Self::increase) / [`decrease`](Self::decrease) | by log10(limit) |
/// | [`smoothing`](Self::smoothing) | 1 |
/// | [`calibration`](Self::calibration) | every 60 s |
/// | [`max_baseline_age`](Self::max_baseline_age) | none |
/// | [`every_sample`](Self::every_sample) | no: once per round trip |
///
/// `log10` is rounded down and at least 1.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct VegasBuilder {
    bounds: Bounds,
    alpha: Curve,
    beta: Curve,
    threshold: Curve,
    increase: Curve,
    decrease: Curve,
    smoothing: f64,
    calibration: Option<Calibration>,
    max_baseline_age: Option<Duration>,
    every_sample: bool,
}

fn step(limit: f64) -> f64 {
    curve::log10(limit as u32)
}

impl Vegas {
    /// Returns a builder with the default settings.
    pub fn builder() -> VegasBuilder {
        VegasBuilder {
            bounds: Bounds::DEFAULT,
            alpha: Arc::new(|limit| 3.0 * step(limit)),
            beta: Arc::new(|limit| 6.0 * step(limit)),
            threshold: Arc::new(step),
            increase: Arc::new(|limit| limit + step(limit)),
            decrease: Arc::new(|limit| limit - step(limit)),
            smoothing: 1.0,
            calibration: Some(Calibration::default()),
            max_baseline_age: None,
            every_sample: false,
        }
    }

    /// Returns the baseline: the smallest latency known, or `None` before the first sample.
    pub fn baseline(&self) -> Option<Duration> {
        let nanos = self.smallest.value?;
        Some(Duration::from_nanos(nanos as u64))
    }

    fn move_to(&mut self, target: f64) {
        if target.is_nan() {
            // A user's function returned NaN.
            return;
        }
        let target = self.config.bounds.clamp(target);
        let smoothing = self.config.smoothing;
        // The initial limit may be outside the bounds.
        let moved = self.limit * (1.0 - smoothing) + target * smoothing;
        self.limit = moved.max(1.0);
    }
}

macro_rules! curves {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, of_limit: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Self {
            self.$name = Arc::new(of_limit);
            self
        }
    )*};
}

impl VegasBuilder {
    bounds_setters!();
    utilization_setter!();

    curves! {
        /// Sets the length of the queue below which the limit grows, as a function of the limit. Default 3 · log10.
        alpha;
        /// Sets the length of the queue above which the limit shrinks, as a function of the limit. Default 6 · log10.
        beta;
        /// Sets the length of the queue up to which the limit grows by `beta`, as a function of the limit. Default
        /// log10.
        threshold;
        /// Sets the limit after an increase, as a function of the limit. Default limit + log10.
        increase;
        /// Sets the limit after a decrease, as a function of the limit. Default limit − log10.
        decrease;
    }

    /// Sets how far one sample moves the limit towards its target: above 0, at most 1. Default 1.
    pub const fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// Sets how the baseline is measured. Default every 60 s. `None` turns calibrations off.
    pub fn calibration(mut self, calibration: impl Into<Option<Calibration>>) -> Self {
        self.calibration = calibration.into();
        self
    }

    /// Replaces a baseline of this age with the smallest latency since it was set. Default none. Unlike a
    /// calibration it holds no call back, but a queue that persists in the dependency for this long becomes the
    /// baseline.
    pub const fn max_baseline_age(mut self, after: Duration) -> Self {
        self.max_baseline_age = Some(after);
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
    /// A minimum or an initial limit of 0, a maximum below the minimum, a smoothing outside (0, 1], a share outside 0
    /// to 1, a largest age of zero, or a calibration without concurrency or samples.
    pub fn build(self) -> Result<Vegas, ConfigError> {
        self.bounds.check("vegas")?;
        if let Some(calibration) = &self.calibration {
            calibration.check("vegas")?;
        }
        if !(self.smoothing > 0.0 && self.smoothing <= 1.0) {
            return Err(ConfigError::new(
                "vegas",
                "smoothing",
                "must be above 0 and at most 1",
            ));
        }
        if self.max_baseline_age == Some(Duration::ZERO) {
            return Err(ConfigError::new(
                "vegas",
                "max_baseline_age",
                "must be above zero",
            ));
        }
        Ok(Vegas {
            limit: f64::from(self.bounds.initial),
            smallest: Smallest::default(),
            calibrator: self.calibration.map(Calibrator::new),
            moves: OncePerRoundTrip::default(),
            shrinks: OncePerRoundTrip::default(),
            config: self,
        })
    }
}

impl ConcurrencyLimit for Vegas {
    fn limit(&self) -> u32 {
        let limit = self.limit as u32;
        match self.calibrator.as_ref().and_then(Calibrator::cap) {
            Some(cap) => limit.min(cap),
            None => limit,
        }
    }

    fn on_sample(&mut self, sample: &Sample) {
        if sample.overloaded {
            if self.shrinks.allows(sample) || self.config.every_sample {
                self.shrinks.moved(sample);
                self.move_to((self.config.decrease)(self.limit));
            }
            return;
        }
        if let Some(calibrator) = &mut self.calibrator {
            match calibrator.on_sample(sample) {
                Progress::Idle => {}
                Progress::Measuring => return,
                Progress::Done(latency) => {
                    self.smallest = Smallest::new(latency, sample.now);
                    return;
                }
            }
        }
        if sample.latency.is_zero() {
            // The clock stood still during the call. A baseline of zero could never be undercut.
            return;
        }
        let latency = sample.nanos();
        let Some(smallest) = self
            .smallest
            .add(latency, sample.now, self.config.max_baseline_age)
        else {
            return;
        };
        // Latency gives no information about a limit that is not used.
        if !sample.uses_share(self.limit, self.config.bounds.utilization) {
            return;
        }
        let config = &self.config;
        if !(self.moves.allows(sample) || config.every_sample) {
            return;
        }
        let limit = self.limit;
        let queue = (limit * (1.0 - smallest / latency)).ceil();
        let beta = (config.beta)(limit);
        let target = if queue <= (config.threshold)(limit) {
            limit + beta
        } else if queue < (config.alpha)(limit) {
            (config.increase)(limit)
        } else if queue > beta {
            (config.decrease)(limit)
        } else {
            return;
        };
        self.moves.moved(sample);
        self.move_to(target);
    }
}

/// The smallest latency in nanoseconds, which may expire.
#[derive(Clone, Copy, Debug, Default)]
struct Smallest {
    value: Option<f64>,
    /// The smallest latency since `since`, which replaces an expired value.
    successor: Option<f64>,
    since: Instant,
}

impl Smallest {
    const fn new(value: f64, now: Instant) -> Self {
        Self {
            value: Some(value),
            successor: None,
            since: now,
        }
    }

    /// Adds a latency. Returns the smallest one, or `None` if it is this one.
    fn add(&mut self, latency: f64, now: Instant, max_age: Option<Duration>) -> Option<f64> {
        let value = match self.value {
            Some(value) if value <= latency => value,
            _ => {
                *self = Self::new(latency, now);
                return None;
            }
        };
        let successor = self.successor.map_or(latency, |least| least.min(latency));
        self.successor = Some(successor);
        if max_age.is_some_and(|age| now >= self.since + age) {
            *self = Self::new(successor, now);
            return Some(successor);
        }
        Some(value)
    }
}

impl fmt::Debug for VegasBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VegasBuilder")
            .field("bounds", &self.bounds)
            .field("smoothing", &self.smoothing)
            .field("calibration", &self.calibration)
            .field("max_baseline_age", &DebugLimit(&self.max_baseline_age))
            .finish_non_exhaustive()
    }
}
