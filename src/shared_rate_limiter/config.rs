//! The builders of shared limiters.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::SharedRateLimiter;
use super::entry::Entry;
use super::hub::Hub;
use super::keyed::{Make, SharedKeyedRateLimiter};
use super::state::rules::{Outage, Rules, SyncMode};
use crate::base::{Setup, max_wait};
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::keyed::{Keyed, Overflow};
use crate::rate_limiter::Quota;
use crate::store::Store;

impl SharedRateLimiter {
    /// Returns a builder with the default settings. A store, a key and a quota must be given.
    pub const fn builder() -> SharedRateLimiterBuilder {
        SharedRateLimiterBuilder {
            shared: Shared::new(),
            key: None,
        }
    }
}

impl<K> SharedKeyedRateLimiter<K> {
    /// Returns a builder with the default settings. A store, a quota and
    /// [`key_by`](SharedKeyedRateLimiterBuilder::key_by) must be given.
    pub const fn builder() -> SharedKeyedRateLimiterBuilder<K> {
        SharedKeyedRateLimiterBuilder {
            shared: Shared::new(),
            key_by: None,
            quota_for: None,
            max_keys: 100_000,
        }
    }
}

/// Settings common to both builders.
#[derive(Clone)]
struct Shared {
    store: Option<Arc<dyn Store>>,
    quota: Option<Quota>,
    sync: SyncMode,
    sync_every: Duration,
    on_outage: Outage,
    store_timeout: Duration,
    max_wait: Option<Duration>,
    max_waiting: Option<usize>,
    seed: Option<u64>,
    setup: Setup,
}

impl Shared {
    const fn new() -> Self {
        Self {
            store: None,
            quota: None,
            sync: SyncMode::Leased,
            sync_every: Duration::from_millis(50),
            on_outage: Outage::OwnShare,
            store_timeout: Duration::from_millis(25),
            max_wait: None,
            max_waiting: None,
            seed: None,
            setup: Setup::new(Rules::NAME),
        }
    }

    /// Checks the settings. Returns the shared state and the rules.
    fn build(self) -> Result<(Hub, Rules), ConfigError> {
        let error = |setting, problem| ConfigError::new(Rules::NAME, setting, problem);
        let store = self.store.ok_or(error("store", "must be given"))?;
        let quota = self.quota.ok_or(error("quota", "must be given"))?;
        Rules::check(Rules::NAME, "quota", &quota)?;
        if let Outage::Local(quota) = &self.on_outage {
            Rules::check(Rules::NAME, "on_outage", quota)?;
        }
        if self.sync_every < Duration::from_millis(1) || self.sync_every > Duration::from_secs(10) {
            return Err(error("sync_every", "must be from 1 ms to 10 s"));
        }
        if self.store_timeout.is_zero() {
            return Err(error("store_timeout", "must be above zero"));
        }
        let max_wait = max_wait(Rules::NAME, self.max_wait, self.max_waiting)?;
        let waiting = (max_wait, self.max_waiting.unwrap_or(usize::MAX));
        let base = self.setup.build(Rules::NAME)?;
        let (sync, outage) = (self.sync, self.on_outage);
        let times = (self.sync_every, self.store_timeout);
        let hub = Hub::new(base, store, (sync, outage), times, waiting, self.seed);
        let rules = hub.rules(quota);
        Ok((hub, rules))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("store", &self.store.is_some())
            .field("quota", &self.quota)
            .field("sync", &self.sync)
            .field("sync_every", &DebugLimit(&self.sync_every))
            .field("on_outage", &self.on_outage)
            .field("store_timeout", &DebugLimit(&self.store_timeout))
            .field("max_wait", &DebugLimit(&self.max_wait))
            .field("max_waiting", &DebugLimit(&self.max_waiting))
            .field("seed", &self.seed)
            .field("setup", &self.setup)
            .finish()
    }
}

