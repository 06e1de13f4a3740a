//! Quotas: how much is allowed in how much time.

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

/// How much is allowed in how much time, and how that is counted.
///
/// A plain value. It is checked by the builder that takes it.
///
/// # Defaults
///
/// | setting | default |
/// |---|---|
/// | algorithm | token bucket |
/// | [`burst`](Self::burst) | the number of tokens given: `per_minute(10)` admits 10 at once |
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
/// assert_eq!(mails.limit(), 1000);
/// # let _ = jobs;
///
/// // From text, for configuration files; `Display` writes what can be read again.
/// let quota: Quota = "10/min, burst 5".parse()?;
/// assert_eq!(quota, Quota::per_minute(10).burst(5));
/// assert_eq!("300/1s".parse::<Quota>()?.to_string(), "300/s");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
///
/// The text is the tokens, a slash, and the period: `s`, `min`, `h`, `day`, or a number before one of
/// them or before `ms`, `us`, `ns`. After that, separated by commas: `burst 5`, `initial 0`,
/// `leaky bucket 20`, `fixed window`, `fixed window from first`, `sliding log`, `sliding counter`, and
/// `warm up 10s x3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    tokens: u64,
    period: Duration,
    pub(super) burst: Option<u64>,
    pub(super) initial: Option<u64>,
    algorithm: Algorithm,
    /// Of a leaky bucket.
    pub(super) queue: u64,
    /// A second algorithm was chosen after the first.
    ambiguous: bool,
    pub(super) warm_up: Option<(Duration, u32)>,
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
pub(crate) const LARGEST: u64 = 1 << 40;
/// The largest limit of a sliding log, which remembers that many calls.
pub(crate) const LARGEST_LOG: u64 = 1 << 20;

impl Quota {
    /// `tokens` per `period`, and so many at once.
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

    /// `tokens` per second, and so many at once. See [`burst`](Self::burst).
    pub const fn per_second(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(1))
    }

    /// `tokens` per minute, and so many at once. See [`burst`](Self::burst).
    pub const fn per_minute(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(60))
    }

    /// `tokens` per hour, and so many at once. See [`burst`](Self::burst).
    pub const fn per_hour(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(3600))
    }

    /// `tokens` per day of 24 hours, and so many at once. See [`burst`](Self::burst).
    pub const fn per_day(tokens: u64) -> Self {
        Self::new(tokens, Duration::from_secs(86_400))
    }

    /// `rate` tokens per second, which need not be a whole number, and so many at once, rounded up.
    /// Exact to six decimal places; below one in a thousand seconds, to a nanosecond between tokens.
    pub fn per_second_f64(rate: f64) -> Self {
        if rate > 0.0 && rate < 1e-3 {
            let period = Duration::try_from_secs_f64(rate.recip()).unwrap_or(Duration::MAX);
            return Self::new(1, period);
        }
        // The shortest period in which that is a whole number of tokens.
        let mut seconds = 1;
        let tokens = loop {
            let exact = rate * seconds as f64;
            let whole = exact.round();
            if seconds == 1_000_000 || (exact - whole).abs() <= 1e-9 * exact {
                break whole;
            }
            seconds *= 10;
        };
        // What is no number, or none above zero, becomes zero, which the builder rejects.
        Self::new(tokens as u64, Duration::from_secs(seconds)).burst(rate.ceil() as u64)
    }

    /// How many tokens can be saved up, and so the largest cost of a call. Of a fixed window: how
    /// many it may admit after a quiet one. Of a quota that [warms up](Self::warm_up), which saves up
    /// nothing: the largest cost. The number of tokens per period, unless given.
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

    const fn counted_as(mut self, algorithm: Algorithm) -> Self {
        let same = self.algorithm as u8 == algorithm as u8;
        self.ambiguous |= !matches!(self.algorithm, Algorithm::TokenBucket) && !same;
        self.algorithm = algorithm;
        self
    }

    /// A leaky bucket whose queue holds at most `queue` tokens' worth of callers.
    #[must_use]
    pub const fn leaky_bucket(mut self, queue: u64) -> Self {
        self.queue = queue;
        self.counted_as(Algorithm::LeakyBucket)
    }

    /// A fixed window of the quota's period, aligned to the clock.
    #[must_use]
    pub const fn fixed_window(self) -> Self {
        self.counted_as(Algorithm::FixedWindow)
    }

    /// A fixed window of the quota's period, which begins with the first call.
    #[must_use]
    pub const fn fixed_window_from_first(self) -> Self {
        self.counted_as(Algorithm::FixedWindowFromFirst)
    }

    /// A sliding window log over the quota's period: exact, and up to 16 bytes of memory a call.
    #[must_use]
    pub const fn sliding_log(self) -> Self {
        self.counted_as(Algorithm::SlidingLog)
    }

    /// A sliding window counter over the quota's period.
    #[must_use]
    pub const fn sliding_counter(self) -> Self {
        self.counted_as(Algorithm::SlidingCounter)
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

    /// How many tokens there can be at once: the burst, the queue of a leaky bucket, or the limit of a
    /// window.
    pub const fn limit(&self) -> u64 {
        match (self.algorithm, self.burst) {
            (Algorithm::LeakyBucket, _) => self.queue,
            (_, Some(burst)) => burst,
            (_, None) => self.tokens,
        }
    }

    /// What is wrong with it, for the builder of `policy`.
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
        if self.burst.is_some() && self.algorithm == Algorithm::LeakyBucket {
            return fail("has a burst, which a leaky bucket does not let through");
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

    fn rate(&self, debt: u64) -> ExactRate {
        ExactRate::new(self.tokens, self.period, self.limit().saturating_add(debt))
    }

    /// The rules of a token bucket with this quota.
    pub(crate) fn gcra(&self, debt: u64) -> Gcra {
        Gcra::new(self.rate(debt), self.limit())
    }

    /// How many tokens there are at the beginning.
    pub(crate) fn initial_tokens(&self) -> u64 {
        self.initial.unwrap_or(self.limit())
    }

    /// Whether it is a token bucket that fits an atomic.
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

/// What the quotas are at the beginning.
pub(crate) fn limits(quotas: &[Quota], now: Instant, debt: u64) -> Limits {
    let machines = quotas.iter().map(|quota| quota.machine(now, debt));
    Limits::new(machines.collect())
}

/// The rules of each of `stripes` parts of `quota`, if each can hold a token: equal shares of the rate,
/// so a token of a part costs as many times more units as there are parts.
pub(crate) fn stripe(quota: &Quota, stripes: usize) -> Option<Vec<Gcra>> {
    let (parts, burst) = (u64::try_from(stripes).ok()?, quota.limit());
    (parts <= burst.min(1024)).then(|| {
        let share = |part| burst / parts + u64::from(part < burst % parts);
        let rules = (0..parts).map(share).map(|share| {
            let rate = ExactRate::shared(quota.tokens, quota.period, share, parts);
            Gcra::new(rate, share)
        });
        rules.collect()
    })
}

/// How many tokens' worth of callers may wait, when one of the quotas says so.
pub(crate) fn queue_bound(quotas: &[Quota]) -> Option<u64> {
    let leaky = quotas
        .iter()
        .filter(|quota| quota.algorithm == Algorithm::LeakyBucket);
    leaky.map(Quota::limit).min()
}
