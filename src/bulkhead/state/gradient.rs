//! Envoy's gradient: current latency against a calibrated baseline.

use std::time::Duration;

use super::average::Latencies;
use super::calibration::{Calibration, Calibrator, Progress};
use super::limit::{ConcurrencyLimit, OVERLOAD_SHARE, Sample, UTILIZATION, exceeds, share};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Compares the latency of each window with the latency without load, which it [calibrates](Calibration) at the
/// start and periodically.
///
/// With `g = clamp(baseline · (1 + buffer) / latency, 0.5, 2)` the limit becomes `limit · g + √(limit · g)`. Five
/// consecutive windows at the minimum start a calibration, because the dependency may have become permanently
/// slower.
///
/// Source: Envoy's adaptive concurrency filter, with three changes:
///
/// * A window with more than a tenth of overloads multiplies the limit by 0.9, without the square root. Envoy
///   ignores overloads.
/// * The limit grows only while it is used.
/// * A window lasts at least two round trips without load. Otherwise the limit changes several times before the
///   first change shows in latencies, and oscillates.
#[derive(Clone, Debug)]
pub struct Gradient {
    config: GradientBuilder,
    limit: u32,
    /// Latency without load in nanoseconds; `None` before the first calibration.
    baseline: Option<f64>,
    calibrator: Calibrator,
    window: Latencies,
    began: Option<Instant>,
    overloads: u64,
    in_flight: u32,
    at_min: u32,
}

/// Builds a [`Gradient`].
///
/// | setting | default |
/// |---|---|
/// | [`min`](Self::min) / [`max`](Self::max) | 3 / 1000 |
/// | [`update_interval`](Self::update_interval) | 100 ms |
/// | [`quantile`](Self::quantile) | 0.5 |
/// | [`buffer`](Self::buffer) | 0.25 |
/// | [`calibration`](Self::calibration) | every 60 s |
/// | [`overload_share`](Self::overload_share) | 0.1 |
/// | [`utilization`](Self::utilization) | 0.5 |
#[derive(Clone, Copy, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct GradientBuilder {
    min: u32,
    max: u32,
    update_interval: Duration,
    quantile: f64,
    buffer: f64,
    calibration: Calibration,
    overload_share: f64,
    utilization: f64,
}

crate::debug::debug_settings!(GradientBuilder { min, max, quantile, buffer, calibration, overload_share, utilization; update_interval });

/// Number of consecutive windows at the minimum that start a calibration.
const WINDOWS_AT_MIN: u32 = 5;
/// Factor of the limit after a window of overload.
const BACKOFF: f64 = 0.9;

impl Gradient {
    /// Returns a builder with the default settings.
    pub fn builder() -> GradientBuilder {
        GradientBuilder {
            min: 3,
            max: 1000,
            update_interval: Duration::from_millis(100),
            quantile: 0.5,
            buffer: 0.25,
            calibration: Calibration::default(),
            overload_share: OVERLOAD_SHARE,
            utilization: UTILIZATION,
        }
    }

    /// Returns the latency without load, or `None` before the end of the first calibration.
    pub fn baseline(&self) -> Option<Duration> {
        let nanos = self.baseline?;
        Some(Duration::from_nanos(nanos as u64))
    }

    /// Returns whether a calibration is running.
    pub fn is_calibrating(&self) -> bool {
        self.calibrator.cap().is_some()
    }

    /// Ends the window and starts a calibration if they are due at `now`. Each sample does the same, so this is only
    /// needed to read an up-to-date limit while there are no samples. Envoy uses timers.
    pub fn tick(&mut self, now: Instant) {
        if self.is_calibrating() {
            return;
        }
        self.update(now);
        self.calibrator.tick(now);
        if self.is_calibrating() {
            self.clear();
        }
    }

    /// Updates the limit from the window, if the window has ended.
    fn update(&mut self, now: Instant) {
        let config = &self.config;
        let began = *self.began.get_or_insert(now);
        // A change shows in latencies after one round trip, and in all of them after two.
        let round_trips = Duration::from_nanos((2.0 * self.baseline.unwrap_or(0.0)) as u64);
        let window = config.update_interval.max(round_trips);
        if now < began + window {
            return;
        }
        self.began = Some(now);
        let (Some(latency), Some(baseline)) =
            (self.window.quantile(config.quantile), self.baseline)
        else {
            return;
        };
        let limit = f64::from(self.limit);
        let target = if exceeds(self.overloads, self.window.len(), config.overload_share) {
            limit * BACKOFF
        } else {
            let gradient = (baseline * (1.0 + config.buffer) / latency).clamp(0.5, 2.0);
            let scaled = limit * gradient;
            scaled + scaled.sqrt()
        };
        let was_at_min = self.limit == config.min;
        let used = f64::from(self.in_flight) >= limit * config.utilization;
        if target < limit || used {
            self.limit = target.min(f64::from(config.max)).max(f64::from(config.min)) as u32;
        }
        self.at_min = if was_at_min && self.limit == config.min {
            self.at_min + 1
        } else {
            0
        };
        self.clear();
        if self.at_min >= WINDOWS_AT_MIN {
            self.at_min = 0;
            // A running calibration keeps its samples.
            if !self.is_calibrating() {
                self.calibrator.start(now);
            }
        }
    }

