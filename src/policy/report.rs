//! Results with the number of attempts, the time taken, and hidden errors.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use super::context::Context;
use super::operation::{Operation, forward_attempts};
use crate::error::{Error, Rejected};
use crate::sync::lock;

/// The result of a call, with the number of attempts and the time it took. Returned by
/// [`Policy::call_reported`](super::Policy::call_reported).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report<T, E> {
    /// The result that [`call`](super::Policy::call) would have returned.
    pub result: Result<T, Error<E>>,
    /// Number of times the operation was started. Zero if the call was rejected before.
    pub attempts: u32,
    /// Time from the start of the call to its end, waits included.
    pub elapsed: Duration,
    /// The operation's error of the last failed attempt, unless it is the result. Also kept if the result is a value,
    /// a timeout, or a rejection.
    pub last_error: Option<E>,
    /// The last rejection, unless it is the result: the retry waited it out, or stopped because of it.
    pub last_rejection: Option<Rejected>,
}

impl<T, E> Report<T, E> {
    /// Returns the operation's error of the last failed attempt, whether it is the result or not.
    pub const fn operation_error(&self) -> Option<&E> {
        match &self.result {
            Err(Error::Operation(error)) => Some(error),
            _ => self.last_error.as_ref(),
        }
    }

    /// Returns the rejection that is the result, or otherwise the last one before it.
    pub const fn rejected(&self) -> Option<&Rejected> {
        match &self.result {
            Err(Error::Rejected(rejected)) => Some(rejected),
            _ => self.last_rejection.as_ref(),
        }
    }
}

impl<T, E> Report<T, E> {
    pub(super) fn new(
        result: Result<T, Error<E>>,
        attempts: u32,
        elapsed: Duration,
        notes: &Notes<E>,
    ) -> Self {
        let (last_error, last_rejection) = std::mem::take(&mut *lock(&notes.last));
        Self {
            result,
            attempts,
            elapsed,
            last_error,
            last_rejection,
        }
    }
}

/// Errors of a call that its result does not show. Owned by the caller's future.
pub(super) struct Notes<E> {
    /// The last error of the operation, and the last rejection.
    last: Mutex<(Option<E>, Option<Rejected>)>,
}

impl<E> Notes<E> {
    pub(super) const fn new() -> Self {
        Self {
            last: Mutex::new((None, None)),
        }
    }

    pub(super) fn keep(&self, error: Error<E>) {
        // Dropped outside the lock.
        let _replaced = match error {
            Error::Operation(error) => lock(&self.last).0.replace(error),
            Error::Rejected(rejected) => {
                lock(&self.last).1 = Some(rejected);
                None
            }
            Error::TimedOut(_) => None,
        };
    }
}

/// An operation whose discarded errors are kept. The operation of
/// [`Policy::call_reported`](super::Policy::call_reported).
pub struct Reported<'a, Op: Operation> {
    op: Op,
    // `Op::Error` instead of a type parameter: see the documentation of the module `policy`.
    notes: &'a Notes<Op::Error>,
}

impl<'a, Op: Operation> Reported<'a, Op> {
    pub(super) const fn new(op: Op, notes: &'a Notes<Op::Error>) -> Self {
        Self { op, notes }
    }
}

// Derived implementations would require `Op::Error: Copy`.
impl<Op: Operation> Clone for Reported<'_, Op> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<Op: Operation> Copy for Reported<'_, Op> {}

impl<Op: Operation> fmt::Debug for Reported<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reported").finish_non_exhaustive()
    }
}

impl<Op: Operation> Operation for Reported<'_, Op> {
    type Value = Op::Value;
    type Error = Op::Error;
    type Attempt = Op::Attempt;
    type Listener = Op::Listener;

    const READS_TIME: bool = Op::READS_TIME;

    #[inline(always)]
    fn attempt(self, cx: Context) -> Op::Attempt {
        self.op.attempt(cx)
    }

    #[inline(always)]
    fn listener(self) -> Op::Listener {
        self.op.listener()
    }

    forward_attempts!();

    fn discard(self, error: Error<Op::Error>) {
        self.notes.keep(error);
    }
}
