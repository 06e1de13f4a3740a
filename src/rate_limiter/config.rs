//! Quotas, and the builder of rate limiters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimiter;
use super::inner::{Core, Inner, Quotas};
use super::outside::Outside;
use super::queue::Queue;
use super::state::{
    FixedWindow, Gcra, Grid, LeakyBucket, Limits, Machine, SlidingCounter, SlidingLog, Striped,
    TokenBucket, WarmUp,
};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::Observer;
use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Mutex};

/// How much is allowed in how much time, and how that is counted.
///
/// A plain value. It is checked by the builder that takes it.
///
/// # Defaults
///
/// | setting | default |
/// |---|---|
/// | algorithm | token bucket |
/// | [`burst`](Self::burst) | what the rate earns in a second, rounded up; of a fixed window, what it earns in a window |
/// | [`initial`](Self::initial) | full |
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::rate_limiter::Quota;
///
/// let api = Quota::per_second(100).burst(500);
/// let mails = Quota::per_hour(1000).sliding_log();
/// let jobs = Quota::new(1, Duration::from_millis(250)).leaky_bucket(20);
/// assert_eq!(api.limit(), 500);
/// # let _ = (mails, jobs);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    tokens: u64,
    period: Duration,
    burst: Option<u64>,
    initial: Option<u64>,
    algorithm: Algorithm,
    warm_up: Option<(Duration, u32)>,
}

/// How a [`Quota`] is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Tokens drip into a bucket and calls take them out: a steady rate, and bursts out of what was
    /// saved up.
    TokenBucket,
    /// Callers wait in a queue and leave one per interval: no bursts at all.
    LeakyBucket,
    /// So many per window, counted anew in the next. Windows begin at multiples of their length.
    FixedWindow,
    /// As `FixedWindow`, but a window begins with the first call after the last one was used up.
    FixedWindowFromFirst,
    /// Never more than the limit in any window. Remembers every call of the last window.
    SlidingLog,
    /// As the log, approximately, out of two counters.
    SlidingCounter,
}

/// The largest burst, and the largest debt. Enough for a petabyte in kilobytes.
pub(super) const LARGEST: u64 = 1 << 40;
/// The largest limit of a sliding log, which remembers that many calls.
const LARGEST_LOG: u64 = 1 << 20;

impl Quota {
    /// `tokens` per `period`.
    pub const fn new(tokens: u64, period: Duration) -> Self {
        Self {
            tokens,
            period,
            burst: None,
            initial: None,
            algorithm: Algorithm::TokenBucket,
            warm_up: None,
        }
    }

