//! What the clones of a keyed limiter share.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::RateLimiter;
use super::super::state::{Gcra, Quota, Refusal};
use super::custom::{Custom, Limit};
use super::hash::Secret;
use super::keys::{Keys, Place};
use super::table::{CUSTOM, Table};
use crate::base::Base;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;
use crate::sync::lock;

pub(super) const NAME: &str = "keyed_rate_limiter";

pub(super) struct Inner<K> {
    pub(super) keys: Keys<K>,
    pub(super) secret: Secret,
    /// Whether the default quota is a plain token bucket, so that a word is enough for a key.
    pub(super) is_plain: bool,
    /// The end of the pause of all keys, in nanoseconds.
    pub(super) paused_until: AtomicU64,
    pub(super) quotas: Mutex<Vec<Quota>>,
    /// Held during a change of the quotas. Taken before the lock of a shard.
    pub(super) changing: Mutex<()>,
    /// Number of changes of the quotas.
    pub(super) version: AtomicU64,
    pub(super) quota_for: Option<QuotaFor<K>>,
    /// The limit of the keys without room, if they share one.
    pub(super) shared: Option<RateLimiter>,
    pub(super) debt: u64,
    pub(super) overflowed: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) would_reject: AtomicU64,
    pub(super) base: Base,
    /// How long a call through the policy may wait.
    pub(super) max_wait: Duration,
}

/// The quota of a key, when it has one of its own.
pub(super) type QuotaFor<K> = Arc<dyn Fn(&K) -> Option<Quota> + Send + Sync>;

/// Now, and the first instant at which a call may run: later while the key is paused.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) now: Instant,
    pub(super) open: Instant,
}

impl Time {
    pub(super) fn is_paused(self) -> bool {
        self.open > self.now
    }

    /// Postpones what could happen at `open` while the key is paused.
    pub(super) fn admit(self, ready: Result<(), Refusal>) -> Result<(), Refusal> {
        match ready {
            Ok(()) if self.is_paused() => Err(Refusal::Until(self.open)),
            ready => ready,
        }
    }

    /// Rejects a call because of the pause.
    #[cold]
    fn paused(self, tat: u64, gcra: &Gcra, cost: u64) -> Result<(), Refusal> {
        self.admit(gcra.ready(tat, self.open, cost, 0))
    }

    fn paused_until(self, until: Instant) -> Self {
        Self {
            open: self.open.max(until),
            ..self
        }
    }
}

impl<K> Inner<K> {
    #[inline]
    pub(super) fn time(&self, now: Instant) -> Time {
        // Relaxed: the pause publishes nothing else.
        let paused = self.paused_until.load(Ordering::Relaxed);
        let open = now.max(Instant::from_nanos(paused));
        Time { now, open }
    }

    /// Rejects a call. In shadow mode, reports that and admits it.
    #[inline]
    pub(super) fn refuse(
        &self,
        now: Instant,
        refusal: Refusal,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.report(
            self.base.rejection(now, refusal, Reason::RateLimited),
            observer,
        )
    }

    #[inline]
    pub(super) fn report(
        &self,
        rejected: Rejected,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        let counter = match self.base.shadow {
            true => &self.would_reject,
            false => &self.rejected,
        };
        // Relaxed: a statistic.
        counter.fetch_add(1, Ordering::Relaxed);
        self.base.reject(rejected, observer)
    }

    /// A limiter that is no token bucket of one word.
    pub(super) fn limiter(&self, quotas: &[Quota]) -> Result<RateLimiter, ConfigError> {
        limiter(quotas, self.debt, &self.base)
    }
}

