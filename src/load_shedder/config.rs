//! The builder of load shedders.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::LoadShedder;
use super::inner::{Delays, Inner, Signal, Source};
use super::state::{Pressure, ShedCap};
use super::threshold::SharedCut;
use crate::base::Setup;
use crate::codel::Codel;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::rng::SharedRng;
use crate::sync::AtomicU64;

/// Builds a [`LoadShedder`].
///
/// | setting | default |
/// |---|---|
/// | [`queue_delay`](Self::queue_delay) or [`signal`](Self::signal) | queue delay, 5 ms / 100 ms |
/// | [`max_shed`](Self::max_shed) | 0.9 |
/// | [`cool_off`](Self::cool_off) | 1 s |
/// | [`update_interval`](Self::update_interval) | 100 ms |
/// | [`cut`](Self::cut) | its own |
/// | [`shadow`](Self::shadow) | off |
/// | [`name`](Self::name) | `load_shedder` |
/// | [`clock`](Self::clock) | tokio's |
#[must_use = "a builder does nothing until `build`"]
pub struct LoadShedderBuilder {
    queue_delay: Option<(Duration, Duration)>,
    signal: Option<(f64, Signal)>,
    max_shed: f64,
    cool_off: Duration,
    update_interval: Duration,
    cut: SharedCut,
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
            queue_delay: None,
            signal: None,
            max_shed: 0.9,
            cool_off: Duration::from_secs(1),
            update_interval: Duration::from_millis(100),
            cut: SharedCut::new(),
            seed: None,
            setup: Setup::new(Self::NAME),
        }
    }

    /// Sets the sign of overload to the queue delay: for an `interval` no call has waited less than
    /// `target`. Then so many calls are shed that the shortest waits stay near `target`.
    ///
    /// The delay is the time from the start of a call until it reaches the shedder, so the queue must be
    /// outside: a bulkhead with a queue around it, or [`LoadShedder::observe_delay`].
    pub fn queue_delay(mut self, target: Duration, interval: Duration) -> Self {
        self.queue_delay = Some((target, interval));
        self
    }

    /// Sets the sign of overload to a signal from 0 (idle) to 1 (full), such as the share of the CPU in
    /// use: overloaded at `threshold` or above. It is called once per update interval and should be
    /// quick. Contradicts [`queue_delay`](Self::queue_delay).
    pub fn signal(
        mut self,
        threshold: f64,
        signal: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        self.signal = Some((threshold, Box::new(signal)));
        self
    }

    /// The largest share of calls to shed: above 0, up to 1. It holds for any hundred calls in a row,
    /// however priorities change, to a whole call.
    pub fn max_shed(mut self, share: f64) -> Self {
        self.max_shed = share;
        self
    }

    /// How long the share to shed is kept after the last sign of overload. With a queue delay
    /// it is at least eight update intervals, and the share is trimmed all the time to what is needed.
    pub fn cool_off(mut self, time: Duration) -> Self {
        self.cool_off = time;
        self
    }

    /// How often the share to shed moves.
    pub fn update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = interval;
        self
    }

    /// A cut to share with other shedders.
    pub fn cut(mut self, cut: SharedCut) -> Self {
        self.cut = cut;
        self
    }

    setters! {
        in setup;
        /// Decides, counts and reports, but rejects no call. It has no say in what others on its
        /// [`cut`](Self::cut) shed. With a queue delay it reports more than it would shed: the queue does
        /// not become shorter.
        shadow;
        /// Makes the choice among calls on the level of the cut reproducible.
        seed;
        /// Observes every call that is shed.
        observer;
        /// The name in errors and events.
        name;
        /// The clock that measures delays and intervals.
        clock;
    }

    /// The shedder.
    ///
    /// # Errors
    ///
    /// A signal and a queue delay; a target of zero or not below its interval, a threshold or a largest
    /// share that is not above 0 and at most 1, an update interval of zero, no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<LoadShedder, ConfigError> {
        let error = |setting, problem| ConfigError::new(Self::NAME, setting, problem);
        let is_share = |value: f64| value > 0.0 && value <= 1.0;
        if self.queue_delay.is_some() && self.signal.is_some() {
            return Err(error("signal", "contradicts queue_delay: choose one"));
        }
        let (target, interval) = self.queue_delay.unwrap_or((Codel::TARGET, Codel::INTERVAL));
        Codel::check(target, interval).map_err(|problem| error("queue_delay", problem))?;
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
            Some((threshold, signal)) => Source::Signal { threshold, signal },
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
                participant: self.cut.join(base.shadow),
                base,
                rng: SharedRng::new(self.seed),
                shed: AtomicU64::new(0),
                would_shed: AtomicU64::new(0),
            }),
        })
    }
}

impl std::fmt::Debug for LoadShedderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadShedderBuilder")
            .field("queue_delay", &self.queue_delay)
            .field("signalled", &self.signal.is_some())
            .field("max_shed", &self.max_shed)
            .field("cool_off", &self.cool_off)
            .field("cut", &self.cut)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
