//! A reading of a shared bulkhead, for people.

use std::time::Duration;

/// Where a shared bulkhead stands, as far as this process knows.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Permits of all processes together.
    pub limit: u64,
    /// Permits that this process holds.
    pub held: u64,
    /// Permits of calls in flight in this process.
    pub in_flight: u64,
    /// Calls that wait.
    pub waiting: usize,
    /// Requests to the store.
    pub trips: u64,
    /// Whether the store answers.
    pub store_up: bool,
    /// How long it has not answered; zero if it does.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub lost_for: Duration,
    /// Number of calls rejected.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
}
