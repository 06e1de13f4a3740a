//! Vegas: how many calls queue up in the dependency.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::limit::{
    Bounds, ConcurrencyLimit, OncePerRoundTrip, Sample, bounds_setters, log10_root,
    utilization_setter,
};
use super::probe::{Probe, Probed, Prober};
use crate::error::ConfigError;
use crate::instant::Instant;

/// Estimates from the latency how many calls queue up in the dependency, and keeps that between two
/// bounds.
///
/// With `queue = ⌈limit · (1 − smallest / latency)⌉`: up to `threshold` the limit grows by `beta`;
/// below `alpha` it grows, above `beta` it shrinks, between them it stays. An overload shrinks it.
/// `alpha`, `beta`, `threshold` and the steps depend on the limit.
///
/// For calls that take about as long as each other: it takes the quickest for one that met no queue, and
/// whatever others take longer for queueing. Where latencies are spread exponentially, a third of the
/// capacity is all that it uses.
///
/// The smallest latency would be out of date when the dependency becomes slower for good, so it is
/// [probed](Probe) again and again. (Netflix takes any latency every few hundred samples, under load
/// or not, which lets the limit drift upwards.)
///
/// Source: Netflix concurrency-limits, `VegasLimit`, with one change: there every sample moves the limit,
/// here one per round trip, as in TCP Vegas. Otherwise it overshoots by as much as calls are in
/// flight. [`every_sample`](VegasBuilder::every_sample) is Netflix's way.
#[derive(Clone, Debug)]
pub struct Vegas {
    config: VegasBuilder,
    limit: f64,
    smallest: Smallest,
    prober: Option<Prober>,
    /// Paces what latencies do.
    moves: OncePerRoundTrip,
    /// Paces what overloads do.
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
/// | [`probe`](Self::probe) | every 60 s |
/// | [`decay`](Self::decay) | none |
/// | [`every_sample`](Self::every_sample) | no: once per round trip |
///
/// `log10` is that of whole numbers, and at least 1.
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
    probe: Option<Probe>,
    decay: Option<Duration>,
    every_sample: bool,
}

fn step(limit: f64) -> f64 {
    log10_root(limit as u32)
}

impl Vegas {
    /// Sets everything.
    pub fn builder() -> VegasBuilder {
        VegasBuilder {
            bounds: Bounds::DEFAULT,
            alpha: Arc::new(|limit| 3.0 * step(limit)),
            beta: Arc::new(|limit| 6.0 * step(limit)),
            threshold: Arc::new(step),
            increase: Arc::new(|limit| limit + step(limit)),
            decrease: Arc::new(|limit| limit - step(limit)),
            smoothing: 1.0,
            probe: Some(Probe::default()),
            decay: None,
            every_sample: false,
        }
    }

    /// The smallest latency it compares with, as known now.
    pub fn baseline(&self) -> Option<Duration> {
        let nanos = self.smallest.value()?;
        Some(Duration::from_nanos(nanos as u64))
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
        /// Below this queue the limit grows.
        alpha;
        /// Above this queue the limit shrinks.
        beta;
        /// Up to this queue the limit grows by `beta`.
        threshold;
        /// The limit after a growth.
        increase;
        /// The limit after a shrink.
        decrease;
    }

    /// How far one sample moves the limit: above 0, up to 1 (all the way).
    pub const fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// How the latency without load is measured anew; `None`: it is not.
    pub fn probe(mut self, probe: impl Into<Option<Probe>>) -> Self {
        self.probe = probe.into();
        self
    }

    /// Forgets a smallest latency that nothing has come near for this long. The cheaper way to notice
    /// that the dependency has become slower for good: no call is held back for it, but a queue that
    /// stands in the dependency for as long is taken for normal.
    pub const fn decay(mut self, after: Duration) -> Self {
        self.decay = Some(after);
        self
    }

    /// Whether the limit moves with every sample, not only once per round trip.
    pub const fn every_sample(mut self, every: bool) -> Self {
        self.every_sample = every;
        self
    }

    /// The algorithm.
    ///
    /// # Errors
    ///
    /// Bounds or a probe that make no sense, a smoothing outside of (0, 1], a decay of zero.
    pub fn build(self) -> Result<Vegas, ConfigError> {
        self.bounds.check("vegas")?;
        if let Some(probe) = &self.probe {
            probe.check("vegas")?;
        }
        if !(self.smoothing > 0.0 && self.smoothing <= 1.0) {
            return Err(ConfigError::new(
                "vegas",
                "smoothing",
                "must be above 0 and at most 1",
            ));
        }
        if self.decay == Some(Duration::ZERO) {
            return Err(ConfigError::new("vegas", "decay", "must be above zero"));
        }
        Ok(Vegas {
            limit: f64::from(self.bounds.initial),
            smallest: Smallest::default(),
            prober: self.probe.map(Prober::new),
            moves: OncePerRoundTrip::default(),
            shrinks: OncePerRoundTrip::default(),
            config: self,
        })
    }
}

impl ConcurrencyLimit for Vegas {
    fn limit(&self) -> u32 {
        let limit = self.limit as u32;
        match self.prober.as_ref().and_then(Prober::cap) {
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
        if let Some(prober) = &mut self.prober {
            match prober.on_sample(sample) {
                Probed::NotProbing => {}
                Probed::Probing => return,
                Probed::Done(latency) => {
                    self.smallest = Smallest::new(latency, sample.now);
                    return;
                }
            }
        }
        let latency = sample.nanos();
        if sample.latency.is_zero() {
            // The clock stood still, as it does when it went backwards during the call. No other call
            // will ever be as quick.
            return;
        }
        let Some(smallest) = self.smallest.add(latency, sample.now, self.config.decay) else {
            return;
        };
        // Latency says nothing about a limit that is not reached.
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

impl Vegas {
    fn move_to(&mut self, target: f64) {
        if target.is_nan() {
            // From a curve of the user's: it says nothing.
            return;
        }
        let target = self.config.bounds.clamp(target);
        let smoothing = self.config.smoothing;
        // The first limit may be outside of the bounds.
        let moved = self.limit * (1.0 - smoothing) + target * smoothing;
        self.limit = moved.max(1.0);
    }
}

/// The smallest of the latencies, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Smallest {
    value: Option<f64>,
    /// The smallest since `since`: what it becomes when the value has had its time.
    heir: Option<f64>,
    since: Instant,
}

impl Smallest {
    const fn new(value: f64, now: Instant) -> Self {
        Self {
            value: Some(value),
            heir: None,
            since: now,
        }
    }

    const fn value(&self) -> Option<f64> {
        self.value
    }

    /// Adds a latency and returns the smallest, if that was another one.
    fn add(&mut self, latency: f64, now: Instant, decay: Option<Duration>) -> Option<f64> {
        let value = match self.value {
            Some(value) if value <= latency => value,
            _ => {
                *self = Self::new(latency, now);
                return None;
            }
        };
        let heir = self.heir.map_or(latency, |heir| heir.min(latency));
        self.heir = Some(heir);
        if decay.is_some_and(|decay| now >= self.since + decay) {
            *self = Self::new(heir, now);
            return Some(heir);
        }
        Some(value)
    }
}

impl fmt::Debug for VegasBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VegasBuilder")
            .field("bounds", &self.bounds)
            .field("smoothing", &self.smoothing)
            .field("probe", &self.probe)
            .field("decay", &self.decay)
            .finish_non_exhaustive()
    }
}
