//! Events of the stores that shared limits use.

use std::fmt;
use std::time::Duration;

use crate::instant::Rounded;

/// A change of the connection to a store, as observed by a shared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// The store failed or did not answer in time. The process continues without it.
    Lost,
    /// The store answers again.
    #[non_exhaustive]
    Back {
        /// The time during which it was lost.
        after: Duration,
    },
}

impl StoreEvent {
    /// Returns the event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lost => "store_lost",
            Self::Back { .. } => "store_back",
        }
    }
}

impl fmt::Display for StoreEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("lost its store"),
            Self::Back { after } => write!(f, "has its store back after {}", Rounded(*after)),
        }
    }
}
