//! Errors that carry a verdict.

use std::time::Duration;

use crate::verdict::Verdict;

/// An error with its verdict, for operations that classify their own errors. See
/// [`Policy::call_classified`](super::Policy::call_classified).
///
/// The caller gets the bare error. Constructors fit `map_err`: `read().await.map_err(Classified::transient)?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Classified<E> {
    error: E,
    verdict: Verdict,
}

impl<E> Classified<E> {
    /// Creates an error with the given verdict.
    pub const fn new(error: E, verdict: Verdict) -> Self {
        Self { error, verdict }
    }

    /// Creates an error of the dependency that a retry may avoid ([`Verdict::transient`]).
    pub const fn transient(error: E) -> Self {
        Self::new(error, Verdict::transient())
    }

    /// Creates an error of a dependency that asks to slow down, with the wait that it asks for, if any
    /// ([`Verdict::throttled`]).
    pub fn throttled(error: E, after: impl Into<Option<Duration>>) -> Self {
        Self::new(error, Verdict::throttled(after))
    }

    /// Creates an error of the caller: the dependency is healthy, and a retry does not help ([`Verdict::permanent`]).
    pub const fn permanent(error: E) -> Self {
        Self::new(error, Verdict::permanent())
    }

    /// Creates an error of the dependency that must not be retried ([`Verdict::failure`]).
    pub const fn failure(error: E) -> Self {
        Self::new(error, Verdict::failure())
    }

    /// Creates an error that says nothing about the dependency and is not retried ([`Verdict::ignore`]).
    pub const fn ignore(error: E) -> Self {
        Self::new(error, Verdict::ignore())
    }

    /// Marks the error as one of an attempt that had no effect, such as a refused connection. Repeating it is
    /// safe even if the operation is not idempotent.
    pub const fn not_executed(mut self) -> Self {
        self.verdict = self.verdict.not_executed();
        self
    }

    /// Returns the error.
    pub const fn error(&self) -> &E {
        &self.error
    }

    /// Returns the verdict.
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Splits the error and the verdict.
    pub fn into_parts(self) -> (E, Verdict) {
        (self.error, self.verdict)
    }
}
