//! State shared by the clones of a load shedder.

use std::sync::Mutex;
use std::time::Duration;

use super::state::{Pressure, QueueReport, ShedCap};
use super::threshold::Participant;
use crate::base::Base;
use crate::codel::Codel;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::instant::{Instant, nanos};
use crate::priority::Priority;
use crate::rng::SharedRng;
use crate::sync::{AtomicU64, Ordering, lock};

pub(super) struct Inner {
    pub(super) base: Base,
    pub(super) source: Source,
    pub(super) update_interval: Duration,
    /// When the next update is due, in the clock's nanoseconds.
    pub(super) next_update: AtomicU64,
    pub(super) pressure: Mutex<Pressure>,
    pub(super) cap: Mutex<ShedCap>,
    pub(super) participant: Participant,
    pub(super) rng: SharedRng,
    pub(super) shed: AtomicU64,
    pub(super) would_shed: AtomicU64,
}

pub(super) type Signal = Box<dyn Fn() -> f64 + Send + Sync>;

/// The sign of overload.
pub(super) enum Source {
    QueueDelay(Mutex<Delays>),
    Signal { threshold: f64, signal: Signal },
}

/// Observed queue delays.
pub(super) struct Delays {
    pub(super) codel: Codel,
    /// The smallest delay since the last update; `None` before the first one.
    pub(super) min: Option<Duration>,
}

impl Delays {
    /// Returns the report on the time since the last one.
    fn report(&mut self, now: Instant) -> QueueReport {
        QueueReport {
            delay: self.min.take().unwrap_or_default(),
            target: self.codel.target(),
            overloaded: self.codel.is_overloaded_at(now),
        }
    }
}

impl Inner {
    pub(super) fn shed_rate(&self) -> f64 {
        lock(&self.pressure).rate()
    }

    pub(super) fn load(&self) -> f64 {
        match &self.source {
            Source::QueueDelay(delays) => lock(delays).codel.load(),
            Source::Signal { .. } => 0.0,
        }
    }

    pub(super) fn observe_delay(&self, delay: Duration, now: Instant) {
        if let Source::QueueDelay(delays) = &self.source {
            let mut delays = lock(delays);
            delays.codel.should_drop(delay, now);
            delays.min = Some(delays.min.map_or(delay, |min| min.min(delay)));
        }
    }

    pub(super) fn admit(
        &self,
        priority: Priority,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.participant.count(priority);
        self.update(now);
        let threshold = self.participant.threshold();
        // No random number is drawn while no call is shed.
        if threshold.to_bits() == 0 {
            return Ok(());
        }
        let below = threshold.sheds(priority, self.rng.unit());
        if !lock(&self.cap).sheds(below) {
            return Ok(());
        }
        let counter = match self.base.shadow {
            true => &self.would_shed,
            false => &self.shed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let rejected = Rejected::new(self.base.name, Reason::Shed);
        self.base.reject(rejected, observer)
    }

    /// Updates the share to shed, if it is time.
    fn update(&self, now: Instant) {
        // Relaxed: of the calls that see that it is due one wins, and needs no more than that.
        let due = self.next_update.load(Ordering::Relaxed);
        if now.as_nanos() < due {
            return;
        }
        let next = (now + self.update_interval).as_nanos();
        if self
            .next_update
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        let window = self.update_interval;
        let last = Instant::from_nanos(due.saturating_sub(nanos(window)));
        let elapsed = now.saturating_duration_since(last).max(window);
        let (rate, good_for) = match &self.source {
            Source::QueueDelay(delays) => {
                let report = lock(delays).report(now);
                let mut pressure = lock(&self.pressure);
                pressure.follow(report, window, elapsed, now);
                (pressure.rate(), pressure.calm_after(window))
            }
            Source::Signal { threshold, signal } => {
                // User code, so not under the lock. NaN is no sign of overload.
                let overloaded = signal() >= *threshold;
                let mut pressure = lock(&self.pressure);
                pressure.update(overloaded, window, elapsed, now);
                (pressure.rate(), pressure.calm_after(window))
            }
        };
        self.participant.report(rate, elapsed, good_for, now);
    }
}
