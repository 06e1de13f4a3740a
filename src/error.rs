//! The one error type of every stack, however deep.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::instant::nanos;

/// What a call through any policy, or any stack of policies, can fail with.
///
/// The operation's own error comes back untouched as [`Error::Operation`], also after the last
/// retry. The other variants say that a policy stepped in, and [`Error::reason`] and
/// [`Error::retry_after`] say why and until when.
///
/// # Display and source
///
/// `Display` is one lower-case line. The operation's error is not repeated in it, because it is the
/// [`source`](StdError::source); `{error:#}` displays it too.
///
/// # Example
///
/// ```
/// use backstop::Error;
///
/// fn status(error: &Error<std::io::Error>) -> u16 {
///     match error {
///         Error::Operation(_) => 502,
///         e if e.is_rejected() => 503,
///         _ => 504,
///     }
/// }
/// # assert_eq!(status(&Error::Operation(std::io::Error::other("no"))), 502);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The operation ran and failed with this.
    Operation(E),
    /// The operation started and did not finish in time. It may have taken effect.
    TimedOut(TimedOut),
    /// A policy refused the call: the operation did not run.
    Rejected(Rejected),
}

impl<E> Error<E> {
    /// Whether a policy rejected the call and no attempt of it was executed.
    pub const fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Whether the operation was cut off by a timeout.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    /// Why a policy refused the call; `None` when none did.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Rejected(rejected) => Some(rejected.reason()),
            _ => None,
        }
    }

    /// Returns the name of the policy that rejected the call or cut it off; `None` for the operation's own error.
    pub const fn policy(&self) -> Option<&'static str> {
        match self {
            Self::Operation(_) => None,
            Self::TimedOut(timed_out) => Some(timed_out.policy()),
            Self::Rejected(rejected) => Some(rejected.policy()),
        }
    }

    /// How long to wait before the next call has a chance, where the refusing policy knows it.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejected) => rejected.retry_after(),
            _ => None,
        }
    }

    /// The operation's own error, if that is what this is.
    pub const fn operation(&self) -> Option<&E> {
        match self {
            Self::Operation(error) => Some(error),
            _ => None,
        }
    }

    /// Takes the operation's own error out, if that is what this is.
    pub fn into_operation(self) -> Option<E> {
        match self {
            Self::Operation(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the operation's own error, or the one that `convert` makes of what a policy said. For
    /// functions that have one error type.
    ///
    /// # Example
    ///
    /// ```
    /// use std::io;
    /// use backstop::{ManualClock, Policy, Timeout};
    ///
    /// async fn read(timeout: &Timeout) -> io::Result<String> {
    ///     let result = timeout.call(|| async { Ok::<_, io::Error>("text".to_owned()) }).await;
    ///     result.map_err(|error| error.unwrap_or_else(io::Error::other))
    /// }
    /// # let clock = ManualClock::new();
    /// # let timeout = Timeout::builder().after(std::time::Duration::from_secs(1)).clock(clock.clone());
    /// # assert!(clock.block_on(read(&timeout.build().unwrap())).is_ok());
    /// ```
    pub fn unwrap_or_else(self, convert: impl FnOnce(PolicyError) -> E) -> E {
        match self {
            Self::Operation(error) => error,
            Self::TimedOut(timed_out) => convert(Error::TimedOut(timed_out)),
            Self::Rejected(rejected) => convert(Error::Rejected(rejected)),
        }
    }

    /// Returns the operation's own error, or what a policy said, as one boxed error, so that `?` works in
    /// applications. Also for errors that do not implement `Error` but convert into a box, such as
    /// `Box<dyn Error + Send + Sync>` itself and `anyhow::Error`.
    ///
    /// In functions that return `anyhow::Error`, `anyhow::Error::from_boxed(error.into_boxed())` takes it; an
    /// [`Error`] around an error that implements `std::error::Error` needs nothing but `?`.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{ManualClock, Policy, Retry};
    ///
    /// type BoxError = Box<dyn std::error::Error + Send + Sync>;
    ///
    /// async fn read(retry: &Retry) -> Result<String, BoxError> {
    ///     let result = retry.call(|| async { Ok::<_, BoxError>("text".to_owned()) }).await;
    ///     let text = result.map_err(backstop::Error::into_boxed)?;
    ///     Ok(text)
    /// }
    /// # let clock = ManualClock::new();
    /// # let retry = Retry::builder().clock(clock.clone()).build().unwrap();
    /// # assert!(clock.block_on(read(&retry)).is_ok());
    /// ```
    pub fn into_boxed(self) -> Box<dyn StdError + Send + Sync>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        match self {
            Self::Operation(error) => error.into(),
            Self::TimedOut(timed_out) => timed_out.into(),
            Self::Rejected(rejected) => rejected.into(),
        }
    }

    /// Converts the operation's error and leaves what the policies said alone.
    pub fn map<U>(self, f: impl FnOnce(E) -> U) -> Error<U> {
        match self {
            Self::Operation(error) => Error::Operation(f(error)),
            Self::TimedOut(timed_out) => Error::TimedOut(timed_out),
            Self::Rejected(rejected) => Error::Rejected(rejected),
        }
    }
}

/// The error of a call whose operation cannot fail, or has not: what a policy said.
pub type PolicyError = Error<std::convert::Infallible>;

impl<E> Error<Error<E>> {
    /// Joins the errors of a call made inside another call into one level.
    pub fn flatten(self) -> Error<E> {
        match self {
            Self::Operation(inner) => inner,
            Self::TimedOut(timed_out) => Error::TimedOut(timed_out),
            Self::Rejected(rejected) => Error::Rejected(rejected),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(error) if f.alternate() => write!(f, "the operation failed: {error:#}"),
            Self::Operation(_) => f.pad("the operation failed"),
            Self::TimedOut(timed_out) => timed_out.fmt(f),
            Self::Rejected(rejected) => rejected.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Operation(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> From<Rejected> for Error<E> {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<E> From<TimedOut> for Error<E> {
    fn from(timed_out: TimedOut) -> Self {
        Self::TimedOut(timed_out)
    }
}

/// A refusal: who refused, why, and when to come back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    policy: &'static str,
    /// The reason in the lowest bits; above it [`COARSE`](Self::COARSE); above that the time until a
    /// call has a chance, or [`UNKNOWN`](Self::UNKNOWN). One word, so that results stay small.
    facts: u64,
}

impl Rejected {
    const REASON: u64 = (1 << 4) - 1;
    /// The time is in units of 1024 ns: it is 18 years or more.
    const COARSE: u64 = 1 << 4;
    /// Where the time begins.
    const TIME: u32 = 5;
    const UNKNOWN: u64 = u64::MAX >> Self::TIME;

    /// A refusal by the policy named `policy`, with no time known at which a call could pass.
    ///
    /// For authors of policies.
    pub const fn new(policy: &'static str, reason: Reason) -> Self {
        Self {
            policy,
            facts: Self::UNKNOWN << Self::TIME | reason as u64,
        }
    }

    /// The same refusal with the time after which a call has a chance.
    ///
    /// Times of 18 years or more are rounded up, to a microsecond or so; from 584 years on they count
    /// as unknown.
    #[must_use]
    pub const fn with_retry_after(self, after: Duration) -> Self {
        self.with_retry_nanos(nanos(after))
    }

    /// As [`with_retry_after`](Self::with_retry_after), in nanoseconds: on the way of refusals that
    /// take no longer than reading the clock, two conversions count.
    #[inline]
    pub(crate) const fn with_retry_nanos(mut self, after: u64) -> Self {
        let reason = self.facts & Self::REASON;
        self.facts = if after < Self::UNKNOWN {
            after << Self::TIME | reason
        } else if after < u64::MAX {
            after.div_ceil(1024) << Self::TIME | Self::COARSE | reason
        } else {
            Self::UNKNOWN << Self::TIME | reason
        };
        self
    }

    /// Why the call was refused.
    pub const fn reason(&self) -> Reason {
        Reason::of_number(self.facts & Self::REASON)
    }

    /// The name of the policy that refused.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// How long to wait before a call has a chance, where the policy knows it.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.facts >> Self::TIME {
            Self::UNKNOWN => None,
            units if self.facts & Self::COARSE != 0 => {
                // Not more than 64 bits but for the last unit.
                Some(Duration::from_nanos(units.saturating_mul(1024)))
            }
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("policy", &self.policy)
            .field("reason", &self.reason())
            .field("retry_after", &self.retry_after())
            .finish()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected by {}: {}", self.policy, self.reason())?;
        match self.retry_after() {
            Some(after) => write!(f, ", retry after {after:?}"),
            None => Ok(()),
        }
    }
}

impl StdError for Rejected {}

/// Why a policy refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u64)]
pub enum Reason {
    /// The circuit breaker is open, or half-open with all its trial calls taken.
    CircuitOpen,
    /// The rate limit is used up.
    RateLimited,
    /// All places of the bulkhead, and of its queue, are taken.
    BulkheadFull,
    /// The call waited in a queue for as long as it may.
    QueueTimeout,
    /// The load shedder dropped the call to protect more important ones.
    Shed,
    /// The client-side throttle dropped the call because the dependency refuses most of them.
    Throttled,
    /// The call could not start, or its turn would not come, before its deadline.
    DeadlineTooClose,
    /// Somebody has isolated the dependency by hand.
    Isolated,
    /// The call costs more than the limit can ever hold, so waiting would not help.
    CostExceedsLimit,
    /// The operation runs only once, and a policy tried to run it again.
    NotRepeatable,
    /// No endpoint takes calls.
    NoEndpoint,
}

impl Reason {
    const fn of_number(number: u64) -> Self {
        match number {
            0 => Self::CircuitOpen,
            1 => Self::RateLimited,
            2 => Self::BulkheadFull,
            3 => Self::QueueTimeout,
            4 => Self::Shed,
            5 => Self::Throttled,
            6 => Self::DeadlineTooClose,
            7 => Self::Isolated,
            8 => Self::CostExceedsLimit,
            9 => Self::NotRepeatable,
            _ => Self::NoEndpoint,
        }
    }

    /// The reason as an identifier for logs and metrics, such as `circuit_open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::RateLimited => "rate_limited",
            Self::BulkheadFull => "bulkhead_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Shed => "shed",
            Self::Throttled => "throttled",
            Self::DeadlineTooClose => "deadline_too_close",
            Self::Isolated => "isolated",
            Self::CostExceedsLimit => "cost_exceeds_limit",
            Self::NotRepeatable => "not_repeatable",
            Self::NoEndpoint => "no_endpoint",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CircuitOpen => "circuit open",
            Self::RateLimited => "rate limited",
            Self::BulkheadFull => "bulkhead full",
            Self::QueueTimeout => "queue timeout",
            Self::Shed => "load shed",
            Self::Throttled => "throttled",
            Self::DeadlineTooClose => "deadline too close",
            Self::Isolated => "isolated",
            Self::CostExceedsLimit => "cost exceeds limit",
            Self::NotRepeatable => "not repeatable",
            Self::NoEndpoint => "no endpoint available",
        })
    }
}

/// A timeout cut the operation off: the policy whose limit it was, and how long it was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    policy: &'static str,
    /// In nanoseconds, and [`OUTER`](Self::OUTER). One word, so that results stay small.
    limit: u64,
}

