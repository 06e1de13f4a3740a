//! State shared by the clones of a load shedder.

use std::sync::{Arc, Mutex};
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
    /// When the next update is due, in nanoseconds of the clock.
    pub(super) next_update: AtomicU64,
    pub(super) pressure: Mutex<Pressure>,
    pub(super) cap: Mutex<ShedCap>,
    pub(super) participant: Participant,
    pub(super) rng: SharedRng,
    pub(super) rejected: AtomicU64,
    pub(super) would_reject: AtomicU64,
}

pub(super) type Signal = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The measure of overload.
pub(super) enum Source {
    QueueDelay(Mutex<Delays>),
    Signal {
        threshold: f64,
        signal: Signal,
        /// The last value of the signal, as the bits of an `f64` from 0 to 1.
        last: AtomicU64,
    },
}

/// Observed queue delays.
pub(super) struct Delays {
    pub(super) codel: Codel,
    /// The smallest delay since the last update, or `None` without calls.
    pub(super) min: Option<Duration>,
    /// When the last delay was observed.
    pub(super) observed_at: Instant,
}

impl Delays {
    /// Returns the report of the time since the last report. Ignores delays older than `good_for`, which do not
    /// describe the current queue.
    fn report(&mut self, now: Instant, good_for: Duration) -> QueueReport {
        let is_recent = now <= self.observed_at + good_for;
        let delay = self.min.take().filter(|_| is_recent);
        QueueReport {
            delay: delay.unwrap_or_default(),
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
            Source::Signal { last, .. } => f64::from_bits(last.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn observe_delay(&self, delay: Duration, now: Instant) {
        if let Source::QueueDelay(delays) = &self.source {
            let mut delays = lock(delays);
            delays.codel.should_drop(delay, now);
            delays.min = Some(delays.min.map_or(delay, |min| min.min(delay)));
            delays.observed_at = delays.observed_at.max(now);
        }
    }

    pub(super) fn try_acquire(
        &self,
        priority: Priority,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.participant.count(priority);
        self.update(now);
        let threshold = self.participant.threshold();
        // Draws no random number while no call is shed.
        if threshold.to_bits() == 0 {
            return Ok(());
        }
        let below = threshold.sheds(priority, self.rng.unit());
        if !lock(&self.cap).sheds(below) {
            return Ok(());
        }
        let counter = match self.base.shadow {
            true => &self.would_reject,
            false => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let rejected = Rejected::new(self.base.name, Reason::Shed);
        self.base.reject(rejected, observer)
    }

    /// Updates the share to shed, if an update is due.
    fn update(&self, now: Instant) {
        // Relaxed: the compare-and-swap picks one call, and the word publishes nothing else.
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
                let good_for = lock(&self.pressure).calm_after(window);
                let report = lock(delays).report(now, good_for);
                let mut pressure = lock(&self.pressure);
                pressure.follow(report, window, elapsed, now);
                (pressure.rate(), good_for)
            }
            Source::Signal {
                threshold,
                signal,
                last,
            } => {
                // User code, outside the lock. NaN counts as no overload.
                let value = signal();
                let load = if value.is_nan() {
                    0.0
                } else {
                    value.clamp(0.0, 1.0)
                };
                // Relaxed: a gauge, read for display.
                last.store(load.to_bits(), Ordering::Relaxed);
                let overloaded = value >= *threshold;
                let mut pressure = lock(&self.pressure);
                pressure.update(overloaded, window, elapsed, now);
                (pressure.rate(), pressure.calm_after(window))
            }
        };
        self.participant.report(rate, elapsed, good_for, now);
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use std::time::Duration;

    use super::super::LoadShedder;
    use crate::clock::ManualClock;
    use crate::priority::Priority;

    #[test]
    fn delays_before_an_idle_period_shed_no_call_after_it() {
        let clock = ManualClock::new();
        let shedder = LoadShedder::builder().clock(clock.clone()).build().unwrap();
        for _ in 0..2000 {
            clock.advance(Duration::from_millis(1));
            shedder.observe_delay(Duration::from_millis(50));
            let _ = shedder.try_acquire(Priority::NORMAL);
        }
        assert!(shedder.snapshot().shed_rate > 0.5);
        // Delays since the last update have not been reported yet.
        clock.advance(Duration::from_secs(3600));
        for _ in 0..200 {
            assert!(shedder.try_acquire(Priority::LOWEST).is_ok());
        }
    }
}