/// Defines the setters common to both builders.
macro_rules! shared_setters {
    () => {
        /// Sets the store that all processes share.
        pub fn store(mut self, store: impl Store + 'static) -> Self {
            self.shared.store = Some(Arc::new(store));
            self
        }

        /// Sets the limit of the whole fleet: a token bucket, initially full, with a rate of at most one token per
        /// microsecond. All processes must give the same quota.
        pub const fn quota(mut self, quota: Quota) -> Self {
            self.shared.quota = Some(quota);
            self
        }

        /// Sets whether the process leases tokens in advance, or asks the store for each decision.
        pub const fn sync(mut self, mode: SyncMode) -> Self {
            self.shared.sync = mode;
            self
        }

        /// Sets the length of a lease, from 1 ms to 10 s. A longer lease needs fewer requests to the store, but keeps
        /// unused tokens longer. If the rate fills the burst in less than twice this time, a lease lasts half the
        /// fill time instead, but at least 1 ms.
        pub const fn sync_every(mut self, every: Duration) -> Self {
            self.shared.sync_every = every;
            self
        }

        /// Sets the behavior while the store does not answer.
        pub const fn on_outage(mut self, outage: Outage) -> Self {
            self.shared.on_outage = outage;
            self
        }

        /// Sets the time after which a request to the store counts as failed. Above zero. A call never waits longer
        /// than this for the store.
        pub const fn store_timeout(mut self, timeout: Duration) -> Self {
            self.shared.store_timeout = timeout;
            self
        }

        /// Sets how long a call through the policy waits for tokens. Zero: calls never wait for tokens, only for one
        /// request to the store. [`Duration::MAX`]: until the call's deadline. Does not affect `acquire`, which
        /// always waits.
        pub const fn max_wait(mut self, longest: Duration) -> Self {
            self.shared.max_wait = Some(longest);
            self
        }

        /// Sets how many calls of a key may wait for tokens at a time. Further calls are rejected at once. Without
        /// `max_wait`, calls through the policy wait until their deadline.
        pub const fn max_waiting(mut self, calls: usize) -> Self {
            self.shared.max_waiting = Some(calls);
            self
        }

        /// Makes the jitter of pauses and probes reproducible.
        pub const fn seed(mut self, seed: u64) -> Self {
            self.shared.seed = Some(seed);
            self
        }

        setters! {
            in shared.setup;
            /// Counts and reports calls that would be rejected, and admits all calls. Nothing waits for tokens.
            shadow;
            /// Sets the observer of rejections and waits, also those of calls made outside any pipeline, and of the
            /// store's outages.
            observer;
            /// Sets the name in errors and events.
            name;
            /// Sets the clock of leases, pauses and timeouts. Tokens are earned on the store's clock.
            clock;
        }
    };
}

/// Builds a [`SharedRateLimiter`].
///
/// | setting | default |
/// |---|---|
/// | [`store`](Self::store) | must be given |
/// | [`key`](Self::key) | must be given |
/// | [`quota`](Self::quota) | must be given |
/// | [`sync`](Self::sync) | [`SyncMode::Leased`] |
/// | [`sync_every`](Self::sync_every) | 50 ms |
/// | [`on_outage`](Self::on_outage) | [`Outage::OwnShare`] |
/// | [`store_timeout`](Self::store_timeout) | 25 ms |
/// | [`max_wait`](Self::max_wait) of calls through the policy | nothing waits, unless `max_waiting` is given |
/// | [`max_waiting`](Self::max_waiting) | unlimited |
/// | [`seed`](Self::seed) | random |
/// | [`shadow`](Self::shadow) | off |
/// | [`observer`](Self::observer) | none |
/// | [`name`](Self::name) | `shared_rate_limiter` |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SharedRateLimiterBuilder {
    shared: Shared,
    key: Option<String>,
}

impl SharedRateLimiterBuilder {
    shared_setters!();

    /// Sets the key in the store. Processes with the same key share the limit.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Builds the limiter. Sends no request to the store.
    ///
    /// # Errors
    ///
    /// When the store, the key or the quota was not given; when the quota is not a plain token bucket, is
    /// faster than a token a microsecond, or takes longer than ten years to fill; when a time is out of its range; when
    /// `max_wait` is above zero but `max_waiting` is 0; without a clock where the feature `tokio` is off.
    pub fn build(self) -> Result<SharedRateLimiter, ConfigError> {
        let error = |problem| ConfigError::new(Rules::NAME, "key", problem);
        let key = self.key.ok_or(error("must be given"))?;
        let (hub, rules) = self.shared.build()?;
        Ok(SharedRateLimiter {
            entry: Arc::new(Entry::new(Arc::new(hub), key.into(), rules)),
        })
    }
}

