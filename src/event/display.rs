//! Events as text.

use std::fmt;

use super::count::Count;
use super::{Ending, Event};
use crate::error::ReasonSuffix;
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
                let attempts = self::attempts(*attempts);
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
                write!(f, "stopped after {}: {stop}", attempts(*executed))
            }
            Self::TimedOut { limit, .. } => write!(f, "timed out after {}", Rounded(*limit)),
            Self::Rejected {
                reason,
                retry_after,
                ..
            } => {
                write!(f, "rejected a call{}", ReasonSuffix(*reason))?;
                match retry_after {
                    Some(after) => write!(f, ", retry after {}", Rounded(*after)),
                    None => Ok(()),
                }
            }
            Self::WouldReject { reason, .. } => {
                write!(f, "would have rejected a call{}", ReasonSuffix(*reason))
            }
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
                write!(f, "replaced the result of a call that {}", Past(*ending))
            }
            Self::ServedStale { ending, age, .. } => {
                let age = Rounded(*age);
                write!(
                    f,
                    "returned a value of {age} ago for a call that {}",
                    Past(*ending)
                )
            }
            Self::Coalesced { waited, .. } => {
                let waited = Rounded(*waited);
                write!(f, "shared the result of another call after {waited}")
            }
            Self::LeaderPromoted { .. } => f.write_str("a waiting call took over the execution"),
        }
    }
}

fn attempts(number: u32) -> Count<u32> {
    Count(number, "attempt", "attempts")
}

/// How a call ended, after "a call that".
struct Past(Ending);

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ending::Rejected(_) | Ending::Cancelled => write!(f, "was {}", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{
        ConfigEvent, Ending, EndpointEvent, Event, HedgeEvent, LetterEvent, NodeName, StoreEvent,
    };
    use crate::error::{Reason, Rejected};

    #[test]
    fn numbers_have_the_noun_that_fits() {
        let both = |text: fn(u8) -> String| [1, 2].map(text);
        assert_eq!(
            both(|n| HedgeEvent::Lost { copies: n.into() }.to_string()),
            ["1 copy in vain", "2 copies in vain"]
        );
        assert_eq!(
            both(|n| LetterEvent::Parked {
                id: 7,
                replays: n.into()
            }
            .to_string()),
            [
                "parked letter 7 after 1 replay",
                "parked letter 7 after 2 replays"
            ]
        );
        assert_eq!(
            both(|n| LetterEvent::Damaged { lines: n.into() }.to_string()),
            ["skipped 1 damaged line", "skipped 2 damaged lines"]
        );
        assert_eq!(
            both(|n| LetterEvent::TornTail { bytes: n.into() }.to_string()),
            [
                "removed 1 byte of a write that was cut off",
                "removed 2 bytes of a write that was cut off"
            ]
        );
        assert_eq!(
            both(|n| EndpointEvent::Draining {
                node: NodeName::new("a"),
                in_flight: n.into()
            }
            .to_string()),
            ["drains a, 1 call in flight", "drains a, 2 calls in flight"]
        );
        assert_eq!(
            both(|n| ConfigEvent::Rejected { problems: n.into() }.to_string()),
            [
                "rejected settings with 1 mistake, kept the former ones",
                "rejected settings with 2 mistakes, kept the former ones"
            ]
        );
        assert_eq!(
            both(|n| ConfigEvent::Applied {
                clients: n.into(),
                changed: 1
            }
            .to_string()),
            [
                "applied settings: 1 client, 1 changed",
                "applied settings: 2 clients, 1 changed"
            ]
        );
    }

    #[test]
    fn a_replaced_rejection_is_a_call_that_was_rejected() {
        let text = |ending| {
            let (policy, pipeline) = ("cache", None);
            Event::FallbackUsed {
                policy,
                pipeline,
                ending,
            }
            .to_string()
        };
        assert_eq!(
            text(Ending::Rejected(Reason::CircuitOpen)),
            "cache: replaced the result of a call that was rejected (circuit open)"
        );
        assert_eq!(
            text(Ending::TimedOut),
            "cache: replaced the result of a call that timed out"
        );
    }

    #[test]
    fn a_reason_of_ones_own_is_the_name_of_the_policy() {
        let rejected = Rejected::new("maintenance", Reason::Custom);
        assert_eq!(rejected.to_string(), "rejected by maintenance");
        let event = Event::rejected(&rejected);
        assert_eq!(event.to_string(), "maintenance: rejected a call");
        let event = Event::would_reject(&rejected);
        assert_eq!(event.to_string(), "maintenance: would have rejected a call");
    }

    #[test]
    fn times_are_rounded_for_people() {
        let after = Duration::from_nanos(40_100_576);
        assert_eq!(
            StoreEvent::Back { after }.to_string(),
            "has its store back after 40.101ms"
        );
    }
}
