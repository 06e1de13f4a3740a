//! Looking for the latency without load, again and again.

use std::time::Duration;

use super::average::Latencies;
use super::limit::{Sample, share};
use crate::error::ConfigError;
use crate::instant::{Instant, nanos};

/// How an algorithm measures what latency is like without load: now and then it lets only a few calls
/// through at once, and takes the percentile of some of them.
///
/// While it does so, more calls wait or are refused; calls that began before do not count. Without
/// it, a dependency that has become slower for good would look overloaded for ever.
///
/// A probe takes as long as its samples do, `concurrency` at a time: with the defaults 17 round trips.
/// That is under 3 % of the time for calls of 100 ms, and a fifth for calls of a second: then probe less
/// often, or with fewer samples.
///
/// Defaults: every 60 s, spread by 15 %, 3 calls at once, 50 samples, the median. Source: Envoy's
/// adaptive concurrency filter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    pub(super) interval: Duration,
    pub(super) jitter: f64,
    pub(super) concurrency: u32,
    pub(super) samples: u32,
    pub(super) quantile: f64,
}

impl Probe {
    /// A probe at this interval, from the end of one to the beginning of the next. With zero there is
    /// nothing but probes; [`Duration::MAX`] makes none after the first.
    pub const fn every(interval: Duration) -> Self {
        Self {
            interval,
            jitter: 0.15,
            concurrency: 3,
            samples: 50,
            quantile: 0.5,
        }
    }

    /// By what share of the interval probes are put off at random, so that a fleet does not probe at
    /// once.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How many calls may run at once during a probe.
    #[must_use]
    pub const fn concurrency(mut self, calls: u32) -> Self {
        self.concurrency = calls;
        self
    }

    /// How many calls make a probe.
    #[must_use]
    pub const fn samples(mut self, samples: u32) -> Self {
        self.samples = samples;
        self
    }

    /// Which of their latencies counts: 0 is the smallest, 0.5 the median.
    #[must_use]
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    pub(super) fn check(&self, policy: &'static str) -> Result<(), ConfigError> {
        let error = |problem| Err(ConfigError::new(policy, "probe", problem));
        if self.concurrency == 0 {
            return error("needs a concurrency of at least 1");
        }
        if self.samples == 0 {
            return error("needs at least 1 sample");
        }
        share(policy, "probe", self.jitter)?;
        share(policy, "probe", self.quantile)
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self::every(Duration::from_secs(60))
    }
}

/// A probe and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    probe: Probe,
    /// When the next one begins; `None` before the first sample.
    next: Option<Instant>,
    /// The one under way, and when it began.
    running: Option<(Instant, Latencies)>,
}

/// What a sample is to the prober.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Probed {
    /// None of its business.
    NotProbing,
    /// It belongs to the probe, or is too old for it.
    Probing,
    /// It was the last one: this is the latency without load, in nanoseconds.
    Done(f64),
}

impl Prober {
    pub(super) const fn new(probe: Probe) -> Self {
        Self {
            probe,
            next: None,
            running: None,
        }
    }

    /// How many calls may run at once, if a probe is under way.
    pub(super) fn cap(&self) -> Option<u32> {
        self.running.as_ref().map(|_| self.probe.concurrency)
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.running = Some((now, Latencies::default()));
    }

    /// Begins a probe if it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.running.is_none() && self.next.is_some_and(|next| now >= next) {
            self.start(now);
        }
    }

    pub(super) fn on_sample(&mut self, sample: &Sample) -> Probed {
        let Some((since, latencies)) = &mut self.running else {
            let next = *self.next.get_or_insert(self.probe.after(sample));
            if sample.now >= next {
                self.start(sample.now);
                return Probed::Probing;
            }
            return Probed::NotProbing;
        };
        if sample.started < *since {
            return Probed::Probing;
        }
        latencies.add(sample.nanos(), sample.random);
        if latencies.len() < u64::from(self.probe.samples) {
            return Probed::Probing;
        }
        let measured = latencies.quantile(self.probe.quantile);
        self.running = None;
        self.next = Some(self.probe.after(sample));
        measured.map_or(Probed::Probing, Probed::Done)
    }
}

impl Probe {
    /// Returns when the next probe after this sample begins.
    fn after(&self, sample: &Sample) -> Instant {
        let stretched = nanos(self.interval) as f64 * (1.0 + self.jitter * sample.random);
        sample.now + Duration::from_nanos(stretched as u64)
    }
}
