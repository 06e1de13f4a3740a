//! Errors of calls and of builders.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

mod config;
mod rejected;
mod timed_out;

pub use self::config::ConfigError;
pub use self::rejected::{Reason, Rejected};
pub(crate) use self::rejected::{ReasonSuffix, Rejection};
pub use self::timed_out::TimedOut;

/// The error of a call through a policy or a stack of policies.
///
/// The operation's own error is returned unchanged as [`Error::Operation`], even after the last retry. The other
/// variants are errors of a policy: [`Error::policy`] is its name, [`Error::reason`] the reason of a rejection, and
/// [`Error::retry_after`] the time after which to try again.
///
/// # Display and source
///
/// `Display` writes one lower-case line. The operation's error is not repeated in it, because it is the
/// [`source`](StdError::source); `{error:#}` displays it too. Log an error that is not a `std::error::Error`, such as a
/// `String` or an `anyhow::Error`, with `{error:#}`: it has no source.
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
    /// The operation ran and failed with this error.
    Operation(E),
    /// The operation started and did not finish in time. It may have taken effect.
    TimedOut(TimedOut),
    /// A policy rejected the call: the operation did not run.
    Rejected(Rejected),
}

impl<E> Error<E> {
    /// Returns whether a policy rejected the call. Then no attempt of it was executed, except under a retry with
    /// [`return_rejection`](crate::retry::RetryBuilder::return_rejection).
    pub const fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Returns whether a timeout cut the operation off.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    /// Returns why a policy rejected the call; `None` if none did.
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

    /// Returns how long to wait before the next call may be admitted, if the rejecting policy knows it.
    ///
    /// A `Retry-After` header has whole seconds. Round up: `as_secs` of 999 ms is 0. With the feature `http`,
    /// `http::retry_after::write` does so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejected) => rejected.retry_after(),
            _ => None,
        }
    }

    /// Returns the error as of `waited` later. See [`Rejected::later`].
    #[must_use]
    pub(crate) fn later(self, waited: Duration) -> Self {
        match self {
            Self::Rejected(rejected) => Self::Rejected(rejected.later(waited)),
            other => other,
        }
    }

    /// Returns the operation's own error; `None` for an error of a policy.
    pub const fn operation(&self) -> Option<&E> {
        match self {
            Self::Operation(error) => Some(error),
            _ => None,
        }
    }

    /// Converts into the operation's own error; `None` for an error of a policy.
    pub fn into_operation(self) -> Option<E> {
        match self {
            Self::Operation(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the operation's own error, or converts the error of a policy into one. Use it in functions with a single
    /// error type.
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

    /// Returns the operation's own error, or that of a policy, as one boxed error, so that `?` works in
    /// applications. It also works for errors that do not implement `Error` but convert into a box, such as
    /// `Box<dyn Error + Send + Sync>` itself and `anyhow::Error`.
    ///
    /// In functions that return `anyhow::Error`, convert with `anyhow::Error::from_boxed(error.into_boxed())`; an
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

    /// Converts the operation's error; errors of policies stay as they are.
    pub fn map<U>(self, f: impl FnOnce(E) -> U) -> Error<U> {
        match self {
            Self::Operation(error) => Error::Operation(f(error)),
            Self::TimedOut(timed_out) => Error::TimedOut(timed_out),
            Self::Rejected(rejected) => Error::Rejected(rejected),
        }
    }
}

/// An error of a policy, without those of an operation.
pub type PolicyError = Error<std::convert::Infallible>;

impl<E> Error<Error<E>> {
    /// Flattens the error of a call that was made inside another call. For the layers of the outer call, an error of the
    /// inner one is an error of the operation, unless a `Classify` gives it [`Verdict::default_for`](crate::Verdict::default_for).
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

#[cfg(test)]
mod tests;
