//! The builder of circuit breakers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::CircuitBreaker;
use super::inner::Inner;
use super::settings::{Break, BreakFn, Settings, Terms};
use super::snapshot::Snapshot;
use super::state::{HalfOpen, HalfOpenRules, HalfOpenTimeout, Rules, Trip, TripKind};
use crate::backoff::Backoff;
use crate::base::{Setup, is_same_arc};
use crate::blocking;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::event::State;
use crate::verdict::Health;

/// Builds a [`CircuitBreaker`]. The [module page](super#defaults) has a table of all settings and their
/// defaults.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct CircuitBreakerBuilder {
    trips: Vec<Trip>,
    slow_call: Option<Duration>,
    failures_only: bool,
    break_for: Option<Backoff>,
    break_with: Option<BreakFn>,
    max_hint: Duration,
    half_open: HalfOpen,
    permitted_calls: Option<u32>,
    decide_early: bool,
    probe_lease: Option<Duration>,
    lost_probes_as: Health,
    max_half_open: Option<Duration>,
    max_half_open_ends_in: Option<State>,
    ramp_up: Duration,
    cancelled_as: Health,
    panicked_as: Health,
    measure_durations: bool,
    seed: Option<u64>,
    restore: Option<Snapshot>,
    setup: Setup,
}

impl CircuitBreaker {
    /// Returns a builder with the default settings.
    pub const fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::new()
    }
}

const NAME: &str = "circuit_breaker";

#[cfg(feature = "tokio")]
impl Default for CircuitBreaker {
    /// Returns a circuit breaker with the default settings, on tokio's clock.
    fn default() -> Self {
        let built = Self::builder().build();
        built.expect("the default settings are valid")
    }
}

impl CircuitBreakerBuilder {
    /// The largest number of rules.
    const MAX_TRIPS: usize = 32;

    const fn new() -> Self {
        Self {
            trips: Vec::new(),
            slow_call: None,
            failures_only: false,
            break_for: None,
            break_with: None,
            max_hint: Duration::from_secs(300),
            half_open: HalfOpen::successes(2).of(3),
            permitted_calls: None,
            decide_early: true,
            probe_lease: None,
            lost_probes_as: Health::Unhealthy,
            max_half_open: None,
            max_half_open_ends_in: None,
            ramp_up: Duration::ZERO,
            cancelled_as: Health::Neutral,
            panicked_as: Health::Unhealthy,
            measure_durations: false,
            seed: None,
            restore: None,
            setup: Setup::new(NAME),
        }
    }

    /// Adds a rule that opens the circuit. The first rule given replaces the default, which is a failure rate
    /// of 0.5 within 30 s and at least 20 calls. The circuit opens as soon as one rule matches. Rules with
    /// equal windows share one. At most 32.
    pub fn trip_on(mut self, trip: Trip) -> Self {
        self.trips.push(trip);
        self
    }

    /// Sets the duration from which a call is slow. Above zero. Default: no call is slow.
    ///
    /// Every call then reads the clock twice, unless another layer has read it.
    pub const fn slow_call(mut self, at_least: Duration) -> Self {
        self.slow_call = Some(at_least);
        self
    }

    /// Evaluates the rules only after failed and slow calls, like Polly. Default `false`: a success can open the
    /// circuit too, if it completes [`min_calls`](Trip::min_calls).
    pub const fn trip_on_failures_only(mut self, only: bool) -> Self {
        self.failures_only = only;
        self
    }

    /// Sets how long the circuit stays open: the first delay of the backoff, and the next one each time the probes
    /// fail. The backoff restarts when the circuit closes. Default 5 s, doubled up to 300 s, with equal jitter.
    ///
    /// A growing backoff without [`max`](Backoff::max) is capped at 300 s, or at its first delay if that is longer.
    /// Jitter is that of the backoff: full by default, so that a break may be close to zero.
    /// [`Jitter::Equal`](crate::Jitter::Equal) keeps half of it.
    /// [`Duration::MAX`] stays open until [`close`](CircuitBreaker::close) or [`reset`](CircuitBreaker::reset).
    /// [`Backoff::NONE`] admits probes at once.
    pub fn break_for(mut self, backoff: Backoff) -> Self {
        self.break_for = Some(backoff);
        self
    }

    /// Computes how long the circuit stays open, from the number of consecutive openings without a close, this
    /// one included, and the share of calls that failed or were slow (1 if the rule is not about a rate).
    ///
    /// Excludes [`break_for`](Self::break_for). No lock is held. A panic is propagated, and the circuit stays as it
    /// was.
    pub fn break_with(
        mut self,
        length: impl Fn(u32, f64) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.break_with = Some(Arc::new(move |openings, share| {
            blocking::outside(|| length(openings, share))
        }));
        self
    }

