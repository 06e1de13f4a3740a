//! A result with the story behind it.

use std::time::Duration;

use crate::error::{Error, Rejected};

/// The result of a call with how many attempts and how much time it took. Returned by
/// [`Policy::call_reported`](super::Policy::call_reported).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report<T, E> {
    /// What [`call`](super::Policy::call) would have returned.
    pub result: Result<T, Error<E>>,
    /// How many times the operation was started. Zero when the call was refused at once.
    pub attempts: u32,
    /// From the start of the call to its end, waits included.
    pub elapsed: Duration,
}

impl<T, E> Report<T, E> {
    pub(super) const fn new(result: Result<T, Error<E>>, attempts: u32, elapsed: Duration) -> Self {
        Self {
            result,
            attempts,
            elapsed,
        }
    }

    /// Who refused the call, why and until when; `None` when nobody did.
    pub const fn rejected(&self) -> Option<&Rejected> {
        match &self.result {
            Err(Error::Rejected(rejected)) => Some(rejected),
            _ => None,
        }
    }
}
