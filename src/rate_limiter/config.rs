//! The builder of rate limiters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimiter;
use super::core::{Core, Locked};
use super::inner::Inner;
use super::queue::Queue;
use super::rejections::Rejections;
use super::state::{self, Algorithm, LARGEST, LARGEST_LOG, Quota};
use super::striped::Striped;
use super::terms::Terms;
use super::token_bucket::TokenBucket;
use crate::base::Setup;
use crate::error::ConfigError;
use crate::sync::Mutex;

impl RateLimiter {
    /// Returns a builder with the default settings. A quota must be given.
    pub const fn builder() -> RateLimiterBuilder {
        RateLimiterBuilder::new()
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
    setup: Setup,
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
            setup: Setup::new(Self::NAME),
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
        in setup;
        /// Only counts and reports what it would have refused, and lets everything through.
        shadow;
        /// Hears of rejections and waits, also those of calls made outside any pipeline.
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
        let base = self.setup.build(Self::NAME)?;
        for quota in &self.quotas {
            quota.check(Self::NAME)?;
        }
        let most = self.quotas.iter().map(Quota::limit).max().unwrap_or(1);
        let debt = self.max_debt.unwrap_or(most);
        if debt > LARGEST {
            return Err(error("max_debt", "must not exceed 2^40 tokens"));
        }
        let logs = |quota: &Quota| quota.algorithm() == Algorithm::SlidingLog;
        if self.quotas.iter().any(logs) && debt > LARGEST_LOG {
            return Err(error("max_debt", "is too large for a log of every call"));
        }
        if self.max_waiting == 0 && self.max_wait.is_some_and(|longest| !longest.is_zero()) {
            return Err(error(
                "max_wait",
                "lets calls wait, but `max_waiting` is zero",
            ));
        }
        let max_wait = match (self.max_wait, state::queue_bound(&self.quotas)) {
            (None, Some(_)) => Duration::MAX,
            (longest, _) => longest.unwrap_or(Duration::ZERO),
        };
        let now = base.now();
        let core = match (self.stripes, rest) {
            (0, _) => return Err(error("stripes", "must be at least 1")),
            (1, []) if first.is_plain() => {
                let gcra = first.gcra(debt);
                let tat = gcra.holding(now, first.first());
                Core::Token(TokenBucket::new(&gcra, tat))
            }
            (1, _) => {
                let limits = state::limits(&self.quotas, now, debt);
                Core::Locked(Mutex::new(Locked::new(limits, now)))
            }
            (stripes, []) if first.is_plain() => {
                let rules = state::stripe(first, stripes)
                    .ok_or(error("stripes", "must not exceed the burst, nor 1024"))?;
                Core::Striped(Striped::new(&rules, now, first.first()))
            }
            _ => return Err(error("stripes", "can only split a single token bucket")),
        };
        Ok(RateLimiter {
            inner: Arc::new(Inner {
                core,
                queue: Queue::new(self.max_waiting, Terms::new(self.quotas)),
                base,
                max_wait,
                debt,
                rejections: Rejections::default(),
            }),
        })
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("quotas", &self.quotas)
            .field("max_wait", &self.max_wait)
            .field("max_waiting", &self.max_waiting)
            .field("max_debt", &self.max_debt)
            .field("stripes", &self.stripes)
            .field("setup", &self.setup)
            .finish()
    }
}
