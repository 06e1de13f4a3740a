#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/bulkhead.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Bulkheads bound the number of concurrent calls."
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
use crate::sync::cold_path;

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
pub use self::snapshot::{PartitionSnapshot, Snapshot};
pub use self::state::limit;

/// Bounds how many calls run at once. See the [module page](self).
///
/// Cheap to clone: clones share the permits.
#[derive(Clone)]
pub struct Bulkhead {
    inner: Arc<Inner>,
    /// Index of the partition that this handle's calls belong to: 0 for none, or `BYPASS`.
    partition: u32,
}

impl Bulkhead {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Acquires a permit without waiting.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`](crate::Reason::BulkheadFull) when all permits are in flight or other calls wait for
    /// them.
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.try_acquire_with(Context::new())
    }

    /// Acquires `n` permits at once, for a call of that weight, without waiting.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire`](Self::try_acquire), and
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when `n` is above a fixed limit. In an adaptive
    /// bulkhead, a call whose weight is above the current limit takes all permits.
    ///
    /// ```
    /// use backstop::{Bulkhead, Reason};
    ///
    /// let memory = Bulkhead::builder().max_concurrent(100).build()?; // megabytes
    /// let upload = memory.try_acquire_n(80).unwrap();
    /// assert_eq!(upload.cost(), 80);
    /// assert_eq!(memory.try_acquire_n(30).unwrap_err().reason(), Reason::BulkheadFull);
    /// assert_eq!(memory.try_acquire_n(101).unwrap_err().reason(), Reason::CostExceedsLimit);
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn try_acquire_n(&self, n: u64) -> Result<Permit<'_>, Rejected> {
        self.try_acquire_with(weighted(n))
    }

    /// Acquires the permits of a call with the cost of `cx`, without waiting.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n).
    #[inline(always)]
    pub fn try_acquire_with(&self, mut cx: Context) -> Result<Permit<'_>, Rejected> {
        let raw = self.try_raw(&mut cx)?;
        Ok(Permit {
            inner: &self.inner,
            raw,
        })
    }

    /// Like [`try_acquire_with`](Self::try_acquire_with), but the permit has its own handle of the bulkhead and
    /// may be moved to another task.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n).
    pub fn try_acquire_owned(&self, mut cx: Context) -> Result<OwnedPermit, Rejected> {
        let raw = self.try_raw(&mut cx)?;
        Ok(OwnedPermit {
            inner: self.inner.clone(),
            raw,
        })
    }

    #[inline(always)]
    fn try_raw(&self, cx: &mut Context) -> Result<RawPermit, Rejected> {
        let inner = &*self.inner;
        inner
            .try_enter(inner.entrant(cx, self.partition), cx, None)
            .map_err(|full: Full| {
                cold_path();
                inner.reject(full.reason(), None)
            })
    }

    /// Acquires a permit, and waits for it if the bulkhead has a wait queue. The wait ends at the deadline of the
    /// surrounding [`deadline`](crate::deadline) scope, if there is one.
    ///
    /// # Errors
    ///
    /// * [`Reason::BulkheadFull`](crate::Reason::BulkheadFull) when no permit is free and the wait queue is full, or
    ///   there is none.
    /// * [`Reason::QueueTimeout`](crate::Reason::QueueTimeout) after `max_wait`, or when CoDel drops the call.
    /// * [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) when the deadline comes first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the wait queue. A permit that was already handed over goes to the next
    /// waiter.
    #[inline]
    pub fn acquire(&self) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        self.acquire_with(Context::new())
    }

    /// Acquires `n` permits at once, for a call of that weight, and waits for them if the bulkhead has a wait
    /// queue.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when `n`
    /// is above a fixed limit.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    #[inline]
    pub fn acquire_n(&self, n: u64) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        self.acquire_with(weighted(n))
    }

    /// Acquires the permits of a call with the cost, the priority, and the deadline of `cx`.
    ///
    /// # Errors
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    #[inline]
    pub fn acquire_with(&self, cx: Context) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        AcquirePermit::new(&self.inner, self.partition, cx)
    }

    /// Like [`acquire_with`](Self::acquire_with), but neither the future nor the permit borrows the bulkhead.
    ///
    /// # Errors
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    pub fn acquire_owned(
        &self,
        cx: Context,
    ) -> impl Future<Output = Result<OwnedPermit, Rejected>> + use<> {
        self.clone().into_permit(cx)
    }

    /// Like [`acquire_owned`](Self::acquire_owned), but the permit takes this handle and not a clone of it.
    pub(crate) async fn into_permit(self, cx: Context) -> Result<OwnedPermit, Rejected> {
        let permit = AcquirePermit::new(&self.inner, self.partition, cx).await?;
        let raw = permit.into_raw();
        Ok(OwnedPermit {
            inner: self.inner,
            raw,
        })
    }

    /// Returns a handle for the calls of the partition with this name, or `None` if there is no such partition.
    pub fn partition(&self, name: &str) -> Option<Self> {
        let mut named = self.inner.queue.partitions().iter().skip(1);
        let index = named.position(|partition| partition.name == name)?;
        Some(Self {
            inner: self.inner.clone(),
            partition: index as u32 + 1,
        })
    }

    /// Returns a handle whose calls bypass the bulkhead, for health checks and administration, which must work
    /// when all permits are in flight.
    ///
    /// Such calls are admitted immediately and take no permits. No count includes them, and an adaptive limit
    /// gets no sample from them.
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

    /// Returns the current limit, in permits.
    pub fn limit(&self) -> u32 {
        self.inner.queue.read().limit()
    }

    /// Changes the limit. Values above 2^31 − 1 mean no bound in practice and count as 2^31 − 1.
    ///
    /// The new limit holds when this returns. Permits in flight stay valid: after a decrease, no call is admitted
    /// until fewer permits are in flight than the new limit. Waiters that need more permits than the new limit are
    /// rejected. An adaptive algorithm replaces the limit at its next sample.
    ///
    /// # Errors
    ///
    /// When `limit` is 0. Then nothing changes.
    pub fn set_limit(&self, limit: u32) -> Result<(), ConfigError> {
        if limit == 0 {
            let problem = "must be at least 1";
            return Err(ConfigError::new(self.name(), "set_limit", problem));
        }
        self.inner.set_limit(limit, None);
        Ok(())
    }

    /// Changes the target and the interval of CoDel. Its observations of the wait queue are kept.
    ///
    /// # Errors
    ///
    /// When the bulkhead was built without [`codel`](BulkheadBuilder::codel), or the target is zero or not below
    /// the interval. Then nothing changes.
    pub fn set_codel(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        let error = |problem| ConfigError::new(self.name(), "codel", problem);
        Codel::check(target, interval).map_err(error)?;
        if self.inner.queue.retune(target, interval) {
            Ok(())
        } else {
            Err(error("was not given to the builder"))
        }
    }
}

/// Returns the context of a call of this weight. No bulkhead has as many permits as `u32` can hold.
fn weighted(n: u64) -> Context {
    Context::new().with_cost(u32::try_from(n).unwrap_or(u32::MAX))
}

/// A bulkhead is evictable when no call is in flight, no other handle exists, and the limit is the one it was built
/// with. The limit of an adaptive bulkhead may differ: a new one learns it again.
impl Evictable for Bulkhead {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        let is_as_new = is_unshared(&self.inner)
            && inner.queue.in_flight() == 0
            && (inner.adaptive.is_some() || self.limit() == inner.initial_limit);
        is_as_new.then_some(Duration::ZERO)
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
