//! What a result says about the health of the dependency, and about trying again.

use std::time::Duration;

use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::instant::nanos;

/// What a result says about the health of the dependency, and about trying again.
///
/// The two are independent: a 404 is a healthy answer that no retry improves, a throttled call may
/// be repeated, but later.
///
/// | constructor | health | retry | for example |
/// |---|---|---|---|
/// | [`success`](Self::success) | healthy | no | 200 |
/// | [`transient`](Self::transient) | unhealthy | yes | connection reset, 503 |
/// | [`throttled`](Self::throttled) | unhealthy | yes, later | 429 with `Retry-After` |
/// | [`pushback`](Self::pushback) | unhealthy | yes, later | gRPC's pushback |
/// | [`permanent`](Self::permanent) | healthy | no | 403, 404: the caller's fault |
/// | [`failure`](Self::failure) | unhealthy | no | the server said not to retry |
/// | [`ignore`](Self::ignore) | neutral | no | cancelled by the user |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    // 16 bytes without a gap. The compiler moves a gap together with what follows it, as one wide
    // load over stores that are narrower: that stalled every call for 4 ns.
    /// Nanoseconds the server asked to wait; `u64::MAX` when it did not say.
    after: u64,
    health: Health,
    /// [`RETRY`] and [`RESETS`].
    advice: u8,
    class: ErrorClass,
    executed: bool,
}

/// What a result says about the dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Health {
    /// It works: it answered, if only to say that the caller was wrong.
    Healthy,
    /// It failed, or was too slow.
    Unhealthy,
    /// Nothing can be said: the call was cancelled, or never reached it.
    Neutral,
}

/// What kind of failure it was. Retry budgets may charge each a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A fault that may be gone at the next attempt. Also the class of results without an error.
    Transient,
    /// The dependency asked to slow down.
    Throttled,
    /// No answer in time.
    Timeout,
}

/// What a result says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryAdvice {
    /// Another attempt would not help, or must not be made.
    No,
    /// Another attempt may help.
    Yes,
    /// Another attempt may help once this time has passed.
    After(Duration),
}

const UNKNOWN: u64 = u64::MAX;

/// Another attempt may help.
const RETRY: u8 = 1;
/// The backoff starts over.
const RESETS: u8 = 2;

impl Verdict {
    const fn new(health: Health, retry: bool, class: ErrorClass) -> Self {
        Self {
            after: UNKNOWN,
            health,
            advice: if retry { RETRY } else { 0 },
            class,
            executed: true,
        }
    }

    /// A good answer.
    #[inline]
    pub const fn success() -> Self {
        Self::new(Health::Healthy, false, ErrorClass::Transient)
    }

    /// A fault of the dependency that may be gone at the next attempt.
    #[inline]
    pub const fn transient() -> Self {
        Self::new(Health::Unhealthy, true, ErrorClass::Transient)
    }

    /// The dependency is overloaded or the caller over its limit; `after` is how long it asked to
    /// wait, if it said so.
    pub fn throttled(after: impl Into<Option<Duration>>) -> Self {
        let verdict = Self::new(Health::Unhealthy, true, ErrorClass::Throttled);
        match after.into() {
            Some(after) => verdict.after(after),
            None => verdict,
        }
    }

    /// The server said when to try again, and that it expects to be well by then: the backoff starts over
    /// afterwards. The pushback of gRPC (`grpc-retry-pushback-ms`), if it is not negative; a negative or
    /// malformed one is a [`failure`](Self::failure).
    pub const fn pushback(after: Duration) -> Self {
        let mut verdict = Self::transient().after(after);
        verdict.advice |= RESETS;
        verdict
    }

    /// The caller's fault: the dependency is healthy and another attempt would end the same way.
    pub const fn permanent() -> Self {
        Self::new(Health::Healthy, false, ErrorClass::Transient)
    }

    /// A fault of the dependency that must not be retried, such as a negative pushback of gRPC.
    pub const fn failure() -> Self {
        Self::new(Health::Unhealthy, false, ErrorClass::Transient)
    }

    /// Says nothing about the dependency, and is not retried.
    pub const fn ignore() -> Self {
        Self::new(Health::Neutral, false, ErrorClass::Transient)
    }

    /// No answer in time: unhealthy, retried where that is safe.
    pub const fn timed_out() -> Self {
        Self::new(Health::Unhealthy, true, ErrorClass::Timeout)
    }

    /// The verdict of a timeout. A cut by a deadline from outside says nothing about the dependency, which
    /// may have had hardly any time, and leaves none for another attempt.
    pub const fn of_timed_out(timed_out: &TimedOut) -> Self {
        if timed_out.is_by_deadline() {
            Self::new(Health::Neutral, false, ErrorClass::Timeout)
        } else {
            Self::timed_out()
        }
    }

    /// The verdict of a refusal: it says nothing about the dependency, which was never reached. A
    /// refusal that ends by itself may be waited out; an open circuit is not, unless the retry says
    /// so.
    pub const fn of_rejected(rejected: &Rejected) -> Self {
        let again = matches!(
            rejected.reason(),
            Reason::RateLimited
                | Reason::BulkheadFull
                | Reason::QueueTimeout
                | Reason::Shed
                | Reason::Throttled
                | Reason::NoEndpoint
        );
        let verdict = Self::new(Health::Neutral, again, ErrorClass::Throttled).not_executed();
        match rejected.retry_after() {
            Some(after) => verdict.after(after),
            None => verdict,
        }
    }

