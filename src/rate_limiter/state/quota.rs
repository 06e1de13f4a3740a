//! Quotas: how many tokens in how much time.

use std::fmt;
use std::time::Duration;

use super::exact_rate::ExactRate;
use super::fixed_window::FixedWindow;
use super::gcra::Gcra;
use super::leaky_bucket::LeakyBucket;
use super::machine::{Bucket, Limits, Machine};
use super::sliding_counter::SlidingCounter;
use super::sliding_log::SlidingLog;
use super::warm_up::WarmUp;
use crate::error::ConfigError;
use crate::instant::{Instant, nanos};

/// The number of tokens per period, and the algorithm that counts them. A plain value, checked when a limiter is
/// built.
///
/// The default algorithm is the token bucket. It begins full and holds the number of tokens given:
/// `per_minute(10)` admits 10 at once.
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
/// assert_eq!(mails.limit(), 1000);
/// assert_eq!(jobs.limit(), 20);
///
/// // From text, for configuration files; `Display` writes what can be read again.
/// let quota: Quota = "10/min, burst 5".parse()?;
/// assert_eq!(quota, Quota::per_minute(10).burst(5));
/// assert_eq!("300/1s".parse::<Quota>()?.to_string(), "300/s");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
///
/// The text form is the tokens, a slash, and the period: `s`, `min`, `h`, or `day`, perhaps with a number
/// before it, which `ms`, `us`, and `ns` need. Then come, separated by commas: `burst 5`, `initial 0`,
/// `leaky bucket 20`, `fixed window`, `fixed window from first`, `sliding log`, `sliding counter`, and
/// `warm up 10s x3`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    tokens: u64,
    period: Duration,
    pub(super) burst: Option<u64>,
    pub(super) initial: Option<u64>,
    algorithm: Algorithm,
    /// The queue of a leaky bucket, in tokens.
    pub(super) queue: u64,
    /// Whether two algorithms were chosen.
    ambiguous: bool,
    pub(super) warm_up: Option<(Duration, u32)>,
}

/// The algorithm that counts a [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Calls take tokens from a bucket that fills at the rate: a steady rate, with bursts of saved tokens.
    TokenBucket,
    /// Calls run one per interval and wait in a queue: no bursts.
    LeakyBucket,
    /// A number of tokens per window, counted from zero in each. Windows begin at multiples of their
    /// length.
    FixedWindow,
    /// Like `FixedWindow`, but a window begins with the first call after the last one ended.
    FixedWindowFromFirst,
    /// Never more than the limit in any window. Stores every call of the last window.
    SlidingLog,
    /// An approximation of the log with two counters.
    SlidingCounter,
}

impl Algorithm {
    /// Returns the algorithm as an identifier for logs and configuration, such as `token_bucket`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenBucket => "token_bucket",
            Self::LeakyBucket => "leaky_bucket",
            Self::FixedWindow => "fixed_window",
            Self::FixedWindowFromFirst => "fixed_window_from_first",
            Self::SlidingLog => "sliding_log",
            Self::SlidingCounter => "sliding_counter",
        }
    }
}

/// Writes words, as in the text form of a [`Quota`].
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenBucket => "token bucket",
            Self::LeakyBucket => "leaky bucket",
            Self::FixedWindow => "fixed window",
            Self::FixedWindowFromFirst => "fixed window from first",
            Self::SlidingLog => "sliding log",
            Self::SlidingCounter => "sliding counter",
        })
    }
}

/// The largest burst, and the largest debt.
pub(crate) const LARGEST: u64 = 1 << 40;
/// The largest limit of a sliding log, which stores that many calls.
pub(crate) const LARGEST_LOG: u64 = 1 << 20;

impl Quota {
    /// Returns a quota of `tokens` per `period`, and as many at once.
    pub const fn new(tokens: u64, period: Duration) -> Self {
        Self {
            tokens,
            period,
            burst: None,
            initial: None,
            algorithm: Algorithm::TokenBucket,
            queue: 0,
            ambiguous: false,
            warm_up: None,
        }
    }