    /// Limits how far a server's hint ([`Verdict::hint`](crate::Verdict::hint)) in the result that opens the circuit
    /// may lengthen the break. Zero ignores hints. Default 300 s.
    pub const fn max_hint(mut self, max: Duration) -> Self {
        self.max_hint = max;
        self
    }

    /// Sets when probes close the circuit. Default 2 successes of 3 probes. Slow probes also count against the first
    /// [`Trip::slow_rate`], if there is one.
    pub const fn half_open(mut self, rule: HalfOpen) -> Self {
        self.half_open = rule;
        self
    }

    /// Sets the most probes in flight, at least 1. Never more than the half-open rule needs, which is the default.
    pub const fn permitted_calls(mut self, calls: u32) -> Self {
        self.permitted_calls = Some(calls);
        self
    }

    /// Sets whether the circuit closes or opens as soon as the remaining probes cannot change the decision, which
    /// is the default, or only after all of them.
    pub const fn decide_early(mut self, early: bool) -> Self {
        self.decide_early = early;
        self
    }

    /// Sets the longest duration of a probe. Then another probe may start, and the result of the first is ignored.
    /// Above zero. Default: the length of the last break, from 1 s to 300 s; 60 s if there was none.
    pub const fn probe_lease(mut self, lease: Duration) -> Self {
        self.probe_lease = Some(lease);
        self
    }

    /// Sets how a probe counts whose lease has ended. Default unhealthy.
    pub const fn lost_probes_as(mut self, health: Health) -> Self {
        self.lost_probes_as = health;
        self
    }

    /// Limits how long the circuit is half-open. Then it opens again, or closes with
    /// [`max_half_open_ends_in`](Self::max_half_open_ends_in), whatever the probes in flight do. Above zero. Default: no
    /// limit. A service with few calls may never finish enough probes in time.
    pub const fn max_half_open(mut self, max: Duration) -> Self {
        self.max_half_open = Some(max);
        self
    }

    /// Sets the state after [`max_half_open`](Self::max_half_open), which it needs: [`State::Open`], the default, or
    /// [`State::Closed`].
    pub const fn max_half_open_ends_in(mut self, state: State) -> Self {
        self.max_half_open_ends_in = Some(state);
        self
    }

    /// Admits a growing share of the calls after closing, from a tenth to all of them over this time. Default zero:
    /// all calls are admitted at once.
    pub const fn ramp_up(mut self, over: Duration) -> Self {
        self.ramp_up = over;
        self
    }

    /// Sets how a call counts that is dropped before its end. Default neutral: it is not counted.
    pub const fn cancelled_as(mut self, health: Health) -> Self {
        self.cancelled_as = health;
        self
    }

    /// Sets how a call counts that panics. Default unhealthy.
    pub const fn panicked_as(mut self, health: Health) -> Self {
        self.panicked_as = health;
        self
    }

    /// Sums up the durations of the calls in the window, for [`Snapshot::total_duration`]. Default `false`. Every
    /// call then reads the clock twice and writes to shared memory.
    pub const fn measure_durations(mut self, measure: bool) -> Self {
        self.measure_durations = measure;
        self
    }

    setters! {
        in setup;
        /// Admits every call, and only counts and reports rejections. Default `false`. Calls that would have
        /// been rejected are not recorded.
        shadow;
        /// Makes the jitter of breaks and the ramp-up reproducible.
        seed;
        /// Sets an observer of the transitions and rejections of all calls, in addition to the observers of
        /// pipelines.
        observer;
        /// Sets the name in errors, events, and snapshots. Default `circuit_breaker`.
        name;
        /// Sets the clock of windows and breaks. Default tokio's.
        clock;
    }

    /// Starts in the state of a snapshot, for example from before a restart. A break continues. Windows start with the
    /// snapshot's counts, failures last, except those that are shorter than the first one. A window of fewer calls starts
    /// with their rates.
    pub fn restore(mut self, snapshot: Snapshot) -> Self {
        self.restore = Some(snapshot);
        self
    }

    /// Puts the breaker into a stack of this name and on its clock.
    pub(crate) fn adopted(mut self, name: &'static str, clock: &ClockHandle) -> Self {
        self.setup.adopt(NAME, name, clock);
        self
    }

    /// Returns the duration from which a call is slow, if one is set.
    pub(crate) const fn slow_from(&self) -> Option<Duration> {
        self.slow_call
    }

    /// Returns how long a probe may take, if that is set.
    pub(crate) const fn lease(&self) -> Option<Duration> {
        self.probe_lease
    }

