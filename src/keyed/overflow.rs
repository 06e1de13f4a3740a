//! The behavior of full sets on new keys.

use std::fmt;

/// The behavior on new keys while the set is full.
///
/// For logins, and any other limit against guessing, choose `Shared` or `Reject`. With `Evict`, an attacker with
/// invented keys can evict the count of its own address, or of the account under attack. Use the account or the
/// address as the key, not a claim in the request. If a limit only distributes capacity, and a rejection is worse
/// than admitting a little too much, `Evict` keeps the service open during a flood of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// Calls with new keys are rejected.
    Reject,
    /// New keys share one limit or policy.
    #[default]
    Shared,
    /// New keys replace the key that would become evictable first: of all keys if there are at most 64,
    /// otherwise of a sample. Keys in use are not replaced.
    Evict,
}

/// The error for a key that finds the set full. See [`Keyed::try_get`](super::Keyed::try_get).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for another key")
    }
}

impl std::error::Error for NoRoom {}

impl Overflow {
    /// Returns the behavior as an identifier for logs and configuration, such as `evict`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Shared => "shared",
            Self::Evict => "evict",
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
