//! Errors that say what they mean.

use std::time::Duration;

use crate::verdict::Verdict;

/// An error with its verdict: what an operation returns that classifies its errors itself. See
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
    /// An error with any verdict.
    pub const fn new(error: E, verdict: Verdict) -> Self {
        Self { error, verdict }
    }

    /// A fault of the dependency that may be gone at the next attempt ([`Verdict::transient`]).
    pub const fn transient(error: E) -> Self {
        Self::new(error, Verdict::transient())
    }

    /// The dependency asked to slow down, and how long to wait if it said so ([`Verdict::throttled`]).
    pub fn throttled(error: E, after: impl Into<Option<Duration>>) -> Self {
        Self::new(error, Verdict::throttled(after))
    }

    /// The caller's fault: the dependency is healthy, no retry helps ([`Verdict::permanent`]).
    pub const fn permanent(error: E) -> Self {
        Self::new(error, Verdict::permanent())
    }

    /// A fault of the dependency that must not be retried ([`Verdict::failure`]).
    pub const fn failure(error: E) -> Self {
        Self::new(error, Verdict::failure())
    }

    /// Says nothing about the dependency, and is not retried ([`Verdict::ignore`]).
    pub const fn ignore(error: E) -> Self {
        Self::new(error, Verdict::ignore())
    }

    /// The same error of an attempt that had no effect, such as a refused connection. Repeating it is
    /// safe even if the operation is not idempotent.
    pub const fn not_executed(mut self) -> Self {
        self.verdict = self.verdict.not_executed();
        self
    }

    /// The error.
    pub const fn error(&self) -> &E {
        &self.error
    }

    /// What it means.
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Takes the error and the verdict apart.
    pub fn into_parts(self) -> (E, Verdict) {
        (self.error, self.verdict)
    }
}
