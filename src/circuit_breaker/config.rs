//! The builder of circuit breakers, and what it is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::CircuitBreaker;
use super::inner::Inner;
use super::settings::{Break, Settings};
use super::snapshot::Snapshot;
use super::state::{AfterHalfOpen, HalfOpen, HalfOpenRules, Rules, Trip, TripKind};
use crate::backoff::Backoff;
use crate::base::{Setup, is_same_arc};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::State;
use crate::verdict::Health;

/// Builds a [`CircuitBreaker`].
///
/// | setting | default |
/// |---|---|
/// | [`trip_on`](Self::trip_on) | failure rate 0.5 within 30 s in 10 slices, at least 20 calls |
/// | [`slow_call`](Self::slow_call) | off |
/// | [`trip_on_failures_only`](Self::trip_on_failures_only) | `false` |
/// | [`break_for`](Self::break_for) | 5 s, ×2 for each failed half-open, cap 300 s, equal jitter |
/// | [`max_hint`](Self::max_hint) | 300 s |
/// | [`half_open`](Self::half_open) | 2 successes of 3 |
/// | [`permitted_calls`](Self::permitted_calls) | 3, or as many as the half-open rule needs if fewer |
/// | [`decide_early`](Self::decide_early) | `true` |
/// | [`probe_lease`](Self::probe_lease) | the break before it, from 1 s to 300 s; 60 s if there was none |
/// | [`lost_probes_as`](Self::lost_probes_as) | unhealthy |
/// | [`max_half_open`](Self::max_half_open) | none |
/// | [`max_half_open_ends_in`](Self::max_half_open_ends_in) | open |
/// | [`ramp_up`](Self::ramp_up) | none |
/// | [`cancelled_as`](Self::cancelled_as) | neutral |
/// | [`panicked_as`](Self::panicked_as) | unhealthy |
/// | [`measure_durations`](Self::measure_durations) | `false` |
/// | [`shadow`](Self::shadow) | `false` |
/// | [`name`](Self::name) | `circuit_breaker` |
/// | [`clock`](Self::clock) | tokio's |
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

type BreakFn = Arc<dyn Fn(u32, f64) -> Duration + Send + Sync>;

impl CircuitBreaker {
    /// Returns a builder with the default settings.
    pub const fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::new()
    }
}

