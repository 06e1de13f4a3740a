#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/fallback.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Fallbacks: another value, or the last good one, in place of an error."
)]

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use self::state::{When, when_setters};
use crate::error::Error;
use crate::keyed::stateless;
use crate::sync::{AtomicU64, Ordering};

mod config;
mod maybe_stale;
mod policy;
mod snapshot;
mod source;
mod stale;
mod state;

pub use self::config::StaleBuilder;
pub use self::maybe_stale::MaybeStale;
pub use self::snapshot::{Snapshot, StaleSnapshot};
pub use self::source::{Replacement, Source, To, TryWith, Value, With};
pub use self::stale::Stale;

/// Replaces errors with values, or with the result of another operation. See the [module page](self).
///
/// Clones share the count of replaced errors.
#[derive(Clone)]
pub struct Fallback<S> {
    source: S,
    when: When,
    name: &'static str,
    used: Arc<AtomicU64>,
}

stateless!(Fallback<S>);

impl<T: Clone> Fallback<Value<T>> {
    /// Replaces errors with a value.
    pub fn value(value: T) -> Self {
        Self::of(Value::new(value))
    }
}

impl<F> Fallback<With<F>> {
    /// Replaces errors with values that a function computes from them.
    pub fn with<T, E>(make: F) -> Self
    where
        F: Fn(&Error<E>) -> T,
    {
        Self::of(With::new(make))
    }
}

impl<F> Fallback<TryWith<F>> {
    /// Replaces errors for which a function returns a value. Other errors pass through.
    pub fn try_with<T, E>(make: F) -> Self
    where
        F: Fn(&Error<E>) -> Option<T>,
    {
        Self::of(TryWith::new(make))
    }
}

impl<F> Fallback<To<F>> {
    /// Replaces errors with the result of another operation, which is attempted once. If it fails too, the call
    /// returns its error.
    pub fn to<T, E, Fut>(operation: F) -> Self
    where
        F: Fn(&Error<E>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        Self::of(To::new(operation))
    }
}

impl<S> Fallback<S> {
    fn of(source: S) -> Self {
        Self {
            source,
            when: When::DEFAULT,
            name: "fallback",
            used: Arc::default(),
        }
    }

    when_setters!();

    /// Sets the name in events and snapshots. Default `fallback`.
    #[must_use]
    pub fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Returns the name in events and snapshots.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the counts. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            name: self.name,
            // Relaxed: a counter, read for display.
            used: self.used.load(Ordering::Relaxed),
        }
    }
}

impl<S> fmt::Debug for Fallback<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("name", &self.name)
            .field("when", &self.when)
            .finish_non_exhaustive()
    }
}
