//! The builder of keyed rate limiters.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::RateLimiterBuilder;
use super::super::config::max_wait;
use super::super::rejections::Rejections;
use super::super::state::{LARGEST, Quota};
use super::KeyedRateLimiter;
use super::hash::Secret;
use super::inner::{Inner, NAME, PerKey, QuotaFor};
use super::shards::Shards;
use crate::adaptive_rate::CubicRateBuilder;
use crate::base::Setup;
use crate::blocking;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::keyed::Overflow;

impl<K> KeyedRateLimiter<K> {
    /// Returns a builder with the default settings. A quota must be given unless it is adaptive.
    pub const fn builder() -> KeyedRateLimiterBuilder<K> {
        KeyedRateLimiterBuilder::new()
    }
}

/// Builds a [`KeyedRateLimiter`]. The [page](super::super) lists the defaults.
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedRateLimiterBuilder<K> {
    quotas: Vec<Quota>,
    quota_for: Option<QuotaFor<K>>,
    max_keys: usize,
    overflow: Overflow,
    adaptive: Option<CubicRateBuilder>,
    longest_pause: Option<Duration>,
    max_wait: Option<Duration>,
    max_waiting: Option<usize>,
    max_debt: Option<u64>,
    setup: Setup,
}

impl<K> KeyedRateLimiterBuilder<K> {
    const fn new() -> Self {
        Self {
            quotas: Vec::new(),
            quota_for: None,
            max_keys: 100_000,
            overflow: Overflow::Shared,
            adaptive: None,
            longest_pause: None,
            max_wait: None,
            max_waiting: None,
            max_debt: None,
            setup: Setup::new(NAME),
        }
    }

    /// Adds a default quota, with any algorithm. A call must fit all of them. A quota must begin full, since an evicted
    /// key comes back as a new one.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// Sets a function that returns the quotas of keys that differ from the default. It is called when a key is first
    /// seen, and again after the key was evicted. Quotas that are invalid or do not begin full count as the default.
    pub fn quota_for(
        mut self,
        quota: impl Fn(&K) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.quota_for = Some(Arc::new(move |key: &K| blocking::outside(|| quota(key))));
        self
    }

    /// Sets the most keys in the table.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets what happens to new keys while the table is full. [`Overflow`] explains which to choose.
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets how long a call through the policy waits for tokens. Zero: calls do not wait. [`Duration::MAX`]: they
    /// wait until their deadlines. Default: calls do not wait, unless [`max_waiting`](Self::max_waiting) is set.
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = Some(longest);
        self
    }

    /// Sets the largest number of waiters of one key; further calls are rejected at once. Without a
    /// [`max_wait`](Self::max_wait), calls through the policy wait until their deadlines. Zero: no call
    /// waits.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = Some(calls);
        self
    }

    /// Adapts the rate of each key to throttled results. See
    /// [`RateLimiterBuilder::adaptive`](super::super::RateLimiterBuilder::adaptive).
    ///
    /// Each key has a whole limiter. A key that has found a rate is not evicted;
    /// [`forget`](KeyedRateLimiter::forget) removes it.
    pub const fn adaptive(mut self, rate: CubicRateBuilder) -> Self {
        self.adaptive = Some(rate);
        self
    }

    /// Pauses the key of a call, as [`pause_key_for`](KeyedRateLimiter::pause_key_for) does, when a server's hint
    /// asks to wait: a `Retry-After` for one call holds all calls with its key. Longer hints count as `longest`,
    /// which must be above zero. See
    /// [`RateLimiterBuilder::pause_on_hint`](super::super::RateLimiterBuilder::pause_on_hint).
    pub const fn pause_on_hint(mut self, longest: Duration) -> Self {
        self.longest_pause = Some(longest);
        self
    }

    /// Sets how many tokens reservations may take beyond those available. Zero allows no debt.
    pub const fn max_debt(mut self, tokens: u64) -> Self {
        self.max_debt = Some(tokens);
        self
    }

    setters! {
        in setup;
        /// Counts and reports calls that would be rejected, and admits them.
        shadow;
        /// Sets an observer of rejections and waits of all calls, including calls outside any pipeline.
        observer;
        /// Sets the name in errors and events.
        name;
        /// Sets the clock that refills the tokens.
        clock;
    }

    /// Builds the limiter. Without keys, it takes up to 64 KiB of memory.
    ///
    /// # Errors
    ///
    /// If no quota is given; if one is invalid or does not begin full; if an adaptive limiter has quotas other than a
    /// single token bucket; if a setting must not be zero and is; or if there is no clock because the feature `tokio`
    /// is off.
    pub fn build(mut self) -> Result<KeyedRateLimiter<K>, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        if self.adaptive.is_some() && self.quotas.is_empty() {
            self.quotas.push(RateLimiterBuilder::UNLIMITED);
        }
        if self.longest_pause == Some(Duration::ZERO) {
            return Err(error("pause_on_hint", "must be above zero"));
        }
        let [first, more @ ..] = &self.quotas[..] else {
            return Err(error("quota", "must be given"));
        };
        if self.max_keys == 0 {
            return Err(error("max_keys", "must be at least 1"));
        }
        let most = self.quotas.iter().map(Quota::limit).max().unwrap_or(1);
        let debt = self.max_debt.unwrap_or(most);
        let per_key = PerKey {
            debt,
            max_waiting: self.max_waiting.unwrap_or(usize::MAX),
            adaptive: self.adaptive,
        };
        self.quotas
            .iter()
            .try_for_each(|quota| per_key.check(quota))?;
        if debt > LARGEST {
            return Err(error("max_debt", "must not exceed 2^40 tokens"));
        }
        let max_wait = max_wait(NAME, self.max_wait, self.max_waiting, &self.quotas)?;
        let base = self.setup.build(NAME)?;
        // Built in any case, because that checks the number of quotas and the debt.
        let shared = per_key.limiter(&self.quotas, &base)?;
        Ok(KeyedRateLimiter {
            inner: Arc::new(Inner {
                keys: Shards::new(first.gcra(debt), self.max_keys, self.overflow),
                secret: Secret::new(),
                is_plain: first.is_plain() && more.is_empty() && self.adaptive.is_none(),
                paused_until: AtomicU64::new(Instant::ORIGIN.as_nanos()),
                shared: (self.overflow == Overflow::Shared).then_some(shared),
                quotas: Mutex::new(self.quotas),
                changing: Mutex::new(()),
                version: AtomicU64::new(0),
                quota_for: self.quota_for,
                per_key,
                longest_pause: self.longest_pause.unwrap_or_default(),
                overflowed: AtomicU64::new(0),
                rejections: Rejections::default(),
                base,
                max_wait,
            }),
        })
    }
}

impl<K> Clone for KeyedRateLimiterBuilder<K> {
    fn clone(&self) -> Self {
        Self {
            quotas: self.quotas.clone(),
            quota_for: self.quota_for.clone(),
            setup: self.setup.clone(),
            ..*self
        }
    }
}

impl<K> fmt::Debug for KeyedRateLimiterBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRateLimiterBuilder")
            .field("quotas", &self.quotas)
            .field("tiered", &self.quota_for.is_some())
            .field("max_keys", &DebugLimit(&self.max_keys))
            .field("overflow", &self.overflow)
            .field("adaptive", &self.adaptive)
            .field("longest_pause", &DebugLimit(&self.longest_pause))
            .field("max_wait", &DebugLimit(&self.max_wait))
            .field("max_waiting", &DebugLimit(&self.max_waiting))
            .field("max_debt", &DebugLimit(&self.max_debt))
            .field("setup", &self.setup)
            .finish()
    }
}
