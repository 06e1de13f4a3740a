//! The states and what leads from one to the other.

use std::time::Duration;

use super::admission::{Admission, BreakLength, Due};
use super::trial::{AfterHalfOpen, HalfOpenRules, Trial};
use super::word;
use crate::backoff::Progress;
use crate::event::{Cause, State, Transition};
use crate::instant::Instant;
use crate::window::{Counts, Sample};

/// The breaker without its windows. Time is an argument, and so are the lengths of breaks, which
/// may come from the user's code.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    rules: HalfOpenRules,
    ramp_up: Duration,
    /// What the [`word`] says of the rules.
    flags: u64,
    phase: Phase,
    generation: u64,
    /// When the phase began.
    since: Instant,
    tally: bool,
    /// The tally was changed for the other one, which has to be cleared before it is used.
    is_tally_new: bool,
    is_phase_new: bool,
    isolations: u32,
    /// Health checks that ask in place of trial calls.
    checkers: u32,
    /// Openings without a close in between.
    trips: u32,
    /// How far the backoff of the breaks has come.
    progress: Progress,
    last_break: Duration,
    /// The results of the last trial, while it is what opened the circuit.
    last_trial: Option<Box<Counts>>,
    next_probe: u64,
    changes: Vec<Transition>,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed { ramp_ends: Option<Instant> },
    Open { until: Instant },
    HalfOpen(Box<Trial>),
    Disabled,
    MetricsOnly,
}

/// Not zero, which marks calls that are not recorded.
const FIRST_GENERATION: u64 = 1;

impl Machine {
    pub(crate) fn new(rules: HalfOpenRules, ramp_up: Duration, flags: u64) -> Self {
        Self {
            rules,
            ramp_up,
            flags,
            phase: Phase::Closed { ramp_ends: None },
            generation: FIRST_GENERATION,
            since: Instant::ORIGIN,
            tally: false,
            is_tally_new: false,
            is_phase_new: false,
            isolations: 0,
            checkers: 0,
            trips: 0,
            progress: Progress::new(),
            last_break: Duration::ZERO,
            last_trial: None,
            next_probe: 0,
            changes: Vec::new(),
        }
    }

    /// The state.
    pub(crate) fn state(&self) -> State {
        match self.isolations {
            0 => self.underlying(),
            _ => State::Isolated,
        }
    }

