//! Limits of stored letters, and the behavior at the limit.

use std::time::Duration;

use super::timestamp::Timestamp;

/// The behavior of a full queue on a new letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// Rejects the new letter. Stored letters stay.
    #[default]
    Reject,
    /// Evicts the oldest letters, and reports them to the observer.
    EvictOldest,
}

/// Limits of stored letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_letters: u64,
    pub(crate) max_bytes: u64,
    pub(crate) max_age: Duration,
    pub(crate) when_full: WhenFull,
}

crate::debug::debug_settings!(Limits { when_full; max_letters, max_bytes, max_age });

impl Limits {
    /// Returns whether a letter that was stored at `stored_at` is too old at `now`.
    pub(crate) fn is_expired(&self, stored_at: Timestamp, now: Timestamp) -> bool {
        now.saturating_duration_since(stored_at) >= self.max_age
    }

    pub(crate) const fn fits(&self, letters: u64, bytes: u64) -> bool {
        letters <= self.max_letters && bytes <= self.max_bytes
    }
}