impl TimedOut {
    /// The limit is not that of the layer that noticed.
    const OUTER: u64 = 1 << 63;

    /// A timeout of the policy named `policy`, after `limit`.
    ///
    /// For authors of policies.
    pub const fn new(policy: &'static str, limit: Duration) -> Self {
        let limit = nanos(limit);
        Self {
            policy,
            limit: if limit < Self::OUTER {
                limit
            } else {
                Self::OUTER - 1
            },
        }
    }

    /// A cut by a deadline that came from outside of the layer that noticed it, after `limit`. The policy
    /// that set the deadline, if one of the stack did, replaces it by a timeout of its own.
    pub const fn by_deadline(limit: Duration) -> Self {
        let mut timed_out = Self::new("deadline", limit);
        timed_out.limit |= Self::OUTER;
        timed_out
    }

    /// Whether the deadline came from outside of the layers that the error has passed so far. Then it says
    /// nothing about the dependency, and another attempt has no time left.
    pub const fn is_by_deadline(&self) -> bool {
        self.limit & Self::OUTER != 0
    }

    /// The name of the policy whose limit it was; `deadline` if no policy of the stack set it.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// How long the operation was given: the policy's own limit, or what the deadline left of it.
    pub const fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit & !Self::OUTER)
    }
}

impl fmt::Debug for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedOut")
            .field("policy", &self.policy)
            .field("limit", &self.limit())
            .field("is_by_deadline", &self.is_by_deadline())
            .finish()
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out by {} after {:?}", self.policy, self.limit())
    }
}

