//! [`CircuitBreaker`] as resilience4j's, with its windows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{Cause, CircuitBreakerBuilder, HalfOpen, Isolation, State, Trip};
use backstop::{Backoff, CircuitBreaker, Event, Jitter};
use serde_json::{Value, json};

use super::breakers::{NANOSECOND, Subject, build, fixed, float, name, verdict};
use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| {
        file.is_from("resilience4j/resilience4j") && file.pattern() == "circuit_breaker"
    },
    run,
};

pub(crate) const WINDOWS: Adapter = Adapter {
    name: "CircuitBreaker::metrics_only",
    accepts: |file| {
        file.is_from("resilience4j/resilience4j") && file.pattern() == "sliding_window_metrics"
    },
    run: run_windows,
};

/// Returns a trip rule over the configured window, and the window's size.
fn window(trip: Trip, config: &Fields) -> Result<(Trip, Option<u32>), Failure> {
    match config.text("window")?.unwrap_or("count_based") {
        "count_based" => {
            let size = config.count_u32("window_size")?.unwrap_or(100);
            Ok((trip.of_last(size), Some(size)))
        }
        "time_based" => {
            let second = Duration::from_secs(1);
            let window = config.duration("window_size")?.unwrap_or(100 * second);
            let bucket = config.duration("bucket")?.unwrap_or(second);
            let slices = window.as_nanos() / bucket.as_nanos().max(1);
            let slices = u32::try_from(slices).unwrap_or(u32::MAX);
            Ok((trip.within(window).slices(slices), None))
        }
        kind => inexpressible(format!("window {kind:?}")),
    }
}

fn builder(config: &Fields) -> Result<(CircuitBreakerBuilder, f64, f64), Failure> {
    let percent = |key: &str, preset: f64| Ok(config.number(key)?.unwrap_or(preset) / 100.0);
    let failures = percent("failure_rate_threshold_pct", 50.0)?;
    let slow = percent("slow_call_rate_threshold_pct", 100.0)?;
    let least = config.count_u32("minimum_calls")?.unwrap_or(100);
    let slow_call = config.duration("slow_call_duration")?;
    let slow_call = slow_call.unwrap_or(Duration::from_secs(60));
    let probes = config
        .count_u32("permitted_calls_in_half_open")?
        .unwrap_or(10);
    let mut builder = CircuitBreaker::builder();
    for trip in [Trip::failure_rate(failures), Trip::slow_rate(slow)] {
        let (trip, size) = window(trip, config)?;
        let least = size.map_or(least, |size| least.min(size));
        builder = builder.trip_on(trip.min_calls(least));
    }
    // In the source a call is slow, and a break over, strictly after the duration.
    builder = builder
        .slow_call(slow_call + NANOSECOND)
        .half_open(HalfOpen::failure_rate(failures).of(probes))
        .permitted_calls(probes)
        .decide_early(false)
        .probe_lease(Duration::MAX);
    builder = match config.get("wait_open_interval_fn") {
        Some(Value::Object(interval)) => {
            let waits = waits(&Fields::new(interval.clone()))?;
            builder.break_with(move |trips, _| waits.delay(trips) + NANOSECOND)
        }
        _ => {
            let wait = config.duration("wait_duration_open")?;
            builder.break_for(fixed(wait.unwrap_or(Duration::from_secs(60)) + NANOSECOND))
        }
    };
    let after = match config.text("after_max_wait_half_open")? {
        None | Some("open") => State::Open,
        Some("closed") => State::Closed,
        Some(state) => return inexpressible(format!("after_max_wait_half_open {state:?}")),
    };
    match config.duration("max_wait_half_open")? {
        None | Some(Duration::ZERO) => {}
        Some(max) => builder = builder.max_half_open(max).max_half_open_ends_in(after),
    }
    match config.text("ignored_outcome")? {
        None | Some("ignored_error") => Ok((builder, failures, slow)),
        Some(outcome) => inexpressible(format!("ignored_outcome {outcome:?}")),
    }
}

