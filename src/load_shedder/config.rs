//! The builder of load shedders.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::LoadShedder;
use super::inner::{Delays, Inner, Signal, Source};
use super::state::{Pressure, ShedCap};
use super::threshold::SharedThreshold;
use crate::base::Setup;
use crate::blocking;
use crate::codel::Codel;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::rng::SharedRng;
use crate::sync::AtomicU64;

/// Builds a [`LoadShedder`]. The table of defaults is on the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct LoadShedderBuilder {
    codel: Option<(Duration, Duration)>,
    signal: Option<(f64, Signal)>,
    max_shed: f64,
    cool_off: Duration,
    update_interval: Duration,
    shared_threshold: Option<SharedThreshold>,
    seed: Option<u64>,
    setup: Setup,
}

impl LoadShedder {
    /// Returns a builder with the default settings.
    pub fn builder() -> LoadShedderBuilder {
        LoadShedderBuilder::new()
    }
}

impl LoadShedderBuilder {
    const NAME: &'static str = "load_shedder";

    fn new() -> Self {
        Self {
            codel: None,
            signal: None,
            max_shed: 0.9,
            cool_off: Duration::from_secs(1),
            update_interval: Duration::from_millis(100),
            shared_threshold: None,
            seed: None,
            setup: Setup::new(Self::NAME),
        }
    }

    /// Measures overload by the queue delay, which is the default: target 5 ms, interval 100 ms. The queue is
    /// overloaded after an `interval` in which every call waited longer than `target`. Then the shedder keeps the
    /// shortest delays near `target`.
    ///
    /// The delay is the time from the start of a call until it reaches the shedder, so the queue must be outside:
    /// a bulkhead with a wait queue around the shedder, or [`LoadShedder::observe_delay`].
    pub fn codel(mut self, target: Duration, interval: Duration) -> Self {
        self.codel = Some((target, interval));
        self
    }

    /// Measures overload by a signal from 0 (idle) to 1 (saturated), such as CPU utilization. The server is
    /// overloaded at `threshold` or above. Contradicts [`codel`](Self::codel).
    ///
    /// The function is called once per update interval by the call that finds the update due, outside locks. It
    /// should be fast.
    pub fn signal(
        mut self,
        threshold: f64,
        signal: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        let signal = Arc::new(move || blocking::outside(&signal));
        self.signal = Some((threshold, signal));
        self
    }

    /// Sets the largest share of calls to shed: above 0, at most 1. Default 0.9. It bounds any hundred consecutive
    /// calls, even when priorities change between updates; a share of 0.001 bounds any thousand, and so on.
    pub fn max_shed(mut self, share: f64) -> Self {
        self.max_shed = share;
        self
    }

    /// Sets how long the share of shed calls is kept after the last overload. Default 1 s. Zero: the share falls with
    /// the first update without overload. With a queue delay the time is at least eight update intervals, and the share
    /// follows the delay meanwhile.
    pub fn cool_off(mut self, time: Duration) -> Self {
        self.cool_off = time;
        self
    }

    /// Sets the interval between updates of the share. Default 100 ms.
    pub fn update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = interval;
        self
    }

    /// Shares the threshold with other shedders. Default not shared.
    pub fn shared_threshold(mut self, threshold: SharedThreshold) -> Self {
        self.shared_threshold = Some(threshold);
        self
    }

    setters! {
        in setup;
        /// Sets shadow mode: decides, counts, and reports, but rejects no call. Default `false`. A shadow has no
        /// influence on a [shared threshold](Self::shared_threshold). With a queue delay it reports more calls than
        /// it would shed, because the queue does not become shorter.
        shadow;
        /// Seeds the random choice among calls at the threshold.
        seed;
        /// Sets an observer of shed calls.
        observer;
        /// Sets the name in errors and events. Default `load_shedder`.
        name;
        /// Sets the clock that measures delays and intervals. Default tokio's.
        clock;
    }

    /// Builds the shedder.
    ///
    /// # Errors
    ///
    /// * A signal together with a queue delay.
    /// * A target of zero or not below its interval.
    /// * A signal's threshold or a largest share that is not above 0 and at most 1.
    /// * An update interval of zero.
    /// * No clock, where the feature `tokio` is off.
    pub fn build(self) -> Result<LoadShedder, ConfigError> {
        let error = |setting, problem| ConfigError::new(Self::NAME, setting, problem);
        let is_share = |value: f64| value > 0.0 && value <= 1.0;
        if self.codel.is_some() && self.signal.is_some() {
            return Err(error("signal", "contradicts codel"));
        }
        let (target, interval) = self.codel.unwrap_or((Codel::TARGET, Codel::INTERVAL));
        Codel::check(target, interval).map_err(|problem| error("codel", problem))?;
        if !is_share(self.max_shed) {
            return Err(error("max_shed", "must be above 0 and at most 1"));
        }
        if self.update_interval.is_zero() {
            return Err(error("update_interval", "must be above zero"));
        }
        let source = match self.signal {
            Some((threshold, _)) if !is_share(threshold) => {
                return Err(error("signal", "needs a threshold above 0 and at most 1"));
            }
            Some((threshold, signal)) => Source::Signal {
                threshold,
                signal,
                last: AtomicU64::new(0.0_f64.to_bits()),
            },
            None => Source::QueueDelay(Mutex::new(Delays {
                codel: Codel::new(target, interval),
                min: None,
                observed_at: Instant::ORIGIN,
            })),
        };
        let base = self.setup.build(Self::NAME)?;
        Ok(LoadShedder {
            inner: Arc::new(Inner {
                source,
                update_interval: self.update_interval,
                next_update: AtomicU64::new(0),
                pressure: Mutex::new(Pressure::new(self.max_shed, self.cool_off)),
                cap: Mutex::new(ShedCap::new(self.max_shed)),
                participant: self.shared_threshold.unwrap_or_default().join(base.shadow),
                base,
                rng: SharedRng::new(self.seed),
                rejected: AtomicU64::new(0),
                would_reject: AtomicU64::new(0),
            }),
        })
    }
}

impl std::fmt::Debug for LoadShedderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadShedderBuilder")
            .field("codel", &DebugLimit(&self.codel))
            .field(
                "signal_threshold",
                &self.signal.as_ref().map(|(threshold, _)| threshold),
            )
            .field("max_shed", &self.max_shed)
            .field("cool_off", &DebugLimit(&self.cool_off))
            .field("update_interval", &DebugLimit(&self.update_interval))
            .field("shared_threshold", &self.shared_threshold)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
