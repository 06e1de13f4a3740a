//! Verdicts: the health of the dependency, and whether another attempt may help.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::instant::{Rounded, nanos};

/// The meaning of a result: health of the dependency, and advice about retries.
///
/// The two are independent: a 404 is a healthy answer that no retry improves, and a throttled call may be repeated,
/// but later.
///
/// | constructor | health | retry | for example |
/// |---|---|---|---|
/// | [`success`](Self::success) | healthy | no | 200 |
/// | [`transient`](Self::transient) | unhealthy | yes | connection reset, 503 |
/// | [`throttled`](Self::throttled) | unhealthy | yes, later | 503 with `Retry-After` |
/// | [`pushback`](Self::pushback) | unhealthy | yes, later | gRPC's pushback |
/// | [`permanent`](Self::permanent) | healthy | no | 403, 404: the caller's fault |
/// | [`failure`](Self::failure) | unhealthy | no | the server said not to retry |
/// | [`ignore`](Self::ignore) | neutral | no | cancelled by the user |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    // Two whole words. Narrow fields, and a gap between fields, are copied by wide loads over narrow stores,
    // which stalled every call for 4 ns.
    /// Wait that the server asked for, in nanoseconds; [`UNKNOWN`](Self::UNKNOWN) if it did not ask for one.
    after: u64,
    /// The flags below, the health from bit [`HEALTH`](Self::HEALTH) on, and the class from bit
    /// [`CLASS`](Self::CLASS) on.
    bits: u64,
}

/// The health of the dependency, as one result shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The dependency works: it answered, even if only to report a mistake of the caller.
    Healthy,
    /// The call failed, or was too slow.
    Unhealthy,
    /// The result says nothing about the dependency: the call was cancelled, or never reached it.
    Neutral,
}

impl Health {
    /// Returns the health as an identifier for logs and metrics, such as `unhealthy`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Neutral => "neutral",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kind of a failure. Retry budgets may charge each kind a different price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A fault that may be gone at the next attempt. This is also the class of results without an error.
    Transient,
    /// The dependency asked to slow down.
    Throttled,
    /// There was no answer in time.
    Timeout,
}

impl ErrorClass {
    /// Returns the class as an identifier for logs and metrics, such as `throttled`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Advice about a retry, as one result gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryAdvice {
    /// No other attempt, because it would not help or must not be made.
    No,
    /// Another attempt may help.
    Yes,
    /// Another attempt may help once this time has passed.
    After(Duration),
}

impl fmt::Display for RetryAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.pad("no retry"),
            Self::Yes => f.pad("retry"),
            Self::After(after) => write!(f, "retry after {}", Rounded(*after)),
        }
    }
}

impl Verdict {
    const UNKNOWN: u64 = u64::MAX;

    /// Set if another attempt may help.
    const RETRY: u64 = 1;
    /// Set if the backoff starts over.
    const RESETS: u64 = 1 << 1;
    /// Set if the attempt had no effect.
    const NOT_EXECUTED: u64 = 1 << 2;
    /// Shift of the health: two bits.
    const HEALTH: u32 = 8;
    /// Shift of the class: two bits.
    const CLASS: u32 = 16;

    #[inline]
    const fn new(health: Health, retry: bool, class: ErrorClass) -> Self {
        Self {
            after: Self::UNKNOWN,
            bits: (class as u64) << Self::CLASS | (health as u64) << Self::HEALTH | retry as u64,
        }
    }

    /// Returns the verdict on a good answer.
    #[inline]
    pub const fn success() -> Self {
        Self::new(Health::Healthy, false, ErrorClass::Transient)
    }

    /// Returns the verdict on a fault of the dependency that may be gone at the next attempt.
    #[inline]
    pub const fn transient() -> Self {
        Self::new(Health::Unhealthy, true, ErrorClass::Transient)
    }

