//! Events as text.

use std::fmt;

use super::Event;
use crate::instant::Rounded;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.policy())?;
        match self {
            Self::CallFinished {
                ending,
                attempts,
                elapsed,
                ..
            } => {
                let attempts = Attempts(*attempts);
                write!(f, "{ending} after {attempts} in {}", Rounded(*elapsed))
            }
            Self::RetryScheduled {
                attempt,
                rejected,
                delay,
                ..
            } => {
                let delay = Rounded(*delay);
                match rejected {
                    None => write!(f, "attempt {attempt} failed, next in {delay}"),
                    Some(reason) => {
                        write!(f, "attempt {attempt} rejected ({reason}), next in {delay}")
                    }
                }
            }
            Self::RetryStopped { executed, stop, .. } => {
                write!(f, "stopped after {}: {stop}", Attempts(*executed))
            }
            Self::TimedOut { limit, .. } => write!(f, "timed out after {}", Rounded(*limit)),
            Self::Rejected {
                reason,
                retry_after,
                ..
            } => {
                write!(f, "rejected a call: {reason}")?;
                match retry_after {
                    Some(after) => write!(f, ", retry after {}", Rounded(*after)),
                    None => Ok(()),
                }
            }
            Self::WouldReject { reason, .. } => write!(f, "would have rejected a call: {reason}"),
            Self::Waited { waited, .. } => {
                write!(f, "admitted a call after it waited {}", Rounded(*waited))
            }
            Self::LimitChanged { from, to, .. } => {
                write!(f, "limit changed from {from} to {to}")
            }
            Self::ProbeForced { .. } => f.write_str("admitted a call as a probe"),
            Self::CircuitChanged { change, .. } => write!(f, "{change}"),
            Self::CircuitWouldOpen { cause, .. } => write!(f, "would open: {cause}"),
            Self::Config { event, .. } => write!(f, "{event}"),
            Self::Endpoint { event, .. } => write!(f, "{event}"),
            Self::ChaosInjected { fault, .. } => write!(f, "injected {fault}"),
            Self::DeadLetter { event, .. } => write!(f, "{event}"),
            Self::Hedge { event, .. } => write!(f, "{event}"),
            Self::Store { event, .. } => write!(f, "{event}"),
            Self::FallbackUsed { ending, .. } => {
                write!(f, "replaced the result of a call that {ending}")
            }
            Self::ServedStale { ending, age, .. } => {
                let age = Rounded(*age);
                write!(f, "returned a value of {age} ago for a call that {ending}")
            }
            Self::Coalesced { waited, .. } => {
                let waited = Rounded(*waited);
                write!(f, "shared the result of another call after {waited}")
            }
            Self::LeaderPromoted { .. } => f.write_str("a waiting call took over the execution"),
        }
    }
}

/// A number of attempts.
struct Attempts(u32);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.0 == 1 { "attempt" } else { "attempts" };
        write!(f, "{} {unit}", self.0)
    }
}
