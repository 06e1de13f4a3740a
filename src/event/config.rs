//! Events of settings that are loaded from files.

use std::fmt;

use super::count::Count;

/// Something that happened to the settings of a registry of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigEvent {
    /// Settings were applied.
    #[non_exhaustive]
    Applied {
        /// Number of clients.
        clients: usize,
        /// Number of clients that were added, removed, or changed.
        changed: usize,
    },
    /// Settings were rejected. The former ones stay in force.
    #[non_exhaustive]
    Rejected {
        /// Number of mistakes; zero if the file could not be read or parsed.
        problems: usize,
    },
}

impl ConfigEvent {
    /// Returns the event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "config_applied",
            Self::Rejected { .. } => "config_rejected",
        }
    }
}

impl fmt::Display for ConfigEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { clients, changed } => {
                let clients = Count(*clients, "client", "clients");
                write!(f, "applied settings: {clients}, {changed} changed")
            }
            Self::Rejected { problems: 0 } => {
                f.write_str("could not read settings, kept the former ones")
            }
            Self::Rejected { problems } => {
                let problems = Count(*problems, "mistake", "mistakes");
                write!(f, "rejected settings with {problems}, kept the former ones")
            }
        }
    }
}
