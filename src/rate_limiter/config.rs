//! The builder of rate limiters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimiter;
use super::core::{Core, Locked};
use super::feedback::{Adaptive, Feedback};
use super::inner::Inner;
use super::queue::Queue;
use super::rejections::Rejections;
use super::state::{self, Algorithm, Inherit, LARGEST, LARGEST_LOG, Quota};
use super::striped::Striped;
use super::terms::Terms;
use super::token_bucket::TokenBucket;
use crate::adaptive_rate::CubicRateBuilder;
use crate::base::Setup;
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::sync::{AtomicU64, Mutex, Ordering};

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
/// | [`quota`](Self::quota) | must be given, once or several times, unless it is adaptive |
/// | [`adaptive`](Self::adaptive) | no |
/// | [`pause_on_hint`](Self::pause_on_hint) | no |
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
    adaptive: Option<CubicRateBuilder>,
    longest_pause: Option<Duration>,
    max_wait: Option<Duration>,
    max_waiting: usize,
    max_debt: Option<u64>,
    stripes: usize,
    setup: Setup,
}

impl RateLimiterBuilder {
    const NAME: &'static str = "rate_limiter";
    /// As good as no limit, for one that finds its rate.
    const UNLIMITED: Quota = Quota::per_second(1_000_000_000);

    pub(super) const fn new() -> Self {
        Self {
            quotas: Vec::new(),
            adaptive: None,
            longest_pause: None,
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

    /// Finds the rate by itself, from answers that are throttled: as the client rate of the AWS SDKs' adaptive
    /// retry mode, see [`adaptive_rate`](crate::adaptive_rate).
    ///
    /// Until a call is throttled ([`Verdict::throttled`](crate::Verdict::throttled)) the quota holds, or no
    /// limit if none is given. Then the rate falls to a share of the rate measured and grows again; it
    /// never exceeds the quota, which must be a single token bucket. Rates are in calls, so calls should
    /// cost 1. A limiter that has learned a rate is not evicted from a [`Keyed`](crate::Keyed) set.
    ///
    /// The limiter sees the results of calls through the policy; tell it of others with
    /// [`RateLimiter::record`]. It belongs inside the retry and outside the classifier.
    pub const fn adaptive(mut self, rate: CubicRateBuilder) -> Self {
        self.adaptive = Some(rate);
        self
    }

    /// Pauses the limiter, as [`RateLimiter::pause_for`] does, when a server says when to come back: a
    /// `Retry-After` for one caller holds all callers of this limiter. Longer hints count as `longest`, so
    /// that a server cannot stop all callers for a day. Above zero.
    ///
    /// The hint comes with the verdict of a call, see [`Verdict::hint`](crate::Verdict::hint). Use it where
    /// the limiter stands for one host, and not where a hint may be meant for one tenant of many.
    pub const fn pause_on_hint(mut self, longest: Duration) -> Self {
        self.longest_pause = Some(longest);
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

    /// Replaces the quotas by this one.
    pub(crate) fn only(mut self, quota: Quota) -> Self {
        self.quotas.clear();
        self.quota(quota)
    }

    /// Puts the limiter into a stack of this name and on its clock.
    pub(crate) fn adopted(mut self, name: &'static str, clock: &ClockHandle) -> Self {
        self.setup.adopt(Self::NAME, name, clock);
        self
    }

    /// Whether limiters with these settings are the same, clocks apart.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_same_but_for_terms(other)
            && self.quotas == other.quotas
            && (self.max_wait, self.max_waiting) == (other.max_wait, other.max_waiting)
    }

    /// Whether a limiter with the settings of `other` can take over these by
    /// [`RateLimiter::set_terms`].
    pub(crate) fn is_same_but_for_terms(&self, other: &Self) -> bool {
        let same = |(old, new): (&Quota, &Quota)| {
            old.algorithm() == new.algorithm() && old.is_plain() == new.is_plain()
        };
        let is_fixed = self.adaptive.is_none() || self.quotas == other.quotas;
        is_fixed
            && self.quotas.len() == other.quotas.len()
            && self.quotas.iter().zip(&other.quotas).all(same)
            && self.adaptive == other.adaptive
            && (self.longest_pause, self.max_debt, self.stripes)
                == (other.longest_pause, other.max_debt, other.stripes)
            && self.setup.is_same(&other.setup)
    }

    /// How long calls wait by these settings.
    fn wait(&self) -> Duration {
        match (self.max_wait, state::queue_bound(&self.quotas)) {
            (None, Some(_)) => Duration::MAX,
            (longest, _) => longest.unwrap_or(Duration::ZERO),
        }
    }

    /// The limiter.
    ///
    /// # Errors
    ///
    /// When no quota was given or one has no meaning, when an adaptive limiter has other quotas than a token
    /// bucket, or stripes, when several or other quotas than a token
    /// bucket are to be striped, when a stripe would hold no token, or without a clock where the
    /// feature `tokio` is off.
    pub fn build(mut self) -> Result<RateLimiter, ConfigError> {
        let error = |setting, problem| ConfigError::new(Self::NAME, setting, problem);
        if self.adaptive.is_some() {
            if self.quotas.is_empty() {
                self.quotas.push(Self::UNLIMITED);
            }
            if self.stripes > 1 || self.quotas.len() > 1 || !self.quotas[0].is_plain() {
                return Err(error("adaptive", "works with a single token bucket"));
            }
        }
        if self.longest_pause == Some(Duration::ZERO) {
            return Err(error("pause_on_hint", "must be above zero"));
        }
        let [first, rest @ ..] = &self.quotas[..] else {
            return Err(error("quota", "must be given"));
        };
        let max_wait = self.wait();
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
        let now = base.now();
        let adaptive = match self.adaptive {
            Some(rate) => Some(Mutex::new(Adaptive::new(rate.build(now)?, *first))),
            None => None,
        };
        let learns = adaptive.is_some() || self.longest_pause.is_some();
        let feedback = learns.then(|| {
            Box::new(Feedback {
                longest_pause: self.longest_pause.unwrap_or_default(),
                adaptive,
            })
        });
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
                max_wait: AtomicU64::new(nanos(max_wait)),
                debt,
                feedback,
                rejections: Rejections::default(),
            }),
        })
    }
}