    /// `tokens` per second.
    pub const fn per_second(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(1))
    }

    /// `tokens` per minute.
    pub const fn per_minute(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(60))
    }

    /// `tokens` per hour.
    pub const fn per_hour(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(3600))
    }

    /// `tokens` per day of 24 hours.
    pub const fn per_day(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(86_400))
    }

    /// How many tokens can be saved up, and so the largest cost of a call. Of a fixed window: how
    /// many it may admit after a quiet one.
    #[must_use]
    pub const fn burst(mut self, tokens: u64) -> Self {
        self.burst = Some(tokens);
        self
    }

    /// How many tokens there are at the beginning, when it shall not begin full.
    #[must_use]
    pub const fn initial(mut self, tokens: u64) -> Self {
        self.initial = Some(tokens);
        self
    }

    /// A leaky bucket whose queue holds at most `queue` tokens' worth of callers.
    #[must_use]
    pub const fn leaky_bucket(mut self, queue: u64) -> Self {
        self.algorithm = Algorithm::LeakyBucket;
        self.burst = Some(queue);
        self
    }

    /// A fixed window of the quota's period, aligned to the clock.
    #[must_use]
    pub const fn fixed_window(mut self) -> Self {
        self.algorithm = Algorithm::FixedWindow;
        self
    }

    /// A fixed window of the quota's period, which begins with the first call.
    #[must_use]
    pub const fn fixed_window_from_first(mut self) -> Self {
        self.algorithm = Algorithm::FixedWindowFromFirst;
        self
    }

    /// A sliding window log over the quota's period: exact, and up to 16 bytes of memory a call.
    #[must_use]
    pub const fn sliding_log(mut self) -> Self {
        self.algorithm = Algorithm::SlidingLog;
        self
    }

    /// A sliding window counter over the quota's period.
    #[must_use]
    pub const fn sliding_counter(mut self) -> Self {
        self.algorithm = Algorithm::SlidingCounter;
        self
    }

    /// Brings the rate up slowly after a pause: `cold` times slower at first, at full rate after
    /// `within` of steady use. Instead of bursts: callers leave one at a time. For a token bucket.
    #[must_use]
    pub const fn warm_up(mut self, within: Duration, cold: u32) -> Self {
        self.warm_up = Some((within, cold));
        self
    }

    /// Tokens per period.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The period, or the window.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// How it is counted.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How many tokens there can be at once: the burst, or the limit of a window.
    pub fn limit(&self) -> u64 {
        match (self.algorithm, self.burst) {
            (_, Some(burst)) => burst,
            (Algorithm::TokenBucket | Algorithm::LeakyBucket, None) => {
                let second = u128::from(self.tokens) * 1_000_000_000;
                let earned = second.div_ceil(u128::from(nanos(self.period).max(1)));
                u64::try_from(earned).unwrap_or(u64::MAX).max(1)
            }
            (_, None) => self.tokens,
        }
    }

    /// What is wrong with it, for the builder of `policy`.
    pub(super) fn check(&self, policy: &'static str) -> Result<(), ConfigError> {
        let fail = |problem| Err(ConfigError::new(policy, "quota", problem));
        let bucket = matches!(
            self.algorithm,
            Algorithm::TokenBucket | Algorithm::LeakyBucket
        );
        let fixed = matches!(
            self.algorithm,
            Algorithm::FixedWindow | Algorithm::FixedWindowFromFirst
        );
        if self.tokens == 0 || self.period.is_zero() {
            return fail("needs at least one token, and a period above zero");
        }
        if bucket && self.tokens > nanos(self.period) {
            return fail("must not exceed one token a nanosecond");
        }
        if self.tokens > LARGEST || self.limit() > LARGEST {
            return fail("must not exceed 2^40 tokens in a period or a burst");
        }
        if self.limit() == 0 {
            return fail("needs room for at least one token");
        }
        if self.algorithm == Algorithm::SlidingLog && self.tokens > LARGEST_LOG {
            return fail("is too large for a log of every call: use a sliding counter");
        }
        if self.burst.is_some() && !bucket && !fixed {
            return fail("has a burst, which a sliding window has no use for");
        }
        if self.initial.is_some_and(|initial| initial > self.limit()) {
            return fail("begins with more tokens than it can hold");
        }
        let one_by_one = self.warm_up.is_some() || self.algorithm == Algorithm::LeakyBucket;
        if self.initial.is_some() && one_by_one {
            return fail("begins with tokens, but lets callers through one by one");
        }
        match self.warm_up {
            Some(_) if self.algorithm != Algorithm::TokenBucket => {
                fail("warms up, which only a token bucket can")
            }
            Some((within, cold)) if within.is_zero() || cold < 2 => {
                fail("warms up in no time, or from no slower rate")
            }
            _ => Ok(()),
        }
    }

    fn grid(&self, debt: u64) -> Grid {
        Grid::new(self.tokens, self.period, self.limit().saturating_add(debt))
    }

    /// The rules of a token bucket with this quota.
    pub(super) fn gcra(&self, debt: u64) -> Gcra {
        Gcra::new(self.grid(debt), self.limit())
    }

    /// How many tokens there are at the beginning.
    pub(super) fn first(&self) -> u64 {
        self.initial.unwrap_or(self.limit())
    }

    /// Whether it is a token bucket that fits an atomic.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.algorithm, Algorithm::TokenBucket) && self.warm_up.is_none()
    }

    fn machine(&self, now: Instant, debt: u64) -> Machine {
        let (tokens, window, limit) = (self.tokens, self.period, self.limit());
        match (self.algorithm, self.warm_up) {
            (Algorithm::TokenBucket, None) => {
                let gcra = self.gcra(debt);
                Machine::Token {
                    gcra,
                    tat: gcra.holding(now, self.first()),
                }
            }
            (Algorithm::TokenBucket, Some((within, cold))) => {
                Machine::WarmUp(WarmUp::new(tokens, window, limit, within, cold))
            }
            (Algorithm::LeakyBucket, _) => Machine::Leaky(LeakyBucket::new(self.grid(debt), limit)),
            (Algorithm::FixedWindow | Algorithm::FixedWindowFromFirst, _) => {
                let aligned = self.algorithm == Algorithm::FixedWindow;
                let fixed = FixedWindow::new(tokens, window, limit, aligned);
                Machine::Fixed(fixed.holding(now, self.first()))
            }
            (Algorithm::SlidingLog, _) => {
                Machine::Log(SlidingLog::new(limit, window).holding(now, self.first()))
            }
            (Algorithm::SlidingCounter, _) => {
                Machine::Counter(SlidingCounter::new(limit, window).holding(now, self.first()))
            }
        }
    }
}

