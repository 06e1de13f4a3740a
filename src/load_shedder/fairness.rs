//! Fairness between users within a priority class.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::lock;

/// Lowers the priority of heavy users within their class, so that under overload they are shed first.
///
/// Usage decays exponentially and halves every half-life. A user with mean usage has level 50, one with twice the
/// mean level 25, one with half of it or less level 99.
///
/// Bounded: once `max_users` are tracked, users without usage for ten half-lives are evicted. While there are none,
/// new users are not tracked and count as average.
///
/// Clones share all state.
///
/// | setting | default |
/// |---|---|
/// | [`max_users`](UserFairnessBuilder::max_users) | 10 000 |
/// | [`half_life`](UserFairnessBuilder::half_life) | 60 s |
/// | [`clock`](UserFairnessBuilder::clock) | tokio's |
///
/// # Examples
///
/// ```
/// use backstop::load_shedder::UserFairness;
/// use backstop::{ManualClock, Priority};
///
/// let fairness = UserFairness::builder().clock(ManualClock::new()).build()?;
/// fairness.charge("heavy", 9.0);
/// fairness.charge("light", 1.0);
/// let heavy = fairness.priority(Priority::NORMAL, "heavy");
/// let light = fairness.priority(Priority::NORMAL, "light");
/// assert!(heavy < light);
/// assert_eq!((heavy.class(), light.class()), ("normal", "normal"));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct UserFairness {
    inner: Arc<Inner>,
}

struct Inner {
    clock: ClockHandle,
    half_life: Duration,
    max_users: usize,
    hasher: RandomState,
    usage: Mutex<Usage>,
}

/// Builds a [`UserFairness`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct UserFairnessBuilder {
    max_users: usize,
    half_life: Duration,
    clock: Option<ClockHandle>,
}

crate::debug::debug_settings!(UserFairnessBuilder { clock; max_users, half_life });

impl UserFairnessBuilder {
    const NAME: &'static str = "user_fairness";

    /// Sets the largest number of tracked users, at least 1. Default 10 000.
    pub const fn max_users(mut self, users: usize) -> Self {
        self.max_users = users;
        self
    }

    /// Sets the time after which usage counts half. Default 60 s.
    pub const fn half_life(mut self, time: Duration) -> Self {
        self.half_life = time;
        self
    }

    setters! {
        /// Sets the clock that measures the age of usage. Default tokio's.
        clock;
    }

    /// Builds the fairness.
    ///
    /// # Errors
    ///
    /// `max_users` of 0, a half-life of zero, or no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<UserFairness, ConfigError> {
        let error = |setting, problem| ConfigError::new(Self::NAME, setting, problem);
        if self.max_users == 0 {
            return Err(error("max_users", "must be at least 1"));
        }
        if self.half_life.is_zero() {
            return Err(error("half_life", "must be above zero"));
        }
        Ok(UserFairness {
            inner: Arc::new(Inner {
                clock: self.clock.ok_or(error("clock", "must be given"))?,
                half_life: self.half_life,
                max_users: self.max_users,
                hasher: RandomState::new(),
                usage: Mutex::default(),
            }),
        })
    }
}

#[derive(Debug, Default)]
struct Usage {
    /// Keyed by the hash of the user, so two users share an account with a probability of 2^−64.
    users: HashMap<u64, Account>,
    total: Account,
    /// Time of the last eviction of inactive users.
    pruned: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    amount: f64,
    at: Instant,
}

/// Number of half-lives without usage after which a user may be evicted.
const EVICT_AFTER: u32 = 10;
/// The largest usage that an account can hold.
const MAX_USAGE: f64 = 1e300;

impl Account {
    fn at(self, now: Instant, half_life: Duration) -> f64 {
        let age = now.saturating_duration_since(self.at);
        self.amount * (-age.as_secs_f64() / half_life.as_secs_f64()).exp2()
    }

    fn add(&mut self, amount: f64, now: Instant, half_life: Duration) {
        let before = self.at(now, half_life);
        *self = Self {
            // Bounded, so that sums stay finite.
            amount: (before + amount).min(MAX_USAGE),
            at: now.max(self.at),
        };
    }
}

impl UserFairness {
    /// Returns a builder with the default settings.
    pub const fn builder() -> UserFairnessBuilder {
        UserFairnessBuilder {
            max_users: 10_000,
            half_life: Duration::from_secs(60),
            clock: ClockHandle::preset(),
        }
    }

    /// Records usage of a user in any unit, such as calls, seconds of work, or bytes. Amounts that are negative or
    /// not finite are ignored.
    pub fn charge(&self, user: impl Hash, amount: f64) {
        if !(amount > 0.0 && amount.is_finite()) {
            return;
        }
        let (now, user) = (self.inner.clock.now(), self.inner.hasher.hash_one(user));
        let mut usage = lock(&self.inner.usage);
        if !usage.users.contains_key(&user) && usage.users.len() >= self.inner.max_users {
            self.prune(&mut usage, now);
            if usage.users.len() >= self.inner.max_users {
                return;
            }
        }
        let account = usage.users.entry(user).or_default();
        account.add(amount, now, self.inner.half_life);
        usage.total.add(amount, now, self.inner.half_life);
    }

    /// Returns the priority of a user: the class of `class`, at a level that follows from the user's usage.
    pub fn priority(&self, class: Priority, user: impl Hash) -> Priority {
        let (now, user) = (self.inner.clock.now(), self.inner.hasher.hash_one(user));
        let usage = lock(&self.inner.usage);
        let mean = usage.total.at(now, self.inner.half_life) / usage.users.len().max(1) as f64;
        let level = match usage.users.get(&user) {
            Some(account) => 50.0 * mean / account.at(now, self.inner.half_life),
            None if usage.users.len() >= self.inner.max_users => 50.0,
            None => 99.0,
        };
        // Without any usage this is 0 / 0, which `min` turns into 99.
        class.level(level.min(99.0) as u8)
    }

    /// Returns the number of tracked users.
    pub fn users(&self) -> usize {
        lock(&self.inner.usage).users.len()
    }

    /// Evicts inactive users. Runs at most once per half-life, because it visits all users.
    fn prune(&self, usage: &mut Usage, now: Instant) {
        if usage
            .pruned
            .is_some_and(|last| now < last + self.inner.half_life)
        {
            return;
        }
        usage.pruned = Some(now);
        let inactive = self.inner.half_life.saturating_mul(EVICT_AFTER);
        usage
            .users
            .retain(|_, account| now.saturating_duration_since(account.at) < inactive);
        // Recomputed: the remaining usage of evicted users would raise the mean of the others.
        let used = |account: &Account| account.at(now, self.inner.half_life);
        usage.total = Account {
            amount: usage.users.values().map(used).sum::<f64>().min(MAX_USAGE),
            at: now,
        };
    }
}

impl fmt::Debug for UserFairness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserFairness")
            .field("users", &self.users())
            .field("max_users", &DebugLimit(&self.inner.max_users))
            .field("half_life", &DebugLimit(&self.inner.half_life))
            .finish_non_exhaustive()
    }
}
