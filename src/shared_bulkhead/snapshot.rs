//! Snapshots of shared bulkheads.

use std::time::Duration;

/// The state of a shared bulkhead, as this process knows it.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Permits of the whole fleet.
    pub limit: u64,
    /// Permits that this process holds.
    pub held: u64,
    /// Permits in use by calls in flight in this process.
    pub in_flight: u64,
    /// Number of calls in the wait queue of this process.
    pub waiting: usize,
    /// Number of requests to the store.
    pub trips: u64,
    /// Whether the store answered the last request.
    pub store_up: bool,
    /// Time since the store stopped answering; zero while it answers.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub lost_for: Duration,
    /// Number of calls rejected.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
}
