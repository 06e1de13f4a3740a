//! The builder of rate limiters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::RateLimiter;
use super::feedback::{Adaptive, Feedback};
use super::inner::Inner;
use super::quotas_in_force::QuotasInForce;
use super::rejections::Rejections;
use super::state::{self, Algorithm, Gcra, Inherit, LARGEST, LARGEST_LOG, Quota};
use super::storage::{Locked, Storage};
use super::striped_bucket::StripedBucket;
use super::token_bucket::TokenBucket;
use super::wait_queue::WaitQueue;
use crate::adaptive_rate::CubicRateBuilder;
use crate::base::{self, Base, Setup};
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::sync::{AtomicU64, Mutex, Ordering};

impl RateLimiter {
    /// Returns a builder with the default settings. A quota must be given unless it is adaptive.
    pub const fn builder() -> RateLimiterBuilder {
        RateLimiterBuilder::new()
    }
}

/// Builds a [`RateLimiter`]. The [page](super) lists the defaults.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct RateLimiterBuilder {
    quotas: Vec<Quota>,
    adaptive: Option<CubicRateBuilder>,
    longest_pause: Option<Duration>,
    max_wait: Option<Duration>,
    max_waiting: Option<usize>,
    max_debt: Option<u64>,
    stripes: usize,
    setup: Setup,
}

impl RateLimiterBuilder {
    const NAME: &'static str = "rate_limiter";
    /// Practically unlimited, for an adaptive limiter that has not found its rate.
    pub(super) const UNLIMITED: Quota = Quota::per_second(1_000_000_000);

    pub(super) const fn new() -> Self {
        Self {
            quotas: Vec::new(),
            adaptive: None,
            longest_pause: None,
            max_wait: None,
            max_waiting: None,
            max_debt: None,
            stripes: 1,
            setup: Setup::new(Self::NAME),
        }
    }

    /// Adds a quota. A call must fit all quotas, and takes from all of them or from none.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// Adapts the rate to throttled results, as the client rate limiter of the AWS SDKs' adaptive retry mode does.
    /// See [`adaptive_rate`](crate::adaptive_rate).
    ///
    /// Until a call is throttled ([`Verdict::throttled`](crate::Verdict::throttled)) the quota holds, or
    /// no limit if none is given. Then the rate falls to a share of the measured rate, and grows again. It
    /// never exceeds the quota, which must be a single token bucket. Rates are in calls, so calls should
    /// cost 1. A limiter that has found a rate is not evicted from a [`Keyed`](crate::Keyed) set.
    ///
    /// The limiter sees the results of calls through the policy; [`RateLimiter::record`] records others.
    /// It belongs inside the retry and outside the classifier.
    pub const fn adaptive(mut self, rate: CubicRateBuilder) -> Self {
        self.adaptive = Some(rate);
        self
    }

    /// Pauses the limiter, as [`RateLimiter::pause_for`] does, when a server's hint asks to wait: a `Retry-After` for
    /// one call holds all calls of this limiter. Longer hints count as `longest`, which must be above zero.
    ///
    /// The hint comes with the verdict of a call, see [`Verdict::hint`](crate::Verdict::hint). Use it for a limiter
    /// of one host, not if a hint may apply to one tenant of many.
    pub const fn pause_on_hint(mut self, longest: Duration) -> Self {
        self.longest_pause = Some(longest);
        self
    }