    /// Returns the verdict on an answer of an overloaded dependency, or of one whose limit the caller exceeds.
    /// `after` is the wait that it asked for, if any.
    pub fn throttled(after: impl Into<Option<Duration>>) -> Self {
        let verdict = Self::new(Health::Unhealthy, true, ErrorClass::Throttled);
        match after.into() {
            Some(after) => verdict.after(after),
            None => verdict,
        }
    }

    /// Returns the verdict on an answer of a server that states when to try again and expects to be available by
    /// then, so the backoff starts over. Use it for a non-negative gRPC pushback (`grpc-retry-pushback-ms`); a negative
    /// or malformed one is a [`failure`](Self::failure).
    pub const fn pushback(after: Duration) -> Self {
        let mut verdict = Self::transient().after(after);
        verdict.bits |= Self::RESETS;
        verdict
    }

    /// Returns the verdict on a fault of the caller: the dependency is healthy, and another attempt would fail in the
    /// same way.
    pub const fn permanent() -> Self {
        Self::new(Health::Healthy, false, ErrorClass::Transient)
    }

    /// Returns the verdict on a fault of the dependency that must not be retried, such as a negative pushback
    /// of gRPC.
    pub const fn failure() -> Self {
        Self::new(Health::Unhealthy, false, ErrorClass::Transient)
    }

    /// Returns the verdict on a result that says nothing about the dependency and is not retried.
    pub const fn ignore() -> Self {
        Self::new(Health::Neutral, false, ErrorClass::Transient)
    }

    /// Returns the verdict on an attempt without an answer in time: unhealthy, and retried where that is safe.
    pub const fn timed_out() -> Self {
        Self::new(Health::Unhealthy, true, ErrorClass::Timeout)
    }

    /// Returns the verdict on a timeout. A timeout by an outer deadline says nothing about the dependency, which may
    /// have had little time, and leaves no time for another attempt.
    pub const fn of_timed_out(timed_out: &TimedOut) -> Self {
        if timed_out.is_by_deadline() {
            Self::new(Health::Neutral, false, ErrorClass::Timeout)
        } else {
            Self::timed_out()
        }
    }

    /// Returns the verdict on a rejection. It says nothing about the dependency, which was never reached.
    ///
    /// A rejection that passes with time is retried: see the table at [`Reason`]. A rejection with [`Reason::Custom`]
    /// is retried if it states a time.
    pub const fn of_rejected(rejected: &Rejected) -> Self {
        let after = rejected.retry_after();
        let again = match rejected.reason() {
            Reason::RateLimited
            | Reason::BulkheadFull
            | Reason::QueueTimeout
            | Reason::Shed
            | Reason::Throttled
            | Reason::NoEndpoint => true,
            Reason::Custom => after.is_some(),
            Reason::CircuitOpen
            | Reason::DeadlineTooClose
            | Reason::Isolated
            | Reason::CostExceedsLimit
            | Reason::NotRepeatable => false,
        };
        let verdict = Self::new(Health::Neutral, again, ErrorClass::Throttled).not_executed();
        match after {
            Some(after) => verdict.after(after),
            None => verdict,
        }
    }

    /// Returns the verdict on a result without a classifier. The argument is what
    /// [`Classify::by`](crate::Classify::by) passes.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Error, Verdict};
    ///
    /// fn verdict(result: Result<&u16, &Error<String>>) -> Verdict {
    ///     match result {
    ///         Ok(500..) => Verdict::transient(),
    ///         other => Verdict::default_for(other),
    ///     }
    /// }
    /// assert_eq!(verdict(Ok(&200)), Verdict::success());
    /// ```
    pub const fn default_for<T, E>(result: Result<&T, &Error<E>>) -> Self {
        match result {
            Ok(_) => Self::success(),
            Err(Error::Operation(_)) => Self::transient(),
            Err(Error::TimedOut(timed_out)) => Self::of_timed_out(timed_out),
            Err(Error::Rejected(rejected)) => Self::of_rejected(rejected),
        }
    }

