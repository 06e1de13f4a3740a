//! What the clones of a keyed limiter share.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::super::outside::Outside;
use super::super::state::{Gcra, Quota, Refusal};
use super::super::token_bucket::TokenBucket;
use super::config;
use super::hash::Secret;
use super::table::{Removed, Slot, Table};
use super::tiers::Tier;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::sync::lock;

pub(super) struct Inner<K> {
    pub(super) shards: Box<[Shard<K>]>,
    /// How far a hash is shifted to be the number of a shard.
    pub(super) shift: u32,
    pub(super) secret: Secret,
    /// The default tier as it was built with. Tables are told when it changes.
    pub(super) usual: Tier,
    /// How many keys there are, in all shards.
    pub(super) keys: AtomicUsize,
    pub(super) max_keys: usize,
    /// The shard that is searched next for idle keys, when there is no room.
    pub(super) victim: AtomicUsize,
    /// Locked with a shard locked, never the other way round.
    pub(super) quota: Mutex<Quota>,
    /// Whose turn it is to change the quota.
    pub(super) changing: Mutex<()>,
    pub(super) quota_for: Option<QuotaFor<K>>,
    /// The bucket of the keys there is no room for.
    pub(super) shared: Option<TokenBucket>,
    pub(super) overflowed: AtomicU64,
    pub(super) outside: Outside,
}

/// The quota of a key, when it has one of its own.
pub(super) type QuotaFor<K> = Arc<dyn Fn(&K) -> Option<Quota> + Send + Sync>;

/// On a cache line of its own, together with its first two keys if they are integers.
#[repr(align(64))]
pub(super) struct Shard<K>(pub(super) Mutex<Table<K>>);

/// At most so many shards: threads seldom meet, and their lines stay in a core's own cache.
pub(super) const MOST_SHARDS: usize = 1024;

/// There is no room for another key.
pub(super) struct NoRoom;

impl<K> Inner<K> {
    #[inline]
    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Table<K>> {
        lock(&self.shards[(hash >> self.shift) as usize].0)
    }

    /// Counts keys that are no longer there.
    pub(super) fn forgotten(&self, removed: &Removed<K>) {
        self.keys.fetch_sub(removed.count, Ordering::Relaxed);
    }

    /// Refuses a call that [`take`](Self::take) has refused; one whose key there is no room for may yet
    /// have what all of those share.
    pub(super) fn refuse(
        &self,
        now: Instant,
        cost: u64,
        refusal: Option<Refusal>,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        match refusal {
            None => self.overflow(now, cost, observer),
            Some(refusal) => Err(self.reject(now, refusal, observer)),
        }
    }

    fn reject(&self, now: Instant, refusal: Refusal, observer: Option<&dyn Observer>) -> Rejected {
        let outside = &self.outside;
        let rejected = outside.rejected(now, refusal, Reason::RateLimited);
        outside.tell(&Event::rejected(&rejected), observer);
        rejected
    }

    /// What happens to a call whose key there is no room for.
    #[cold]
    pub(super) fn overflow(
        &self,
        now: Instant,
        cost: u64,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        let refused = match &self.shared {
            None => Err(Refusal::Until(Instant::FAR_FUTURE)),
            Some(shared) => shared.take(now, cost),
        };
        refused.map_err(|refusal| self.reject(now, refusal, observer))
    }
}

impl<K: Hash + Eq> Inner<K> {
    /// Takes `cost` of the tokens of `key`. Refused without a reason when there is no room for it.
    #[inline]
    pub(super) fn take<Q>(&self, key: &Q, now: Instant, cost: u64) -> Result<(), Option<Refusal>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let taken = self.with(key, now, |tat, gcra| {
            gcra.take(*tat, now, cost).map(|next| *tat = next)
        });
        match taken {
            Ok(taken) => taken.map_err(Some),
            Err(NoRoom) => Err(None),
        }
    }

    /// Runs `act` on the state of `key`, which is added if it is new.
    #[inline]
    pub(super) fn with<Q, R>(
        &self,
        key: &Q,
        now: Instant,
        act: impl Fn(&mut u64, &Gcra) -> R,
    ) -> Result<R, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.secret.hash(key);
        {
            let mut table = self.shard(hash);
            if let Some((slot, gcra)) = table.find(hash as u32, key, &self.usual) {
                let result = Self::update(slot, gcra, act);
                if table.is_due() {
                    self.sweep(table, now);
                }
                return Ok(result);
            }
        }
        self.with_new(hash, key, now, act)
    }

    #[inline]
    pub(super) fn update<R>(
        slot: &mut Slot<K>,
        gcra: &Gcra,
        act: impl Fn(&mut u64, &Gcra) -> R,
    ) -> R {
        let mut tat = slot.tat();
        let result = act(&mut tat, gcra);
        slot.set_tat(tat);
        result
    }

    /// Looks for keys that need not be remembered. Returns how many it has looked at.
    #[cold]
    pub(super) fn sweep(&self, mut table: MutexGuard<'_, Table<K>>, now: Instant) -> usize {
        let removed = table.sweep(now, SWEEP, &self.usual);
        drop(table);
        self.forgotten(&removed);
        removed.seen
    }

    #[cold]
    pub(super) fn with_new<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        now: Instant,
        act: impl Fn(&mut u64, &Gcra) -> R,
    ) -> Result<R, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.make_room(hash, now) {
            return Err(NoRoom);
        }
        // The user's code runs outside the lock.
        let owned = key.to_owned();
        let special = self.quota_for.as_ref().and_then(|quota| quota(&owned));
        // A quota without meaning counts as none.
        let special = special.filter(|quota| config::check(quota).is_ok());
        let mut table = self.shard(hash);
        if table.find(hash as u32, key, &self.usual).is_none() {
            // Under the shard's lock: a change that is not seen here has yet to come to the shard.
            let quota = special.unwrap_or_else(|| *lock(&self.quota));
            table.insert(hash as u32, owned, &quota, &self.usual);
        } else {
            // Another thread was faster.
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        match table.find(hash as u32, key, &self.usual) {
            Some((slot, gcra)) => Ok(Self::update(slot, gcra, act)),
            None => Err(NoRoom),
        }
    }

    /// Counts one key more, if there is room or some can be made.
    pub(super) fn make_room(&self, hash: u64, now: Instant) -> bool {
        let count = || {
            // Relaxed: only the number counts, and it never exceeds the bound.
            self.keys
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| {
                    (keys < self.max_keys).then_some(keys + 1)
                })
                .is_ok()
        };
        // A new key pays for its place by looking for some that are no longer needed.
        let mut table = self.shard(hash);
        let removed = table.sweep_near(hash as u32, now, SWEEP / 2, &self.usual);
        drop(table);
        self.forgotten(&removed);
        if count() {
            return true;
        }
        // One shard more, or several where there are few keys to a shard.
        let mut seen = 0;
        for _ in 0..SWEEP {
            // Relaxed: any shard will do.
            let victim = self.victim.load(Ordering::Relaxed) / STAY % self.shards.len();
            let looked_at = self.sweep(lock(&self.shards[victim].0), now);
            let step = if looked_at < SWEEP { STAY } else { 1 };
            self.victim.fetch_add(step, Ordering::Relaxed);
            seen += looked_at;
            if count() {
                return true;
            }
            if seen >= SWEEP {
                break;
            }
        }
        false
    }
}

/// How often a shard is searched before the next one is: what comes next in it is at hand.
const STAY: usize = 16;

/// How many keys are looked at when the hand moves.
const SWEEP: usize = 8;