    /// The state but for isolation.
    pub(crate) fn underlying(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
            Phase::Disabled => State::Disabled,
            Phase::MetricsOnly => State::MetricsOnly,
        }
    }

    /// The word of the fast path.
    pub(crate) fn word(&self) -> u64 {
        let kind = match self.phase {
            _ if self.isolations > 0 => word::ISOLATED,
            Phase::Closed { ramp_ends: None } => word::CLOSED,
            Phase::Closed { ramp_ends: Some(_) } => word::RAMPING,
            Phase::Open { .. } => word::OPEN,
            Phase::HalfOpen(_) => word::HALF_OPEN,
            Phase::Disabled => word::DISABLED,
            Phase::MetricsOnly => word::METRICS_ONLY,
        };
        word::new(self.generation, self.tally, self.flags, kind)
    }

    /// When the break, or the ramp-up, ends.
    pub(crate) fn until(&self) -> Instant {
        match self.phase {
            Phase::Open { .. } if self.checkers > 0 => Instant::FAR_FUTURE,
            Phase::Open { until } => until,
            Phase::Closed {
                ramp_ends: Some(ends),
            } => ends,
            _ => Instant::ORIGIN,
        }
    }

    /// When the first phase begins.
    pub(crate) const fn begin(&mut self, now: Instant) {
        self.since = now;
    }

    /// A call wants to start.
    pub(crate) fn acquire(&mut self, now: Instant) -> Admission {
        if self.isolations > 0 {
            return Admission::Isolated;
        }
        if let Some(due) = self.due(now) {
            return Admission::Due(due);
        }
        if let Phase::Closed { ramp_ends } = &mut self.phase {
            // Results of calls admitted during the ramp-up still count.
            *ramp_ends = ramp_ends.filter(|ends| now < *ends);
        }
        if let Phase::Open { until } = self.phase {
            if let Some(until) = self.rest_of_break(until, now) {
                return Admission::Refused {
                    until: (until != Instant::FAR_FUTURE).then_some(until),
                };
            }
            self.half_open(Cause::BreakOver, now);
        }
        if let Phase::HalfOpen(trial) = &mut self.phase {
            let probe = self.next_probe + 1;
            if !trial.start(&self.rules, probe, now) {
                return Admission::Refused { until: None };
            }
            self.next_probe = probe;
            return Admission::Admitted { probe };
        }
        Admission::Admitted { probe: 0 }
    }

    /// When a break until then ends, if it has not ended.
    fn rest_of_break(&self, until: Instant, now: Instant) -> Option<Instant> {
        match self.checkers {
            0 => (now < until || until == Instant::FAR_FUTURE).then_some(until),
            _ => Some(Instant::FAR_FUTURE),
        }
    }

    /// Ends a probe, without a sample when its result says nothing. One of an older trial changes
    /// nothing.
    pub(crate) fn end_probe(
        &mut self,
        probe: u64,
        sample: Option<Sample>,
        now: Instant,
    ) -> Option<Due> {
        let Phase::HalfOpen(trial) = &mut self.phase else {
            return None;
        };
        if !trial.has_started(probe) {
            return None;
        }
        trial.end(&self.rules, probe, sample, now);
        self.due(now)
    }

    /// Closes the circuit if the trial says so; gives the opening that is due if it says that. Nobody
    /// asks while the dependency is isolated: no trial runs then.
    fn due(&mut self, now: Instant) -> Option<Due> {
        let Phase::HalfOpen(trial) = &mut self.phase else {
            return None;
        };
        trial.reclaim(&self.rules, now);
        let rate = trial.rate();
        match trial.decision(&self.rules) {
            Some(true) => {
                self.close(Cause::ProbesSucceeded, true, now);
                None
            }
            Some(false) => Some(self.opening(Cause::ProbesFailed, rate, now)),
            None => {
                let ends = self.since + self.rules.max?;
                if now < ends {
                    return None;
                }
                match self.rules.after {
                    AfterHalfOpen::Opens => Some(self.opening(Cause::HalfOpenTooLong, rate, ends)),
                    AfterHalfOpen::Closes => {
                        self.close(Cause::HalfOpenTooLong, true, ends);
                        None
                    }
                }
            }
        }
    }

    const fn opening(&self, cause: Cause, rate: f64, at: Instant) -> Due {
        Due {
            generation: self.generation,
            cause,
            at,
            rate,
            trips: self.trips.saturating_add(1),
            progress: self.progress,
        }
    }

    /// The opening of a closed circuit in which a rule holds, unless it has changed since
    /// `generation`.
    pub(crate) fn trip(
        &self,
        generation: u64,
        cause: Cause,
        rate: f64,
        now: Instant,
    ) -> Option<Due> {
        let is_closed = matches!(self.phase, Phase::Closed { .. });
        (is_closed && generation == self.generation).then(|| self.opening(cause, rate, now))
    }

    /// The opening of the circuit because somebody said so.
    pub(crate) const fn trip_manually(&self, now: Instant) -> Due {
        self.opening(Cause::Manual, 1.0, now)
    }

    /// Opens the circuit, unless it has changed since the opening was due: then `false`.
    pub(crate) fn open(&mut self, due: Due, length: BreakLength) -> bool {
        if due.generation != self.generation {
            return false;
        }
        self.last_trial = match &self.phase {
            Phase::HalfOpen(trial) => Some(Box::new(trial.results)),
            Phase::Open { .. } => self.last_trial.take(),
            _ => None,
        };
        self.trips = due.trips;
        self.progress = length.progress;
        self.last_break = length.length;
        let until = due.at + length.length;
        self.enter(Phase::Open { until }, due.cause, due.at);
        true
    }

    /// Keeps calls out until then, or as long as they are kept out anyway if that is longer. A
    /// circuit that admits all calls by hand goes on doing so.
    pub(crate) fn pause(&mut self, until: Instant, now: Instant) {
        match &mut self.phase {
            Phase::Disabled | Phase::MetricsOnly => {}
            Phase::Open { until: ends } => {
                if until > *ends {
                    *ends = until;
                    self.last_break = until.saturating_duration_since(self.since);
                }
            }
            Phase::Closed { .. } | Phase::HalfOpen(_) if until <= now => {}
            Phase::Closed { .. } | Phase::HalfOpen(_) => {
                self.last_trial = None;
                self.last_break = until.saturating_duration_since(now);
                self.enter(Phase::Open { until }, Cause::Paused, now);
            }
        }
    }

    /// Admits trial calls, whatever the state before.
    pub(crate) fn half_open(&mut self, cause: Cause, now: Instant) {
        let trial = Trial::new(&self.rules, self.last_break, self.next_probe);
        self.enter(Phase::HalfOpen(Box::new(trial)), cause, now);
    }

    /// Closes the circuit, whatever the state before, with empty windows.
    pub(crate) fn close(&mut self, cause: Cause, ramp: bool, now: Instant) {
        self.start_over();
        let ramp = ramp && !self.ramp_up.is_zero();
        let ramp_ends = ramp.then(|| now + self.ramp_up);
        self.enter(Phase::Closed { ramp_ends }, cause, now);
    }

    /// Lets all calls through, and counts them or not.
    pub(crate) fn let_through(&mut self, count: bool, now: Instant) {
        self.start_over();
        let phase = if count {
            Phase::MetricsOnly
        } else {
            Phase::Disabled
        };
        self.enter(phase, Cause::Manual, now);
    }

    fn start_over(&mut self) {
        self.trips = 0;
        self.progress = Progress::new();
        self.last_trial = None;
        self.tally = !self.tally;
        self.is_tally_new = true;
    }

    /// Closes the circuit if it is open since `generation`: a health check went well.
    pub(crate) fn checked(&mut self, generation: u64, now: Instant) {
        if generation == self.generation && matches!(self.phase, Phase::Open { .. }) {
            self.close(Cause::ProbesSucceeded, true, now);
        }
    }

    pub(crate) fn isolate(&mut self, now: Instant) {
        let from = self.state();
        self.isolations = self.isolations.saturating_add(1);
        if let Phase::HalfOpen(_) = self.phase {
            // Its trial calls are of an older generation now: it will begin anew.
            self.phase = Phase::Open { until: now };
        }
        self.isolation_changed(from, now);
    }

    pub(crate) fn end_isolation(&mut self, now: Instant) {
        let from = self.state();
        self.isolations = self.isolations.saturating_sub(1);
        self.isolation_changed(from, now);
    }

    fn isolation_changed(&mut self, from: State, now: Instant) {
        if from != self.state() {
            self.generation += 1;
            self.push(from, Cause::Manual, now);
        }
    }

    pub(crate) const fn add_checker(&mut self) {
        self.checkers = self.checkers.saturating_add(1);
    }

    pub(crate) const fn remove_checker(&mut self) {
        self.checkers = self.checkers.saturating_sub(1);
    }

    fn enter(&mut self, phase: Phase, cause: Cause, now: Instant) {
        let from = self.state();
        self.phase = phase;
        self.is_phase_new = true;
        self.generation += 1;
        self.since = now;
        self.push(from, cause, now);
    }

    fn push(&mut self, from: State, cause: Cause, now: Instant) {
        let to = self.state();
        if from != to {
            self.changes.push(Transition {
                from,
                to,
                cause,
                at: now,
                break_for: (to == State::Open).then_some(self.last_break),
                generation: self.generation - FIRST_GENERATION - 1,
            });
        }
    }

    /// The changes since this was asked last.
    pub(crate) fn take_changes(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.changes)
    }

    /// Whether the tally of the word has to be cleared before the word is shown.
    pub(crate) const fn take_new_tally(&mut self) -> bool {
        std::mem::replace(&mut self.is_tally_new, false)
    }

    /// Whether the state, isolation apart, has changed since this was asked last.
    pub(crate) const fn take_new_phase(&mut self) -> bool {
        std::mem::replace(&mut self.is_phase_new, false)
    }

    /// What a call would meet now: an open circuit whose break is over is half-open to it. Changes
    /// nothing.
    pub(crate) fn met(&self, now: Instant) -> State {
        let mut copy = self.clone();
        match copy.acquire(now) {
            Admission::Due(_) => State::Open,
            _ => copy.state(),
        }
    }

    /// Takes over what a snapshot says. Only for new machines.
    pub(crate) fn restore(&mut self, state: State, trips: u32, rest: Duration, now: Instant) {
        self.since = now;
        self.trips = trips;
        self.last_break = rest;
        self.phase = match state {
            State::Open => Phase::Open { until: now + rest },
            State::HalfOpen => Phase::Open { until: now },
            State::Disabled => Phase::Disabled,
            State::MetricsOnly => Phase::MetricsOnly,
            State::Closed | State::Isolated => return,
        };
    }

    pub(crate) const fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many changes there were.
    pub(crate) const fn number_of_changes(&self) -> u64 {
        self.generation - FIRST_GENERATION
    }

    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    pub(crate) const fn trips(&self) -> u32 {
        self.trips
    }

    /// The results of the trial that runs, or of the one that opened the circuit.
    pub(crate) fn trial_results(&self) -> Option<Counts> {
        match &self.phase {
            Phase::HalfOpen(trial) => Some(trial.results),
            Phase::Open { .. } => self.last_trial.as_deref().copied(),
            _ => None,
        }
    }

    /// Returns when the state will never matter again if no call comes: the break is over for `horizon`,
    /// counted from its beginning. `None` while a probe is in flight, or what was done by hand lasts.
    /// Changes nothing.
    pub(crate) fn forgettable_at(&self, horizon: Duration, now: Instant) -> Option<Instant> {
        if self.isolations > 0 || self.checkers > 0 {
            return None;
        }
        let past = self.since + horizon;
        match self.phase {
            Phase::Closed { ramp_ends } => Some(ramp_ends.unwrap_or(Instant::ORIGIN)),
            Phase::Open { until } => (until != Instant::FAR_FUTURE).then(|| until.max(past)),
            Phase::HalfOpen(_) => (self.probes(now).0 == 0).then_some(past),
            Phase::Disabled | Phase::MetricsOnly => None,
        }
    }

    /// How long a trial call may take, if somebody said so.
    pub(crate) const fn lease(&self) -> Option<Duration> {
        self.rules.lease
    }

    /// How many results a trial has at most.
    pub(crate) const fn trial_size(&self) -> u32 {
        self.rules.of
    }

    /// Trial calls in flight, and how many more may start.
    pub(crate) fn probes(&self, now: Instant) -> (u32, u32) {
        match &self.phase {
            Phase::HalfOpen(trial) => {
                let mut trial = trial.clone();
                trial.reclaim(&self.rules, now);
                (trial.in_flight(), trial.free(&self.rules))
            }
            _ => (0, 0),
        }
    }
}
