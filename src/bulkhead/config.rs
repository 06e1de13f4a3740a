//! The builder of bulkheads.

use std::sync::Arc;
use std::time::Duration;

use super::Bulkhead;
use super::adaptive::Adaptive;
use super::inner::Inner;
use super::partition::Partition;
use super::permit_cache::PermitCache;
use super::permit_queue::{PermitQueue, QueueOrder, Rules};
use super::state::{ConcurrencyLimit, MAX_PERMITS};
use crate::base::{Base, Setup};
use crate::codel::Codel;
use crate::error::ConfigError;
use crate::sync::AtomicU64;

/// Builds a [`Bulkhead`]. The table of defaults is on the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct BulkheadBuilder {
    max_concurrent: Option<u32>,
    adaptive: Option<Box<dyn ConcurrencyLimit>>,
    max_waiting: usize,
    max_wait: Option<Duration>,
    order: QueueOrder,
    codel: Option<(Duration, Duration)>,
    partitions: Vec<(&'static str, f64)>,
    shares_may_exceed: bool,
    cancel_is_overload: Option<bool>,
    seed: Option<u64>,
    setup: Setup,
}

crate::debug::debug_settings!(BulkheadBuilder { max_concurrent, adaptive, order, partitions, shares_may_exceed, cancel_is_overload, seed, setup; max_waiting, max_wait, codel });

impl Bulkhead {
    /// Returns a bulkhead for at most `limit` concurrent calls, without a wait queue, on tokio's clock. A limit of 0
    /// counts as 1; the [builder](Self::builder) returns an error for it.
    #[cfg(feature = "tokio")]
    pub fn new(limit: u32) -> Self {
        let builder = Self::builder().max_concurrent(limit.max(1));
        let base = builder.setup.clone().on(crate::clock::TokioClock.into());
        builder.assemble(base)
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> BulkheadBuilder {
        BulkheadBuilder::new()
    }
}

#[cfg(feature = "tokio")]
impl Default for Bulkhead {
    /// Returns a bulkhead with the default settings, on tokio's clock.
    fn default() -> Self {
        let built = Self::builder().build();
        built.expect("the default settings are valid")
    }
}

impl BulkheadBuilder {
    const NAME: &'static str = "bulkhead";

    const fn new() -> Self {
        Self {
            max_concurrent: None,
            adaptive: None,
            max_waiting: 0,
            max_wait: None,
            order: QueueOrder::Fifo,
            codel: None,
            partitions: Vec::new(),
            shares_may_exceed: false,
            cancel_is_overload: None,
            seed: None,
            setup: Setup::new(Self::NAME),
        }
    }

    /// Sets the limit: the number of permits. Default 25. Values above 2^31 − 1 mean no bound in practice.
    ///
    /// A call takes as many permits as its [cost](crate::Context::cost), by default one.
    pub const fn max_concurrent(mut self, limit: u32) -> Self {
        self.max_concurrent = Some(limit);
        self
    }

    /// Lets an algorithm find the limit. Contradicts [`max_concurrent`](Self::max_concurrent). See
    /// [`limit`](super::limit).
    ///
    /// A call whose cost is above the current limit takes all permits.
    pub fn adaptive(mut self, algorithm: impl ConcurrencyLimit) -> Self {
        self.adaptive = Some(Box::new(algorithm));
        self
    }

    /// Sets the most calls that may wait for a permit, in all partitions together. Default 0: calls beyond the
    /// limit are rejected immediately. The queue allocates only while calls wait.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = calls;
        self
    }

    /// Sets the longest wait for a permit. Zero: no call waits, whatever [`max_waiting`](Self::max_waiting) is. Any
    /// other wait needs `max_waiting`. Default none: a call waits until its deadline.
    pub const fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// Sets the order in which waiters are admitted. Default first in, first out.
    pub const fn order(mut self, order: QueueOrder) -> Self {
        self.order = order;
        self
    }

