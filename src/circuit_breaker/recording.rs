//! Recording results. Results that change nothing are recognized by
//! [`success_changes_nothing`](Inner::success_changes_nothing); all others go through
//! [`record`](Inner::record).

use super::inner::Inner;
use super::state::{Rules, packed_state};
use super::ticket::{Finish, Ticket};
use crate::event::{Event, Panics};
use crate::instant::{Instant, nanos};
use crate::sync::Ordering;
use crate::verdict::Health;
use crate::window::Sample;

impl Inner {
    /// Returns whether a success of this call changes nothing, which is the common case. May return `false` although
    /// the success changes nothing.
    #[inline]
    pub(super) fn success_changes_nothing(&self, ticket: Ticket) -> bool {
        // The state may have changed since the call began, but then its result changes nothing either.
        ticket.0.counts_in_first_windows() && self.windows.skips_successes()
    }

    /// Records the result of a call that began at `started`.
    ///
    /// Cold, to keep it out of the fast path of callers.
    #[cold]
    #[inline(never)]
    pub(super) fn record(
        &self,
        ticket: Ticket,
        started: Instant,
        health: Health,
        finish: &Finish<'_>,
    ) {
        if health == Health::Healthy && !ticket.is_probe() && !self.needs_clock() {
            // Compiled separately for a constant sample, which halves its cost. Every success takes this
            // path while a window of calls contains a failure.
            self.count(ticket, Sample::SUCCESS, Instant::ORIGIN, finish);
        } else {
            self.record_sample(ticket, started, health, finish);
        }
    }

    #[inline(never)]
    fn record_sample(&self, ticket: Ticket, started: Instant, health: Health, finish: &Finish<'_>) {
        if health == Health::Neutral {
            if ticket.is_probe() {
                self.finish_probe(ticket, None, finish);
            }
            return;
        }
        let failed = health == Health::Unhealthy;
        let mut sample = Sample::new(failed, false, 0);
        let mut now = Instant::ORIGIN;
        if self.needs_clock() {
            now = self.time_of(finish);
            let duration = match finish.duration {
                Some(duration) => nanos(duration),
                None => now.as_nanos().saturating_sub(started.as_nanos()),
            };
            sample = self.terms().rules.sample(failed, duration);
        } else if failed {
            now = self.time_of(finish);
        }
        if ticket.is_probe() {
            self.finish_probe(ticket, Some(sample), finish);
        } else {
            self.count(ticket, sample, now, finish);
        }
    }

    /// Counts the result of a call that was not a probe.
    #[inline(always)]
    fn count(&self, ticket: Ticket, sample: Sample, now: Instant, finish: &Finish<'_>) {
        // Acquire: as in `admit_if_closed`.
        let state = self.packed_state(Ordering::Acquire);
        // Results of calls from before the last change are ignored.
        if state.has_generation_of(ticket.0) && state.phase() != packed_state::DISABLED {
            // The bits of matched rules belong to one version of the rules.
            let rules = &self.terms().rules;
            let matched = self.windows_of(state).record(rules, sample, now);
            if matched != 0 {
                self.rules_matched(rules, ticket, matched, finish);
            }
        }
    }

    /// Opens the circuit, or reports in the metrics-only state that it would open.
    #[cold]
    fn rules_matched(&self, rules: &Rules, ticket: Ticket, matched: u64, finish: &Finish<'_>) {
        let now = self.time_of(finish);
        let windows = self.windows_of(ticket.0);
        if ticket.0.phase() == packed_state::METRICS_ONLY {
            let mut unreported = windows.mark_reported(matched);
            let mut panics = Panics::default();
            while unreported != 0 {
                let event = Event::CircuitWouldOpen {
                    policy: self.base.name,
                    pipeline: None,
                    cause: rules.cause(unreported),
                    sequence: 0,
                };
                self.base.report_in(&mut panics, event, finish.observer);
                unreported &= unreported - 1;
            }
            return panics.resume();
        }
        let cause = rules.cause(matched);
        let rate = windows.rate(rules, matched, now);
        let opening = self.with_machine(finish.observer, now, |machine| {
            machine.trip(ticket.0.generation(), cause, rate, now)
        });
        if let Some(opening) = opening {
            self.open(opening, finish.hint, finish.observer, now);
        }
    }

    /// Releases a probe and counts its result; no sample if it is neutral.
    #[cold]
    pub(super) fn finish_probe(&self, ticket: Ticket, sample: Option<Sample>, finish: &Finish<'_>) {
        let now = self.time_of(finish);
        let probe = ticket.0.generation();
        let opening = self.with_machine(finish.observer, now, |machine| {
            machine.finish_probe(probe, sample, now)
        });
        if let Some(opening) = opening {
            self.open(opening, finish.hint, finish.observer, now);
        }
    }

    /// Returns the current time, which may have been read already.
    #[inline]
    fn time_of(&self, finish: &Finish<'_>) -> Instant {
        match finish.now {
            Some(now) => now,
            None => self.now(),
        }
    }
}