    /// Returns a quota of `tokens` per second, and as many at once. See [`burst`](Self::burst).
    pub const fn per_second(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(1))
    }

    /// Returns a quota of `tokens` per minute, and as many at once. See [`burst`](Self::burst).
    pub const fn per_minute(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(60))
    }

    /// Returns a quota of `tokens` per hour, and as many at once. See [`burst`](Self::burst).
    pub const fn per_hour(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(3600))
    }

    /// Returns a quota of `tokens` per day of 24 hours, and as many at once. See [`burst`](Self::burst).
    pub const fn per_day(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(86_400))
    }

    /// Returns a quota of `rate` tokens per second, which may be fractional. Its burst is `rate` rounded up. Exact to
    /// six decimal places; below one token in a thousand seconds, exact to a nanosecond between tokens.
    pub fn per_second_f64(rate: f64) -> Self {
        if rate > 0.0 && rate < 1e-3 {
            let period = Duration::try_from_secs_f64(rate.recip()).unwrap_or(Duration::MAX);
            return Self::new(1, period);
        }
        // Finds the shortest period with a whole number of tokens.
        let mut seconds = 1;
        let tokens = loop {
            let exact = rate * seconds as f64;
            let whole = exact.round();
            if seconds == 1_000_000 || (exact - whole).abs() <= 1e-9 * exact {
                break whole;
            }
            seconds *= 10;
        };
        // NaN and numbers below zero become zero, which the builder rejects.
        Self::new(tokens as u64, Duration::from_secs(seconds)).burst(rate.ceil() as u64)
    }

    /// Sets the most tokens that can be saved up, which is also the largest cost of a call. For a fixed window, the
    /// most that it admits after an idle one. For a quota that [warms up](Self::warm_up), which saves no tokens, only
    /// the largest cost. Default: the tokens per period.
    #[must_use]
    pub const fn burst(mut self, tokens: u64) -> Self {
        self.burst = Some(tokens);
        self
    }

    /// Sets the number of tokens in a new limit. Default: full.
    #[must_use]
    pub const fn initial(mut self, tokens: u64) -> Self {
        self.initial = Some(tokens);
        self
    }

    const fn counted_as(mut self, algorithm: Algorithm) -> Self {
        let same = self.algorithm as u8 == algorithm as u8;
        self.ambiguous |= !matches!(self.algorithm, Algorithm::TokenBucket) && !same;
        self.algorithm = algorithm;
        self
    }

    /// Selects a leaky bucket. The wait queue holds calls that cost at most `queue` tokens together.
    #[must_use]
    pub const fn leaky_bucket(mut self, queue: u64) -> Self {
        self.queue = queue;
        self.counted_as(Algorithm::LeakyBucket)
    }

    /// Selects a fixed window of the period, aligned to the clock.
    #[must_use]
    pub const fn fixed_window(self) -> Self {
        self.counted_as(Algorithm::FixedWindow)
    }

    /// Selects a fixed window of the period, which begins with the first call.
    #[must_use]
    pub const fn fixed_window_from_first(self) -> Self {
        self.counted_as(Algorithm::FixedWindowFromFirst)
    }

    /// Selects a sliding window log over the period: exact, with up to 16 bytes per call.
    #[must_use]
    pub const fn sliding_log(self) -> Self {
        self.counted_as(Algorithm::SlidingLog)
    }

    /// Selects a sliding window counter over the period.
    #[must_use]
    pub const fn sliding_counter(self) -> Self {
        self.counted_as(Algorithm::SlidingCounter)
    }

    /// Warms a token bucket up after idle time: the rate is `cold` times slower at first, and full after
    /// `within` of steady use. Calls run one at a time, without bursts.
    #[must_use]
    pub const fn warm_up(mut self, within: Duration, cold: u32) -> Self {
        self.warm_up = Some((within, cold));
        self
    }

    /// Returns the tokens per period.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the period, or the window.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the largest number of tokens at once: the burst, the queue of a leaky bucket, or the limit
    /// of a window.
    pub const fn limit(&self) -> u64 {
        match (self.algorithm, self.burst) {
            (Algorithm::LeakyBucket, _) => self.queue,
            (_, Some(burst)) => burst,
            (_, None) => self.tokens,
        }
    }

    /// Returns an error of the builder of `policy` if the quota is invalid.
    pub(crate) fn check(&self, policy: &'static str) -> Result<(), ConfigError> {
        let fail = |problem| Err(ConfigError::new(policy, "quota", problem));
        let bucket = matches!(
            self.algorithm,
            Algorithm::TokenBucket | Algorithm::LeakyBucket
        );
        let fixed = matches!(
            self.algorithm,
            Algorithm::FixedWindow | Algorithm::FixedWindowFromFirst
        );
        if self.ambiguous {
            return fail("is counted by two algorithms");
        }
        if self.tokens == 0 || self.period.is_zero() {
            return fail("must have at least one token, and a period above zero");
        }
        if bucket && self.tokens > nanos(self.period) {
            return fail("must not exceed one token a nanosecond");
        }
        if self.tokens > LARGEST || self.limit() > LARGEST {
            return fail("must not exceed 2^40 tokens in a period or a burst");
        }
        if self.limit() == 0 {
            return fail("must hold at least one token");
        }
        if self.algorithm == Algorithm::SlidingLog && self.tokens > LARGEST_LOG {
            return fail("must not exceed 2^20 tokens with a sliding log: use a sliding counter");
        }
        if self.burst.is_some() && !bucket && !fixed {
            return fail("has a burst, which does not apply to a sliding window");
        }
        if self.burst.is_some() && self.algorithm == Algorithm::LeakyBucket {
            return fail("has a burst, which a leaky bucket does not admit");
        }
        if self.initial.is_some_and(|initial| initial > self.limit()) {
            return fail("has more `initial` tokens than it can hold");
        }
        let one_by_one = self.warm_up.is_some() || self.algorithm == Algorithm::LeakyBucket;
        if self.initial.is_some() && one_by_one {
            return fail("has `initial` tokens, but admits calls one at a time");
        }
        match self.warm_up {
            Some(_) if self.algorithm != Algorithm::TokenBucket => {
                fail("warms up, which only a token bucket can")
            }
            Some((within, cold)) if within.is_zero() || cold < 2 => {
                fail("must warm up in a time above zero, from a rate at least 2 times slower")
            }
            _ => Ok(()),
        }
    }

    fn rate(&self, debt: u64) -> ExactRate {
        ExactRate::new(self.tokens, self.period, self.limit().saturating_add(debt))
    }

    /// Returns the rules of a token bucket with this quota.
    pub(crate) fn gcra(&self, debt: u64) -> Gcra {
        Gcra::new(self.rate(debt), self.limit())
    }

    /// Returns the number of tokens in a new limit.
    pub(crate) fn initial_tokens(&self) -> u64 {
        self.initial.unwrap_or(self.limit())
    }

    /// Returns whether it is a token bucket that fits one word.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.algorithm, Algorithm::TokenBucket) && self.warm_up.is_none()
    }

    fn machine(&self, now: Instant, debt: u64) -> Machine {
        let (tokens, window, limit) = (self.tokens, self.period, self.limit());
        match (self.algorithm, self.warm_up) {
            (Algorithm::TokenBucket, None) => {
                let gcra = self.gcra(debt);
                let tat = gcra.with_initial(now, self.initial_tokens());
                Machine::Token(Bucket { gcra, tat })
            }
            (Algorithm::TokenBucket, Some((within, cold))) => {
                Machine::WarmUp(WarmUp::new(tokens, window, limit, within, cold))
            }
            (Algorithm::LeakyBucket, _) => Machine::Leaky(LeakyBucket::new(self.rate(debt), limit)),
            (Algorithm::FixedWindow | Algorithm::FixedWindowFromFirst, _) => {
                let aligned = self.algorithm == Algorithm::FixedWindow;
                let fixed = FixedWindow::new(tokens, window, limit, aligned);
                Machine::Fixed(fixed.with_initial(now, self.initial_tokens()))
            }
            (Algorithm::SlidingLog, _) => Machine::Log(
                SlidingLog::new(limit, window).with_initial(now, self.initial_tokens()),
            ),
            (Algorithm::SlidingCounter, _) => Machine::Counter(
                SlidingCounter::new(limit, window).with_initial(now, self.initial_tokens()),
            ),
        }
    }
}