    fn clear(&mut self) {
        self.window.clear();
        self.overloads = 0;
        self.in_flight = 0;
    }
}

impl GradientBuilder {
    /// Sets the smallest limit, which is also the initial one. Default 3.
    pub const fn min(mut self, limit: u32) -> Self {
        self.min = limit;
        self
    }

    /// Sets the largest limit. Default 1000.
    pub const fn max(mut self, limit: u32) -> Self {
        self.max = limit;
        self
    }

    /// Sets the length of a window. It lasts at least twice the latency without load. Default 100 ms.
    pub const fn update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = interval;
        self
    }

    /// Sets the quantile of a window's latencies, from 0 to 1, that is compared. Default 0.5.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    /// Sets the share by which latency may exceed the latency without load. Default 0.25. With 0
    /// any excess lowers the limit.
    pub const fn buffer(mut self, share: f64) -> Self {
        self.buffer = share;
        self
    }

    /// Sets how the latency without load is measured. Default every 60 s.
    pub const fn calibration(mut self, calibration: Calibration) -> Self {
        self.calibration = calibration;
        self
    }

    /// Sets the share of overloads, from 0 to 1, above which a window counts as overload. With 0 a single overload
    /// suffices. Default 0.1.
    pub const fn overload_share(mut self, share: f64) -> Self {
        self.overload_share = share;
        self
    }

    /// Sets the share of the limit that must be in use for the limit to grow, from 0 to 1. Default 0.5.
    /// With 0 it grows at any use.
    pub const fn utilization(mut self, share: f64) -> Self {
        self.utilization = share;
        self
    }

    /// Builds the algorithm. It starts with a calibration.
    ///
    /// # Errors
    ///
    /// A minimum of 0, a maximum below it, a window of zero, a quantile or a share outside 0 to 1, a buffer that is
    /// negative or not finite, or a calibration without concurrency or samples.
    pub fn build(self) -> Result<Gradient, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("gradient", setting, problem));
        if self.min == 0 {
            return error(
                "min",
                "must be at least 1, because a limit of 0 could never grow",
            );
        }
        if self.max < self.min {
            return error("max", "must not be below min");
        }
        if self.update_interval.is_zero() {
            return error("update_interval", "must be above zero");
        }
        if !(self.buffer >= 0.0 && self.buffer.is_finite()) {
            return error("buffer", "must be a number of 0 or more");
        }
        share("gradient", "quantile", self.quantile)?;
        share("gradient", "overload_share", self.overload_share)?;
        share("gradient", "utilization", self.utilization)?;
        self.calibration.check("gradient")?;
        let mut calibrator = Calibrator::new(self.calibration);
        calibrator.start(Instant::ORIGIN);
        Ok(Gradient {
            limit: self.min,
            baseline: None,
            calibrator,
            window: Latencies::default(),
            began: None,
            overloads: 0,
            in_flight: 0,
            at_min: 0,
            config: self,
        })
    }
}

impl ConcurrencyLimit for Gradient {
    fn limit(&self) -> u32 {
        match self.calibrator.cap() {
            // Overloads may have lowered the limit further.
            Some(cap) if self.baseline.is_some() => cap.min(self.limit),
            Some(cap) => cap,
            None => self.limit,
        }
    }

    fn on_sample(&mut self, sample: &Sample) {
        if !sample.overloaded {
            match self.calibrator.on_sample(sample) {
                Progress::Idle => {}
                Progress::Measuring => {
                    self.clear();
                    return;
                }
                Progress::Done(latency) => {
                    self.baseline = Some(latency);
                    self.began = Some(sample.now);
                    self.clear();
                    return;
                }
            }
        }
        // First, because an ended window does not include this call.
        self.update(sample.now);
        self.overloads += u64::from(sample.overloaded);
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.window.add(sample.nanos(), sample.random);
    }
}
