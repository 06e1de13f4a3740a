//! Rejections.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::instant::{Rounded, nanos};

/// A rejection: the policy that rejected a call, the reason, and the time after which to try again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    policy: &'static str,
    rejection: Rejection,
}

/// A [`Rejected`] without the policy. One word, so that it is returned in a register; through memory, a
/// rejection by an open circuit took a third longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejection(
    /// The reason in the lowest bits; above it [`COARSE`](Self::COARSE); above that the time until a call may be
    /// admitted, or [`UNKNOWN`](Self::UNKNOWN).
    u64,
);

impl Rejection {
    const REASON: u64 = (1 << 4) - 1;
    /// Set if the time is in units of 1024 ns, because it is 18 years or more.
    const COARSE: u64 = 1 << 4;
    /// Shift of the time.
    const TIME: u32 = 5;
    const UNKNOWN: u64 = u64::MAX >> Self::TIME;

    /// Returns a rejection without a time after which a call may be admitted.
    #[inline]
    pub(crate) const fn new(reason: Reason) -> Self {
        Self(Self::UNKNOWN << Self::TIME | reason as u64)
    }

    /// Returns the rejection with the time in nanoseconds after which a call may be admitted; [`u64::MAX`] if it is not
    /// known. Rejections take about as long as reading the clock, so a conversion from a duration would be measurable.
    #[inline]
    pub(crate) const fn with_retry_nanos(self, after: u64) -> Self {
        let reason = self.0 & Self::REASON;
        Self(if after < Self::UNKNOWN {
            after << Self::TIME | reason
        } else if after < u64::MAX {
            after.div_ceil(1024) << Self::TIME | Self::COARSE | reason
        } else {
            Self::UNKNOWN << Self::TIME | reason
        })
    }

    /// Returns the rejection by the policy named `policy`.
    #[inline]
    pub(crate) const fn by(self, policy: &'static str) -> Rejected {
        Rejected {
            policy,
            rejection: self,
        }
    }
}

impl Rejected {
    /// Returns a rejection by the policy named `policy`, for policies of your own. It has no time after which a call
    /// may be admitted.
    pub const fn new(policy: &'static str, reason: Reason) -> Self {
        Rejection::new(reason).by(policy)
    }

    /// Returns the rejection with the time after which a call may be admitted.
    ///
    /// Times of 18 years or more are rounded up, to a microsecond or so; from 584 years on they count
    /// as unknown.
    #[must_use]
    pub const fn with_retry_after(self, after: Duration) -> Self {
        self.with_retry_nanos(nanos(after))
    }

    /// Like [`with_retry_after`](Self::with_retry_after), in nanoseconds; [`u64::MAX`] for a time that is not known.
    #[inline]
    pub(crate) const fn with_retry_nanos(self, after: u64) -> Self {
        self.rejection.with_retry_nanos(after).by(self.policy)
    }

    /// Returns the rejection as of `waited` later: with the rest of the time after which a call may be admitted.
    #[must_use]
    pub(crate) const fn later(self, waited: Duration) -> Self {
        match self.retry_after() {
            Some(after) => self.with_retry_after(after.saturating_sub(waited)),
            None => self,
        }
    }

    /// Returns why the call was rejected.
    pub const fn reason(&self) -> Reason {
        Reason::of_number(self.rejection.0 & Rejection::REASON)
    }

    /// Returns the name of the policy that rejected the call.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// Returns how long to wait before a call may be admitted, if the policy knows it.
    ///
    /// A `Retry-After` header has whole seconds. Round up: `as_secs` of 999 ms is 0. With the feature `http`,
    /// `http::retry_after::write` does so.
    pub const fn retry_after(&self) -> Option<Duration> {
        let facts = self.rejection.0;
        match facts >> Rejection::TIME {
            Rejection::UNKNOWN => None,
            units if facts & Rejection::COARSE != 0 => {
                // Overflows only at the last unit.
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
        write!(
            f,
            "rejected by {}{}",
            self.policy,
            ReasonSuffix(self.reason())
        )?;
        match self.retry_after() {
            Some(after) => write!(f, ", retry after {}", Rounded(after)),
            None => Ok(()),
        }
    }
}

/// The end of a text about a rejection: a colon and the reason. Empty for [`Reason::Custom`], which the name of the policy
/// explains.
pub(crate) struct ReasonSuffix(pub(crate) Reason);

impl fmt::Display for ReasonSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Custom => Ok(()),
            reason => write!(f, ": {reason}"),
        }
    }
}

impl StdError for Rejected {}

/// Why a policy rejected a call.
///
/// | reason | rejected by | a retry outside |
/// |---|---|---|
/// | [`CircuitOpen`](Self::CircuitOpen) | circuit breaker | stops, or waits if configured ([`retry_open_circuit`]) |
/// | [`RateLimited`](Self::RateLimited) | rate limiter | waits |
/// | [`BulkheadFull`](Self::BulkheadFull) | bulkhead | waits |
/// | [`QueueTimeout`](Self::QueueTimeout) | a wait queue | waits |
/// | [`Shed`](Self::Shed) | load shedder | waits |
/// | [`Throttled`](Self::Throttled) | throttle | waits |
/// | [`NoEndpoint`](Self::NoEndpoint) | endpoints | waits |
/// | [`DeadlineTooClose`](Self::DeadlineTooClose) | any that waits or takes time | stops |
/// | [`Isolated`](Self::Isolated) | circuit breaker | stops |
/// | [`CostExceedsLimit`](Self::CostExceedsLimit) | rate limiter, bulkhead | stops |
/// | [`NotRepeatable`](Self::NotRepeatable) | [`call_once`](crate::Policy::call_once) | stops |
/// | [`Custom`](Self::Custom) | a policy of your own | waits if the rejection has a time |
///
/// A retry waits for the time that the rejection has ([`Rejected::retry_after`]), or else for the delay of its
/// backoff. [`Verdict::of_rejected`](crate::Verdict::of_rejected) is this table; a
/// [`Classify`](crate::Classify) inside the retry can change it.
///
/// [`retry_open_circuit`]: crate::retry::RetryBuilder::retry_open_circuit
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The circuit is open, or half-open with all its probes in flight.
    CircuitOpen,
    /// The quota is used up.
    RateLimited,
    /// All permits of the bulkhead are in use, and its wait queue is full.
    BulkheadFull,
    /// The call waited in a queue for the longest time that it may.
    QueueTimeout,
    /// The load shedder dropped the call to protect more important ones.
    Shed,
    /// The throttle dropped the call because the dependency rejects most calls.
    Throttled,
    /// The call could not start, or its turn would not come, before its deadline.
    DeadlineTooClose,
    /// The dependency was isolated manually ([`isolate`](crate::CircuitBreaker::isolate)).
    Isolated,
    /// The call costs more than the limit can ever hold, so waiting would not help.
    CostExceedsLimit,
    /// The operation runs only once, and a policy tried to run it again.
    NotRepeatable,
    /// No endpoint takes calls.
    NoEndpoint,
    /// A policy of your own, such as a [`Guard`](crate::policy::Guard), rejected the call. Its name
    /// ([`Rejected::policy`]) identifies it.
    Custom,
}

impl Reason {
    pub(crate) const fn of_number(number: u64) -> Self {
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
            10 => Self::NoEndpoint,
            _ => Self::Custom,
        }
    }

    /// Returns the reason as an identifier for logs and metrics, such as `circuit_open`.
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
            Self::Custom => "custom",
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
            Self::Custom => "custom",
        })
    }
}