impl StdError for TimedOut {}

/// A builder was given a setting that has no meaning.
///
/// Every `build()` of the crate returns this and nothing else can: setters neither fail nor panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    policy: &'static str,
    setting: &'static str,
    problem: &'static str,
    /// The durations that contradict each other, if the problem is about two.
    durations: Option<(Duration, Duration)>,
}

impl ConfigError {
    /// Says what is wrong with which setting of which policy.
    ///
    /// For authors of policies.
    pub const fn new(policy: &'static str, setting: &'static str, problem: &'static str) -> Self {
        Self {
            policy,
            setting,
            problem,
            durations: None,
        }
    }

    /// Says that `setting`, which is the first duration, contradicts another setting, which `problem` names at
    /// its end and which is the second duration.
    pub(crate) const fn contradiction(
        policy: &'static str,
        setting: &'static str,
        problem: &'static str,
        durations: (Duration, Duration),
    ) -> Self {
        let mut error = Self::new(policy, setting, problem);
        error.durations = Some(durations);
        error
    }

    /// What was to be built, such as `circuit_breaker`.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// The setting at fault, by the name of its setter.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }

    /// What is wrong with it, as the rest of a sentence: `must be at least 1`.
    pub const fn problem(&self) -> &'static str {
        self.problem
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.durations {
            None => write!(f, "{}: {} {}", self.policy, self.setting, self.problem),
            Some((own, other)) => write!(
                f,
                "{}: {} of {own:?} {} of {other:?}",
                self.policy, self.setting, self.problem
            ),
        }
    }
}