fn waits(interval: &Fields) -> Result<Backoff, Failure> {
    let initial = interval
        .duration("initial")?
        .unwrap_or(Duration::from_millis(500));
    let backoff = match interval.text("kind")? {
        Some("exponential") => {
            Backoff::exponential(initial).factor(interval.number("multiplier")?.unwrap_or(1.5))
        }
        Some("fixed" | "constant") => Backoff::fixed(initial),
        kind => return inexpressible(format!("interval {kind:?}")),
    };
    let max = interval.duration("max")?.unwrap_or(Duration::MAX);
    interval.finish("interval key")?;
    Ok(backoff.max(max).jitter(Jitter::None))
}

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let counts = Arc::new(Mutex::new(EventCounts::default()));
    let (builder, failures, slow) = builder(&scenario.config)?;
    let log = counts.clone();
    let builder = builder.observer(move |event: &Event| log.lock().unwrap().count(event));
    let breaker = build(builder, &clock)?;
    if scenario.config.flag("metrics_only_no_state_machine")? == Some(true) {
        breaker.metrics_only();
    }
    let subject = Subject::new(&breaker);
    let mut isolation: Option<Isolation> = None;
    match scenario.config.text("initial_state")? {
        None | Some("closed") => {}
        Some("forced_open") => isolation = Some(breaker.isolate()),
        Some(state) => subject.force(state)?,
    }
    let mut automatic = false;
    for key in [
        "automatic_transition",
        "automatic_transition_open_to_half_open",
        "automatic_transition_from_open_to_half_open",
    ] {
        automatic |= scenario.config.flag(key)?.unwrap_or(false);
    }
    let state = |breaker: &CircuitBreaker| match state(breaker) {
        // In the source a timer starts the half-open phase, here the next call.
        "open" if automatic => name(breaker.peek()),
        state => state,
    };
    // Rejections before the circuit opened. The source keeps counting.
    let mut rejected = 0;
    scenario.play(&clock, |step: &Step| {
        let before = breaker.snapshot();
        let took = step.duration("duration")?.unwrap_or(Duration::ZERO);
        match step.op() {
            Some("try_acquire") => step.check("expect", subject.acquire())?,
            Some("release") => subject.release(),
            Some(op @ ("success" | "failure" | "ignored_error")) => {
                let recorded = subject.record_unasked(verdict(Some(op))?, Some(took));
                // A disabled circuit emits no events about its calls.
                if recorded && breaker.state() != State::Disabled {
                    counts.lock().unwrap().result(op);
                }
            }
            Some("begin") => {
                let call = step.need("call", step.text("call")?)?;
                step.check("expect", subject.begin(call))?;
            }
            Some("end") => {
                let call = step.need("call", step.text("call")?)?;
                subject.end(call, verdict(step.text("outcome")?)?);
            }
            Some("not_permitted") => {
                let _refuses = breaker.isolate();
                step.check("expect", subject.acquire())?;
            }
            Some("reset") => {
                isolation = None;
                breaker.reset();
            }
            Some("force") => {
                // In the source, forcing a closed circuit half-open is an error, the only such change.
                let (from, to) = (breaker.state(), step.text("state")?);
                let is_error = from == State::Closed && to == Some("half_open");
                if step.has("expect_error") {
                    step.check("expect_error", is_error)?;
                    if is_error {
                        return step.check("expect_state", state(&breaker));
                    }
                }
                isolation = None;
                let until = step.duration("until")?;
                let until = until.map(|until| until.saturating_sub(clock.elapsed()));
                match (step.text("state")?, step.duration("for")?.or(until)) {
                    (Some("forced_open"), None) => {
                        breaker.reset();
                        isolation = Some(breaker.isolate());
                    }
                    (Some("open"), Some(length)) => breaker.trip_for(length + NANOSECOND),
                    (Some(state), None) => subject.force(state)?,
                    state => return inexpressible(format!("force {state:?}")),
                }
                let since = format!("subscribed after the transition to {}", state(&breaker));
                if scenario.notes.contains(&since) {
                    *counts.lock().unwrap() = EventCounts::default();
                }
            }
            op => unknown(op)?,
        }
        let _ = &isolation;
        if breaker.snapshot().generation != before.generation {
            rejected = match breaker.state() {
                State::Open => rejected + before.rejected,
                _ => 0,
            };
        }
        step.check("expect_state", state(&breaker))?;
        step.check("expect_metrics", metrics(&breaker, rejected))?;
        step.check("expect_event_count", counts.lock().unwrap().seen())?;
        step.check("expect_check", checked(&breaker, failures, slow))
    })
}

/// Events that listeners of the source receive: events here, and recorded results.
#[derive(Default)]
struct EventCounts {
    failure_rate: u64,
    slow_rate: u64,
    transitions: u64,
    rejections: u64,
    successes: u64,
    errors: u64,
    ignored: u64,
}