/// Builds a [`RateLimiter`].
///
/// | setting | default |
/// |---|---|
/// | [`quota`](Self::quota) | must be given, once or several times |
/// | [`max_wait`](Self::max_wait) of calls through the policy | zero: refuses at once; unlimited for a leaky bucket |
/// | [`max_waiting`](Self::max_waiting) | 10 000 |
/// | [`max_debt`](Self::max_debt) of reservations | as much as the quota holds |
/// | [`stripes`](Self::stripes) | 1 |
/// | [`shadow`](Self::shadow) | off |
/// | [`observer`](Self::observer) | none |
/// | [`name`](Self::name) | `rate_limiter` |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct RateLimiterBuilder {
    quotas: Vec<Quota>,
    max_wait: Option<Duration>,
    max_waiting: usize,
    max_debt: Option<u64>,
    stripes: usize,
    shadow: bool,
    observer: Option<Arc<dyn Observer>>,
    name: &'static str,
    clock: Option<ClockHandle>,
}

impl RateLimiterBuilder {
    const NAME: &'static str = "rate_limiter";

    pub(super) const fn new() -> Self {
        Self {
            quotas: Vec::new(),
            max_wait: None,
            max_waiting: 10_000,
            max_debt: None,
            stripes: 1,
            shadow: false,
            observer: None,
            name: Self::NAME,
            clock: ClockHandle::preset(),
        }
    }

