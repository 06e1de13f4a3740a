//! The state machine: the states of a circuit and the transitions between them.

mod restore;

use std::time::Duration;

use super::half_open::{HalfOpenRules, HalfOpenTimeout, Probes};
use super::opening::{BreakLength, PendingOpening};
use super::packed_state::{self, PackedState};
use super::phase::Phase;
use crate::backoff::Progress;
use crate::event::{Cause, State, Transition};
use crate::instant::Instant;
use crate::window::{Counts, Sample};

/// The state machine of a breaker, without its windows. Time is an argument, and so are the lengths of breaks,
/// which may come from user code.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    rules: HalfOpenRules,
    ramp_up: Duration,
    phase: Phase,
    generation: u64,
    /// When the phase began.
    since: Instant,
    /// Whether the second of the two window sets counts. They are switched whenever the circuit closes.
    second_windows: bool,
    /// Whether the window set was switched and must be cleared before it is used.
    switched_windows: bool,
    /// Whether a phase was entered since the last [`take_entered_phase`](Self::take_entered_phase).
    entered_phase: bool,
    /// Whether the phase is still the restored one.
    restored: bool,
    isolations: u32,
    /// Number of running [`check_with`](crate::CircuitBreaker::check_with) futures, which suspend probes.
    health_checks: u32,
    /// Number of consecutive openings without a close.
    trips: u32,
    /// Progress of the backoff that gives the lengths of breaks.
    progress: Progress,
    last_break: Duration,
    /// The results of the probes that opened the circuit again.
    failed_probes: Option<Box<Counts>>,
    /// Number of the last probe. Probes are numbered from 1.
    last_probe: u64,
    transitions: Vec<Transition>,
}

/// The answer to a call that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Admission {
    /// Admitted; with the number of its probe if the circuit is half-open.
    Admitted {
        probe: Option<u64>,
    },
    Isolated,
    /// Half-open, with all permitted probes in flight.
    NoFreeProbe,
    /// Open until this time.
    OpenUntil(Instant),
    /// The circuit must open first.
    Opens(PendingOpening),
}

/// Generation zero marks calls that are not recorded.
const FIRST_GENERATION: u64 = 1;

