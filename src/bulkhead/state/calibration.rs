//! Repeated measurement of the latency without load.

use std::time::Duration;

use super::average::Latencies;
use super::limit::{Sample, share};
use crate::error::ConfigError;
use crate::instant::{Instant, nanos};

/// Rules for measuring the latency without load, the baseline of [`Vegas`](super::limit::Vegas) and
/// [`Gradient`](super::limit::Gradient).
///
/// During a calibration the limit is lowered to a few concurrent calls, and a quantile of their latencies becomes
/// the new baseline. More calls wait or are rejected meanwhile. Calls that started before do not count. Without
/// calibrations, a dependency that has become permanently slower would look overloaded forever.
///
/// A calibration lasts `samples / concurrency` round trips, 17 by default. At one calibration a minute, that is
/// under 3 % of the time for calls of 100 ms, but a fifth for calls of one second. Calibrate less often then, or with
/// fewer samples.
///
/// | setting | default |
/// |---|---|
/// | [`every`](Self::every) | 60 s |
/// | [`jitter`](Self::jitter) | 0.15 |
/// | [`concurrency`](Self::concurrency) | 3 |
/// | [`samples`](Self::samples) | 50 |
/// | [`quantile`](Self::quantile) | 0.5 |
///
/// Source: Envoy's adaptive concurrency filter, where it is the "minRTT calculation window".
#[derive(Clone, Copy, PartialEq)]
pub struct Calibration {
    pub(super) interval: Duration,
    pub(super) jitter: f64,
    pub(super) concurrency: u32,
    pub(super) samples: u32,
    pub(super) quantile: f64,
}

crate::debug::debug_settings!(Calibration { jitter, concurrency, samples, quantile; interval });

impl Calibration {
    /// Returns rules for a calibration at this interval, from the end of one to the start of the next. With an
    /// interval of zero they follow each other immediately. With [`Duration::MAX`] there is none after the first.
    pub const fn every(interval: Duration) -> Self {
        Self {
            interval,
            jitter: 0.15,
            concurrency: 3,
            samples: 50,
            quantile: 0.5,
        }
    }

    /// Sets the largest random delay of a calibration, as a share of the interval from 0 to 1, so that the
    /// processes of a fleet do not calibrate simultaneously. Default 0.15.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Sets the limit during a calibration, at least 1. Default 3.
    #[must_use]
    pub const fn concurrency(mut self, calls: u32) -> Self {
        self.concurrency = calls;
        self
    }

    /// Sets the number of samples of a calibration, at least 1. Default 50.
    #[must_use]
    pub const fn samples(mut self, samples: u32) -> Self {
        self.samples = samples;
        self
    }

    /// Sets the quantile of the latencies that becomes the baseline: 0 is the smallest, 0.5 the median. Default 0.5.
    #[must_use]
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    pub(super) fn check(&self, policy: &'static str) -> Result<(), ConfigError> {
        let error = |problem| Err(ConfigError::new(policy, "calibration", problem));
        if self.concurrency == 0 {
            return error("needs a concurrency of at least 1");
        }
        if self.samples == 0 {
            return error("needs at least 1 sample");
        }
        share(policy, "calibration", self.jitter)?;
        share(policy, "calibration", self.quantile)
    }

    /// Returns when the next calibration after this sample starts.
    fn after(&self, sample: &Sample) -> Instant {
        let stretched = nanos(self.interval) as f64 * (1.0 + self.jitter * sample.random);
        sample.now + Duration::from_nanos(stretched as u64)
    }
}

impl Default for Calibration {
    fn default() -> Self {
        Self::every(Duration::from_secs(60))
    }
}

/// Runs calibrations by their rules.
#[derive(Clone, Debug)]
pub(super) struct Calibrator {
    rules: Calibration,
    /// When the next calibration starts; `None` before the first sample.
    next: Option<Instant>,
    /// The start and the latencies of the running calibration.
    running: Option<(Instant, Latencies)>,
}

/// The state of the calibrator after a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Progress {
    /// No calibration is running.
    Idle,
    /// A calibration is running. The sample belongs to it, or is older.
    Measuring,
    /// The sample ended the calibration. The value is the latency without load in nanoseconds.
    Done(f64),
}

impl Calibrator {
    pub(super) const fn new(rules: Calibration) -> Self {
        Self {
            rules,
            next: None,
            running: None,
        }
    }

    /// Returns the limit of the running calibration, if there is one.
    pub(super) fn cap(&self) -> Option<u32> {
        self.running.as_ref().map(|_| self.rules.concurrency)
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.running = Some((now, Latencies::default()));
    }

    /// Starts a calibration if one is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.running.is_none() && self.next.is_some_and(|next| now >= next) {
            self.start(now);
        }
    }

    pub(super) fn on_sample(&mut self, sample: &Sample) -> Progress {
        let Some((since, latencies)) = &mut self.running else {
            let next = *self.next.get_or_insert(self.rules.after(sample));
            if sample.now >= next {
                self.start(sample.now);
                return Progress::Measuring;
            }
            return Progress::Idle;
        };
        if sample.started < *since {
            return Progress::Measuring;
        }
        latencies.add(sample.nanos(), sample.random);
        if latencies.len() < u64::from(self.rules.samples) {
            return Progress::Measuring;
        }
        let measured = latencies.quantile(self.rules.quantile);
        self.running = None;
        self.next = Some(self.rules.after(sample));
        measured.map_or(Progress::Measuring, Progress::Done)
    }
}
