//! The default levels of events.

use ::tracing::Level;

use crate::event::{ConfigEvent, EndpointEvent, Event, LetterEvent, StoreEvent};

/// Returns the default level of an event, for [`EventLog`](super::EventLog).
#[must_use]
pub const fn level(event: &Event) -> Option<Level> {
    Some(match event {
        Event::CircuitChanged { .. }
        | Event::CircuitWouldOpen { .. }
        | Event::Rejected { .. }
        | Event::WouldReject { .. } => Level::WARN,
        Event::Endpoint { event, .. } => match event {
            EndpointEvent::Ejected { .. }
            | EndpointEvent::NotEjected { .. }
            | EndpointEvent::Unhealthy { .. }
            | EndpointEvent::PanicStarted { .. } => Level::WARN,
            EndpointEvent::Returned { .. }
            | EndpointEvent::Healthy { .. }
            | EndpointEvent::Parked { .. }
            | EndpointEvent::Draining { .. }
            | EndpointEvent::PanicEnded { .. } => Level::INFO,
        },
        Event::DeadLetter { event, .. } => match event {
            LetterEvent::NotStored { .. } => Level::ERROR,
            LetterEvent::Evicted { .. }
            | LetterEvent::Parked { .. }
            | LetterEvent::TornTail { .. }
            | LetterEvent::Damaged { .. }
            | LetterEvent::MaintenanceFailed { .. } => Level::WARN,
            LetterEvent::ReplayFinished { .. } => Level::INFO,
            LetterEvent::Stored { .. } => Level::DEBUG,
        },
        Event::Config { event, .. } => match event {
            ConfigEvent::Rejected { .. } => Level::ERROR,
            ConfigEvent::Applied { .. } => Level::INFO,
        },
        Event::Store { event, .. } => match event {
            StoreEvent::Lost => Level::WARN,
            StoreEvent::Back { .. } => Level::INFO,
        },
        Event::RetryScheduled { .. }
        | Event::RetryStopped { .. }
        | Event::TimedOut { .. }
        | Event::LimitChanged { .. }
        | Event::ProbeForced { .. }
        | Event::ChaosInjected { .. }
        | Event::Hedge { .. }
        | Event::FallbackUsed { .. }
        | Event::ServedStale { .. }
        | Event::LeaderPromoted { .. } => Level::DEBUG,
        Event::CallFinished { .. } | Event::Waited { .. } | Event::Coalesced { .. } => Level::TRACE,
    })
}