impl RateLimiter {
    /// Takes over quotas and waits of another builder, of which [`is_same_but_for_terms`] says that it differs
    /// in nothing else, and which builds. What is available stays, as far as the new quotas hold it.
    ///
    /// [`is_same_but_for_terms`]: RateLimiterBuilder::is_same_but_for_terms
    pub(crate) fn set_terms(&self, terms: &RateLimiterBuilder) -> Result<(), ConfigError> {
        let inner = &*self.inner;
        // Relaxed: a call that races with the change waits by either setting.
        inner.max_wait.store(nanos(terms.wait()), Ordering::Relaxed);
        inner.queue.set_max_waiting(terms.max_waiting);
        if terms.adaptive.is_some() || inner.queue.quotas() == terms.quotas {
            return Ok(());
        }
        self.set_quotas(&terms.quotas, Inherit::AsIs)
    }

    /// Takes over from `old`, as a new limiter: no more is available than there was, and a pause goes on.
    pub(crate) fn continue_from(&self, old: &Self) {
        let was = old.snapshot();
        let now = self.inner.base.now();
        let mut surplus = self.peek_n(0).remaining.saturating_sub(was.remaining);
        // In pieces, because a stripe holds a part of them.
        let mut piece = surplus;
        while piece > 0 && surplus > 0 {
            match self.inner.take(now, piece) {
                Ok(()) => surplus -= piece,
                Err(_) => piece /= 2,
            }
            piece = piece.min(surplus);
        }
        if !was.paused_for.is_zero() {
            self.pause_for(was.paused_for);
        }
    }

    /// Whether this is a clone of `other`.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("quotas", &self.quotas)
            .field("adaptive", &self.adaptive)
            .field("longest_pause", &self.longest_pause)
            .field("max_wait", &self.max_wait)
            .field("max_waiting", &self.max_waiting)
            .field("max_debt", &self.max_debt)
            .field("stripes", &self.stripes)
            .field("setup", &self.setup)
            .finish()
    }
}
