//! State shared by the clones of a keyed limiter.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::rejections::Rejections;
use super::super::state::{Gcra, Quota, Unavailable};
use super::super::{RateLimiter, RateLimiterBuilder};
use super::call_time::CallTime;
use super::hash::Secret;
use super::own_limit::{KeyLimit, OwnLimit};
use super::shards::{ReservedKey, Shards};
use super::table::{MAX_TAT, Table};
use crate::adaptive_rate::CubicRateBuilder;
use crate::base::{Base, Setup};
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;
use crate::sync::{cold_path, lock};
use crate::verdict::Verdict;

pub(super) const NAME: &str = "keyed_rate_limiter";

pub(super) struct Inner<K> {
    pub(super) keys: Shards<K>,
    pub(super) secret: Secret,
    /// Whether the default quota is a plain token bucket, so that one word per key is enough.
    pub(super) is_plain: bool,
    /// The end of the pause of all keys, in nanoseconds.
    pub(super) paused_until: AtomicU64,
    pub(super) quotas: Mutex<Vec<Quota>>,
    /// Held during a change of the quotas. Taken before the lock of a shard.
    pub(super) changing: Mutex<()>,
    /// Number of changes of the quotas.
    pub(super) version: AtomicU64,
    pub(super) quota_for: Option<QuotaFor<K>>,
    /// The limit of keys that find the table full, if they share one.
    pub(super) shared: Option<RateLimiter>,
    pub(super) per_key: PerKey,
    /// The longest pause that a hint may cause; zero if hints cause none.
    pub(super) longest_pause: Duration,
    pub(super) overflowed: AtomicU64,
    pub(super) rejections: Rejections,
    pub(super) base: Base,
    /// The longest wait of a call through the policy.
    pub(super) max_wait: Duration,
}

/// Settings of the limits of all keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerKey {
    pub(super) debt: u64,
    pub(super) max_waiting: usize,
    pub(super) adaptive: Option<CubicRateBuilder>,
}

impl PerKey {
    /// Returns the limiter of one key. The keyed limiter counts and reports its rejections.
    pub(super) fn limiter(
        &self,
        quotas: &[Quota],
        base: &Base,
    ) -> Result<RateLimiter, ConfigError> {
        let mut builder = RateLimiter::builder()
            .max_debt(self.debt)
            .max_waiting(self.max_waiting)
            .name(base.name)
            .clock(base.clock.clone());
        if let Some(rate) = self.adaptive {
            builder = builder.adaptive(rate);
        }
        let with_quota = |builder: RateLimiterBuilder, quota: &Quota| builder.quota(*quota);
        quotas.iter().fold(builder, with_quota).build()
    }

    /// Returns whether a key can have this quota.
    pub(super) fn check(&self, quota: &Quota) -> Result<(), ConfigError> {
        quota.check(NAME)?;
        if quota.initial_tokens() != quota.limit() {
            let problem = "must begin full: an evicted key comes back as a new one";
            return Err(ConfigError::new(NAME, "quota", problem));
        }
        if self.adaptive.is_some() && !quota.is_plain() {
            return Err(ConfigError::new(
                NAME,
                "adaptive",
                "works with a single token bucket",
            ));
        }
        Ok(())
    }
}

/// A function that returns the quota of a key, or `None` for the default.
pub(super) type QuotaFor<K> = Arc<dyn Fn(&K) -> Option<Quota> + Send + Sync>;

impl<K> Inner<K> {
    #[inline]
    pub(super) fn time(&self, now: Instant) -> CallTime {
        // Relaxed: the pause publishes nothing else.
        let paused = self.paused_until.load(Ordering::Relaxed);
        let open = now.max(Instant::from_nanos(paused));
        CallTime { now, open }
    }

    /// Rejects a call, or reports and admits it in shadow mode.
    #[inline]
    pub(super) fn reject_for(
        &self,
        now: Instant,
        unavailable: Unavailable,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.report(
            self.base.rejection(now, unavailable, Reason::RateLimited),
            observer,
        )
    }

    #[inline]
    pub(super) fn report(
        &self,
        rejected: Rejected,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.rejections.count();
        self.base.reject(rejected, observer)
    }

    /// Returns a limiter that continues the token bucket of a key, for calls that wait.
    pub(super) fn limiter_of(&self, gcra: Gcra, tat: u64, is_default: bool) -> RateLimiter {
        let quotas = match is_default {
            true => lock(&self.quotas).clone(),
            // Quotas other than the default never change.
            false => Vec::new(),
        };
        let base = Setup::new(self.base.name).on(self.base.clock.clone());
        let PerKey {
            debt, max_waiting, ..
        } = self.per_key;
        RateLimiter::of_bucket((gcra, tat), quotas, debt, max_waiting, base)
    }