impl EventCounts {
    fn count(&mut self, event: &Event) {
        let cause = match event {
            Event::CircuitWouldOpen { cause, .. } => *cause,
            Event::CircuitChanged { change, .. } => {
                self.transitions += 1;
                change.cause
            }
            Event::Rejected { .. } => {
                self.rejections += 1;
                return;
            }
            _ => return,
        };
        self.failure_rate += u64::from(cause == Cause::FailureRate);
        self.slow_rate += u64::from(cause == Cause::SlowRate);
    }

    fn result(&mut self, op: &str) {
        match op {
            "success" => self.successes += 1,
            "failure" => self.errors += 1,
            _ => self.ignored += 1,
        }
    }

    fn seen(&self) -> Value {
        json!({
            "failure_rate_exceeded": self.failure_rate,
            "slow_rate_exceeded": self.slow_rate,
            "slow_call_rate_exceeded": self.slow_rate,
            "state_transition": self.transitions,
            "not_permitted": self.rejections,
            "success": self.successes,
            "error": self.errors,
            "ignored_error": self.ignored,
        })
    }
}

/// Returns the state of the source: the end of a break takes effect with the next call, the end of the half-open phase
/// by a timer.
fn state(breaker: &CircuitBreaker) -> &'static str {
    match (breaker.state(), breaker.peek()) {
        (State::HalfOpen, ended @ (State::Open | State::Closed)) => name(ended),
        (State::Isolated, _) => "forced_open",
        (state, _) => name(state),
    }
}

fn metrics(breaker: &CircuitBreaker, rejected: u64) -> Value {
    let snapshot = breaker.snapshot();
    let percent = |rate: Option<f64>| rate.map_or(-1.0, |rate| float(100.0 * rate));
    json!({
        "failure_rate_pct": percent(snapshot.failure_rate()),
        "slow_rate_pct": percent(snapshot.slow_rate()),
        "successes": snapshot.successes(),
        "buffered": snapshot.calls,
        "failures": snapshot.failures,
        "slow_calls": snapshot.slow,
        "not_permitted": snapshot.rejected + rejected,
    })
}

fn checked(breaker: &CircuitBreaker, failures: f64, slow: f64) -> &'static str {
    let snapshot = breaker.snapshot();
    match (snapshot.failure_rate(), snapshot.slow_rate()) {
        (Some(rate), Some(slow_rate)) if rate >= failures || slow_rate >= slow => {
            "threshold_exceeded"
        }
        (Some(_), _) => "below_thresholds",
        (None, _) => "below_minimum_calls",
    }
}

fn run_windows(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let (trip, _) = window(Trip::failure_rate(1.0).min_calls(1), &scenario.config)?;
    // The source marks calls as slow; here their duration decides.
    let mut slow_call = Duration::MAX;
    let mut fast = Duration::ZERO;
    for step in scenario.steps() {
        let took = step.duration("duration")?.unwrap_or_default();
        match step.text("outcome")? {
            Some(outcome) if outcome.starts_with("slow_") => slow_call = slow_call.min(took),
            Some(_) => fast = fast.max(took),
            None => {}
        }
    }
    if slow_call <= fast {
        return inexpressible("slow calls no slower than others");
    }
    let builder = CircuitBreaker::builder().trip_on(trip).slow_call(slow_call);
    let breaker = build(builder.measure_durations(true), &clock)?;
    breaker.metrics_only();
    let subject = Subject::new(&breaker);
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("record") => {
                let took = step.duration("duration")?.unwrap_or_default();
                let outcome = step.text("outcome")?;
                let outcome = outcome.map(|outcome| outcome.trim_start_matches("slow_"));
                subject.record(verdict(outcome)?, Some(took));
            }
            op => unknown(op)?,
        }
        let snapshot = breaker.snapshot();
        let percent = |rate: Option<f64>| rate.map_or(0.0, |rate| float(100.0 * rate));
        let millis = |duration: Option<Duration>| {
            duration.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap())
        };
        if snapshot.total_duration.is_none() {
            return failed("durations were not measured");
        }
        step.check(
            "expect_snapshot",
            json!({
                "total": snapshot.calls,
                "successes": snapshot.successes(),
                "failures": snapshot.failures,
                "slow": snapshot.slow,
                "slow_successes": snapshot.slow - snapshot.slow_failures,
                "slow_failures": snapshot.slow_failures,
                "total_ms": millis(snapshot.total_duration),
                "avg_ms": millis(snapshot.mean_duration()),
                "failure_rate_pct": percent(snapshot.failure_rate()),
                "slow_rate_pct": percent(snapshot.slow_rate()),
            }),
        )
    })
}