impl<K: Hash + Eq> Inner<K> {
    /// Takes `cost` of the tokens of `key`.
    #[inline]
    pub(super) fn take<Q>(&self, hash: u64, key: &Q, now: Instant, cost: u64) -> Result<(), Refusal>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.with(
            (hash, key),
            now,
            true,
            |tat, gcra, time| {
                if time.is_paused() {
                    return time.paused(*tat, gcra, cost);
                }
                gcra.take(*tat, time.now, cost).map(|next| *tat = next)
            },
            |limiter, time| match time.is_paused() {
                true => Err(Refusal::Until(time.open)),
                false => limiter.inner.take(time.now, cost),
            },
        )
        .unwrap_or(Err(Refusal::Until(Instant::FAR_FUTURE)))
    }

    /// Runs `bucket` under the lock on the state of `key`, or `limiter` without a lock. A new key is
    /// added. `None` when there is no room for it, which is counted if `is_new_call`.
    #[inline]
    pub(super) fn with<Q, R>(
        &self,
        (hash, key): (u64, &Q),
        now: Instant,
        is_new_call: bool,
        bucket: impl Fn(&mut u64, &Gcra, Time) -> R,
        limiter: impl Fn(&RateLimiter, Time) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let time = self.time(now);
        let mut shard = self.keys.shard(hash);
        if shard.as_mut().is_some_and(|table| table.is_due()) {
            // Before anything is taken: it drops keys, and their `Drop` may panic.
            drop(shard);
            self.keys.sweep_shard(hash, now);
            shard = self.keys.shard(hash);
        }
        if let Some(mut table) = shard {
            if let Some((state, gcra)) = table.find(hash as u32, key, &self.keys.default) {
                let mut word = state.get();
                if word <= CUSTOM {
                    let result = bucket(&mut word, gcra, time);
                    state.set(word);
                    return Some(result);
                }
                let found = of_custom(&mut table, word, time, bucket)?;
                drop(table);
                return Some(found.unwrap_or_else(|(of_key, time)| limiter(&of_key, time)));
            }
        }
        self.with_new((hash, key), time, is_new_call, bucket, limiter)
    }

    #[cold]
    fn with_new<Q, R>(
        &self,
        (hash, key): (u64, &Q),
        time: Time,
        is_new_call: bool,
        bucket: impl Fn(&mut u64, &Gcra, Time) -> R,
        limiter: impl Fn(&RateLimiter, Time) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        while let Some(place) = self.keys.make_room(hash, time.now) {
            match self.add((hash, key), time, place, &bucket, &limiter) {
                Added::Done(result) => return Some(result),
                Added::Evicted => {}
                Added::Locked => break,
            }
        }
        // Relaxed: a statistic.
        self.overflowed
            .fetch_add(u64::from(is_new_call), Ordering::Relaxed);
        self.shared.as_ref().map(|shared| limiter(shared, time))
    }

    /// Adds a key, unless another thread has added it meanwhile, and uses its limit.
    fn add<Q, R>(
        &self,
        (hash, key): (u64, &Q),
        time: Time,
        place: Place<'_>,
        bucket: impl Fn(&mut u64, &Gcra, Time) -> R,
        limiter: impl Fn(&RateLimiter, Time) -> R,
    ) -> Added<R>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // User code, so outside the lock.
        let owned = key.to_owned();
        let own = self.quota_for.as_ref().and_then(|quota| quota(&owned));
        let own = own.filter(|quota| check(quota).is_ok());
        loop {
            // Acquire: pairs with the release in `set_quotas`.
            let version = self.version.load(Ordering::Acquire);
            let custom = self.custom(own.as_ref());
            let Some(mut table) = self.keys.shard(hash) else {
                return Added::Locked;
            };
            let known = table.find(hash as u32, key, &self.keys.default).is_some();
            // Under the shard's lock: a change that is not seen here has yet to come to the shard.
            let is_stale = version != self.version.load(Ordering::Acquire);
            if is_stale && !known && custom.as_ref().is_some_and(|custom| custom.is_default) {
                continue;
            }
            if known {
                // The key is dropped outside the lock, and before anything is taken: its `Drop` may panic.
                drop(table);
                drop((owned, place));
                let used = self.with_known(hash, key, time.now, bucket, limiter);
                return used.map_or(Added::Evicted, Added::Done);
            }
            std::mem::forget(place);
            let Some((state, gcra)) = table.insert(hash as u32, owned, custom, &self.keys.default)
            else {
                return Added::Evicted;
            };
            let mut word = state.get();
            if word <= CUSTOM {
                let result = bucket(&mut word, gcra, time);
                state.set(word);
                return Added::Done(result);
            }
            let found = of_custom(&mut table, word, time, bucket);
            drop(table);
            return found.map_or(Added::Evicted, |found| {
                Added::Done(found.unwrap_or_else(|(of_key, time)| limiter(&of_key, time)))
            });
        }
    }

    /// Makes the limit of a new key, if a word is not enough.
    fn custom(&self, own: Option<&Quota>) -> Option<Custom> {
        let limit = match own {
            None if self.is_plain => return None,
            None => {
                let quotas = lock(&self.quotas).clone();
                Limit::Limiter(self.limiter(&quotas).ok()?)
            }
            Some(own) if own.is_plain() => Limit::Bucket {
                gcra: own.gcra(self.debt),
                tat: 0,
            },
            Some(own) => Limit::Limiter(self.limiter(&[*own]).ok()?),
        };
        Some(Custom::new(own.is_none(), limit))
    }

    /// As [`with`](Self::with), for keys that are known. Others are not added.
    pub(super) fn with_known<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        now: Instant,
        bucket: impl Fn(&mut u64, &Gcra, Time) -> R,
        limiter: impl Fn(&RateLimiter, Time) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let time = self.time(now);
        let mut table = self.keys.shard(hash)?;
        let (state, gcra) = table.find(hash as u32, key, &self.keys.default)?;
        let mut word = state.get();
        if word <= CUSTOM {
            let result = bucket(&mut word, gcra, time);
            state.set(word);
            return Some(result);
        }
        let found = of_custom(&mut table, word, time, bucket)?;
        drop(table);
        Some(found.unwrap_or_else(|(of_key, time)| limiter(&of_key, time)))
    }

    /// Gives tokens back to a key, if it is still known.
    pub(super) fn give<Q>(&self, hash: u64, key: &Q, tokens: u64)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.with_known(
            hash,
            key,
            Instant::ORIGIN,
            |tat, gcra, _| *tat = gcra.give(*tat, tokens),
            |limiter, _| limiter.add(tokens),
        );
    }
}