    /// Returns whether results of calls change anything.
    #[inline(always)]
    pub(super) fn learns(&self) -> bool {
        self.per_key.adaptive.is_some() || !self.longest_pause.is_zero()
    }
}

impl<K: Hash + Eq> Inner<K> {
    /// Takes `cost` tokens of `key`.
    #[inline]
    pub(super) fn take<Q>(
        &self,
        hash: u64,
        key: &Q,
        now: Instant,
        cost: u64,
    ) -> Result<(), Unavailable>
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
                    cold_path();
                    return time.paused(*tat, gcra, cost);
                }
                gcra.take(*tat, time.now, cost).map(|next| *tat = next)
            },
            |limiter, time| match time.is_paused() {
                true => Err(time.paused_limiter(limiter, cost, 0)),
                false => limiter.inner.take(time.now, cost),
            },
        )
        .unwrap_or(Err(Unavailable::Until(Instant::FAR_FUTURE)))
    }

    /// Runs `bucket` on the state of `key` under the shard's lock, or `limiter` outside it. Adds a new key. Returns
    /// `None` if the table is full, which is counted if `is_new_call`.
    #[inline]
    pub(super) fn with<Q, R>(
        &self,
        (hash, key): (u64, &Q),
        now: Instant,
        is_new_call: bool,
        bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
        limiter: impl Fn(&RateLimiter, CallTime) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let time = self.time(now);
        let mut shard = self.keys.shard(hash);
        if shard.as_mut().is_some_and(|table| table.is_due()) {
            cold_path();
            // Unlocked before tokens are taken, because the sweep drops keys, and their `Drop` may panic.
            drop(shard);
            self.keys.sweep_shard(hash, now);
            shard = self.keys.shard(hash);
        }
        if let Some(mut table) = shard {
            if let Some((state, gcra)) = table.find(hash as u32, key, &self.keys.default) {
                let mut word = state.get();
                if word <= MAX_TAT {
                    let result = bucket(&mut word, gcra, time);
                    state.set(word);
                    return Some(result);
                }
                cold_path();
                let found = run_on_own_limit(&mut table, word, time, bucket)?;
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
        time: CallTime,
        is_new_call: bool,
        bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
        limiter: impl Fn(&RateLimiter, CallTime) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        while let Some(reserved) = self.keys.make_room(hash, time.now) {
            match self.add((hash, key), time, reserved, &bucket, &limiter) {
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

    /// Adds a key, unless another thread has added it, and uses its limit.
    fn add<Q, R>(
        &self,
        (hash, key): (u64, &Q),
        time: CallTime,
        reserved: ReservedKey<'_>,
        bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
        limiter: impl Fn(&RateLimiter, CallTime) -> R,
    ) -> Added<R>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // User code runs outside the lock.
        let owned = key.to_owned();
        let own = self.quota_for.as_ref().and_then(|quota| quota(&owned));
        let own = own.filter(|quota| self.per_key.check(quota).is_ok());
        loop {
            // Acquire pairs with the Release in `set_quotas`.
            let version = self.version.load(Ordering::Acquire);
            let own_limit = self.own_limit(own.as_ref());
            let Some(mut table) = self.keys.shard(hash) else {
                return Added::Locked;
            };
            let known = table.find(hash as u32, key, &self.keys.default).is_some();
            // Checked under the shard's lock: a change that this load does not observe will find the key in the
            // shard.
            let is_stale = version != self.version.load(Ordering::Acquire);
            if is_stale
                && !known
                && own_limit
                    .as_ref()
                    .is_some_and(|own_limit| own_limit.is_default)
            {
                continue;
            }
            if known {
                // Drops the key outside the lock and before tokens are taken, because its `Drop` may panic.
                drop(table);
                drop((owned, reserved));
                let used = self.with_known(hash, key, time.now, bucket, limiter);
                return used.map_or(Added::Evicted, Added::Done);
            }
            std::mem::forget(reserved);
            let Some((state, gcra)) =
                table.insert(hash as u32, owned, own_limit, &self.keys.default)
            else {
                return Added::Evicted;
            };
            let mut word = state.get();
            if word <= MAX_TAT {
                let result = bucket(&mut word, gcra, time);
                state.set(word);
                return Added::Done(result);
            }
            let found = run_on_own_limit(&mut table, word, time, bucket);
            drop(table);
            return found.map_or(Added::Evicted, |found| {
                Added::Done(found.unwrap_or_else(|(of_key, time)| limiter(&of_key, time)))
            });
        }
    }

    /// Reads the limit that a call with a new key would find, without adding the key. `None` if there is no room for it.
    #[cfg(all(feature = "tower", feature = "http"))]
    pub(super) fn read_new<R>(
        &self,
        (hash, key): (u64, &K),
        now: Instant,
        bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
        limiter: impl Fn(&RateLimiter, CallTime) -> R,
    ) -> Option<R> {
        let time = self.time(now);
        // A key that may evict another one has room.
        if !self.keys.evicts() && self.keys.make_room(hash, now).is_none() {
            return self.shared.as_ref().map(|shared| limiter(shared, time));
        }
        let own = self.quota_for.as_ref().and_then(|quota| quota(key));
        let own = own.filter(|quota| self.per_key.check(quota).is_ok());
        match self.own_limit(own.as_ref()).map(|own| own.limit) {
            Some(KeyLimit::Bucket { gcra, mut tat }) => Some(bucket(&mut tat, &gcra, time)),
            Some(KeyLimit::Limiter(of_key)) => Some(limiter(&of_key, time)),
            None => {
                let gcra = *self.keys.shard(hash)?.plain(&self.keys.default);
                Some(bucket(&mut 0, &gcra, time))
            }
        }
    }

    /// Returns the limit of a new key that needs more than a word.
    fn own_limit(&self, own: Option<&Quota>) -> Option<OwnLimit> {
        let limit = match own {
            None if self.is_plain => return None,
            None => {
                let quotas = lock(&self.quotas).clone();
                KeyLimit::Limiter(self.per_key.limiter(&quotas, &self.base).ok()?)
            }
            Some(own) if own.is_plain() && self.per_key.adaptive.is_none() => KeyLimit::Bucket {
                gcra: own.gcra(self.per_key.debt),
                tat: 0,
            },
            Some(own) => KeyLimit::Limiter(self.per_key.limiter(&[*own], &self.base).ok()?),
        };
        Some(OwnLimit::new(own.is_none(), limit))
    }

    /// Like [`with`](Self::with), for known keys only.
    pub(super) fn with_known<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        now: Instant,
        bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
        limiter: impl Fn(&RateLimiter, CallTime) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let time = self.time(now);
        let mut table = self.keys.shard(hash)?;
        let (state, gcra) = table.find(hash as u32, key, &self.keys.default)?;
        let mut word = state.get();
        if word <= MAX_TAT {
            let result = bucket(&mut word, gcra, time);
            state.set(word);
            return Some(result);
        }
        let found = run_on_own_limit(&mut table, word, time, bucket)?;
        drop(table);
        Some(found.unwrap_or_else(|(of_key, time)| limiter(&of_key, time)))
    }

    /// Pauses a key. Returns `false` if it is new and the table is full.
    pub(super) fn pause<Q>(&self, hash: u64, key: &Q, now: Instant, until: Instant) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        // Adds the key. If the table is full, the call uses the shared limit, which must not be paused.
        let _ = self.with((hash, key), now, false, |_, _, _| (), |_, _| ());
        self.keys
            .shard(hash)
            .is_some_and(|mut table| table.pause(hash as u32, key, until, &self.keys.default))
    }

    /// Records the result of a call with this key.
    #[cold]
    pub(super) fn learn_from<Q>(&self, hash: u64, key: &Q, now: Instant, verdict: &Verdict)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hint = verdict.hint().unwrap_or_default().min(self.longest_pause);
        if !hint.is_zero() {
            self.pause(hash, key, now, now + hint);
        }
        if self.per_key.adaptive.is_some() {
            let none = |_: &mut u64, _: &Gcra, _: CallTime| None;
            let of_key = self.with((hash, key), now, false, none, |limiter, _| {
                Some(limiter.clone())
            });
            if let Some(limiter) = of_key.flatten() {
                limiter.inner.learn_from(now, verdict);
            }
        }
    }

    /// Returns tokens to a key that is still in the table.
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

/// The result of adding a key.
enum Added<R> {
    /// The key is in the table, and its limit was used.
    Done(R),
    /// Another thread evicted the key before its limit was used.
    Evicted,
    /// This thread already holds the lock, because it is comparing keys.
    Locked,
}

/// Runs `bucket` on the bucket of a key that has a limit of its own. Returns the limiter of a key that has one,
/// to be used outside the lock.
#[cold]
fn run_on_own_limit<K, R>(
    table: &mut Table<K>,
    word: u64,
    time: CallTime,
    bucket: impl Fn(&mut u64, &Gcra, CallTime) -> R,
) -> Option<Result<R, (RateLimiter, CallTime)>> {
    let own_limit = table.own_limit_mut(word)?;
    let time = time.paused_until(own_limit.paused_until);
    match &mut own_limit.limit {
        KeyLimit::Bucket { gcra, tat } => Some(Ok(bucket(tat, gcra, time))),
        KeyLimit::Limiter(limiter) => Some(Err((limiter.clone(), time))),
    }
}
