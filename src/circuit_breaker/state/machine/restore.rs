//! The state of another machine, continued by a new one.

use std::time::Duration;

use super::{Machine, Phase, Probes};
use crate::event::State;
use crate::instant::Instant;

impl Machine {
    /// Restores the state of a snapshot. The machine must be new.
    pub(crate) fn restore(&mut self, state: State, trips: u32, rest: Duration, now: Instant) {
        self.restored = true;
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

    /// Continues the phase and the generations of a machine that this one replaces, on the same clock. A half-open phase
    /// has new probes, because the results of those in flight go to the former machine. Before the first call, because
    /// the results of calls from before are ignored.
    pub(crate) fn continue_from(&mut self, former: Self) {
        self.generation = self.generation.max(former.generation);
        self.restored = true;
        self.since = former.since;
        self.trips = former.trips;
        self.last_break = former.last_break;
        self.failed_probes = former.failed_probes;
        self.phase = match former.phase {
            Phase::HalfOpen(_) => {
                let probes = Probes::new(&self.rules, self.last_break, self.last_probe);
                Phase::HalfOpen(Box::new(probes))
            }
            phase => phase,
        };
    }

    /// Continues what has changed in the former machine since [`continue_from`](Self::continue_from), unless this one has
    /// changed, too. Reports no transition: the former machine has. Returns whether it changed.
    pub(crate) fn catch_up_with(&mut self, former: Self) -> bool {
        let standing = |it: &Self| {
            let phase = &it.phase;
            let ends = (phase.break_ends(), phase.check_from());
            (it.since, it.underlying(), it.trips, ends)
        };
        if !self.restored || standing(self) == standing(&former) {
            return false;
        }
        if matches!(
            former.phase,
            Phase::Closed { .. } | Phase::Disabled | Phase::MetricsOnly
        ) {
            self.forget();
        }
        self.generation += 1;
        self.entered_phase = true;
        self.continue_from(former);
        true
    }
}
