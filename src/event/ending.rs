//! Endings of calls, and reasons why retries stop.

use std::fmt;

use crate::error::{Error, Reason};

/// The ending of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The call returned a value.
    Succeeded,
    /// The call returned the operation's error.
    Failed,
    /// The call timed out.
    TimedOut,
    /// The call was rejected.
    Rejected(Reason),
    /// The future of the call was dropped before it had a result.
    Cancelled,
    /// The call panicked.
    Panicked,
}

impl Ending {
    /// Returns how a call with this result ended.
    pub const fn of<T, E>(result: &Result<T, Error<E>>) -> Self {
        match result {
            Ok(_) => Self::Succeeded,
            Err(Error::Operation(_)) => Self::Failed,
            Err(Error::TimedOut(_)) => Self::TimedOut,
            Err(Error::Rejected(rejected)) => Self::Rejected(rejected.reason()),
        }
    }

    /// Returns the ending as an identifier for logs and metrics, such as `timed_out`. The reason of a
    /// rejection has one of its own ([`Reason::as_str`]).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Rejected(_) => "rejected",
            Self::Cancelled => "cancelled",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Rejected(reason) => write!(f, "rejected ({reason})"),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// Why a retry made no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// Another attempt would not help, according to the verdict.
    NotRetryable,
    /// A layer inside rejected the attempt, for a reason that the retry does not wait out, such as an open
    /// circuit.
    Rejected(Reason),
    /// The operation is not idempotent and may have been executed.
    NotIdempotent,
    /// The operation cannot be run again.
    NotRepeatable,
    /// All attempts are used up.
    MaxAttempts,
    /// The next attempt would start after the longest time the retry may take.
    MaxElapsed,
    /// The next attempt would start after the call's deadline, or the deadline cut off the last one.
    Deadline,
    /// The server asked for a longer wait than the retry obeys.
    HintTooLong,
    /// The retry budget is empty.
    BudgetEmpty,
}

impl StopReason {
    /// Returns the reason as an identifier for logs and metrics, such as `max_attempts`. That of a rejection
    /// is its reason, such as `circuit_open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRetryable => "not_retryable",
            Self::Rejected(reason) => reason.as_str(),
            Self::NotIdempotent => "not_idempotent",
            Self::NotRepeatable => "not_repeatable",
            Self::MaxAttempts => "max_attempts",
            Self::MaxElapsed => "max_elapsed",
            Self::Deadline => "deadline",
            Self::HintTooLong => "hint_too_long",
            Self::BudgetEmpty => "budget_empty",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotRetryable => "not retryable",
            Self::Rejected(reason) => return write!(f, "rejected ({reason})"),
            Self::NotIdempotent => "not idempotent",
            Self::NotRepeatable => "not repeatable",
            Self::MaxAttempts => "max attempts",
            Self::MaxElapsed => "max elapsed",
            Self::Deadline => "deadline",
            Self::HintTooLong => "hint too long",
            Self::BudgetEmpty => "budget empty",
        })
    }
}
