//! Envoy's gradient: the latency of now against one that was probed without load.

use std::time::Duration;

use super::average::Latencies;
use super::limit::{ConcurrencyLimit, OVERLOAD_SHARE, Sample, UTILIZATION, exceeds, share};
use super::probe::{Probe, Probed, Prober};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Compares the latency of each window with the latency without load, which it probes first of all and
/// then again and again.
///
/// With `g = clamp(smallest · (1 + buffer) / latency, 0.5, 2)` the limit becomes
/// `limit · g + √(limit · g)`. Five windows in a row at the smallest limit cause a new probe: what was
/// taken for overload may be how the dependency is now.
///
/// Source: Envoy's adaptive concurrency filter, with three changes: a window of which more than a tenth
/// were overloads multiplies the limit with 0.9 without the growth by the root (there they are left
/// out); the limit grows only while it is used; and a window lasts for two round trips without load at
/// least, or a limit that moves several times before a move shows would swing.
#[derive(Clone, Debug)]
pub struct Gradient {
    config: GradientBuilder,
    limit: u32,
    smallest: Option<f64>,
    prober: Prober,
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
/// | [`probe`](Self::probe) | every 60 s |
/// | [`overload_share`](Self::overload_share) | 0.1 |
/// | [`utilization`](Self::utilization) | 0.5 |
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct GradientBuilder {
    min: u32,
    max: u32,
    update_interval: Duration,
    quantile: f64,
    buffer: f64,
    probe: Probe,
    overload_share: f64,
    utilization: f64,
}

/// So many windows in a row at the smallest limit cause a probe.
const WINDOWS_AT_MIN: u32 = 5;
/// What an overload multiplies the limit with.
const BACKOFF: f64 = 0.9;

impl Gradient {
    /// Sets everything.
    pub fn builder() -> GradientBuilder {
        GradientBuilder {
            min: 3,
            max: 1000,
            update_interval: Duration::from_millis(100),
            quantile: 0.5,
            buffer: 0.25,
            probe: Probe::default(),
            overload_share: OVERLOAD_SHARE,
            utilization: UTILIZATION,
        }
    }

    /// The latency without load, once the first probe is over.
    pub fn baseline(&self) -> Option<Duration> {
        let nanos = self.smallest?;
        Some(Duration::from_nanos(nanos as u64))
    }

    /// Whether a probe is under way.
    pub fn is_probing(&self) -> bool {
        self.prober.cap().is_some()
    }

    /// Ends the window and begins the probe that are due at `now`. A sample does the same, so this is
    /// for those who look at the limit while there are none; Envoy has timers for it.
    pub fn tick(&mut self, now: Instant) {
        if self.is_probing() {
            return;
        }
        self.update(now);
        self.prober.tick(now);
        if self.is_probing() {
            self.clear();
        }
    }

    /// Moves the limit by what the window has seen, if it is over.
    fn update(&mut self, now: Instant) {
        let config = &self.config;
        let began = *self.began.get_or_insert(now);
        // What a move has changed shows after a round trip, and shows in all calls after two.
        let round_trips = Duration::from_nanos((2.0 * self.smallest.unwrap_or(0.0)) as u64);
        let window = config.update_interval.max(round_trips);
        if now < began + window {
            return;
        }
        self.began = Some(now);
        let (Some(latency), Some(smallest)) =
            (self.window.quantile(config.quantile), self.smallest)
        else {
            return;
        };
        let limit = f64::from(self.limit);
        let target = if exceeds(self.overloads, self.window.len(), config.overload_share) {
            limit * BACKOFF
        } else {
            let gradient = (smallest * (1.0 + config.buffer) / latency).clamp(0.5, 2.0);
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
            // Not one that is under way: it would lose what it has seen.
            if !self.is_probing() {
                self.prober.start(now);
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
    /// The smallest limit, and the first one. Default 3.
    pub const fn min(mut self, limit: u32) -> Self {
        self.min = limit;
        self
    }

    /// The largest limit. Default 1000.
    pub const fn max(mut self, limit: u32) -> Self {
        self.max = limit;
        self
    }

    /// How long a window is; at least twice the latency without load.
    pub const fn update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = interval;
        self
    }

    /// Which latency of a window counts: 0.5 is the median.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    /// By what share latency may rise above that without load.
    pub const fn buffer(mut self, share: f64) -> Self {
        self.buffer = share;
        self
    }

    /// How the latency without load is measured.
    pub const fn probe(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// A window is an overload when more than this share of its calls were: 0 to 1. With 0 a single
    /// one is enough.
    pub const fn overload_share(mut self, share: f64) -> Self {
        self.overload_share = share;
        self
    }

    /// The share of the limit that must be in use for it to grow: 0 to 1.
    pub const fn utilization(mut self, share: f64) -> Self {
        self.utilization = share;
        self
    }

    /// The algorithm. It begins with a probe.
    ///
    /// # Errors
    ///
    /// A smallest limit of 0, a largest below it, a window of zero, a quantile or a share outside 0 to 1,
    /// a buffer that is negative or not a number, a probe that makes no sense.
    pub fn build(self) -> Result<Gradient, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("gradient", setting, problem));
        if self.min == 0 {
            return error(
                "min",
                "must be at least 1: a limit of 0 could never rise again",
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
        self.probe.check("gradient")?;
        let mut prober = Prober::new(self.probe);
        prober.start(Instant::ORIGIN);
        Ok(Gradient {
            limit: self.min,
            smallest: None,
            prober,
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
        match self.prober.cap() {
            // An overload may have brought the limit below what a probe needs.
            Some(cap) if self.smallest.is_some() => cap.min(self.limit),
            Some(cap) => cap,
            None => self.limit,
        }
    }

    fn on_sample(&mut self, sample: &Sample) {
        if !sample.overloaded {
            match self.prober.on_sample(sample) {
                Probed::NotProbing => {}
                Probed::Probing => {
                    self.clear();
                    return;
                }
                Probed::Done(latency) => {
                    self.smallest = Some(latency);
                    self.began = Some(sample.now);
                    self.clear();
                    return;
                }
            }
        }
        // The window that is over does not contain this call.
        self.update(sample.now);
        self.overloads += u64::from(sample.overloaded);
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.window.add(sample.nanos(), sample.random);
    }
}