/// Returns new limits with these quotas.
pub(crate) fn limits(quotas: &[Quota], now: Instant, debt: u64) -> Limits {
    let machines = quotas.iter().map(|quota| quota.machine(now, debt));
    Limits::new(machines.collect())
}

/// Returns whether quotas may replace others: as many, counted in the same way.
pub(crate) fn are_same_kinds(old: &[Quota], new: &[Quota]) -> bool {
    let is_same = |(old, new): (&Quota, &Quota)| {
        old.algorithm == new.algorithm && old.is_plain() == new.is_plain()
    };
    old.len() == new.len() && old.iter().zip(new).all(is_same)
}

/// Returns the rules of each of `stripes` stripes of `quota`, if each can hold a token. Each stripe earns the share
/// of the rate that it holds of the burst.
pub(crate) fn stripe(quota: &Quota, stripes: usize) -> Option<Vec<Gcra>> {
    let (parts, burst) = (u64::try_from(stripes).ok()?, quota.limit());
    (parts <= burst.min(1024)).then(|| {
        let share = |part| burst / parts + u64::from(part < burst % parts);
        let rules = (0..parts).map(share).map(|share| {
            let rate = ExactRate::shared(quota.tokens, quota.period, share, burst);
            Gcra::new(rate, share)
        });
        rules.collect()
    })
}

/// Returns the largest sum of the costs of all waiters, if a leaky bucket bounds it.
pub(crate) fn queue_bound(quotas: &[Quota]) -> Option<u64> {
    let leaky = quotas
        .iter()
        .filter(|quota| quota.algorithm == Algorithm::LeakyBucket);
    leaky.map(Quota::limit).min()
}