impl StdError for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const REJECTED: Rejected = Rejected::new("github", Reason::CircuitOpen);

    #[test]
    fn display_is_one_lower_case_line() {
        let table: [(Error<io::Error>, &str); 4] = [
            (
                Error::Operation(io::Error::other("Boom")),
                "the operation failed",
            ),
            (REJECTED.into(), "rejected by github: circuit open"),
            (
                REJECTED
                    .with_retry_after(Duration::from_millis(2500))
                    .into(),
                "rejected by github: circuit open, retry after 2.5s",
            ),
            (
                TimedOut::new("attempt", Duration::from_secs(2)).into(),
                "timed out by attempt after 2s",
            ),
        ];
        for (error, text) in &table {
            assert_eq!(error.to_string(), *text);
        }
        let policies = table.each_ref().map(|(error, _)| error.policy());
        assert_eq!(
            policies,
            [None, Some("github"), Some("github"), Some("attempt")]
        );
        let [operation, rejected, ..] = table.map(|(error, _)| format!("{error:#}"));
        assert_eq!(operation, "the operation failed: Boom");
        assert_eq!(rejected, "rejected by github: circuit open");
        let error = ConfigError::new("retry", "max_attempts", "must be at least 1");
        assert_eq!(error.to_string(), "retry: max_attempts must be at least 1");
        assert_eq!(
            (error.policy(), error.setting(), error.problem()),
            ("retry", "max_attempts", "must be at least 1")
        );
        let times = (Duration::from_secs(3), Duration::from_millis(1500));
        let problem = "must be shorter than total_timeout";
        let error = ConfigError::contradiction("standard", "attempt_timeout", problem, times);
        assert_eq!(
            error.to_string(),
            "standard: attempt_timeout of 3s must be shorter than total_timeout of 1.5s"
        );
    }

    #[test]
    fn the_source_is_the_operations_error() {
        let error = Error::Operation(io::Error::other("boom"));
        assert_eq!(error.source().unwrap().to_string(), "boom");
        let error: Error<io::Error> = REJECTED.into();
        assert!(error.source().is_none());
    }

    #[test]
    fn a_question_mark_converts_it_to_a_boxed_error() {
        fn application() -> Result<(), Box<dyn StdError + Send + Sync>> {
            Err(Error::Operation(io::Error::other("boom")))?
        }
        assert!(application().is_err());
    }

    #[test]
    fn accessors_answer_for_their_variant_only() {
        let rejected: Error<u8> = REJECTED.with_retry_after(Duration::from_secs(1)).into();
        assert!(rejected.is_rejected() && !rejected.is_timeout());
        assert_eq!(rejected.reason(), Some(Reason::CircuitOpen));
        assert_eq!(rejected.retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(rejected.into_operation(), None);

        let own = Error::Operation(7_u8);
        assert_eq!((own.reason(), own.retry_after()), (None, None));
        assert_eq!(own.operation(), Some(&7));
        assert_eq!(own.map(u32::from).into_operation(), Some(7_u32));
        assert_eq!(Error::Operation(own).flatten(), own);
        assert_eq!(
            Error::<Error<u8>>::from(REJECTED).flatten(),
            REJECTED.into()
        );
    }

    #[test]
    fn a_refusal_keeps_its_reason_beside_its_time() {
        let reasons = (0..=9).map(Reason::of_number);
        for (number, reason) in reasons.enumerate() {
            assert_eq!(reason as usize, number);
            const EXACT: u64 = u64::MAX >> 5;
            for nanos in [0, 1, EXACT - 1, EXACT, EXACT + 1, u64::MAX - 1, u64::MAX] {
                let after = Duration::from_nanos(nanos);
                let rejected = Rejected::new("x", reason).with_retry_after(after);
                assert_eq!(rejected.reason(), reason);
                match rejected.retry_after() {
                    None => assert_eq!(nanos, u64::MAX),
                    Some(told) if nanos < EXACT => assert_eq!(told, after),
                    Some(told) => {
                        let early = told.saturating_sub(after);
                        assert!(told >= after && early < Duration::from_nanos(1024));
                    }
                }
            }
        }
    }

    #[test]
    fn a_retry_time_beyond_a_word_is_unknown() {
        assert_eq!(REJECTED.with_retry_after(Duration::MAX).retry_after(), None);
        assert_eq!(
            REJECTED.with_retry_after(Duration::ZERO).retry_after(),
            Some(Duration::ZERO)
        );
    }
}
