#![doc = include_str!("../../docs/patterns/shared-rate-limiter.md")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConfigError, Rejected};
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::rate_limiter::Quota;

mod acquire;
mod config;
mod entry;
mod hub;
mod keyed;
mod policy;
mod queue;
mod snapshot;
mod state;

pub use self::acquire::Acquire;
pub use self::config::{SharedKeyedRateLimiterBuilder, SharedRateLimiterBuilder};
pub use self::keyed::SharedKeyedRateLimiter;
pub use self::snapshot::{KeyedSnapshot, Snapshot};
pub use self::state::rules::{Outage, SyncMode};

use self::entry::Entry;
use self::state::pocket::Spent;
use self::state::rules::Rules;

/// One limit for all processes of a fleet. See the [module page](self).
///
/// Cheap to clone; clones share the tokens that the process holds. Build it once per process: the store sees each
/// further one as another process.
#[derive(Clone)]
pub struct SharedRateLimiter {
    entry: Arc<Entry>,
}

impl SharedRateLimiter {
    /// Takes one token, or rejects. See [`try_acquire_n`](Self::try_acquire_n).
    pub fn try_acquire(&self) -> Acquire<'_> {
        self.try_acquire_n(1)
    }

    /// Takes `cost` tokens, or rejects. Ready at once if the process holds enough tokens, or knows that there are
    /// none. Otherwise it waits for one request to the store, at most
    /// [`store_timeout`](SharedRateLimiterBuilder::store_timeout). A cost of zero is free.
    ///
    /// # Errors
    ///
    /// [`Reason::RateLimited`](crate::Reason::RateLimited), with the time after which there would be enough;
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the burst is smaller than the cost;
    /// [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) if the deadline in force passes during the
    /// request.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no token: those granted for it stay with the process.
    pub fn try_acquire_n(&self, cost: u64) -> Acquire<'_> {
        Acquire::new(&self.entry, cost, Duration::ZERO)
    }

    /// Takes one token that the process holds, without a request to the store. See
    /// [`try_acquire_held_n`](Self::try_acquire_held_n).
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_held_n`](Self::try_acquire_held_n).
    #[inline]
    pub fn try_acquire_held(&self) -> Result<(), Rejected> {
        self.try_acquire_held_n(1)
    }

    /// Takes `cost` tokens that the process holds, without a request to the store: for callers that cannot wait at
    /// all. A call that finds too few is rejected and triggers a request for later calls. From the first such call
    /// on, a token is kept in reserve. The first call of a key is always rejected.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n).
    #[inline]
    pub fn try_acquire_held_n(&self, cost: u64) -> Result<(), Rejected> {
        let (entry, now) = (&self.entry, self.entry.hub.base.now());
        if cost == 0 {
            return Ok(());
        }
        match entry.pocket.spend(now, cost) {
            Spent::Taken => Ok(()),
            Spent::TakenLow => {
                entry.refresh(now, cost);
                Ok(())
            }
            Spent::Rejected(_) | Spent::Unknown => self.take_held(now, cost),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_held(&self, now: Instant, cost: u64) -> Result<(), Rejected> {
        let (entry, hub) = (&self.entry, &*self.entry.hub);
        entry
            .take_held(now, cost)
            .or_else(|(reason, ready)| hub.reject(now, reason, ready, None))
    }

    /// Waits for one token. See [`acquire_n`](Self::acquire_n).
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_n(1)
    }

    /// Waits for `cost` tokens, behind earlier calls of this process, until the deadline in force for the current
    /// task.
    ///
    /// # Errors
    ///
    /// [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) when the turn would come after the deadline,
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the burst is smaller than the cost, and
    /// [`Reason::RateLimited`](crate::Reason::RateLimited) when too many calls wait already.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the wait queue. No token is lost.
    pub fn acquire_n(&self, cost: u64) -> Acquire<'_> {
        self.acquire_within(cost, Duration::MAX)
    }

    /// Like [`acquire_n`](Self::acquire_n), but waits no longer than `longest`.
    ///
    /// # Errors
    ///
    /// Also [`Reason::RateLimited`](crate::Reason::RateLimited), at once, when the turn would come later than that, and
    /// [`Reason::QueueTimeout`](crate::Reason::QueueTimeout) when the turn has not come by then.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_within(&self, cost: u64, longest: Duration) -> Acquire<'_> {
        Acquire::new(&self.entry, cost, longest)
    }

    /// Replaces the quota in this process; the other processes need the same call. Tokens already used stay used. A
    /// lowered quota blocks no key for longer than the new quota takes to fill. The old quota may reject calls for up
    /// to a second. Calls that wait for more tokens than the new burst are rejected.
    ///
    /// # Errors
    ///
    /// As for the builder.
    pub fn set_quota(&self, quota: Quota) -> Result<(), ConfigError> {
        Rules::check(Rules::NAME, "quota", &quota)?;
        let entry = &self.entry;
        let rules = entry.hub.rules(quota);
        let now = entry.hub.base.now();
        entry.with(now, |state, _, wakers| {
            state.lease.set_rules(now, rules);
            state.queue.reject_above(rules.burst, wakers);
            state.is_changed = true;
        });
        Ok(())
    }

    /// Does background work while the returned future runs: returns tokens that the process no longer needs, and
    /// probes a lost store. Optional: calls do the same work, and tokens that are not returned are lost to the fleet
    /// only until the bucket refills.
    ///
    /// Spawn the future, or poll it alongside the work.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn maintain(&self) {
        let entry = &self.entry;
        loop {
            let now = entry.hub.base.now();
            let pause = entry.with(now, |state, _, _| state.lease.life());
            entry.hub.base.clock.sleep_until(now.after(pause)).await;
        }
    }

    /// Returns the state as this process knows it. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let (entry, hub) = (&self.entry, &*self.entry.hub);
        let now = hub.base.now();
        let mut snapshot = Snapshot::new(hub, now);
        entry.inspect(|state, spent| {
            snapshot.quota = state.lease.rules().quota;
            snapshot.held = state.lease.held().saturating_sub(spent);
            snapshot.remaining = state.lease.level();
            snapshot.waiting = state.queue.patient();
            snapshot.demand = state.lease.demand();
            snapshot.share = state.lease.share();
            if let Some(since) = state.own.lost_since().filter(|_| snapshot.store_up) {
                snapshot.store_up = false;
                snapshot.lost_for = now.saturating_duration_since(since);
            }
        });
        snapshot
    }

    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.entry.hub.base.name
    }

    /// Returns the key in the store.
    pub fn key(&self) -> &str {
        &self.entry.key
    }
}

/// A limiter is evictable if there is no other handle, no waiter, and no request in flight, the quota is the builder's,
/// and no call has come for so long that leased tokens have expired. The store has the rest of the state.
impl Evictable for SharedRateLimiter {
    fn evictable_in(&self) -> Option<Duration> {
        let entry = &self.entry;
        if !is_unshared(entry) {
            return None;
        }
        let now = entry.hub.base.now();
        entry.with(now, |state, _, _| {
            if state.is_changed || !state.queue.is_empty() {
                return None;
            }
            let idle_at = state.lease.idle_at()?;
            Some(idle_at.saturating_duration_since(now))
        })
    }
}

impl fmt::Debug for SharedRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedRateLimiter")
            .field(&self.snapshot())
            .finish()
    }
}