    /// Returns the verdict with the wait that the server asked for. Does not make it retryable.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = match nanos(after) {
            Self::UNKNOWN => Self::UNKNOWN - 1,
            nanos => nanos,
        };
        self
    }

    /// Returns the verdict as of `waited` after the result: with the rest of the wait that the server asked for. Once that
    /// has passed there is none, because a retry takes a wait of zero as permission to retry at once.
    #[must_use]
    pub(crate) fn later(mut self, waited: Duration) -> Self {
        if self.after != Self::UNKNOWN && !waited.is_zero() {
            self.after = match self.after.saturating_sub(nanos(waited)) {
                0 => Self::UNKNOWN,
                left => left,
            };
        }
        self
    }

    /// Returns the verdict with another health. A 429 that should not trip a breaker is
    /// `Verdict::throttled(after).with_health(Health::Neutral)`.
    #[must_use]
    pub const fn with_health(mut self, health: Health) -> Self {
        self.bits = self.bits & !(0b11 << Self::HEALTH) | (health as u64) << Self::HEALTH;
        self
    }

    /// Returns the verdict with another attempt allowed or not.
    #[must_use]
    #[inline]
    pub const fn with_retry(mut self, retry: bool) -> Self {
        self.bits = self.bits & !Self::RETRY | retry as u64;
        self
    }

    /// Returns the verdict with another class of error.
    #[must_use]
    pub const fn with_class(mut self, class: ErrorClass) -> Self {
        self.bits = self.bits & !(0b11 << Self::CLASS) | (class as u64) << Self::CLASS;
        self
    }

    /// Returns the verdict for an attempt that is known not to have been executed, such as one that got no
    /// connection. Repeating it is safe even if the operation is not idempotent.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.bits |= Self::NOT_EXECUTED;
        self
    }

    /// Returns the health of the dependency.
    #[inline]
    pub const fn health(&self) -> Health {
        match self.bits >> Self::HEALTH & 0b11 {
            0 => Health::Healthy,
            1 => Health::Unhealthy,
            _ => Health::Neutral,
        }
    }

    /// Returns the advice about a retry.
    pub const fn retry(&self) -> RetryAdvice {
        match (self.is_retryable(), self.hint()) {
            (false, _) => RetryAdvice::No,
            (true, None) => RetryAdvice::Yes,
            (true, Some(after)) => RetryAdvice::After(after),
        }
    }

    /// Returns whether another attempt may help.
    #[inline]
    pub const fn is_retryable(&self) -> bool {
        self.bits & Self::RETRY != 0
    }

    /// Returns whether the backoff starts over after this result.
    pub const fn resets_backoff(&self) -> bool {
        self.bits & Self::RESETS != 0
    }

    /// Returns the wait that the server asked for, if any. Capped at 584 years.
    pub const fn hint(&self) -> Option<Duration> {
        match self.after {
            Self::UNKNOWN => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Returns the kind of the failure.
    pub const fn class(&self) -> ErrorClass {
        match self.bits >> Self::CLASS & 0b11 {
            0 => ErrorClass::Transient,
            1 => ErrorClass::Throttled,
            _ => ErrorClass::Timeout,
        }
    }

    /// Returns whether the attempt may have had an effect.
    pub const fn may_have_been_executed(&self) -> bool {
        self.bits & Self::NOT_EXECUTED == 0
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("health", &self.health())
            .field("retry", &self.is_retryable())
            .field("hint", &self.hint())
            .field("class", &self.class())
            .field("resets_backoff", &self.resets_backoff())
            .field("may_have_been_executed", &self.may_have_been_executed())
            .finish()
    }
}

/// Writes, for example, `unhealthy, retry after 5s`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.health(), self.retry())?;
        match self.may_have_been_executed() {
            true => Ok(()),
            false => f.write_str(", not executed"),
        }
    }
}

#[cfg(test)]
mod tests;
