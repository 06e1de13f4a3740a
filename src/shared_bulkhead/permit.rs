//! Permits of a shared bulkhead.

use std::fmt;
use std::mem;
use std::sync::Arc;

use super::inner::Inner;

/// A permit for one call. Released when dropped.
#[must_use = "a permit is released when it is dropped"]
pub struct Permit {
    inner: Arc<Inner>,
    permits: u64,
}

impl Permit {
    pub(super) const fn new(inner: Arc<Inner>, permits: u64) -> Self {
        Self { inner, permits }
    }

    /// Returns the number of permits held, which is the cost of the call. Zero if the call needs none, or was admitted
    /// only because of shadow mode.
    pub const fn cost(&self) -> u64 {
        self.permits
    }

    /// Moves the permits to a new value and leaves none here.
    pub(super) fn take(&mut self) -> Self {
        Self {
            inner: self.inner.clone(),
            permits: mem::take(&mut self.permits),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inner.release(self.permits);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("bulkhead", &self.inner.base.name)
            .field("permits", &self.permits)
            .finish()
    }
}
