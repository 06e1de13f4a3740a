#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/coalesce.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Coalescing: concurrent calls with one key share one execution."
)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::inner::Inner;
use crate::keyed::{Evictable, is_unshared};

mod config;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod policy;
mod snapshot;
mod state;

pub use self::config::CoalesceBuilder;
pub use self::snapshot::Snapshot;

/// Lets concurrent calls with one key share one execution. See the [module page](self).
///
/// Cheap to clone: clones share the executions. Keys that are not being executed take no memory.
pub struct Coalesce<K, T, E> {
    inner: Arc<Inner<K, T, E>>,
}

impl<K, T, E> Coalesce<K, T, E> {
    fn of(inner: Inner<K, T, E>) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the policy of calls with this key.
    pub const fn get<'a, Q: ?Sized>(&'a self, key: &'a Q) -> ForKey<'a, Q, K, T, E> {
        ForKey {
            coalesce: self,
            key,
        }
    }

    /// Returns the name in events and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns the counts. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

/// The policy of calls with one key. Returned by [`Coalesce::get`].
pub struct ForKey<'a, Q: ?Sized, K, T, E> {
    coalesce: &'a Coalesce<K, T, E>,
    key: &'a Q,
}

/// A policy is evictable when no call is in flight.
impl<K, T, E> Evictable for Coalesce<K, T, E> {
    fn evictable_in(&self) -> Option<Duration> {
        let is_idle = is_unshared(&self.inner) && self.snapshot().flights == 0;
        is_idle.then_some(Duration::ZERO)
    }

    fn share_among_keys(&self) {
        if is_unshared(&self.inner) {
            self.inner.share_among_keys();
        }
    }
}

// Derived implementations would require `K: Clone` and the like.
impl<K, T, E> Clone for Coalesce<K, T, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<Q: ?Sized, K, T, E> Clone for ForKey<'_, Q, K, T, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Q: ?Sized, K, T, E> Copy for ForKey<'_, Q, K, T, E> {}

impl<K, T, E> fmt::Debug for Coalesce<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Coalesce").field(&self.snapshot()).finish()
    }
}

impl<Q: fmt::Debug + ?Sized, K, T, E> fmt::Debug for ForKey<'_, Q, K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForKey")
            .field("name", &self.coalesce.name())
            .field("key", &self.key)
            .finish()
    }
}
