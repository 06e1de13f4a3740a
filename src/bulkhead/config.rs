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

/// Builds a [`Bulkhead`].
///
/// | setting | default |
/// |---|---|
/// | [`max_concurrent`](Self::max_concurrent) or [`adaptive`](Self::adaptive) | 25, fixed |
/// | [`queue`](Self::queue) | 0 |
/// | [`max_wait`](Self::max_wait) | as long as the deadline allows |
/// | [`order`](Self::order) | first in, first out |
/// | [`codel`](Self::codel) | off |
/// | [`partition`](Self::partition) | none |
/// | [`shares_may_exceed`](Self::shares_may_exceed) | no |
/// | [`cancel_is_overload`](Self::cancel_is_overload) | yes |
/// | [`shadow`](Self::shadow) | off |
/// | [`name`](Self::name) | `bulkhead` |
/// | [`clock`](Self::clock) | tokio's |
#[must_use = "a builder does nothing until `build`"]
pub struct BulkheadBuilder {
    max_concurrent: Option<u32>,
    adaptive: Option<Box<dyn ConcurrencyLimit>>,
    queue: usize,
    max_wait: Option<Duration>,
    order: QueueOrder,
    codel: Option<(Duration, Duration)>,
    partitions: Vec<(&'static str, f64)>,
    shares_may_exceed: bool,
    cancel_is_overload: Option<bool>,
    seed: Option<u64>,
    setup: Setup,
}

impl Bulkhead {
    /// Returns a bulkhead for at most `limit` calls at once, without a queue, on tokio's clock. 0 counts
    /// as 1.
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

impl BulkheadBuilder {
    const NAME: &'static str = "bulkhead";