/// Builds a [`SharedKeyedRateLimiter`].
///
/// | setting | default |
/// |---|---|
/// | [`store`](Self::store) | must be given |
/// | [`key_by`](Self::key_by) | must be given |
/// | [`quota`](Self::quota) | must be given |
/// | [`quota_for`](Self::quota_for) | that of `quota` for all keys |
/// | [`max_keys`](Self::max_keys) | 100 000 |
/// | all others | as in [`SharedRateLimiterBuilder`] |
#[must_use = "a builder does nothing until `build`"]
pub struct SharedKeyedRateLimiterBuilder<K> {
    shared: Shared,
    key_by: Option<Arc<KeyBy<K>>>,
    quota_for: Option<Arc<QuotaFor<K>>>,
    max_keys: usize,
}

type KeyBy<K> = dyn Fn(&K) -> String + Send + Sync;
type QuotaFor<K> = dyn Fn(&K) -> Option<Quota> + Send + Sync;

impl<K> SharedKeyedRateLimiterBuilder<K> {
    shared_setters!();

    /// Sets the function that maps a key to its key in the store. The result must be unique among all limits in the
    /// store: begin it with the name of the limit.
    pub fn key_by(mut self, key_by: impl Fn(&K) -> String + Send + Sync + 'static) -> Self {
        self.key_by = Some(Arc::new(key_by));
        self
    }

    /// Sets a function that returns the quota of a key, or `None` for the default quota. Called once per key while
    /// the key is known. A quota that the builder would reject is ignored.
    pub fn quota_for(
        mut self,
        quota: impl Fn(&K) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.quota_for = Some(Arc::new(quota));
        self
    }

    /// Sets the most keys that the process keeps state for. Above zero.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Builds the limiter. Sends no request to the store.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiterBuilder::build`], and when no key may be known.
    pub fn build(self) -> Result<SharedKeyedRateLimiter<K>, ConfigError>
    where
        K: Hash + Eq + 'static,
    {
        let error = |setting, problem| ConfigError::new(Rules::NAME, setting, problem);
        let key_by = self.key_by.ok_or(error("key_by", "must be given"))?;
        if self.max_keys == 0 {
            return Err(error("max_keys", "must be at least 1"));
        }
        let (hub, rules) = self.shared.build()?;
        let hub = Arc::new(hub);
        let (quota_for, of_all) = (self.quota_for, hub.clone());
        let make: Arc<Make<K>> = Arc::new(move |key| {
            let quota = quota_for.as_ref().and_then(|quota_for| quota_for(key));
            let quota = quota.filter(|quota| Rules::check(Rules::NAME, "quota", quota).is_ok());
            let rules = quota.map_or(rules, |quota| of_all.rules(quota));
            Arc::new(Entry::new(of_all.clone(), key_by(key).into(), rules))
        });
        let template = make.clone();
        let keys = Keyed::builder(move |key: &K| SharedRateLimiter {
            entry: template(key),
        });
        let keys = keys.max_keys(self.max_keys).overflow(Overflow::Reject);
        Ok(SharedKeyedRateLimiter {
            hub,
            keys: keys.build()?,
            make,
        })
    }
}

impl<K> Clone for SharedKeyedRateLimiterBuilder<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            key_by: self.key_by.clone(),
            quota_for: self.quota_for.clone(),
            max_keys: self.max_keys,
        }
    }
}

impl<K> fmt::Debug for SharedKeyedRateLimiterBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeyedRateLimiterBuilder")
            .field("shared", &self.shared)
            .field("key_by", &self.key_by.is_some())
            .field("quota_for", &self.quota_for.is_some())
            .field("max_keys", &DebugLimit(&self.max_keys))
            .finish()
    }
}