/// What became of a key that was to be added.
enum Added<R> {
    /// It is in the table, and its limit was used.
    Done(R),
    /// Another thread has evicted it before its limit was used.
    Evicted,
    /// The table is locked by this thread, from within a comparison of keys.
    Locked,
}

/// Runs `bucket` on the state of a key that is not plain. Returns the limiter of one that has another
/// limit than a token bucket, to be used without the lock.
#[cold]
fn of_custom<K, R>(
    table: &mut Table<K>,
    word: u64,
    time: Time,
    bucket: impl Fn(&mut u64, &Gcra, Time) -> R,
) -> Option<Result<R, (RateLimiter, Time)>> {
    let custom = table.custom_mut(word)?;
    let time = time.paused_until(custom.paused_until);
    match &mut custom.limit {
        Limit::Bucket { gcra, tat } => Some(Ok(bucket(tat, gcra, time))),
        Limit::Limiter(limiter) => Some(Err((limiter.clone(), time))),
    }
}

/// Whether a key can have this quota.
pub(super) fn check(quota: &Quota) -> Result<(), ConfigError> {
    quota.check(NAME)?;
    if quota.first() != quota.limit() {
        let problem = "must begin full: an evicted key comes back as a new one";
        return Err(ConfigError::new(NAME, "quota", problem));
    }
    Ok(())
}

/// The limit of one key. Rejections are counted and reported by the keyed limiter.
pub(super) fn limiter(
    quotas: &[Quota],
    debt: u64,
    base: &Base,
) -> Result<RateLimiter, ConfigError> {
    let builder = RateLimiter::builder()
        .max_debt(debt)
        .name(base.name)
        .clock(base.clock.clone());
    let builder = quotas
        .iter()
        .fold(builder, |builder, quota| builder.quota(*quota));
    builder.build()
}