    const fn new() -> Self {
        Self {
            max_concurrent: None,
            adaptive: None,
            queue: 0,
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

    /// How many calls may run at once. More than 2^31 − 1 count as that: no bound in practice.
    ///
    /// Calls may have a [cost](crate::Context::cost); then it is the sum of the costs.
    pub const fn max_concurrent(mut self, limit: u32) -> Self {
        self.max_concurrent = Some(limit);
        self
    }

    /// Lets an algorithm find the limit; contradicts [`max_concurrent`](Self::max_concurrent). See
    /// [`limit`](super::limit).
    ///
    /// A call whose cost is above the limit of the moment takes all of it.
    pub fn adaptive(mut self, algorithm: impl ConcurrencyLimit) -> Self {
        self.adaptive = Some(Box::new(algorithm));
        self
    }

    /// How many calls may wait for a permit, those of all partitions together. Memory is taken only by
    /// those who wait.
    pub const fn queue(mut self, calls: usize) -> Self {
        self.queue = calls;
        self
    }

    /// How long a call waits in line at most.
    pub const fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// Who is next when several wait.
    pub const fn order(mut self, order: QueueOrder) -> Self {
        self.order = order;
        self
    }

    /// Watches the line with CoDel: when it has stood for an `interval` with nobody waiting less than
    /// `target`, those who waited longer than twice the target are dropped
    /// ([`Reason::QueueTimeout`](crate::Reason::QueueTimeout)) and the newest go first, until an
    /// interval ends in which the line has drained or somebody has waited less.
    pub const fn codel(mut self, target: Duration, interval: Duration) -> Self {
        self.codel = Some((target, interval));
        self
    }

    /// [`codel`](Self::codel) with a target of 5 ms and an interval of 100 ms.
    pub const fn codel_defaults(self) -> Self {
        self.codel(Codel::TARGET, Codel::INTERVAL)
    }

    /// Sets a part of the permits aside for the calls made through
    /// [`Bulkhead::partition`]`(name)`: `share` of the limit, rounded up, above 0 and at most 1.
    ///
    /// A partition may use what is free beyond its share. When all permits are out, those that come
    /// back go to waiting calls of partitions below their share first; so give it a
    /// [`queue`](Self::queue), or see [`shares_may_exceed`](Self::shares_may_exceed).
    pub fn partition(mut self, name: &'static str, share: f64) -> Self {
        self.partitions.push((name, share));
        self
    }

    /// Whether a partition below its share is admitted at once also when others have borrowed all
    /// permits. The bulkhead then holds more calls than its limit, by as much as was borrowed.
    pub const fn shares_may_exceed(mut self, exceed: bool) -> Self {
        self.shares_may_exceed = exceed;
        self
    }

    /// Whether a call whose future is dropped while the operation runs tells an adaptive limit that
    /// the dependency is overloaded. It is how a timeout outside the bulkhead cuts calls off; say no
    /// when most drops have another cause, such as hedges that lost.
    pub const fn cancel_is_overload(mut self, overload: bool) -> Self {
        self.cancel_is_overload = Some(overload);
        self
    }

    setters! {
        in setup;
        /// Decides, counts and reports, but never refuses and never makes a call wait.
        shadow;
        /// Makes the random numbers that adaptive limits use reproducible.
        seed;
        /// Hears of refusals and of changes of the limit, whoever makes the calls.
        observer;
        /// The name in errors and events.
        name;
        /// The clock that measures waits and latencies.
        clock;
    }

    /// The bulkhead.
    ///
    /// # Errors
    ///
    /// A limit or a longest wait of zero; a longest wait, an order or CoDel without a queue; CoDel with
    /// an order of its own, a target of zero, or one not shorter than its interval; shares that are not in
    /// (0, 1] or exceed 1 together; two partitions of one name; no clock where the feature `tokio`
    /// is off.
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
        if self.cancel_is_overload.is_some() && self.adaptive.is_none() {
            return Err(Self::error("cancel_is_overload", "needs an adaptive limit"));
        }
        if self.max_wait == Some(Duration::ZERO) {
            return Err(Self::error(
                "max_wait",
                "must be above zero; without a queue nobody waits",
            ));
        }
        if self.queue == 0 {
            if self.max_wait.is_some() {
                return Err(Self::error("max_wait", "needs a queue"));
            }
            if self.order != QueueOrder::Fifo {
                return Err(Self::error("order", "needs a queue"));
            }
            if self.codel.is_some() {
                return Err(Self::error("codel", "needs a queue"));
            }
        }
        if let Some((target, interval)) = self.codel {
            if self.order != QueueOrder::Fifo {
                return Err(Self::error("codel", "decides the order by itself"));
            }
            Codel::check(target, interval).map_err(|problem| Self::error("codel", problem))?;
        }
        self.check_partitions()
    }

    fn check_partitions(&self) -> Result<(), ConfigError> {
        let error = |problem| Err(Self::error("partition", problem));
        if self.shares_may_exceed && self.partitions.is_empty() {
            return Err(Self::error("shares_may_exceed", "needs partitions"));
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
                return error("was given twice with one name");
            }
            sum += share;
        }
        // Shares are written in decimals: 0.7 + 0.2 + 0.1 is a little more than 1.
        if sum > 1.0 + 1e-9 {
            return error("shares must not exceed 1 together");
        }
        Ok(())
    }

    fn assemble(self, base: Base) -> Bulkhead {
        let limit = match &self.adaptive {
            Some(algorithm) => algorithm.limit().clamp(1, MAX_PERMITS),
            None => self.max_concurrent.unwrap_or(25).min(MAX_PERMITS),
        };
        let rules = Rules {
            capacity: self.queue,
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
        // Algorithms, shadow mode and partitions need the number in flight with each call.
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
                first_limit: limit,
                max_wait: self.max_wait.unwrap_or(Duration::MAX),
                adaptive: self
                    .adaptive
                    .map(|algorithm| Box::new(Adaptive::new(algorithm, seed))),
                cancel_is_overload: self.cancel_is_overload.unwrap_or(true),
                refused: AtomicU64::new(0),
                timed_out: AtomicU64::new(0),
                would_refuse: AtomicU64::new(0),
            }),
            partition: 0,
        }
    }
}

impl std::fmt::Debug for BulkheadBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkheadBuilder")
            .field("max_concurrent", &self.max_concurrent)
            .field("adaptive", &self.adaptive)
            .field("queue", &self.queue)
            .field("max_wait", &self.max_wait)
            .field("order", &self.order)
            .field("codel", &self.codel)
            .field("partitions", &self.partitions)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