    /// The verdict of a result when no classifier has spoken. Takes it as
    /// [`Classify::by`](crate::Classify::by) gives it.
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

    /// The same verdict with the time the server asked to wait. Does not make it retryable.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = match nanos(after) {
            UNKNOWN => UNKNOWN - 1,
            nanos => nanos,
        };
        self
    }

    /// The same verdict with another health. A 429 that should not trip a breaker is
    /// `Verdict::throttled(after).with_health(Health::Neutral)`.
    #[must_use]
    pub const fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// The same verdict with another answer to whether another attempt may help.
    #[must_use]
    #[inline]
    pub const fn with_retry(mut self, retry: bool) -> Self {
        self.advice = if retry {
            self.advice | RETRY
        } else {
            self.advice & !RETRY
        };
        self
    }

    /// The same verdict with another class of error.
    #[must_use]
    pub const fn with_class(mut self, class: ErrorClass) -> Self {
        self.class = class;
        self
    }

    /// The same verdict for an attempt that is known not to have been executed, such as a refused
    /// connection: repeating it is safe even when the operation is not idempotent.
    #[must_use]
    pub const fn not_executed(mut self) -> Self {
        self.executed = false;
        self
    }

    /// What it says about the dependency.
    #[inline]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// What it says about trying again.
    pub const fn retry(&self) -> RetryAdvice {
        match (self.is_retryable(), self.hint()) {
            (false, _) => RetryAdvice::No,
            (true, None) => RetryAdvice::Yes,
            (true, Some(after)) => RetryAdvice::After(after),
        }
    }

    /// Whether another attempt may help.
    #[inline]
    pub const fn is_retryable(&self) -> bool {
        self.advice & RETRY != 0
    }

    /// Whether the backoff starts over after it.
    pub const fn resets_backoff(&self) -> bool {
        self.advice & RESETS != 0
    }

    /// How long the server asked to wait, if it did. 584 years or more count as "for ever".
    pub const fn hint(&self) -> Option<Duration> {
        match self.after {
            UNKNOWN => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// What kind of failure it was.
    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    /// Whether the attempt may have had an effect.
    pub const fn may_have_been_executed(&self) -> bool {
        self.executed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructors_say_it_in_words() {
        let second = Duration::from_secs(1);
        let table = [
            (Verdict::success(), Health::Healthy, RetryAdvice::No),
            (Verdict::transient(), Health::Unhealthy, RetryAdvice::Yes),
            (
                Verdict::throttled(None),
                Health::Unhealthy,
                RetryAdvice::Yes,
            ),
            (
                Verdict::throttled(second),
                Health::Unhealthy,
                RetryAdvice::After(second),
            ),
            (Verdict::permanent(), Health::Healthy, RetryAdvice::No),
            (Verdict::failure(), Health::Unhealthy, RetryAdvice::No),
            (Verdict::ignore(), Health::Neutral, RetryAdvice::No),
            (Verdict::timed_out(), Health::Unhealthy, RetryAdvice::Yes),
        ];
        for (verdict, health, retry) in table {
            assert_eq!((verdict.health(), verdict.retry()), (health, retry));
            assert!(verdict.may_have_been_executed());
        }
    }

    #[test]
    fn retries_can_be_allowed_and_forbidden_afterwards() {
        let allowed = Verdict::failure().with_retry(true);
        assert_eq!(allowed.retry(), RetryAdvice::Yes);
        let forbidden = Verdict::transient().with_retry(false);
        assert_eq!(forbidden.retry(), RetryAdvice::No);
    }

    #[test]
    fn a_refusal_says_nothing_about_the_dependency() {
        for reason in [
            Reason::RateLimited,
            Reason::BulkheadFull,
            Reason::QueueTimeout,
            Reason::Shed,
            Reason::Throttled,
            Reason::NoEndpoint,
        ] {
            let verdict = Verdict::of_rejected(&Rejected::new("x", reason));
            assert_eq!(verdict.health(), Health::Neutral);
            assert!(verdict.is_retryable() && !verdict.may_have_been_executed());
        }
        for reason in [
            Reason::CircuitOpen,
            Reason::Isolated,
            Reason::DeadlineTooClose,
            Reason::CostExceedsLimit,
            Reason::NotRepeatable,
        ] {
            let verdict = Verdict::of_rejected(&Rejected::new("x", reason));
            assert_eq!(verdict.health(), Health::Neutral);
            assert!(!verdict.is_retryable());
        }
    }

    #[test]
    fn a_hint_of_for_ever_is_not_no_hint() {
        for after in [Duration::from_nanos(u64::MAX), Duration::MAX] {
            let hint = Verdict::throttled(after).hint();
            assert_eq!(hint, Some(Duration::from_nanos(u64::MAX - 1)));
        }
        assert_eq!(Verdict::throttled(None).hint(), None);
    }

    #[test]
    fn a_verdict_is_two_words() {
        assert!(size_of::<Verdict>() <= 16);
    }
}
