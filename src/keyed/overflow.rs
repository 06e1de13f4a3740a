//! Keys without room.

use std::fmt;

/// What happens to new keys while the maximum number of keys is in use.
///
/// For logins, and wherever a limit is there to stop guessing, choose `Shared` or `Reject`: with
/// `Evict`, a caller that makes up keys can push out its own count, or that of the account it attacks,
/// and begin again. The key should be the account or the address that is known, not whatever the
/// request says. Where a limit only shares out capacity, and rejecting a stranger is worse than
/// admitting a little too much, `Evict` keeps the service open during a flood of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// They are rejected.
    Reject,
    /// They share one limit or policy.
    #[default]
    Shared,
    /// They replace the key that would be like a new one first: among all keys if there are at most 64,
    /// otherwise among a sample. Keys that are in use are not replaced.
    Evict,
}

/// There is no room for another key. See [`Keyed::try_get`](super::Keyed::try_get).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for another key")
    }
}

impl std::error::Error for NoRoom {}

impl Overflow {
    /// Returns it in snake case, for labels.
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
