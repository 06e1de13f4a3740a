//! The builder of shared bulkheads.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::SharedBulkhead;
use super::inner::{Inner, State};
use super::state::Block;
use crate::base::{Setup, max_wait, random_instance};
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::rng::SharedRng;
use crate::store::PermitStore;

impl SharedBulkhead {
    /// Returns a builder with the default settings. A store, a key and
    /// [`max_concurrent`](SharedBulkheadBuilder::max_concurrent) must be given.
    pub const fn builder() -> SharedBulkheadBuilder {
        SharedBulkheadBuilder {
            store: None,
            key: None,
            instance: None,
            max_concurrent: None,
            ttl: Duration::from_secs(10),
            store_timeout: Duration::from_millis(25),
            max_wait: None,
            max_waiting: None,
            seed: None,
            setup: Setup::new(NAME),
        }
    }
}

const NAME: &str = "shared_bulkhead";

/// Builds a [`SharedBulkhead`].
///
/// | setting | default |
/// |---|---|
/// | [`store`](Self::store) | must be given |
/// | [`key`](Self::key) | must be given |
/// | [`max_concurrent`](Self::max_concurrent) | must be given |
/// | [`instance`](Self::instance) | random |
/// | [`ttl`](Self::ttl) | 10 s |
/// | [`store_timeout`](Self::store_timeout) | 25 ms |
/// | [`max_wait`](Self::max_wait) of calls through the policy | nothing waits, unless `max_waiting` is given |
/// | [`max_waiting`](Self::max_waiting) | 10 000 in `acquire`; calls through the policy wait only if it is given |
/// | [`seed`](Self::seed) | random |
/// | [`shadow`](Self::shadow) | off |
/// | [`observer`](Self::observer) | none |
/// | [`name`](Self::name) | `shared_bulkhead` |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct SharedBulkheadBuilder {
    store: Option<Arc<dyn PermitStore>>,
    key: Option<String>,
    instance: Option<String>,
    max_concurrent: Option<u64>,
    ttl: Duration,
    store_timeout: Duration,
    max_wait: Option<Duration>,
    max_waiting: Option<usize>,
    seed: Option<u64>,
    setup: Setup,
}

impl SharedBulkheadBuilder {
    /// Sets the store that all processes share.
    pub fn store(mut self, store: impl PermitStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the key in the store. Processes with the same key share the bulkhead.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the identity of this process in the store. It must differ between running processes.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Sets the most permits in use in the whole fleet. Above zero. All processes must set the same number.
    pub const fn max_concurrent(mut self, calls: u64) -> Self {
        self.max_concurrent = Some(calls);
        self
    }

    /// Sets the time after which the store takes back permits that a process no longer renews. At least 100 ms. The
    /// clocks of processes and store may drift apart by a thousandth of it.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the time after which a request to the store counts as failed. Above zero, and below a third of the time
    /// to live.
    pub const fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Sets how long a call through the policy waits for a permit. Zero: calls never wait for a permit, only for one
    /// request to the store. [`Duration::MAX`]: until the call's deadline. Needs [`max_waiting`](Self::max_waiting).
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = Some(longest);
        self
    }

    /// Sets how many calls of this process may wait at a time. Without `max_wait`, calls through the policy wait
    /// until their deadline.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = Some(calls);
        self
    }

    setters! {
        /// Makes the jitter of pauses reproducible.
        seed;
    }

    setters! {
        in setup;
        /// Counts and reports calls that would be rejected, and admits all calls. Nothing waits.
        shadow;
        /// Sets an observer of rejections and waits of all calls, including calls outside any pipeline, and of the
        /// store's outages.
        observer;
        /// Sets the name in errors and events.
        name;
        /// Sets the clock of waits, timeouts and times to live.
        clock;
    }

    /// Builds the bulkhead. Sends no request to the store.
    ///
    /// # Errors
    /// When the store, the key or the limit was not given, a value is out of its range, `max_wait` is above zero
    /// without a [`max_waiting`](Self::max_waiting) above zero, or without a clock where the feature `tokio` is off.
    pub fn build(self) -> Result<SharedBulkhead, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        let store = self.store.ok_or(error("store", "must be given"))?;
        let key = self.key.ok_or(error("key", "must be given"))?;
        let limit = self
            .max_concurrent
            .ok_or(error("max_concurrent", "must be given"))?;
        if limit == 0 || limit > 1 << 40 {
            return Err(error("max_concurrent", "must be from 1 to 2^40"));
        }
        if self.ttl < Duration::from_millis(100) || self.ttl > Duration::from_secs(86_400) {
            return Err(error("ttl", "must be from 100 ms to a day"));
        }
        if self.store_timeout.is_zero() || self.store_timeout > self.ttl / 3 {
            return Err(error(
                "store_timeout",
                "must be above zero and below a third of `ttl`",
            ));
        }
        let waits = self.max_wait.is_some_and(|longest| !longest.is_zero());
        if waits && self.max_waiting.is_none() {
            return Err(error("max_wait", "needs max_waiting"));
        }
        let max_wait = max_wait(NAME, self.max_wait, self.max_waiting)?;
        let base = self.setup.build(NAME)?;
        // A process holds its permits a little less long than the store keeps them for it.
        let local = self.ttl - self.ttl / 1000;
        Ok(SharedBulkhead {
            inner: Arc::new(Inner {
                base,
                store,
                key: key.into(),
                instance: self.instance.unwrap_or_else(random_instance).into(),
                first_number: micros_since_1970(),
                ttl: self.ttl,
                timeout: self.store_timeout,
                max_wait,
                max_waiting: self.max_waiting.unwrap_or(10_000),
                rejections: AtomicU64::new(0),
                trips: AtomicU64::new(0),
                streams: SharedRng::new(self.seed),
                state: Mutex::new(State::new(Block::new(limit, local))),
            }),
        })
    }
}

fn micros_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

impl fmt::Debug for SharedBulkheadBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBulkheadBuilder")
            .field("store", &self.store.is_some())
            .field("key", &self.key)
            .field("instance", &self.instance)
            .field("max_concurrent", &DebugLimit(&self.max_concurrent))
            .field("ttl", &DebugLimit(&self.ttl))
            .field("store_timeout", &DebugLimit(&self.store_timeout))
            .field("max_wait", &DebugLimit(&self.max_wait))
            .field("max_waiting", &DebugLimit(&self.max_waiting))
            .field("seed", &self.seed)
            .field("setup", &self.setup)
            .finish()
    }
}