    /// Sets how long a call through the policy waits for tokens. A call that would wait longer is rejected at once.
    /// Zero: calls do not wait. [`Duration::MAX`]: they wait until their deadlines. Does not affect `acquire`.
    /// Default: calls do not wait, unless [`max_waiting`](Self::max_waiting) is set.
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = Some(longest);
        self
    }

    /// Sets the largest number of waiters; further calls are rejected at once. Without a
    /// [`max_wait`](Self::max_wait), calls through the policy wait until their deadlines. Zero: no call
    /// waits.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = Some(calls);
        self
    }

    /// Sets how many tokens reservations may take beyond those available. Zero allows no debt.
    pub const fn max_debt(mut self, tokens: u64) -> Self {
        self.max_debt = Some(tokens);
        self
    }

    /// Splits a token bucket into this many stripes, each on its own cache line, so that threads do not contend.
    ///
    /// The total never exceeds the rate and the burst. In return, a call may cost no more than a stripe of the burst
    /// (`burst / stripes`); a rejection reads the stripes one after another, so it may miss a token returned
    /// meanwhile; `remaining` is a sum that is read in the same way; each stripe has its own debt; and a stripe that is
    /// full earns nothing while others refill.
    pub const fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = stripes;
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

    /// Replaces all quotas with this one.
    pub(crate) fn only(mut self, quota: Quota) -> Self {
        self.quotas.clear();
        self.quota(quota)
    }

    /// Adopts the name and the clock of a stack.
    pub(crate) fn adopted(mut self, name: &'static str, clock: &ClockHandle) -> Self {
        self.setup.adopt(Self::NAME, name, clock);
        self
    }

    /// Returns whether limiters with these settings are equal, apart from their clocks.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_same_but_for_terms(other)
            && self.quotas == other.quotas
            && (self.max_wait, self.max_waiting) == (other.max_wait, other.max_waiting)
    }

    /// Returns whether [`RateLimiter::set_terms`] can change a limiter with these settings to those of `other`.
    pub(crate) fn is_same_but_for_terms(&self, other: &Self) -> bool {
        let is_fixed = self.adaptive.is_none() || self.quotas == other.quotas;
        is_fixed
            && state::are_same_kinds(&self.quotas, &other.quotas)
            && self.adaptive == other.adaptive
            && (self.longest_pause, self.max_debt, self.stripes)
                == (other.longest_pause, other.max_debt, other.stripes)
            && self.setup.is_same(&other.setup)
    }

    /// Builds the limiter.
    ///
    /// # Errors
    ///
    /// If no quota is given or one is invalid; if an adaptive limiter has stripes, or quotas other than a single
    /// token bucket; if anything but a single token bucket is striped, or a stripe would hold no token; if a setting
    /// must not be zero and is; or if there is no clock because the feature `tokio` is off.
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
            return Err(error(
                "max_debt",
                "must not exceed 2^20 tokens with a sliding log",
            ));
        }
        let max_wait = max_wait(Self::NAME, self.max_wait, self.max_waiting, &self.quotas)?;
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
        let storage = match (self.stripes, rest) {
            (0, _) => return Err(error("stripes", "must be at least 1")),
            (1, []) if first.is_plain() => {
                let gcra = first.gcra(debt);
                let tat = gcra.with_initial(now, first.initial_tokens());
                Storage::Token(TokenBucket::new(&gcra, tat))
            }
            (1, _) => {
                let limits = state::limits(&self.quotas, now, debt);
                Storage::Locked(Mutex::new(Locked::new(limits, now)))
            }
            (stripes, []) if first.is_plain() => {
                let rules = state::stripe(first, stripes)
                    .ok_or(error("stripes", "must not exceed the burst, nor 1024"))?;
                Storage::StripedBucket(StripedBucket::new(&rules, now, first.initial_tokens()))
            }
            _ => return Err(error("stripes", "can only split a single token bucket")),
        };
        Ok(RateLimiter {
            inner: Arc::new(Inner {
                storage,
                queue: WaitQueue::new(
                    self.max_waiting.unwrap_or(usize::MAX),
                    QuotasInForce::new(self.quotas),
                ),
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
    /// Adopts the quotas and waits of another builder, which must be valid and differ in nothing else, as
    /// [`is_same_but_for_terms`] checks. Available tokens are kept, as far as the new quotas hold them.
    ///
    /// [`is_same_but_for_terms`]: RateLimiterBuilder::is_same_but_for_terms
    pub(crate) fn set_terms(&self, terms: &RateLimiterBuilder) -> Result<(), ConfigError> {
        let inner = &*self.inner;
        // Relaxed: a call that races with the change may use either setting.
        let wait = max_wait(
            RateLimiterBuilder::NAME,
            terms.max_wait,
            terms.max_waiting,
            &terms.quotas,
        )?;
        inner.max_wait.store(nanos(wait), Ordering::Relaxed);
        inner
            .queue
            .set_max_waiting(terms.max_waiting.unwrap_or(usize::MAX));
        if terms.adaptive.is_some() || inner.queue.quotas() == terms.quotas {
            return Ok(());
        }
        self.set_quotas(&terms.quotas, Inherit::AsIs)
    }

    /// Continues from `old`, before the first call: a new limiter has no more tokens in each limit than `old` had, debts
    /// included. An adaptive rate, a pause, and the numbers of events continue.
    pub(crate) fn continue_from(&self, old: &Self) {
        let inner = &*self.inner;
        inner.base.continue_numbers_of(&old.inner.base);
        let was = old.snapshot();
        let now = inner.base.now();
        if let (Some(feedback), Some(old)) = (&inner.feedback, &old.inner.feedback) {
            if let Some(found) = feedback.continue_from(old) {
                inner.apply_found(now, found);
            }
        }
        if !inner.storage.continue_from(now, &old.inner.storage) {
            inner.storage.lower_to(now, &was.available, inner.debt);
        }
        if !was.paused_for.is_zero() {
            self.pause_for(was.paused_for);
        }
    }

    /// Takes over from `old`, now that no new call finds it: continues a pause that has begun meanwhile.
    pub(crate) fn take_over_from(&self, old: &Self) {
        self.inner.base.continue_numbers_of(&old.inner.base);
        if let Some(until) = old.inner.queue.paused_until(old.inner.base.now()) {
            self.pause_until(until);
        }
    }

    /// Returns whether this is a clone of `other`.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns a limiter that continues a token bucket in use.
    pub(super) fn of_bucket(
        (gcra, tat): (Gcra, u64),
        quotas: Vec<Quota>,
        debt: u64,
        max_waiting: usize,
        base: Base,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                storage: Storage::Token(TokenBucket::new(&gcra, tat)),
                queue: WaitQueue::new(max_waiting, QuotasInForce::new(quotas)),
                base,
                max_wait: AtomicU64::new(0),
                debt,
                feedback: None,
                rejections: Rejections::default(),
            }),
        }
    }
}

/// Returns how long calls through the policy may wait, with the default applied.
pub(super) fn max_wait(
    policy: &'static str,
    longest: Option<Duration>,
    max_waiting: Option<usize>,
    quotas: &[Quota],
) -> Result<Duration, ConfigError> {
    let has_bound = state::queue_bound(quotas).is_some();
    match longest.is_none() && max_waiting.is_none() && has_bound {
        true => Ok(Duration::MAX),
        false => base::max_wait(policy, longest, max_waiting),
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("quotas", &self.quotas)
            .field("adaptive", &self.adaptive)
            .field("longest_pause", &DebugLimit(&self.longest_pause))
            .field("max_wait", &DebugLimit(&self.max_wait))
            .field("max_waiting", &DebugLimit(&self.max_waiting))
            .field("max_debt", &DebugLimit(&self.max_debt))
            .field("stripes", &self.stripes)
            .field("setup", &self.setup)
            .finish()
    }
}
