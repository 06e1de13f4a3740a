//! Settings of circuit breakers.

use std::time::Duration;

use super::backoff::BackoffSettings;
use super::scope::Scope;
use super::section::{allow_only_in_stacks, builds, section};
use super::setting::Setting;
use crate::backoff::Jitter;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder, HalfOpen, Trip};
use crate::error::ConfigError;
use crate::event::State;
use crate::forms::interned;
use crate::verdict::Health;

section! {
    /// A rule that opens a circuit, see [`Trip`]. Exactly one of `consecutive`, `failures`, `failure_rate`,
    /// `slow_rate`, and `success_average` must be given. All but `consecutive` need `within` or `of_last`.
    TripSettings, aliases [("window", "within")] => {
        /// The number of consecutive failures.
        consecutive: u32,
        /// The number of failures in the window.
        failures: u32,
        /// The share of calls in the window that failed, above 0 and at most 1.
        failure_rate: f64,
        /// The share of calls in the window that were slow, above 0 and at most 1.
        slow_rate: f64,
        /// The average of successes below which the circuit opens, above 0 and at most 1.
        success_average: f64,
        /// The length of a count window, in calls.
        of_last: u32,
        /// The length of a time window.
        within: Duration,
        /// The number of slices of a time window.
        slices: u32,
        /// Starts a time window at its first call.
        from_first_call: bool,
        /// The least number of calls in the window before a rate applies.
        min_calls: u32,
    }
}

impl TripSettings {
    fn trip(&self, at: &mut Scope) -> Option<Trip> {
        let kinds = [
            self.consecutive.map(Trip::consecutive),
            self.failures.map(Trip::failures),
            self.failure_rate.map(Trip::failure_rate),
            self.slow_rate.map(Trip::slow_rate),
            self.success_average.map(Trip::success_average),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some(mut trip), None) = (kinds.next(), kinds.next()) else {
            let rule = "must have exactly one of consecutive, failures, failure_rate, slow_rate, success_average";
            at.report(rule, Some(&self.write()));
            return None;
        };
        if let Some(calls) = self.of_last {
            trip = trip.of_last(calls);
        }
        if let Some(window) = self.within {
            trip = trip.within(window);
        }
        if let Some(slices) = self.slices {
            trip = trip.slices(slices);
        }
        if self.from_first_call == Some(true) {
            trip = trip.from_first_call();
        }
        if let Some(calls) = self.min_calls {
            trip = trip.min_calls(calls);
        }
        Some(trip)
    }
}

section! {
    /// When probes close a half-open circuit, see [`HalfOpen`]. Either `successes` or `failure_rate` must be given.
    HalfOpenSettings => {
        /// Probes that must succeed.
        successes: u32,
        /// The share of failed probes that opens the circuit again, above 0 and at most 1.
        failure_rate: f64,
        /// The number of probes.
        of: u32,
    }
}

impl HalfOpenSettings {
    fn rule(&self, at: &mut Scope) -> Option<HalfOpen> {
        let rule = match (self.successes, self.failure_rate) {
            (Some(successes), None) => HalfOpen::successes(successes),
            (None, Some(rate)) => HalfOpen::failure_rate(rate),
            _ => {
                at.report(
                    "must have either successes or failure_rate",
                    Some(&self.write()),
                );
                return None;
            }
        };
        Some(match self.of {
            Some(probes) => rule.of(probes),
            None => rule,
        })
    }
}

fn default_trips() -> Vec<TripSettings> {
    vec![TripSettings {
        failure_rate: Some(0.5),
        within: Some(Duration::from_secs(30)),
        slices: Some(10),
        min_calls: Some(20),
        ..TripSettings::default()
    }]
}

fn default_break() -> BackoffSettings {
    BackoffSettings {
        max: Some(Duration::from_secs(300)),
        jitter: Some(Jitter::Equal),
        ..BackoffSettings::exponential(Duration::from_secs(5))
    }
}

section! {
    /// Settings of a [`CircuitBreaker`], named after the setters of [`CircuitBreakerBuilder`].
    BreakerSettings, aliases [("break", "break_for"), ("trip", "trip_on"), ("slow", "slow_call")],
    for [] CircuitBreakerBuilder => {
        /// Whether the layer is on. Allowed only in a stack.
        enabled: bool = true => allow_only_in_stacks,
        /// A rule that opens the circuit, or a list of rules.
        trip_on: Vec<TripSettings> = default_trips() => |builder, trips, at| {
            if trips.is_empty() {
                at.report("must have at least one rule", Some(&trips.write()));
            }
            let one = trips.len() == 1;
            trips.iter().enumerate().fold(builder, |builder, (index, trip)| {
                let trip = match one {
                    true => trip.trip(at),
                    false => at.at_index(index, |at| trip.trip(at)),
                };
                match trip {
                    Some(trip) => builder.trip_on(trip),
                    None => builder,
                }
            })
        },
        /// The duration from which a call counts as slow.
        slow_call: Duration,
        /// Evaluates the rules only after failed and slow calls.
        trip_on_failures_only: bool = false,
        /// How long the circuit stays open.
        break_for: BackoffSettings = default_break() => |builder, backoff, at| {
            match backoff.build(default_break(), at) {
                Some(backoff) => builder.break_for(backoff),
                None => builder,
            }
        },
        /// The longest break that a server's hint leads to.
        max_hint: Duration = Duration::from_secs(300),
        /// When probes close the circuit.
        half_open: HalfOpenSettings = HalfOpenSettings {
            successes: Some(2),
            of: Some(3),
            ..HalfOpenSettings::default()
        } => |builder, rule, at| match rule.rule(at) {
            Some(rule) => builder.half_open(rule),
            None => builder,
        },
        /// The most probes in flight.
        permitted_calls: u32,
        /// Decides as soon as the remaining probes cannot change the decision.
        decide_early: bool = true,
        /// The time after which a probe without a result counts as lost.
        probe_lease: Duration,
        /// How a lost probe counts: `healthy`, `unhealthy`, or `neutral`.
        lost_probes_as: Health = Health::Unhealthy,
        /// The longest time that the circuit stays half-open.
        max_half_open: Duration,
        /// The state that follows `max_half_open`: `open` or `closed`.
        max_half_open_ends_in: State,
        /// The time over which a growing share of the calls is admitted after closing.
        ramp_up: Duration = Duration::ZERO,
        /// How a call counts that is dropped before it ends.
        cancelled_as: Health = Health::Neutral,
        /// How a call counts that panics.
        panicked_as: Health = Health::Unhealthy,
        /// Sums up the durations of the calls in each window.
        measure_durations: bool = false,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// Makes breaks and the ramp-up reproducible.
        seed: u64,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

builds! { BreakerSettings: CircuitBreaker, CircuitBreaker::builder(); }