    /// Returns whether breakers with these settings are the same, apart from clocks and restored states.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let plain = |breaker: &Self| {
            (
                (breaker.slow_call, breaker.failures_only, breaker.max_hint),
                (breaker.half_open, breaker.permitted_calls),
                (breaker.decide_early, breaker.probe_lease),
                (breaker.lost_probes_as, breaker.max_half_open),
                (breaker.max_half_open_ends_in, breaker.ramp_up),
                (breaker.cancelled_as, breaker.panicked_as),
                (breaker.measure_durations, breaker.seed),
            )
        };
        plain(self) == plain(other)
            && self.trips == other.trips
            && self.break_for == other.break_for
            && is_same_arc(self.break_with.as_ref(), other.break_with.as_ref())
            && self.setup.is_same(&other.setup)
    }

    /// Returns whether a breaker with the settings of `other` can take over these by
    /// [`CircuitBreaker::set_terms`]. Both are valid.
    pub(crate) fn is_same_but_for_terms(&self, other: &Self) -> bool {
        self.seed == other.seed
            && self.setup.is_same(&other.setup)
            && self.rules().fit_windows_of(&other.rules())
    }

    /// Returns the rules that open the circuit: those given, or the default one.
    fn trips(&self) -> Vec<Trip> {
        match &self.trips[..] {
            [] => vec![Trip::failure_rate(0.5).within(Duration::from_secs(30))],
            trips => trips.to_vec(),
        }
    }

    fn rules(&self) -> Rules {
        Rules::new(
            self.trips(),
            self.slow_call,
            self.measure_durations,
            self.failures_only,
        )
    }

    /// Builds the breaker.
    ///
    /// # Errors
    ///
    /// If a setting is outside the range that its setter documents, if two settings contradict each other, or if no
    /// clock is given and the feature `tokio` is off.
    pub fn build(self) -> Result<CircuitBreaker, ConfigError> {
        let terms = self.terms()?;
        let base = self.setup.build(NAME)?;
        let restore = self.restore.as_ref();
        Ok(CircuitBreaker {
            inner: Arc::new(Inner::new(base, terms, self.seed, restore)),
        })
    }

    /// Checks the settings.
    fn terms(&self) -> Result<Terms, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        let fail = |setting, problem| Err(error(setting, problem));
        let trips = self.trips();
        if trips.len() > Self::MAX_TRIPS {
            return fail("trip_on", "takes at most 32 rules");
        }
        for trip in &trips {
            trip.check(self.slow_call.is_some())
                .map_err(|problem| error("trip_on", problem))?;
        }
        let break_for = match (self.break_for.clone(), self.break_with.clone()) {
            (Some(_), Some(_)) => return fail("break_with", "excludes break_for"),
            (None, Some(length)) => Some(Break::Custom(length)),
            (Some(backoff), None) => {
                let backoff = backoff.or_max(Break::MAX);
                backoff.check(NAME, "break_for")?;
                Some(Break::Backoff(backoff))
            }
            (None, None) => None,
        };
        if self.max_half_open_ends_in.is_some() && self.max_half_open.is_none() {
            return fail("max_half_open_ends_in", "needs max_half_open");
        }
        let timeout = match self.max_half_open_ends_in {
            None | Some(State::Open) => HalfOpenTimeout::Opens,
            Some(State::Closed) => HalfOpenTimeout::Closes,
            Some(_) => return fail("max_half_open_ends_in", "must be open or closed"),
        };
        for (setting, duration) in [
            ("slow_call", self.slow_call),
            ("probe_lease", self.probe_lease),
            ("max_half_open", self.max_half_open),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return fail(setting, "must be above zero");
            }
        }
        let probes = self.half_open.rules();
        let half_open = HalfOpenRules {
            early: self.decide_early,
            permitted: self.permitted_calls,
            lease: self.probe_lease,
            lost_as: self.lost_probes_as,
            max: self.max_half_open,
            timeout,
            slow_rate: trips.iter().find_map(|trip| match trip.kind {
                TripKind::SlowRate(rate) => Some(rate),
                _ => None,
            }),
            ..probes.map_err(|problem| error("half_open", problem))?
        };
        if self.permitted_calls == Some(0) {
            return fail("permitted_calls", "must be at least 1");
        }
        let settings = Settings {
            half_open,
            max_hint: self.max_hint,
            ramp_up: self.ramp_up,
            cancelled_as: self.cancelled_as,
            panicked_as: self.panicked_as,
        };
        Ok(Terms::new(settings, break_for, self.rules()))
    }
}

impl CircuitBreaker {
    /// Adopts the settings of another builder, whose windows must fit, as checked by
    /// [`is_same_but_for_terms`](CircuitBreakerBuilder::is_same_but_for_terms).
    pub(crate) fn set_terms(&self, settings: &CircuitBreakerBuilder) -> Result<(), ConfigError> {
        self.inner.set_terms(settings.terms()?);
        Ok(())
    }
}

impl fmt::Debug for CircuitBreakerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("setup", &self.setup)
            .field("trips", &self.trips)
            .field("slow_call", &DebugLimit(&self.slow_call))
            .field("break_for", &self.break_for)
            .field("half_open", &self.half_open)
            .finish_non_exhaustive()
    }
}
