//! Events of sets of endpoints.

use std::fmt;
use std::time::Duration;

use super::count::Count;
use crate::instant::Rounded;

/// An event of an endpoint, or of all endpoints of a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointEvent {
    /// An endpoint was ejected: it gets no calls for a time.
    #[non_exhaustive]
    Ejected {
        /// The name of the node.
        node: NodeName,
        /// The cause.
        cause: EjectionCause,
        /// The length of the pause.
        length: Duration,
        /// Number of ejections, minus one for each interval in which it was healthy.
        times: u32,
    },
    /// A rule matched an endpoint, but the ejection was not enforced.
    #[non_exhaustive]
    NotEjected {
        /// The name of the node.
        node: NodeName,
        /// The rule.
        cause: EjectionCause,
        /// Why it was not enforced.
        reason: Unenforced,
    },
    /// The ejection of an endpoint is over: it gets calls again.
    #[non_exhaustive]
    Returned {
        /// The name of the node.
        node: NodeName,
    },
    /// An endpoint asked callers to wait, and gets no calls until that time.
    #[non_exhaustive]
    Parked {
        /// The name of the node.
        node: NodeName,
        /// The length of the pause.
        length: Duration,
    },
    /// Health checks of an endpoint failed: it gets no calls.
    #[non_exhaustive]
    Unhealthy {
        /// The name of the node.
        node: NodeName,
    },
    /// An endpoint counts as healthy again: its health checks succeed, or the last
    /// [`check_with`](crate::Endpoints::check_with) was dropped, so that nothing checks it.
    #[non_exhaustive]
    Healthy {
        /// The name of the node.
        node: NodeName,
    },
    /// An endpoint is drained: it gets no further calls.
    #[non_exhaustive]
    Draining {
        /// The name of the node.
        node: NodeName,
        /// Calls that are still in flight.
        in_flight: u32,
    },
    /// Too few endpoints of a priority are available, so calls go to all of them.
    #[non_exhaustive]
    PanicStarted {
        /// The priority.
        priority: u32,
    },
    /// Enough endpoints of a priority are available again.
    #[non_exhaustive]
    PanicEnded {
        /// The priority.
        priority: u32,
    },
}

impl EndpointEvent {
    /// Returns the event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ejected { .. } => "endpoint_ejected",
            Self::NotEjected { .. } => "endpoint_not_ejected",
            Self::Returned { .. } => "endpoint_returned",
            Self::Parked { .. } => "endpoint_parked",
            Self::Unhealthy { .. } => "endpoint_unhealthy",
            Self::Healthy { .. } => "endpoint_healthy",
            Self::Draining { .. } => "endpoint_draining",
            Self::PanicStarted { .. } => "endpoint_panic_started",
            Self::PanicEnded { .. } => "endpoint_panic_ended",
        }
    }
}

impl fmt::Display for EndpointEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ejected {
                node,
                cause,
                length,
                times,
            } => write!(
                f,
                "ejected {node} for {} (ejection {times}): {cause}",
                Rounded(*length)
            ),
            Self::NotEjected {
                node,
                cause,
                reason,
            } => write!(f, "did not eject {node} ({reason}): {cause}"),
            Self::Returned { node } => write!(f, "{node} takes calls again"),
            Self::Parked { node, length } => {
                write!(f, "parked {node} for {}", Rounded(*length))
            }
            Self::Unhealthy { node } => write!(f, "health checks of {node} failed"),
            Self::Healthy { node } => write!(f, "{node} counts as healthy again"),
            Self::Draining { node, in_flight } => {
                let calls = Count(*in_flight, "call", "calls");
                write!(f, "drains {node}, {calls} in flight")
            }
            Self::PanicStarted { priority } => {
                write!(
                    f,
                    "too few endpoints of priority {priority}, calls go to all"
                )
            }
            Self::PanicEnded { priority } => {
                write!(f, "enough endpoints of priority {priority} again")
            }
        }
    }
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EjectionCause {
    /// The number of failures in a row.
    ConsecutiveFailures(u32),
    /// Its success rate is far below that of the others.
    SuccessRate,
    /// The share of its calls that fail.
    FailureShare,
    /// The first call after an ejection failed.
    ProbeFailed,
}

impl EjectionCause {
    /// Returns the cause as an identifier for logs and metrics, such as `success_rate`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures(_) => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::FailureShare => "failure_share",
            Self::ProbeFailed => "probe_failed",
        }
    }
}

impl fmt::Display for EjectionCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(failures) => write!(f, "{failures} failures in a row"),
            Self::SuccessRate => f.write_str("success rate far below the others"),
            Self::FailureShare => f.write_str("failure share"),
            Self::ProbeFailed => f.write_str("probe failed"),
        }
    }
}

/// Why the ejection of an endpoint was not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unenforced {
    /// The largest number of endpoints is ejected already.
    MaxEjected,
    /// No other endpoint of its priority is available.
    LastAvailable,
    /// The set is in shadow mode.
    Shadow,
}

impl Unenforced {
    /// Returns the reason as an identifier for logs and metrics, such as `max_ejected`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxEjected => "max_ejected",
            Self::LastAvailable => "last_available",
            Self::Shadow => "shadow",
        }
    }
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MaxEjected => "max ejected",
            Self::LastAvailable => "last available",
            Self::Shadow => "shadow",
        })
    }
}

/// The name of an endpoint, cut to 47 bytes. Events are `Copy`, so they cannot own longer names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeName {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl NodeName {
    /// The length of the longest name, in bytes.
    const MAX: usize = 47;

    /// Truncates a name that is too long at a character boundary, and appends `…`.
    pub(crate) fn new(name: &str) -> Self {
        const CUT: &str = "…";
        let (mut bytes, mut length) = ([0; Self::MAX], 0);
        let mut push = |text: &str| {
            bytes[length..length + text.len()].copy_from_slice(text.as_bytes());
            length += text.len();
        };
        if name.len() <= Self::MAX {
            push(name);
        } else {
            let mut end = Self::MAX - CUT.len();
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            push(&name[..end]);
            push(CUT);
        }
        Self {
            bytes,
            length: length as u8,
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.length)];
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_at_a_character() {
        assert_eq!(NodeName::new("a:80").as_str(), "a:80");
        assert_eq!(NodeName::new(&"x".repeat(47)).as_str(), "x".repeat(47));
        let cut = format!("{}…", "x".repeat(44));
        assert_eq!(NodeName::new(&"x".repeat(48)).as_str(), cut);
        let umlauts = NodeName::new(&"ü".repeat(40));
        assert_eq!(umlauts.as_str(), format!("{}…", "ü".repeat(22)));
    }
}
