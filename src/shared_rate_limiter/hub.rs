//! State shared by all keys of a limiter: the store, its availability, and counters.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::state::link::{Contact, Link};
use super::state::rules::{Outage, Rules, SyncMode};
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, StoreEvent};
use crate::instant::{Instant, nanos};
use crate::rate_limiter::Quota;
use crate::rng::SharedRng;
use crate::store::{Store, StoreError};
use crate::striped::StripedCounter;
use crate::sync::lock;

/// Settings and state shared by all keys of a limiter.
pub(super) struct Hub {
    pub(super) base: Base,
    pub(super) store: Arc<dyn Store>,
    pub(super) mode: SyncMode,
    pub(super) every: Duration,
    pub(super) outage: Outage,
    pub(super) timeout: Duration,
    /// The longest wait of a call through the policy.
    pub(super) max_wait: Duration,
    pub(super) max_waiting: usize,
    pub(super) streams: SharedRng,
    pub(super) rejections: StripedCounter,
    /// Number of requests to the store.
    trips: AtomicU64,
    /// Number of requests in flight, over all keys, without those that have timed out.
    in_flight: AtomicU64,
    /// Time of the store's last answer, in nanoseconds.
    answered_at: AtomicU64,
    /// When the newest of the answered requests was sent, in nanoseconds.
    newest_answered: AtomicU64,
    /// No request times out before this time, in nanoseconds, because this process is busy.
    busy_until: AtomicU64,
    link: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Link,
    error: Option<StoreError>,
}

/// The largest factor by which the timeout grows while the store answers other requests. The default timeout grows to 1
/// s, because a program that asks for ten thousand keys at once may be busy for part of that time.
const BUSY: u32 = 40;

/// Extra time for each other request in flight: twice the measured time per request with ten thousand at once, on two
/// cores shared with the server.
const FOR_EACH: Duration = Duration::from_micros(50);

impl Hub {
    pub(super) fn new(
        base: Base,
        store: Arc<dyn Store>,
        (mode, outage): (SyncMode, Outage),
        (every, timeout): (Duration, Duration),
        (max_wait, max_waiting): (Duration, usize),
        seed: Option<u64>,
    ) -> Self {
        Self {
            base,
            store,
            mode,
            every,
            outage,
            timeout,
            max_wait,
            max_waiting,
            streams: SharedRng::new(seed),
            rejections: StripedCounter::new(),
            trips: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            newest_answered: AtomicU64::new(0),
            busy_until: AtomicU64::new(0),
            link: Mutex::default(),
        }
    }

    pub(super) fn rules(&self, quota: Quota) -> Rules {
        Rules::new(quota, self.mode, self.every, self.outage)
    }

    /// Returns a random number in `[0, 1)`.
    pub(super) fn unit(&self) -> f64 {
        self.streams.unit()
    }

    pub(super) fn contact(&self) -> Contact {
        lock(&self.link).link.contact()
    }

    pub(super) fn claim_probe(&self, now: Instant) -> bool {
        lock(&self.link).link.claim_probe(now, self.timeout)
    }

    /// Records a failed request. Returns an event if the store was up.
    pub(super) fn failed(&self, now: Instant, error: StoreError) -> Option<StoreEvent> {
        let unit = self.unit();
        // The previous error is dropped outside the lock.
        let (is_new, _before) = {
            let mut state = lock(&self.link);
            (state.link.failed(now, unit), state.error.replace(error))
        };
        is_new.then_some(StoreEvent::Lost)
    }

    /// Keeps the error of a request for the snapshot.
    pub(super) fn note(&self, error: StoreError) {
        // The one before is dropped outside the lock.
        let _before = lock(&self.link).error.replace(error);
    }

    /// Returns whether the store has just answered a request about another key than one that was answered last at
    /// `answered_at`.
    pub(super) fn answers_others(&self, now: Instant, answered_at: Instant) -> bool {
        let latest = Instant::from_nanos(self.answered_at.load(Ordering::Relaxed));
        latest > answered_at && now < latest + self.timeout
    }

    /// Records an answer to a request sent at `sent`. Returns the event of a store that was lost.
    pub(super) fn answered(&self, now: Instant, sent: Instant) -> Option<StoreEvent> {
        // Relaxed: no other data is published with them.
        self.answered_at
            .fetch_max(now.as_nanos(), Ordering::Relaxed);
        self.newest_answered
            .fetch_max(sent.as_nanos(), Ordering::Relaxed);
        let outage = lock(&self.link).link.answered(now)?;
        Some(StoreEvent::Back { after: outage })
    }

    /// Counts a request to the store.
    pub(super) fn sent(&self) {
        // Relaxed: statistics.
        self.trips.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request as answered, failed, or given up.
    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns when a request sent at `sent` times out. Answers to other requests extend the time: a store that
    /// answers is busy, not lost. Those to requests that were sent a timeout later do not, because this one is not behind
    /// them: it may be about a key of another shard, which is lost.
    /// `others` is the number of [others in flight](Self::others) meanwhile.
    pub(super) fn overdue_at(&self, sent: Instant, others: u32) -> Instant {
        let newest = Instant::from_nanos(self.newest_answered.load(Ordering::Relaxed));
        let answered = match newest < sent + self.timeout {
            true => Instant::from_nanos(self.answered_at.load(Ordering::Relaxed)),
            false => sent,
        };
        let busy = Instant::from_nanos(self.busy_until.load(Ordering::Relaxed));
        (sent.max(answered) + self.timeout + FOR_EACH.saturating_mul(others))
            .min(self.latest(sent))
            .max(busy)
    }

    /// Returns how many requests are in flight beside one.
    pub(super) fn others(&self) -> u32 {
        // Relaxed: an estimate.
        let others = self.in_flight.load(Ordering::Relaxed).saturating_sub(1);
        u32::try_from(others).unwrap_or(u32::MAX)
    }

    /// Returns when a request sent at `sent` times out at the latest.
    pub(super) fn latest(&self, sent: Instant) -> Instant {
        sent + self.timeout.saturating_mul(BUSY)
    }

    /// Extends all requests until `until`, because this process is busy.
    pub(super) fn forgive(&self, until: Instant) {
        self.busy_until
            .fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn lost_since(&self) -> Option<Instant> {
        lock(&self.link).link.lost_since()
    }

    pub(super) fn last_error(&self) -> Option<StoreError> {
        lock(&self.link).error.clone()
    }

    /// Returns the number of requests sent.
    pub(super) fn trips(&self) -> u64 {
        // Relaxed: a statistic.
        self.trips.load(Ordering::Relaxed)
    }

    pub(super) fn store_event(&self, event: StoreEvent) -> Event {
        Event::Store {
            policy: self.base.name,
            pipeline: None,
            event,
            sequence: 0,
        }
    }

    /// Rejects a call, or admits it in shadow mode. `ready` is when there will be tokens for it, if ever.
    pub(super) fn reject(
        &self,
        now: Instant,
        reason: Reason,
        ready: Option<Instant>,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.rejections.increment();
        let mut rejected = Rejected::new(self.base.name, reason);
        if let Some(ready) = ready {
            rejected = rejected.with_retry_nanos(nanos(ready.saturating_duration_since(now)));
        }
        if self.base.reports_rejections(observer) {
            return self.base.reject(rejected, observer);
        }
        Err(rejected)
    }
}
