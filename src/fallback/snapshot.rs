//! Snapshots of fallbacks.

use std::time::Duration;

/// Counts of a fallback. Returned by [`Fallback::snapshot`](super::Fallback::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of errors that were replaced, by a value or by another operation.
    pub used: u64,
}

/// The value and the counts of a [`Stale`](super::Stale). Returned by
/// [`Stale::snapshot`](super::Stale::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleSnapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The age of the last good value; `None` if there is none.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub age: Option<Duration>,
    /// Number of successes that were stored.
    pub refreshed: u64,
    /// Number of errors that the value replaced.
    pub used: u64,
    /// Number of errors that were not replaced because there was no value, or it was too old.
    pub missed: u64,
}
