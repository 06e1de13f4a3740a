//! Readings of a set for people.

/// A snapshot of a [`Keyed`](super::Keyed) set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the handle, as in events.
    pub name: &'static str,
    /// Number of keys that have a policy of their own.
    pub keys: usize,
    /// The largest number of such keys.
    pub max_keys: usize,
    /// Number of times that there was no room for a key.
    pub overflowed: u64,
}
