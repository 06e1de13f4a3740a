#![doc = include_str!("../../docs/patterns/shared-bulkhead.md")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{Reason, Rejected};
use crate::keyed::{Evictable, is_unshared};

mod acquire;
mod config;
mod inner;
mod permit;
mod policy;
mod snapshot;
mod state;

pub use self::acquire::Acquire;
pub use self::config::SharedBulkheadBuilder;
pub use self::permit::Permit;
pub use self::snapshot::Snapshot;

use self::inner::Inner;

/// Bounds how many calls of a fleet run at once. See the [module page](self).
///
/// Cheap to clone; clones share the permits that the process holds.
#[derive(Clone)]
pub struct SharedBulkhead {
    inner: Arc<Inner>,
}

impl SharedBulkhead {
    /// Takes a permit, or rejects. Ready at once if the process holds a free permit, or knows that the store has
    /// none. Otherwise ready after one request to the store.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`] when no process can give one up, and when the store does not answer;
    /// [`Reason::DeadlineTooClose`] if the deadline in force passes during the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no permit.
    pub fn try_acquire(&self) -> Acquire<'_> {
        self.try_acquire_n(1)
    }

    /// Like [`try_acquire`](Self::try_acquire), with `cost` permits.
    ///
    /// # Errors
    ///
    /// Also [`Reason::CostExceedsLimit`].
    ///
    /// # Cancel safety
    ///
    /// As for [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_n(&self, cost: u64) -> Acquire<'_> {
        Acquire::new(&self.inner, cost, Duration::ZERO)
    }

    /// Takes a permit that the process holds, without a request to the store.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`] if it holds no free one, or if other calls wait.
    pub fn try_acquire_held(&self) -> Result<Permit, Rejected> {
        let inner = &self.inner;
        let now = inner.base.now();
        let (admitted, panics) = inner.change(now, |state, _| {
            state.waiting() == 0 && state.block.admit(now, 1)
        });
        // A panic goes on once the permit exists, which it drops.
        let permit = admitted.then(|| Permit::new(inner.clone(), 1));
        panics.resume();
        match permit {
            Some(permit) => Ok(permit),
            None => {
                let rejected = inner.reject(Reason::BulkheadFull, None);
                rejected.map(|()| Permit::new(inner.clone(), 0))
            }
        }
    }

    /// Waits for a permit. See [`acquire_n`](Self::acquire_n).
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_n(1)
    }

    /// Waits for `cost` permits, behind earlier calls of this process, until the deadline in force for the current
    /// task.
    ///
    /// # Errors
    ///
    /// [`Reason::DeadlineTooClose`] when the deadline comes first, [`Reason::CostExceedsLimit`], and
    /// [`Reason::BulkheadFull`] when too many calls wait already.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place in the wait queue. No permit is lost.
    pub fn acquire_n(&self, cost: u64) -> Acquire<'_> {
        self.acquire_within(cost, Duration::MAX)
    }

    /// Like [`acquire_n`](Self::acquire_n), but waits no longer than `longest`.
    ///
    /// # Errors
    ///
    /// Also [`Reason::QueueTimeout`].
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_within(&self, cost: u64, longest: Duration) -> Acquire<'_> {
        Acquire::new(&self.inner, cost, longest)
    }

    /// Renews the permits of this process, and returns those it does not need, while the returned future runs. Spawn
    /// it, or poll it alongside the work.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn maintain(&self) {
        let inner = &self.inner;
        loop {
            let now = inner.base.now();
            // A call may have sent a request meanwhile, and a failed request is repeated soon.
            let soon = now + inner.ttl / 12;
            let next = inner.with(now, |state, _| state.block.maintain_at(now, soon));
            inner.base.clock.sleep_until(next).await;
        }
    }

    /// Returns the state as this process knows it. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let now = inner.base.now();
        // Relaxed: statistics.
        let rejections = inner.rejections.load(Ordering::Relaxed);
        let trips = inner.trips.load(Ordering::Relaxed);
        let state = crate::sync::lock(&inner.state);
        let lost_for = state
            .lost_since
            .map(|since| now.saturating_duration_since(since));
        Snapshot {
            name: inner.base.name,
            limit: state.block.limit(),
            held: state.block.held(now),
            in_flight: state.block.in_flight(),
            waiting: state.waiting(),
            trips,
            store_up: lost_for.is_none(),
            lost_for: lost_for.unwrap_or_default(),
            rejected: if inner.base.shadow { 0 } else { rejections },
            shadow: inner.base.shadow,
            would_reject: if inner.base.shadow { rejections } else { 0 },
        }
    }

    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }
}

/// A bulkhead is evictable if there is no other handle and no permit. Dropping it returns its permits to the store.
impl Evictable for SharedBulkhead {
    fn evictable_in(&self) -> Option<Duration> {
        is_unshared(&self.inner).then_some(Duration::ZERO)
    }
}

impl fmt::Debug for SharedBulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedBulkhead")
            .field(&self.snapshot())
            .finish()
    }
}
