//! A consistent reading of a coalescing policy.

/// Counts of a [`Coalesce`](super::Coalesce). Returned by [`Coalesce::snapshot`](super::Coalesce::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Keys that are being executed.
    pub flights: usize,
    /// Calls that wait for the result of another one.
    pub waiting: usize,
    /// Calls that executed their operation.
    pub executed: u64,
    /// Calls that got the result of another one.
    pub shared: u64,
    /// Waiting calls that took over from one that was cancelled.
    pub promoted: u64,
}
