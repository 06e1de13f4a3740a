#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/bulkhead.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Bulkheads bound how many calls run at once."
)]

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use self::acquire::AcquirePermit;
use self::inner::{BYPASS, Inner};
use self::permit_queue::Full;
use self::raw_permit::RawPermit;
use crate::codel::Codel;
use crate::error::{ConfigError, Rejected};
use crate::keyed::{Evictable, is_unshared};
use crate::policy::Context;

mod acquire;
mod adaptive;
mod config;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod partition;
mod permit;
mod permit_cache;
mod permit_queue;
mod policy;
mod raw_permit;
mod semaphore;
mod snapshot;
mod state;
mod ticket;

pub use self::config::BulkheadBuilder;
pub use self::permit::{OwnedPermit, Permit};
pub use self::permit_queue::QueueOrder;
pub use self::snapshot::{BulkheadSnapshot, PartitionSnapshot};
pub use self::state::limit;

/// Bounds how many calls run at once. See the [module page](self).
///
/// Cheap to clone: clones share the permits.
#[derive(Clone)]
pub struct Bulkhead {
    inner: Arc<Inner>,
    /// The partition of the calls made through this handle, 0 for none, or `BYPASS`.
    partition: u32,
}

impl Bulkhead {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Acquires a permit, or rejects at once.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`](crate::Reason::BulkheadFull) when all permits are in flight or other calls wait for them.
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.try_acquire_with(Context::new())
    }

    /// As [`try_acquire`](Self::try_acquire) for a call of this cost.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`](crate::Reason::BulkheadFull), or [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when no fixed limit this small can
    /// hold the call.
    #[inline(always)]
    pub fn try_acquire_with(&self, mut cx: Context) -> Result<Permit<'_>, Rejected> {
        let held = self.try_raw(&mut cx)?;
        Ok(Permit {
            inner: &self.inner,
            held,
        })
    }

    /// As [`try_acquire_with`](Self::try_acquire_with), with a permit that may be moved anywhere.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_acquire_owned(&self, mut cx: Context) -> Result<OwnedPermit, Rejected> {
        let held = self.try_raw(&mut cx)?;
        Ok(OwnedPermit {
            inner: self.inner.clone(),
            held,
        })
    }

    #[inline(always)]
    fn try_raw(&self, cx: &mut Context) -> Result<RawPermit, Rejected> {
        let inner = &*self.inner;
        inner
            .try_enter(inner.entrant(cx, self.partition), cx, None)
            .map_err(|full: Full| inner.reject(full.reason(), None))
    }

    /// Acquires a permit, in turn if need be. The wait ends at the deadline of the surrounding
    /// [`deadline`](crate::deadline) scope, if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`](crate::Reason::BulkheadFull) when there is no room and the queue is full, or there is none;
    /// [`Reason::QueueTimeout`](crate::Reason::QueueTimeout) after the longest wait, or when CoDel drops the call;
    /// [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) when the deadline comes first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue, and the permit if it had been handed over
    /// already: the next waiter gets it.
    #[inline]
    pub fn acquire(&self) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        self.acquire_with(Context::new())
    }

    /// As [`acquire`](Self::acquire) with the cost, the priority and the deadline of `cx`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit).
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    #[inline]
    pub fn acquire_with(&self, cx: Context) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        AcquirePermit::new(&self.inner, self.partition, cx)
    }

    /// As [`acquire_with`](Self::acquire_with), with a permit that may be moved anywhere. The future
    /// borrows nothing.
    ///
    /// # Errors
    ///
    /// As for [`acquire_with`](Self::acquire_with).
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    pub async fn acquire_owned(self, cx: Context) -> Result<OwnedPermit, Rejected> {
        let permit = AcquirePermit::new(&self.inner, self.partition, cx).await?;
        let held = permit.into_raw();
        Ok(OwnedPermit {
            inner: self.inner,
            held,
        })
    }

    /// Returns a handle for the calls of one partition; `None` if the builder was given none of this
    /// name.
    pub fn partition(&self, name: &str) -> Option<Self> {
        let mut named = self.inner.queue.partitions().iter().skip(1);
        let index = named.position(|partition| partition.name == name)?;
        Some(Self {
            inner: self.inner.clone(),
            partition: index as u32 + 1,
        })
    }

    /// Returns a handle whose calls bypass the bulkhead: for health checks and administration, which
    /// must get through when all permits are in flight.
    ///
    /// They are admitted at once, take no permits, are not in any count, and give an adaptive limit no
    /// sample.
    ///
    /// ```
    /// use backstop::Bulkhead;
    ///
    /// let bulkhead = Bulkhead::builder().max_concurrent(1).build()?;
    /// let _permit = bulkhead.try_acquire().unwrap();
    /// let health_check = bulkhead.bypass();
    /// assert!(health_check.try_acquire().is_ok());
    /// assert_eq!(bulkhead.snapshot().in_flight, 1);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    #[must_use]
    pub fn bypass(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            partition: BYPASS,
        }
    }

    /// Returns the number of permits.
    pub fn limit(&self) -> u32 {
        self.inner.queue.read().limit()
    }

    /// Changes the number of permits; 0 counts as 1, more than 2^31 − 1 as that.
    ///
    /// It takes effect at once and waits for no call. Permits in flight stay so: after a shrink no call
    /// is admitted until fewer are in flight than the new limit. Waiters for more permits than the new
    /// limit are rejected. An adaptive algorithm replaces the limit at its next sample.
    pub fn set_limit(&self, limit: u32) {
        self.inner.set_limit(limit, None);
    }

    /// Changes the target and the interval of CoDel; what it knows of the queue stays.
    ///
    /// # Errors
    ///
    /// When the bulkhead was built without [`codel`](BulkheadBuilder::codel), or the values make no
    /// sense. Then nothing changes.
    pub fn set_codel(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        let error = |problem| ConfigError::new(self.inner.base.name, "codel", problem);
        Codel::check(target, interval).map_err(error)?;
        if self.inner.queue.retune(target, interval) {
            Ok(())
        } else {
            Err(error("was not given to the builder"))
        }
    }
}

/// No call is in flight, the limit is the one it was built with, and there is no other handle. What an
/// adaptive limit has learned is learned again.
impl Evictable for Bulkhead {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        let is_as_new = is_unshared(&self.inner)
            && inner.queue.in_flight() == 0
            && (inner.adaptive.is_some() || self.limit() == inner.first_limit);
        is_as_new.then_some(Duration::ZERO)
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
