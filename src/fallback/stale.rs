//! The last good value.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::maybe_stale::MaybeStale;
use super::snapshot::StaleSnapshot;
use super::state::When;
use crate::clock::ClockHandle;
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::sync::{AtomicU64, Ordering, lock};

/// Returns the last good value in place of an error, up to a maximum age. See the [module page](super).
///
/// Cheap to clone: clones share the value. Stores a single value; for one per key, use [`Keyed`](crate::Keyed).
pub struct Stale<T> {
    pub(super) inner: Arc<Inner<T>>,
}

pub(in crate::fallback) struct Inner<T> {
    pub(super) name: &'static str,
    pub(super) max_age: Duration,
    pub(super) when: When,
    pub(super) clock: ClockHandle,
    /// Values are dropped after the lock is released, because their `Drop` is user code.
    last: Mutex<Option<Last<T>>>,
    /// Set if keys share this policy: it then remembers nothing. A plain flag, set before the first use.
    is_shared: AtomicBool,
    refreshed: AtomicU64,
    used: AtomicU64,
    missed: AtomicU64,
}

struct Last<T> {
    value: Arc<T>,
    at: Instant,
}

impl<T> Stale<T> {
    pub(super) fn of(
        name: &'static str,
        max_age: Duration,
        when: When,
        clock: ClockHandle,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                max_age,
                when,
                clock,
                last: Mutex::new(None),
                is_shared: AtomicBool::new(false),
                refreshed: AtomicU64::new(0),
                used: AtomicU64::new(0),
                missed: AtomicU64::new(0),
            }),
        }
    }

    /// Returns the name in events and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns the last good value with its age, unless there is none or it is too old.
    pub fn get(&self) -> Option<MaybeStale<T>> {
        self.inner.value_at(self.inner.clock.now())
    }

    /// Stores a value as if it were fresh, such as a value saved before a restart.
    pub fn set(&self, value: impl Into<Arc<T>>) {
        self.inner.refresh(self.inner.clock.now(), value.into());
    }

    /// Removes the value.
    pub fn clear(&self) {
        // Two statements, so that the value is dropped after the lock is released.
        let forgotten = lock(&self.inner.last).take();
        drop(forgotten);
    }

    /// Returns the age of the value and the counts. Changes nothing.
    pub fn snapshot(&self) -> StaleSnapshot {
        let inner = &*self.inner;
        let at = lock(&inner.last).as_ref().map(|last| last.at);
        let now = inner.clock.now();
        // Relaxed: counters, read for display.
        let [refreshed, used, missed] = [&inner.refreshed, &inner.used, &inner.missed]
            .map(|count| count.load(Ordering::Relaxed));
        StaleSnapshot {
            name: inner.name,
            age: at.map(|at| now.saturating_duration_since(at)),
            refreshed,
            used,
            missed,
        }
    }
}

impl<T> Inner<T> {
    /// Stores a value.
    pub(super) fn refresh(&self, now: Instant, value: Arc<T>) {
        // Relaxed: the set published the policy after the flag was set.
        if self.is_shared.load(Ordering::Relaxed) {
            return;
        }
        // Two statements, so that the older value is dropped after the lock is released.
        let older = lock(&self.last).replace(Last { value, at: now });
        drop(older);
        self.refreshed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the value in place of an error, unless there is none or it is too old.
    pub(super) fn replace(&self, now: Instant) -> Option<MaybeStale<T>> {
        let value = self.value_at(now);
        let count = match &value {
            Some(_) => &self.used,
            None => &self.missed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        value
    }

    fn value_at(&self, now: Instant) -> Option<MaybeStale<T>> {
        let (value, at) = {
            let last = lock(&self.last);
            let last = last.as_ref()?;
            (last.value.clone(), last.at)
        };
        let age = now.saturating_duration_since(at);
        (age <= self.max_age).then(|| MaybeStale::stale(value, age))
    }
}

/// A stale value is evictable once it is too old.
impl<T> Evictable for Stale<T> {
    fn evictable_in(&self) -> Option<Duration> {
        if !is_unshared(&self.inner) {
            return None;
        }
        let inner = &*self.inner;
        let at = lock(&inner.last).as_ref().map(|last| last.at);
        let Some(at) = at else {
            return Some(Duration::ZERO);
        };
        let last_use = at + inner.max_age;
        let now = inner.clock.now();
        match last_use {
            Instant::FAR_FUTURE => None,
            last_use if now > last_use => Some(Duration::ZERO),
            last_use => Some(last_use.saturating_duration_since(now) + Duration::from_nanos(1)),
        }
    }

    fn share_among_keys(&self) {
        if is_unshared(&self.inner) {
            self.inner.is_shared.store(true, Ordering::Relaxed);
        }
    }
}

// Derived implementations would require `T: Clone`.
impl<T> Clone for Stale<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<T> fmt::Debug for Stale<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stale").field(&self.snapshot()).finish()
    }
}