    /// Manages the wait queue with CoDel. Contradicts [`order`](Self::order).
    ///
    /// The queue is overloaded after an `interval` in which every call waited longer than `target`. Then waiters
    /// older than twice the target are rejected ([`Reason::QueueTimeout`](crate::Reason::QueueTimeout)) and the
    /// newest are admitted first, until an interval in which the queue was empty or some call waited for less.
    pub const fn codel(mut self, target: Duration, interval: Duration) -> Self {
        self.codel = Some((target, interval));
        self
    }

    /// Manages the wait queue with [`codel`](Self::codel), with a target of 5 ms and an interval of 100 ms.
    pub const fn codel_default(self) -> Self {
        self.codel(Codel::TARGET, Codel::INTERVAL)
    }

    /// Adds a partition with a guaranteed share of the limit, for the calls made through
    /// [`Bulkhead::partition`]`(name)`. The share is above 0 and at most 1; its permits are rounded up.
    ///
    /// A partition may borrow free permits beyond its share. While all permits are in flight, released permits go
    /// to waiters of partitions below their share first. So a partition needs a wait queue
    /// ([`max_waiting`](Self::max_waiting)), or [`shares_may_exceed`](Self::shares_may_exceed).
    pub fn partition(mut self, name: &'static str, share: f64) -> Self {
        self.partitions.push((name, share));
        self
    }

    /// Sets whether calls of a partition below its share are admitted immediately, even when other partitions
    /// have borrowed all permits. The bulkhead then exceeds its limit by the number of borrowed permits. Default
    /// `false`.
    pub const fn shares_may_exceed(mut self, exceed: bool) -> Self {
        self.shares_may_exceed = exceed;
        self
    }

    /// Sets whether dropping the future of a running call counts as overload for an adaptive limit. Default
    /// `true`, because a timeout outside the bulkhead drops calls. Choose `false` where most drops have another
    /// cause, such as hedges that lost.
    pub const fn cancel_is_overload(mut self, overload: bool) -> Self {
        self.cancel_is_overload = Some(overload);
        self
    }

    setters! {
        in setup;
        /// Sets shadow mode: decides, counts, and reports, but neither rejects calls nor lets them wait. Default
        /// `false`.
        shadow;
        /// Seeds the random numbers of adaptive limits.
        seed;
        /// Sets an observer of rejections, waits, and limit changes of all calls.
        observer;
        /// Sets the name in errors and events. Default `bulkhead`.
        name;
        /// Sets the clock that measures waits and latencies. Default tokio's.
        clock;
    }

    /// Builds the bulkhead.
    ///
    /// # Errors
    ///
    /// * A limit of zero, or both a limit and an algorithm.
    /// * A longest wait above zero, an order, or CoDel without [`max_waiting`](Self::max_waiting).
    /// * An order or CoDel, if the longest wait is zero.
    /// * CoDel together with an order, or with a target of zero or not below its interval.
    /// * A share outside (0, 1], shares that exceed 1 together, two partitions with one name, or
    ///   [`shares_may_exceed`](Self::shares_may_exceed) without partitions.
    /// * [`cancel_is_overload`](Self::cancel_is_overload) or a seed without an algorithm.
    /// * No clock, where the feature `tokio` is off.
    pub fn build(self) -> Result<Bulkhead, ConfigError> {
        self.check()?;
        let base = self.setup.clone().build(Self::NAME)?;
        Ok(self.assemble(base))
    }

