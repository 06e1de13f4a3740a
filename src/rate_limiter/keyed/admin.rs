//! Operations on all keys: snapshots, quotas, and pauses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::decision::Decision;
use super::super::state::{Gcra, Inherit, Quota, are_same_kinds};
use super::inner::NAME;
use super::shard::is_nested;
use super::{KeyedRateLimiter, KeyedSnapshot};
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::sync::lock;

impl<K> KeyedRateLimiter<K> {
    /// Returns a snapshot of the limiter.
    pub fn snapshot(&self) -> KeyedSnapshot {
        let inner = &*self.inner;
        let time = inner.time(inner.base.now());
        let (rejections, shadow) = (inner.rejections.total(), inner.base.shadow);
        // Unlocked before the shards are locked: calls that begin to wait take the two locks in the other order.
        let quotas = lock(&inner.quotas).clone();
        KeyedSnapshot {
            name: inner.base.name,
            quotas,
            keys: self.len(),
            max_keys: inner.keys.max_keys,
            // Relaxed: a statistic.
            overflowed: inner.overflowed.load(Ordering::Relaxed),
            waiting: inner.keys.waiting(),
            rejected: if shadow { 0 } else { rejections },
            shadow,
            would_reject: if shadow { rejections } else { 0 },
            paused_for: time.open.saturating_duration_since(time.now),
        }
    }

    /// Calls `visit` with each key and the decision about a call that costs one token, in arbitrary order and outside
    /// all locks. Keys are cloned under the lock of their shard. Keys that are added or evicted meanwhile may or may
    /// not be visited.
    pub fn for_each(&self, mut visit: impl FnMut(&K, Decision))
    where
        K: Clone,
    {
        let inner = &*self.inner;
        for shard in &inner.keys.shards {
            let time = inner.time(inner.base.now());
            let entries: Vec<_> = match shard.lock() {
                Some(table) => table
                    .keys(&inner.keys.default)
                    .map(|(key, limit)| (key.clone(), limit))
                    .collect(),
                None => continue,
            };
            for (key, limit) in entries {
                visit(&key, limit.peek(time));
            }
        }
    }

    /// Evicts at once all keys whose limits are full. Without it, calls evict them a few at a time.
    pub fn evict_idle(&self) {
        self.inner.keys.sweep_all(self.inner.base.now());
    }

    /// Replaces the default quota of all keys that have it. See
    /// [`RateLimiter::set_quota`](crate::RateLimiter::set_quota). Keys with a quota of their own keep it,
    /// even if it has the same value.
    ///
    /// # Errors
    ///
    /// If the quota is invalid, does not begin full, or has another algorithm than the one in force, or
    /// the limiter is adaptive.
    pub fn set_quota(&self, quota: Quota, inherit: Inherit) -> Result<(), ConfigError> {
        self.set_quotas(&[quota], inherit)
    }

    /// Like [`set_quota`](Self::set_quota), for a limiter with several default quotas.
    ///
    /// # Errors
    ///
    /// As for [`set_quota`](Self::set_quota), and if the number of quotas differs.
    pub fn set_quotas(&self, quotas: &[Quota], inherit: Inherit) -> Result<(), ConfigError> {
        let inner = &*self.inner;
        let error = |problem| ConfigError::new(NAME, "quota", problem);
        if is_nested() {
            return Err(error("cannot be changed while two keys are compared"));
        }
        if inner.per_key.adaptive.is_some() {
            return Err(error("cannot be set, because the limiter is adaptive"));
        }
        quotas
            .iter()
            .try_for_each(|quota| inner.per_key.check(quota))?;
        let now = inner.base.now();
        let _changing = lock(&inner.changing);
        {
            let mut current = lock(&inner.quotas);
            if !are_same_kinds(&current, quotas) {
                let problem = "must have the same number and algorithms as before";
                return Err(error(problem));
            }
            current.clear();
            current.extend_from_slice(quotas);
        }
        // Incremented before the shards change, so that a key added later has the new quota, and a key added earlier
        // is found in its shard. Release pairs with the Acquire load in `Inner::add`.
        inner.version.fetch_add(1, Ordering::Release);
        let new = Arc::new(quotas[0].gcra(inner.per_key.debt));
        // Changed outside the locks, since their wait queues run wakers.
        let mut limiters = Vec::new();
        for shard in &inner.keys.shards {
            if let Some(mut table) = shard.lock() {
                let convert = |tat, old: &Gcra| old.inherit(tat, now, (&new, 0), inherit);
                table.replace(&new, &inner.keys.default, convert, &mut limiters);
            }
        }
        limiters.extend(inner.shared.clone());
        limiters
            .iter()
            .try_for_each(|limiter| limiter.set_quotas(quotas, inherit))
    }

    /// Rejects calls of all keys for `duration`, for a `Retry-After` of the dependency. Calls that may wait do so. Of
    /// several pauses, the one that ends last applies.
    pub fn pause_for(&self, duration: Duration) {
        self.pause_until(self.inner.base.now() + duration);
    }

    /// Like [`pause_for`](Self::pause_for), until an instant on the limiter's clock.
    pub fn pause_until(&self, until: Instant) {
        // Relaxed: the pause publishes nothing else.
        self.inner
            .paused_until
            .fetch_max(until.as_nanos(), Ordering::Relaxed);
    }
}
