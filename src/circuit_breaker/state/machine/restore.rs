//! The state of another machine, continued by a new one.

use std::time::Duration;

use super::{Machine, Phase};
use crate::event::State;
use crate::instant::Instant;

impl Machine {
    /// Restores the state of a snapshot. The machine must be new.
    pub(crate) fn restore(&mut self, state: State, trips: u32, rest: Duration, now: Instant) {
        self.since = now;
        self.trips = trips;
        self.last_break = rest;
        self.phase = match state {
            State::Open => Phase::Open {
                until: now + rest,
                check_from: now,
            },
            State::HalfOpen => Phase::over(now),
            State::Disabled => Phase::Disabled,
            State::MetricsOnly => Phase::MetricsOnly,
            State::Closed | State::Isolated => return,
        };
    }

    /// Continues the generations of another machine. Returns `false` if this one is ahead already. Before the first call,
    /// because the results of calls from before are ignored.
    pub(crate) const fn continue_generations(&mut self, generation: u64) -> bool {
        let is_behind = self.generation < generation;
        if is_behind {
            self.generation = generation;
        }
        is_behind
    }
}
