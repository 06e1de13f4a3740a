//! What dead letter queues report.

use std::fmt;

/// Something that a dead letter queue did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterEvent {
    /// A letter was stored.
    #[non_exhaustive]
    Stored {
        /// Its number.
        id: u64,
    },
    /// A letter was not stored.
    #[non_exhaustive]
    NotStored {
        /// Why, as an identifier such as `storage_full`.
        reason: &'static str,
    },
    /// A stored letter was evicted to keep the queue within its limits.
    #[non_exhaustive]
    Evicted {
        /// Its number.
        id: u64,
        /// The limit.
        cause: Eviction,
    },
    /// A letter was parked: it is kept, and not replayed.
    #[non_exhaustive]
    Parked {
        /// Its number.
        id: u64,
        /// How many times it was replayed.
        replays: u32,
    },
    /// A replay ended.
    #[non_exhaustive]
    ReplayFinished {
        /// Why, as an identifier such as `finished` or `circuit_open`.
        end: &'static str,
        /// How many letters were delivered.
        delivered: u64,
        /// How many replays failed.
        failed: u64,
    },
    /// A write that the end of the process or of the power cut off was removed from a file. It had not
    /// been acknowledged.
    #[non_exhaustive]
    TornTail {
        /// The length of what was written of it.
        bytes: u64,
    },
    /// Damaged lines of a file were skipped.
    #[non_exhaustive]
    Damaged {
        /// How many.
        lines: u64,
    },
    /// A file could not be deleted or made smaller. It is tried again after the next write.
    #[non_exhaustive]
    MaintenanceFailed {
        /// What the system said.
        error: std::io::ErrorKind,
    },
}

impl LetterEvent {
    /// The event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Stored { .. } => "letter_stored",
            Self::NotStored { .. } => "letter_not_stored",
            Self::Evicted { .. } => "letter_evicted",
            Self::Parked { .. } => "letter_parked",
            Self::ReplayFinished { .. } => "replay_finished",
            Self::TornTail { .. } => "torn_tail",
            Self::Damaged { .. } => "letters_damaged",
            Self::MaintenanceFailed { .. } => "maintenance_failed",
        }
    }

    /// A letter was evicted. For sinks of your own.
    pub const fn evicted(id: u64, cause: Eviction) -> Self {
        Self::Evicted { id, cause }
    }
}

impl fmt::Display for LetterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { id } => write!(f, "stored letter {id}"),
            Self::NotStored { reason } => write!(f, "could not store a letter: {reason}"),
            Self::Evicted { id, cause } => write!(f, "evicted letter {id}: {cause}"),
            Self::Parked { id, replays } => write!(f, "parked letter {id} after {replays} replays"),
            Self::ReplayFinished {
                end,
                delivered,
                failed,
            } => write!(
                f,
                "replay ended ({end}): {delivered} delivered, {failed} failed"
            ),
            Self::TornTail { bytes } => {
                write!(f, "removed {bytes} bytes of a write that was cut off")
            }
            Self::Damaged { lines } => write!(f, "skipped {lines} damaged lines"),
            Self::MaintenanceFailed { error } => write!(f, "could not tidy up a file: {error}"),
        }
    }
}

/// The limit that a letter was evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// The number of letters.
    Count,
    /// The bytes of all letters.
    Bytes,
    /// The age of the letter.
    Age,
}

impl Eviction {
    /// The limit as an identifier for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Age => "age",
        }
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
