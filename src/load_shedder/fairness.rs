//! Fairness between the users of one class.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::lock;

/// Lowers the level of users who use more than others, inside their class: under overload the heavy
/// ones of a class go first.
///
/// Usage halves every half-life. A user who uses as much as the mean is at level 50, one who uses
/// twice as much at 25, one who uses half as much or nothing at 99. Bounded: when as many users are
/// known as may be, those who have been quiet for ten half-lives are forgotten; while there are none,
/// newcomers are not followed and count as average.
///
/// # Example
///
/// ```
/// use backstop::load_shedder::UserFairness;
/// use backstop::{ManualClock, Priority};
///
/// let fairness = UserFairness::new(10_000, std::time::Duration::from_secs(60), ManualClock::new())?;
/// for _ in 0..9 {
///     fairness.charge("greedy", 1.0);
/// }
/// fairness.charge("modest", 1.0);
/// let greedy = fairness.priority(Priority::NORMAL, "greedy");
/// let modest = fairness.priority(Priority::NORMAL, "modest");
/// assert!(greedy < modest && greedy > Priority::LOW.level(99));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct UserFairness {
    clock: ClockHandle,
    half_life: Duration,
    max_users: usize,
    hasher: RandomState,
    usage: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    /// By the hash of the user: two users in 2^64 share an account.
    users: HashMap<u64, Account>,
    total: Account,
    /// When quiet users were last looked for.
    pruned: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    amount: f64,
    at: Instant,
}

/// After so many half-lives of silence a user is forgotten.
const FORGOTTEN: u32 = 10;

impl Account {
    fn at(self, now: Instant, half_life: Duration) -> f64 {
        let age = now.saturating_duration_since(self.at);
        self.amount * (-age.as_secs_f64() / half_life.as_secs_f64()).exp2()
    }

    fn add(&mut self, amount: f64, now: Instant, half_life: Duration) {
        let before = self.at(now, half_life);
        *self = Self {
            // Not beyond what sums of it can hold.
            amount: (before + amount).min(1e300),
            at: now.max(self.at),
        };
    }
}

impl UserFairness {
    /// Follows up to `max_users` users, whose usage halves every `half_life`.
    ///
    /// # Errors
    ///
    /// No users, or a half-life of zero.
    pub fn new(
        max_users: usize,
        half_life: Duration,
        clock: impl Into<ClockHandle>,
    ) -> Result<Self, ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("user fairness", setting, problem));
        if max_users == 0 {
            return error("max_users", "must be at least 1");
        }
        if half_life.is_zero() {
            return error("half_life", "must be above zero");
        }
        Ok(Self {
            clock: clock.into(),
            half_life,
            max_users,
            hasher: RandomState::new(),
            usage: Mutex::default(),
        })
    }

    /// Adds to what a user has used: calls, seconds of work, bytes. Amounts that are negative or not
    /// finite count as nothing.
    pub fn charge(&self, user: impl Hash, amount: f64) {
        if !(amount > 0.0 && amount.is_finite()) {
            return;
        }
        let (now, user) = (self.clock.now(), self.hasher.hash_one(user));
        let mut usage = lock(&self.usage);
        if !usage.users.contains_key(&user) && usage.users.len() >= self.max_users {
            self.prune(&mut usage, now);
            if usage.users.len() >= self.max_users {
                return;
            }
        }
        let account = usage.users.entry(user).or_default();
        account.add(amount, now, self.half_life);
        usage.total.add(amount, now, self.half_life);
    }

    /// The level of a user inside the class of `class`.
    pub fn priority(&self, class: Priority, user: impl Hash) -> Priority {
        let (now, user) = (self.clock.now(), self.hasher.hash_one(user));
        let usage = lock(&self.usage);
        let mean = usage.total.at(now, self.half_life) / usage.users.len().max(1) as f64;
        let level = match usage.users.get(&user) {
            Some(account) => 50.0 * mean / account.at(now, self.half_life),
            None if usage.users.len() >= self.max_users => 50.0,
            None => 99.0,
        };
        // Nothing used at all by anybody is 0 / 0; a cast makes that 0, `min` makes it 99.
        class.level(level.min(99.0) as u8)
    }

    /// How many users are followed.
    pub fn users(&self) -> usize {
        lock(&self.usage).users.len()
    }

    /// Forgets the quiet ones; at most once a half-life, as it looks at all of them.
    fn prune(&self, usage: &mut Usage, now: Instant) {
        if usage.pruned.is_some_and(|last| now < last + self.half_life) {
            return;
        }
        usage.pruned = Some(now);
        let silence = self.half_life.saturating_mul(FORGOTTEN);
        usage
            .users
            .retain(|_, account| now.saturating_duration_since(account.at) < silence);
        // What is left of theirs would raise the mean, and there are fewer to share it: all others
        // would count as modest, however they differ.
        let used = |account: &Account| account.at(now, self.half_life);
        usage.total = Account {
            amount: usage.users.values().map(used).sum::<f64>().min(1e300),
            at: now,
        };
    }
}