    /// A limit. Given several times, a call must fit all of them, and takes from all or from none.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// How long a call through the policy waits for its turn. Zero refuses at once,
    /// [`Duration::MAX`] waits as long as the call's deadline allows. A turn that would come later is
    /// refused at once. `acquire` does not look at this: it always waits.
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = Some(longest);
        self
    }

    /// How many callers may wait at a time; the next is refused at once.
    pub const fn max_waiting(mut self, callers: usize) -> Self {
        self.max_waiting = callers;
        self
    }

    /// How many tokens a reservation may take beyond those there are.
    pub const fn max_debt(mut self, tokens: u64) -> Self {
        self.max_debt = Some(tokens);
        self
    }

    /// Splits a token bucket into so many parts that threads do not fight for it.
    ///
    /// The total never exceeds the rate and the burst. What it costs: a call may cost no more than
    /// its part of the burst (`burst / stripes`); a refusal looks at all parts one after the other,
    /// so it may miss a token that came back in between; `remaining` is a sum over parts read one
    /// after the other; debts are held by single parts.
    pub const fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = stripes;
        self
    }

    setters! {
        /// Only counts and reports what it would have refused, and lets everything through.
        shadow;
        /// Hears refusals, also those of calls made outside any pipeline.
        observer;
        /// The name in errors and events.
        name;
        /// The clock that tokens are earned by.
        clock;
    }

    /// The limiter.
    ///
    /// # Errors
    ///
    /// When no quota was given or one has no meaning, when several or other quotas than a token
    /// bucket are to be striped, when a stripe would hold no token, or without a clock where the
    /// feature `tokio` is off.
    pub fn build(self) -> Result<RateLimiter, ConfigError> {
        let error = |setting, problem| ConfigError::new(Self::NAME, setting, problem);
        let [first, rest @ ..] = &self.quotas[..] else {
            return Err(error("quota", "must be given"));
        };
        let clock = self.clock.ok_or(error("clock", "must be given"))?;
        for quota in &self.quotas {
            quota.check(Self::NAME)?;
        }
        let most = self.quotas.iter().map(Quota::limit).max().unwrap_or(1);
        let debt = self.max_debt.unwrap_or(most);
        if debt > LARGEST {
            return Err(error("max_debt", "must not exceed 2^40 tokens"));
        }
        let logs = |quota: &Quota| quota.algorithm == Algorithm::SlidingLog;
        if self.quotas.iter().any(logs) && debt > LARGEST_LOG {
            return Err(error("max_debt", "is too large for a log of every call"));
        }
        let leaky = queue_bound(&self.quotas);
        let max_wait = match (self.max_wait, &leaky) {
            (None, Some(_)) => Duration::MAX,
            (longest, _) => longest.unwrap_or(Duration::ZERO),
        };
        let heard = self.shadow || self.observer.is_some();
        let outside = Outside::new(clock, max_wait, self.observer, self.name);
        let now = outside.now();
        let core = match (self.stripes, rest) {
            (0, _) => return Err(error("stripes", "must be at least 1")),
            (1, []) if first.is_plain() => {
                let gcra = first.gcra(debt);
                let tat = gcra.holding(now, first.first());
                Core::Token(TokenBucket::new(&gcra, tat))
            }
            (1, _) => Core::Locked(Mutex::new(limits(&self.quotas, now, debt))),
            (stripes, []) if first.is_plain() => {
                let rules = stripe(first, stripes)
                    .ok_or(error("stripes", "must not exceed the burst, nor 1024"))?;
                Core::Striped(Striped::new(&rules, now, first.first()))
            }
            _ => return Err(error("stripes", "can only split a single token bucket")),
        };
        Ok(RateLimiter {
            inner: Arc::new(Inner {
                core,
                queue: Queue::new(self.max_waiting, leaky),
                outside,
                quotas: std::sync::Mutex::new(Quotas {
                    each: self.quotas,
                    changed: false,
                }),
                debt,
                heard,
                shadow: self.shadow,
                shadowed: AtomicU64::new(0),
            }),
        })
    }
}

/// The rules of each of `stripes` parts of `quota`, if each can hold a token.
pub(super) fn stripe(quota: &Quota, stripes: usize) -> Option<Vec<Gcra>> {
    let parts = u64::try_from(stripes).ok()?;
    (parts <= quota.limit().min(1024))
        .then(|| Striped::rules(quota.tokens, quota.period, quota.limit(), parts))
}

/// What the quotas are at the beginning.
pub(super) fn limits(quotas: &[Quota], now: Instant, debt: u64) -> Limits {
    Limits::new(
        quotas
            .iter()
            .map(|quota| quota.machine(now, debt))
            .collect(),
    )
}

/// How many tokens' worth of callers may wait, when one of the quotas says so.
pub(super) fn queue_bound(quotas: &[Quota]) -> Option<u64> {
    quotas
        .iter()
        .filter(|quota| quota.algorithm == Algorithm::LeakyBucket)
        .map(Quota::limit)
        .min()
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("quotas", &self.quotas)
            .field("max_wait", &self.max_wait)
            .field("max_waiting", &self.max_waiting)
            .field("max_debt", &self.max_debt)
            .field("stripes", &self.stripes)
            .field("shadow", &self.shadow)
            .field("observed", &self.observer.is_some())
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish()
    }
}