impl Machine {
    /// Returns a machine whose closed phase began at `now`.
    pub(crate) const fn new(rules: HalfOpenRules, ramp_up: Duration, now: Instant) -> Self {
        Self {
            rules,
            ramp_up,
            phase: Phase::Closed { ramp_up_ends: None },
            generation: FIRST_GENERATION,
            since: now,
            second_windows: false,
            switched_windows: false,
            entered_phase: false,
            restored: false,
            isolations: 0,
            health_checks: 0,
            trips: 0,
            progress: Progress::new(),
            last_break: Duration::ZERO,
            failed_probes: None,
            last_probe: 0,
            transitions: Vec::new(),
        }
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> State {
        match self.isolations {
            0 => self.underlying(),
            _ => State::Isolated,
        }
    }

    /// Returns the state apart from isolation.
    pub(crate) const fn underlying(&self) -> State {
        self.phase.state()
    }

    /// Returns the state for the fast path.
    pub(crate) fn packed_state(&self) -> PackedState {
        let phase = match self.phase {
            _ if self.isolations > 0 => packed_state::ISOLATED,
            Phase::Closed { ramp_up_ends: None } => packed_state::CLOSED,
            Phase::Closed { .. } => packed_state::RAMPING_UP,
            Phase::Open { .. } => packed_state::OPEN,
            Phase::HalfOpen(_) => packed_state::HALF_OPEN,
            Phase::Disabled => packed_state::DISABLED,
            Phase::MetricsOnly => packed_state::METRICS_ONLY,
        };
        PackedState::new(self.generation, self.second_windows, phase)
    }

    /// Returns when the break or the ramp-up ends.
    pub(crate) fn until(&self) -> Instant {
        match self.phase {
            Phase::Open { until, .. } => self.end_of_break(until),
            Phase::Closed { ramp_up_ends } => ramp_up_ends.unwrap_or(Instant::ORIGIN),
            _ => Instant::ORIGIN,
        }
    }

    /// Returns the phase.
    pub(crate) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Returns when an open circuit admits probes: health checks suspend them.
    const fn end_of_break(&self, until: Instant) -> Instant {
        if self.health_checks > 0 {
            Instant::FAR_FUTURE
        } else {
            until
        }
    }

    /// Admits a call or rejects it. Ends a break, a half-open phase, or a ramp-up that is over.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        if self.isolations > 0 {
            return Admission::Isolated;
        }
        if let Some(opening) = self.settle_half_open(now) {
            return Admission::Opens(opening);
        }
        if let Phase::Closed { ramp_up_ends } = &mut self.phase {
            // The generation stays: results of calls admitted during the ramp-up still count.
            *ramp_up_ends = ramp_up_ends.filter(|ends| now < *ends);
        }
        if let Phase::Open { until, .. } = self.phase {
            let until = self.end_of_break(until);
            if now < until || until == Instant::FAR_FUTURE {
                return Admission::OpenUntil(until);
            }
            self.half_open(Cause::BreakOver, now);
        }
        if let Phase::HalfOpen(probes) = &mut self.phase {
            let probe = self.last_probe + 1;
            if !probes.start(&self.rules, probe, now) {
                return Admission::NoFreeProbe;
            }
            self.last_probe = probe;
            return Admission::Admitted { probe: Some(probe) };
        }
        Admission::Admitted { probe: None }
    }

    /// Releases a probe and counts its result; no sample if it is neutral. Ignores probes of an earlier
    /// half-open phase.
    pub(crate) fn finish_probe(
        &mut self,
        probe: u64,
        sample: Option<Sample>,
        now: Instant,
    ) -> Option<PendingOpening> {
        let Phase::HalfOpen(probes) = &mut self.phase else {
            return None;
        };
        if !probes.has_started(probe) {
            return None;
        }
        probes.finish(&self.rules, probe, sample, now);
        self.settle_half_open(now)
    }

    /// Closes a half-open circuit, or returns its opening, as soon as the probes decide. Must not be called while
    /// isolated.
    fn settle_half_open(&mut self, now: Instant) -> Option<PendingOpening> {
        let Phase::HalfOpen(probes) = &mut self.phase else {
            return None;
        };
        probes.reclaim(&self.rules, now);
        let rate = probes.rate();
        match probes.decision(&self.rules) {
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
                match self.rules.timeout {
                    HalfOpenTimeout::Opens => {
                        Some(self.opening(Cause::HalfOpenTooLong, rate, ends))
                    }
                    HalfOpenTimeout::Closes => {
                        self.close(Cause::HalfOpenTooLong, true, ends);
                        None
                    }
                }
            }
        }
    }

    const fn opening(&self, cause: Cause, rate: f64, at: Instant) -> PendingOpening {
        PendingOpening {
            generation: self.generation,
            cause,
            at,
            rate,
            trips: self.trips.saturating_add(1),
            progress: self.progress,
        }
    }

    /// Returns the opening of a closed circuit, unless it has changed since `generation`.
    pub(crate) fn trip(
        &self,
        generation: u64,
        cause: Cause,
        rate: f64,
        now: Instant,
    ) -> Option<PendingOpening> {
        let is_closed = matches!(self.phase, Phase::Closed { .. });
        (is_closed && generation == self.generation).then(|| self.opening(cause, rate, now))
    }

    /// Returns the opening that [`trip`](crate::CircuitBreaker::trip) asks for.
    pub(crate) const fn trip_manually(&self, now: Instant) -> PendingOpening {
        self.opening(Cause::Manual, 1.0, now)
    }

    /// Opens the circuit. Returns `false` if it has changed since the opening was decided.
    pub(crate) fn open(&mut self, opening: PendingOpening, length: BreakLength) -> bool {
        if opening.generation != self.generation {
            return false;
        }
        self.failed_probes = match &self.phase {
            Phase::HalfOpen(probes) => Some(Box::new(probes.results)),
            Phase::Open { .. } => self.failed_probes.take(),
            _ => None,
        };
        self.trips = opening.trips;
        self.progress = length.progress;
        self.last_break = length.length;
        let until = opening.at + length.length;
        let check_from = opening.at + length.without_checks;
        self.enter(Phase::Open { until, check_from }, opening.cause, opening.at);
        true
    }

    /// Rejects calls until `until`, or until the end of the current break if that is later. Does nothing while
    /// the circuit is disabled or metrics-only.
    pub(crate) fn pause(&mut self, until: Instant, now: Instant) {
        match &mut self.phase {
            Phase::Disabled | Phase::MetricsOnly => {}
            Phase::Open {
                until: ends,
                check_from,
            } => {
                *check_from = until.max(*check_from);
                if until > *ends {
                    *ends = until;
                    self.last_break = until.saturating_duration_since(self.since);
                }
            }
            Phase::Closed { .. } | Phase::HalfOpen(_) if until <= now => {}
            Phase::Closed { .. } | Phase::HalfOpen(_) => {
                self.failed_probes = None;
                self.last_break = until.saturating_duration_since(now);
                let check_from = until;
                self.enter(Phase::Open { until, check_from }, Cause::Paused, now);
            }
        }
    }

    /// Enters half-open from any state.
    pub(crate) fn half_open(&mut self, cause: Cause, now: Instant) {
        let probes = Probes::new(&self.rules, self.last_break, self.last_probe);
        self.enter(Phase::HalfOpen(Box::new(probes)), cause, now);
    }

    /// Enters closed from any state, with empty windows.
    pub(crate) fn close(&mut self, cause: Cause, ramp: bool, now: Instant) {
        self.forget();
        let ramp = ramp && !self.ramp_up.is_zero();
        let ramp_up_ends = ramp.then(|| now + self.ramp_up);
        self.enter(Phase::Closed { ramp_up_ends }, cause, now);
    }

    /// Enters metrics-only if calls are to be counted, otherwise disabled.
    pub(crate) fn admit_all(&mut self, count: bool, now: Instant) {
        self.forget();
        let phase = if count {
            Phase::MetricsOnly
        } else {
            Phase::Disabled
        };
        self.enter(phase, Cause::Manual, now);
    }

    /// Resets the backoff and switches to empty windows.
    fn forget(&mut self) {
        self.trips = 0;
        self.progress = Progress::new();
        self.failed_probes = None;
        self.second_windows = !self.second_windows;
        self.switched_windows = true;
    }

    /// Closes the circuit after a successful health check, if it has been open since `generation`, and neither a
    /// pause nor a server's hint lasts.
    pub(crate) fn close_after_check(&mut self, generation: u64, now: Instant) {
        let may_close = self.phase.check_from().is_some_and(|from| now >= from);
        if generation == self.generation && may_close {
            self.close(Cause::ProbesSucceeded, true, now);
        }
    }

    pub(crate) fn isolate(&mut self, now: Instant) {
        let from = self.state();
        self.isolations = self.isolations.saturating_add(1);
        if let Phase::HalfOpen(_) = self.phase {
            // Its probes belong to an older generation now, so the next call makes it half-open again.
            self.phase = Phase::over(now);
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
            self.add_transition(from, Cause::Manual, now);
        }
    }

    pub(crate) const fn suspend_probes(&mut self) {
        self.health_checks = self.health_checks.saturating_add(1);
    }

    pub(crate) const fn resume_probes(&mut self) {
        self.health_checks = self.health_checks.saturating_sub(1);
    }

    fn enter(&mut self, phase: Phase, cause: Cause, now: Instant) {
        let from = self.state();
        self.phase = phase;
        self.entered_phase = true;
        self.restored = false;
        self.generation += 1;
        self.since = now;
        self.add_transition(from, cause, now);
    }

    /// Adds the transition from `from` to the current state, if they differ.
    fn add_transition(&mut self, from: State, cause: Cause, now: Instant) {
        let to = self.state();
        if from != to {
            self.transitions.push(Transition {
                from,
                to,
                cause,
                at: now,
                break_for: (to == State::Open).then_some(self.last_break),
                generation: self.generation - FIRST_GENERATION - 1,
            });
        }
    }

    /// Takes the transitions since the last call.
    pub(crate) fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// Takes the flag that the window set was switched and must be cleared before the state is published.
    pub(crate) const fn take_switched_windows(&mut self) -> bool {
        std::mem::replace(&mut self.switched_windows, false)
    }

    /// Takes the flag that a phase was entered. Isolation is not a phase.
    pub(crate) const fn take_entered_phase(&mut self) -> bool {
        std::mem::replace(&mut self.entered_phase, false)
    }

    /// Returns the state that a call at `now` would find. Changes nothing.
    pub(crate) fn state_at(&self, now: Instant) -> State {
        let mut copy = self.clone();
        match copy.admit(now) {
            Admission::Opens(_) => State::Open,
            _ => copy.state(),
        }
    }

    /// Replaces the rules. A break and a ramp-up end at the same time as before; probes in flight follow the new rules.
    pub(crate) const fn set_rules(&mut self, rules: HalfOpenRules, ramp_up: Duration) {
        self.rules = rules;
        self.ramp_up = ramp_up;
    }

    pub(crate) const fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of changes so far.
    pub(crate) const fn number_of_changes(&self) -> u64 {
        self.generation - FIRST_GENERATION
    }

    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    pub(crate) const fn trips(&self) -> u32 {
        self.trips
    }

    /// Returns the results of the current probes, or of those that opened the circuit.
    pub(crate) fn probe_results(&self) -> Option<Counts> {
        match &self.phase {
            Phase::HalfOpen(probes) => Some(probes.results),
            Phase::Open { .. } => self.failed_probes.as_deref().copied(),
            _ => None,
        }
    }

    /// Returns the time from which the state no longer matters if no call comes: the break is over, and began at least
    /// `horizon` ago. `None` while a probe is in flight or a manual change lasts.
    pub(crate) fn forgettable_at(&self, horizon: Duration, now: Instant) -> Option<Instant> {
        if self.isolations > 0 || self.health_checks > 0 {
            return None;
        }
        let past = self.since + horizon;
        match self.phase {
            Phase::Closed { ramp_up_ends } => Some(ramp_up_ends.unwrap_or(Instant::ORIGIN)),
            Phase::Open { until, .. } => (until != Instant::FAR_FUTURE).then(|| until.max(past)),
            Phase::HalfOpen(_) => (self.probes(now).0 == 0).then_some(past),
            Phase::Disabled | Phase::MetricsOnly => None,
        }
    }

    /// Returns the configured lease of probes.
    pub(crate) const fn probe_lease(&self) -> Option<Duration> {
        self.rules.lease
    }

    /// Returns the largest number of probe results that are counted.
    pub(crate) const fn max_probe_results(&self) -> u32 {
        self.rules.of
    }

    /// Returns how many probes are in flight, and how many more may start.
    pub(crate) fn probes(&self, now: Instant) -> (u32, u32) {
        match &self.phase {
            Phase::HalfOpen(probes) => {
                let mut probes = probes.clone();
                probes.reclaim(&self.rules, now);
                (probes.in_flight(), probes.free(&self.rules))
            }
            _ => (0, 0),
        }
    }
}
