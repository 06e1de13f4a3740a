//! Values that are marked as fresh or stale.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// A value that is fresh, or stale with an age. Operations under a [`Stale`](super::Stale) return it.
///
/// The value is shared: neither clones of it nor the copy that is remembered need `T: Clone`.
#[derive(Debug)]
pub struct MaybeStale<T> {
    value: Arc<T>,
    age: Option<Duration>,
}

impl<T> MaybeStale<T> {
    /// Returns a fresh value.
    pub fn fresh(value: impl Into<Arc<T>>) -> Self {
        Self {
            value: value.into(),
            age: None,
        }
    }

    pub(super) const fn stale(value: Arc<T>, age: Duration) -> Self {
        Self {
            value,
            age: Some(age),
        }
    }

    /// Returns whether this is an older value in place of an error.
    pub const fn is_stale(&self) -> bool {
        self.age.is_some()
    }

    /// Returns how long ago the value was fresh; `None` if it is fresh.
    pub const fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Returns the value.
    pub const fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// Takes the value out.
    pub fn into_value(self) -> Arc<T> {
        self.value
    }
}

impl<T> From<T> for MaybeStale<T> {
    fn from(value: T) -> Self {
        Self::fresh(value)
    }
}

impl<T> Deref for MaybeStale<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

// Derived implementations would require `T: Clone`.
impl<T> Clone for MaybeStale<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            age: self.age,
        }
    }
}
