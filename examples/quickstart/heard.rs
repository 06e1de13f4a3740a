//! Counts of the actions of the policies, from their events.

use std::sync::atomic::{AtomicU64, Ordering};

use backstop::circuit_breaker::State;
use backstop::{Event, Reason};

use super::{ATTEMPT, HINT};

#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) attempts_cut: Count,
    pub(crate) calls_cut: Count,
    pub(crate) repeated: Count,
    pub(crate) waited_as_told: Count,
    pub(crate) waited_for_circuit: Count,
    pub(crate) given_up: Count,
    pub(crate) opened: Count,
    pub(crate) kept_away: Count,
    pub(crate) limited: Count,
}

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Heard {
    pub(crate) fn add(&self, event: &Event) {
        let count = match event {
            Event::TimedOut { limit, .. } if *limit == ATTEMPT => &self.attempts_cut,
            Event::TimedOut { .. } => &self.calls_cut,
            Event::RetryScheduled { verdict, delay, .. }
                if verdict.hint().is_some() && *delay >= HINT =>
            {
                &self.waited_as_told
            }
            Event::RetryScheduled { rejected: None, .. } => &self.repeated,
            Event::RetryScheduled { .. } => &self.waited_for_circuit,
            Event::RetryStopped { .. } => &self.given_up,
            Event::CircuitChanged { change, .. } if change.to == State::Open => &self.opened,
            Event::Rejected { reason, .. } => match reason {
                Reason::CircuitOpen => &self.kept_away,
                Reason::RateLimited => &self.limited,
                _ => return,
            },
            _ => return,
        };
        count.add_one();
    }
}
