//! The builder of keyed rate limiters.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::RateLimiterBuilder;
use super::super::config::max_wait;
use super::super::state::{LARGEST, Quota};
use super::KeyedRateLimiter;
use super::hash::Secret;
use super::inner::{Inner, NAME, PerKey, QuotaFor};
use super::shards::Shards;
use crate::adaptive_rate::CubicRateBuilder;
use crate::base::Setup;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::keyed::Overflow;

impl<K> KeyedRateLimiter<K> {
    /// Returns a builder. A quota must be given.
    pub const fn builder() -> KeyedRateLimiterBuilder<K> {
        KeyedRateLimiterBuilder::new()
    }
}

/// Builds a [`KeyedRateLimiter`].
///
/// | setting | default |
/// |---|---|
/// | [`quota`](Self::quota) | must be given, once or several times, unless it is adaptive |
/// | [`quota_for`](Self::quota_for) | all keys have the same |
/// | [`max_keys`](Self::max_keys) | 100 000 |
/// | [`overflow`](Self::overflow) | [`Overflow::Shared`] |
/// | [`adaptive`](Self::adaptive) | no |
/// | [`pause_on_hint`](Self::pause_on_hint) | no |
/// | [`max_wait`](Self::max_wait) of calls through the policy | zero; unlimited with `max_waiting`, and for a leaky bucket |
/// | [`max_waiting`](Self::max_waiting) of each key | unlimited |
/// | [`max_debt`](Self::max_debt) of reservations | as much as the quota holds |
/// | [`shadow`](Self::shadow) | off |
/// | [`observer`](Self::observer) | none |
/// | [`name`](Self::name) | `keyed_rate_limiter` |
/// | [`clock`](Self::clock) | tokio's |
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

    /// The quota of every key that has none of its own. Given several times, a call must fit all of
    /// them. Any algorithm; it must begin full, since an evicted key comes back as a new one.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// The quota of a key that has another than the default: tiers. Called when a key is first seen, and
    /// again after it was evicted; of any algorithm. Invalid quotas, and those that do not begin full,
    /// count as the default.
    pub fn quota_for(
        mut self,
        quota: impl Fn(&K) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.quota_for = Some(Arc::new(quota));
        self
    }

    /// How many keys are remembered at most.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// What happens to new keys when that many are in use. See [`Overflow`] for which to choose.
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// How long a call through the policy waits for its turn. Zero rejects at once,
    /// [`Duration::MAX`] waits as long as the call's deadline allows.
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = Some(longest);
        self
    }

    /// The largest number of calls that wait for one key; further ones are rejected at once. Without a
    /// [`max_wait`](Self::max_wait), calls through the policy wait until their deadlines. Zero: no call waits.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = Some(calls);
        self
    }

    /// Finds the rate of each key from throttled answers. See
    /// [`RateLimiterBuilder::adaptive`](super::super::RateLimiterBuilder::adaptive).
    ///
    /// Each key has a whole limiter. A key that has found a rate is not evicted;
    /// [`forget`](KeyedRateLimiter::forget) removes it.
    pub const fn adaptive(mut self, rate: CubicRateBuilder) -> Self {
        self.adaptive = Some(rate);
        self
    }

    /// Pauses a key, as [`pause_key_for`](KeyedRateLimiter::pause_key_for) does, when a server says when to
    /// come back: a `Retry-After` for one call holds all calls of its key. Longer hints count as `longest`.
    /// Above zero. See [`RateLimiterBuilder::pause_on_hint`](super::super::RateLimiterBuilder::pause_on_hint).
    pub const fn pause_on_hint(mut self, longest: Duration) -> Self {
        self.longest_pause = Some(longest);
        self
    }

    /// How many tokens a reservation may take beyond those there are.
    pub const fn max_debt(mut self, tokens: u64) -> Self {
        self.max_debt = Some(tokens);
        self
    }

    setters! {
        in setup;
        /// Only counts and reports what it would have rejected, and admits everything.
        shadow;
        /// Hears rejections.
        observer;
        /// The name in errors and events.
        name;
        /// The clock that tokens are earned by.
        clock;
    }

    /// Builds the limiter. Takes up to 64 KiB; the keys come on top.
    ///
    /// # Errors
    ///
    /// When no quota was given, when one is invalid or does not begin full, when no key may be
    /// remembered, or without a clock where the feature `tokio` is off.
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
        if debt > LARGEST {
            return Err(error("max_debt", "must not exceed 2^40 tokens"));
        }
        let per_key = PerKey {
            debt,
            max_waiting: self.max_waiting.unwrap_or(usize::MAX),
            adaptive: self.adaptive,
        };
        self.quotas
            .iter()
            .try_for_each(|quota| per_key.check(quota))?;
        let max_wait = max_wait(NAME, self.max_wait, self.max_waiting, &self.quotas)?;
        let base = self.setup.build(NAME)?;
        // Built also if no keys share it: it finds what is wrong with the quotas, their number or the debt.
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
                rejected: AtomicU64::new(0),
                would_reject: AtomicU64::new(0),
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
            .field("max_keys", &self.max_keys)
            .field("overflow", &self.overflow)
            .field("adaptive", &self.adaptive)
            .field("longest_pause", &self.longest_pause)
            .field("max_wait", &self.max_wait)
            .field("max_waiting", &self.max_waiting)
            .field("max_debt", &self.max_debt)
            .field("setup", &self.setup)
            .finish()
    }
}