    const fn error(setting: &'static str, problem: &'static str) -> ConfigError {
        ConfigError::new(Self::NAME, setting, problem)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.max_concurrent == Some(0) {
            return Err(Self::error("max_concurrent", "must be at least 1"));
        }
        if self.max_concurrent.is_some() && self.adaptive.is_some() {
            return Err(Self::error(
                "max_concurrent",
                "contradicts adaptive, which finds the limit; give the algorithm an initial one",
            ));
        }
        if self.adaptive.is_none() {
            let problem = "needs an adaptive limit";
            if self.cancel_is_overload.is_some() {
                return Err(Self::error("cancel_is_overload", problem));
            }
            if self.seed.is_some() {
                return Err(Self::error("seed", problem));
            }
        }
        let never_waits = self.max_wait == Some(Duration::ZERO);
        if self.max_waiting == 0 && self.max_wait.is_some() && !never_waits {
            return Err(Self::error("max_wait", "needs max_waiting"));
        }
        if self.max_waiting == 0 || never_waits {
            let problem = match never_waits {
                true => "contradicts max_wait, which is zero, so no call waits",
                false => "needs max_waiting",
            };
            if self.order != QueueOrder::Fifo {
                return Err(Self::error("order", problem));
            }
            if self.codel.is_some() {
                return Err(Self::error("codel", problem));
            }
        }
        if let Some((target, interval)) = self.codel {
            if self.order != QueueOrder::Fifo {
                return Err(Self::error(
                    "codel",
                    "contradicts order, because it chooses the order",
                ));
            }
            Codel::check(target, interval).map_err(|problem| Self::error("codel", problem))?;
        }
        self.check_partitions()
    }

    fn check_partitions(&self) -> Result<(), ConfigError> {
        let error = |problem| Err(Self::error("partition", problem));
        if self.shares_may_exceed && self.partitions.is_empty() {
            return Err(Self::error("shares_may_exceed", "needs a partition"));
        }
        let mut sum = 0.0;
        for (index, (name, share)) in self.partitions.iter().enumerate() {
            if !(*share > 0.0 && *share <= 1.0) {
                return error("needs a share above 0 and at most 1");
            }
            if self.partitions[..index]
                .iter()
                .any(|(other, _)| other == name)
            {
                return error("must not repeat a name");
            }
            sum += share;
        }
        // Shares are written in decimals: 0.7 + 0.2 + 0.1 is a little more than 1.
        if sum > 1.0 + 1e-9 {
            return error("must not have shares above 1 together");
        }
        Ok(())
    }

    fn assemble(self, base: Base) -> Bulkhead {
        let limit = match &self.adaptive {
            Some(algorithm) => algorithm.limit().clamp(1, MAX_PERMITS),
            None => self.max_concurrent.unwrap_or(25).min(MAX_PERMITS),
        };
        let rules = Rules {
            // Without waits there is no queue to join.
            capacity: match self.max_wait {
                Some(Duration::ZERO) => 0,
                _ => self.max_waiting,
            },
            order: self.order,
            clamp: self.adaptive.is_some(),
            exceed: self.shares_may_exceed,
        };
        let mut partitions = Vec::new();
        if !self.partitions.is_empty() {
            partitions.push(Partition::new("", 0.0));
            let shares = self.partitions.iter();
            partitions.extend(shares.map(|(name, share)| Partition::new(name, *share)));
        }
        let codel = self
            .codel
            .map(|(target, interval)| Codel::new(target, interval));
        // Algorithms, shadow mode, and partitions need an exact in-flight count for each call.
        let exact = self.adaptive.is_some() || base.shadow || !partitions.is_empty();
        let permits = PermitCache::new(limit, exact);
        let seed = self.seed;
        Bulkhead {
            inner: Arc::new(Inner {
                queue: PermitQueue::new(
                    permits,
                    rules,
                    partitions.into(),
                    codel,
                    base.clock.clone(),
                ),
                base,
                initial_limit: limit,
                max_wait: self.max_wait.unwrap_or(Duration::MAX),
                adaptive: self
                    .adaptive
                    .map(|algorithm| Box::new(Adaptive::new(algorithm, seed))),
                cancel_is_overload: self.cancel_is_overload.unwrap_or(true),
                rejected: AtomicU64::new(0),
                timed_out: AtomicU64::new(0),
                would_reject: AtomicU64::new(0),
            }),
            partition: 0,
        }
    }
}