const NAME: &str = "circuit_breaker";

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

    /// Adds a rule that opens the circuit. The first one given replaces the default; of several the
    /// first that holds opens. Rules over the same window share it. At most 32.
    pub fn trip_on(mut self, trip: Trip) -> Self {
        self.trips.push(trip);
        self
    }

    /// Calls that take at least this long are slow. Above zero. Makes every call read the clock
    /// twice, unless another layer has.
    pub const fn slow_call(mut self, at_least: Duration) -> Self {
        self.slow_call = Some(at_least);
        self
    }

    /// Looks at the rules only when a call failed or was slow, as Polly does. By default a good call
    /// too can open the circuit, when it completes the minimum number of calls.
    pub const fn trip_on_failures_only(mut self, only: bool) -> Self {
        self.failures_only = only;
        self
    }

    /// How long the circuit stays open: the first delay of the backoff, and the next one each time
    /// that the trial calls fail. Starts over when the circuit closes. A growing backoff without
    /// [`max`](Backoff::max) grows up to 300 s, or to its first delay if that is longer.
    ///
    /// [`Duration::MAX`] stays open until [`close`](CircuitBreaker::close) or
    /// [`reset`](CircuitBreaker::reset). [`Backoff::NONE`] asks for trial calls at once.
    pub fn break_for(mut self, backoff: Backoff) -> Self {
        self.break_for = Some(backoff);
        self
    }

    /// How long the circuit stays open, computed from how many times it has opened without closing
    /// in between, from 1, and from the share of calls that failed or were slow where that opened it
    /// (otherwise 1).
    ///
    /// Excludes [`break_for`](Self::break_for).
    ///
    /// Called outside locks. When it panics the panic passes through and the circuit is as before.
    pub fn break_with(
        mut self,
        length: impl Fn(u32, f64) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.break_with = Some(Arc::new(length));
        self
    }

    /// How far a hint of the server ([`Verdict::hint`](crate::Verdict::hint)), in the result that
    /// opens the circuit, may lengthen the break. Zero ignores hints.
    pub const fn max_hint(mut self, max: Duration) -> Self {
        self.max_hint = max;
        self
    }

    /// What trial calls must do to close the circuit. Slow ones count against the first
    /// [`Trip::slow_rate`] as well, if there is one.
    pub const fn half_open(mut self, rule: HalfOpen) -> Self {
        self.half_open = rule;
        self
    }

    /// How many trial calls may be in flight at once. At least 1; more than the rule needs are never
    /// admitted.
    pub const fn permitted_calls(mut self, calls: u32) -> Self {
        self.permitted_calls = Some(calls);
        self
    }

    /// Decides as soon as the remaining trial calls cannot change the outcome. Otherwise when all of
    /// them have ended.
    pub const fn decide_early(mut self, early: bool) -> Self {
        self.decide_early = early;
        self
    }

    /// A trial call that takes longer than this loses its place to another one, and its result
    /// changes nothing. Above zero.
    pub const fn probe_lease(mut self, lease: Duration) -> Self {
        self.probe_lease = Some(lease);
        self
    }

    /// What a trial call counts as that lost its place. Default unhealthy.
    pub const fn lost_probes_as(mut self, health: Health) -> Self {
        self.lost_probes_as = health;
        self
    }

    /// A circuit that is half-open for this long opens again, or closes if
    /// [`max_half_open_ends_in`](Self::max_half_open_ends_in) says so, whatever its probes do. Above
    /// zero. Services with few calls may never make enough of them in time.
    pub const fn max_half_open(mut self, max: Duration) -> Self {
        self.max_half_open = Some(max);
        self
    }

    /// The state after [`max_half_open`](Self::max_half_open), which it needs: [`State::Open`], the
    /// default, or [`State::Closed`].
    pub const fn max_half_open_ends_in(mut self, state: State) -> Self {
        self.max_half_open_ends_in = Some(state);
        self
    }

    /// After closing, the share of calls let through grows from a tenth to all of them over this
    /// time. Zero lets all through at once.
    pub const fn ramp_up(mut self, over: Duration) -> Self {
        self.ramp_up = over;
        self
    }

    /// What a call counts as whose future, or permit, was dropped before its end. Default neutral.
    pub const fn cancelled_as(mut self, health: Health) -> Self {
        self.cancelled_as = health;
        self
    }

    /// What a call counts as that panicked. Default unhealthy.
    pub const fn panicked_as(mut self, health: Health) -> Self {
        self.panicked_as = health;
        self
    }

    /// Keeps the sum of the durations of the calls in the window, for
    /// [`Snapshot::total_duration`]. Makes every call read the clock twice and write to shared
    /// memory.
    pub const fn measure_durations(mut self, measure: bool) -> Self {
        self.measure_durations = measure;
        self
    }

    setters! {
        in setup;
        /// Decides, counts and reports, but never refuses. Calls that would have been refused are let
        /// through and not recorded.
        shadow;
        /// Makes the jitter of the breaks and the ramp-up reproducible.
        seed;
        /// Hears transitions and refusals, also those of calls nobody else listens to.
        observer;
        /// The name in errors and events.
        name;
        /// The clock of windows and breaks.
        clock;
    }

    /// Starts in the state of a snapshot, taken before a restart for example. The break goes on
    /// where it was; windows begin with the snapshot's counts, the failures last.
    pub fn restore(mut self, snapshot: Snapshot) -> Self {
        self.restore = Some(snapshot);
        self
    }

    /// Puts the breaker into a stack of this name and on its clock.
    pub(crate) fn adopted(mut self, name: &'static str, clock: &ClockHandle) -> Self {
        self.setup.adopt(NAME, name, clock);
        self
    }

    /// From when on calls are slow, if any are.
    pub(crate) const fn slow_from(&self) -> Option<Duration> {
        self.slow_call
    }

    /// How long a probe may take, if that is set.
    pub(crate) const fn lease(&self) -> Option<Duration> {
        self.probe_lease
    }

    /// Whether breakers with these settings are the same, clocks and restored states apart.
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

    /// The breaker.
    ///
    /// # Errors
    ///
    /// When a setting is outside the range its setter documents, when two contradict each other, or
    /// when there is no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<CircuitBreaker, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        let fail = |setting, problem| Err(error(setting, problem));
        let mut trips = self.trips;
        if trips.is_empty() {
            trips.push(Trip::failure_rate(0.5).within(Duration::from_secs(30)));
        }
        if trips.len() > Self::MAX_TRIPS {
            return fail("trip_on", "takes at most 32 rules");
        }
        for trip in &trips {
            trip.check(self.slow_call.is_some())
                .map_err(|problem| error("trip_on", problem))?;
        }
        let break_for = match (self.break_for, self.break_with) {
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
        let after = match self.max_half_open_ends_in {
            None | Some(State::Open) => AfterHalfOpen::Opens,
            Some(State::Closed) => AfterHalfOpen::Closes,
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
        let half_open = HalfOpenRules {
            early: self.decide_early,
            permitted: self.permitted_calls,
            lease: self.probe_lease,
            lost_as: self.lost_probes_as,
            max: self.max_half_open,
            after,
            slow_rate: trips.iter().find_map(|trip| match trip.kind {
                TripKind::SlowRate(rate) => Some(rate),
                _ => None,
            }),
            ..self
                .half_open
                .rules()
                .map_err(|problem| error("half_open", problem))?
        };
        if self.permitted_calls == Some(0) {
            return fail("permitted_calls", "must be at least 1");
        }
        let base = self.setup.build(NAME)?;
        let rules = Rules::new(
            trips,
            self.slow_call,
            self.measure_durations,
            self.failures_only,
        );
        let settings = Settings {
            half_open,
            max_hint: self.max_hint,
            ramp_up: self.ramp_up,
            cancelled_as: self.cancelled_as,
            panicked_as: self.panicked_as,
        };
        let restore = self.restore.as_ref();
        Ok(CircuitBreaker {
            inner: Arc::new(Inner::new(
                base, settings, break_for, rules, self.seed, restore,
            )),
        })
    }
}

impl fmt::Debug for CircuitBreakerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("setup", &self.setup)
            .field("trips", &self.trips)
            .field("slow_call", &self.slow_call)
            .field("break_for", &self.break_for)
            .field("half_open", &self.half_open)
            .finish_non_exhaustive()
    }
}
