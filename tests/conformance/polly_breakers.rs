//! [`CircuitBreaker`] as Polly's, versions 7 (advanced and consecutive) and 8.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, Isolation, State, Trip};
use backstop::policy::Health;
use backstop::{CircuitBreaker, Reason, Rejected, Verdict};
use serde_json::{Value, json};

use super::breakers::{Subject, build, fixed, name, verdict};
use super::buckets::Buckets;
use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Adapter, Check, Failure, Scenario, Step, inexpressible, unknown, unless_parted,
};

pub(crate) const V7: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| file.is_from("App-vNext/Polly") && file.pattern() == "circuit_breaker",
    run: run_v7,
};

/// Another adapter runs the delays of the same file.
pub(crate) const V8: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| file.is_from("App-vNext/Polly") && file.pattern().contains("retry_delay"),
    run: run_v8,
};

/// Below this duration the source has a single window, from it on a rolling one of ten buckets.
const ROLLING: Duration = Duration::from_millis(200);

fn windows(sampling: Duration) -> u32 {
    if sampling < ROLLING { 1 } else { 10 }
}

fn rate(config: &Fields, ratio: f64, throughput: u32) -> Result<Trip, Failure> {
    let sampling = config
        .duration("sampling")?
        .unwrap_or(Duration::from_secs(30));
    let slices = config.count_u32("windows")?.unwrap_or(windows(sampling));
    let trip = Trip::failure_rate(ratio).within(sampling).slices(slices);
    Ok(trip.from_first_call().min_calls(throughput))
}

fn run_v7(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let trip = match config.count_u32("consecutive_failures")? {
        Some(failures) => Trip::consecutive(failures),
        None => {
            let ratio = config.number("failure_ratio")?.unwrap_or(0.5);
            let throughput = config.count_u32("minimum_throughput")?.unwrap_or(100);
            rate(config, ratio, throughput)?
        }
    };
    let length = config.duration("break")?.unwrap_or(Duration::from_secs(5));
    // After each break a hanging probe makes room for another one.
    let builder = CircuitBreaker::builder()
        .trip_on(trip)
        .trip_on_failures_only(true)
        .break_for(fixed(length))
        .half_open(HalfOpen::successes(1))
        .probe_lease(length.max(Duration::from_nanos(1)))
        .lost_probes_as(Health::Neutral);
    let breaker = build(builder, &clock)?;
    let buckets = match config.has("consecutive_failures") {
        true => None,
        false => buckets(config)?,
    };
    play(scenario, &clock, &breaker, &Mutex::default(), buckets, true)
}

fn run_v8(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let ratio = config.number("failure_ratio")?.unwrap_or(0.1);
    let throughput = config.count_u32("minimum_throughput")?.unwrap_or(100);
    let length = config.duration("break")?.unwrap_or(Duration::from_secs(5));
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let log = attempts.clone();
    // In the source a cancelled probe closes the circuit, and a hanging one blocks it.
    let builder = CircuitBreaker::builder()
        .trip_on(rate(config, ratio, throughput)?)
        .trip_on_failures_only(true)
        .break_with(move |trips, _| {
            log.lock().unwrap().push(trips - 1);
            length
        })
        .half_open(HalfOpen::successes(1))
        .cancelled_as(Health::Healthy)
        .probe_lease(Duration::MAX);
    let breaker = build(builder, &clock)?;
    let buckets = buckets(config)?;
    play(scenario, &clock, &breaker, &attempts, buckets, false)
}

fn play(
    scenario: &Scenario<'_>,
    clock: &TestClock,
    breaker: &CircuitBreaker,
    attempts: &Mutex<Vec<u32>>,
    mut buckets: Option<Buckets>,
    keeps_trial: bool,
) -> Check {
    let subject = Subject::new(breaker);
    // Whether the window has held other calls than the source's.
    let buckets_differ = Cell::new(false);
    // Probes with a neutral result. The next probe still waits for its time.
    let mut kept = Vec::new();
    let mut isolation: Option<Isolation> = None;
    let mut carry_out = |step: &Step| {
        let before = breaker.peek();
        match step.op() {
            Some("call") => {
                let mut verdict = verdict(step.text("outcome")?)?;
                if !keeps_trial && verdict.health() == Health::Neutral {
                    // Version 8 treats a result that it does not handle as a success.
                    verdict = Verdict::success();
                }
                let answer = match breaker.try_acquire() {
                    Ok(permit) => {
                        let says_nothing = verdict.health() == Health::Neutral;
                        match keeps_trial && says_nothing && breaker.state() == State::HalfOpen {
                            true => kept.push(permit),
                            false => permit.record(verdict),
                        }
                        "ok"
                    }
                    Err(rejected) if rejected.reason() == Reason::Isolated => "rejected_isolated",
                    Err(_) => "rejected",
                };
                step.check("expect", answer)?;
            }
            Some(op @ ("success" | "failure")) => subject.record(verdict(Some(op))?, None),
            Some("try_acquire") => {
                let admitted = breaker.try_acquire();
                let rest = admitted.as_ref().err().and_then(Rejected::retry_after);
                step.check(
                    "expect_retry_after_ms",
                    rest.map(|rest| rest.as_secs_f64() * 1e3),
                )?;
                step.check("expect", admitted.is_ok())?;
                subject.keep(admitted);
            }
            Some("begin") => {
                let call = step.need("call", step.text("call")?)?;
                step.check(
                    "expect",
                    if subject.begin(call) {
                        "ok"
                    } else {
                        "rejected"
                    },
                )?;
            }
            Some("end") => {
                let call = step.need("call", step.text("call")?)?;
                subject.end(call, verdict(step.text("outcome")?)?);
            }
            Some("isolate") => isolation = Some(breaker.isolate()),
            Some("reset" | "close") => {
                isolation = None;
                breaker.reset();
            }
            Some("force") => force(&subject, &mut isolation, step.text("state")?)?,
            Some("success_in_state") => {
                force(&subject, &mut isolation, step.text("state")?)?;
                subject.record(verdict(Some("success"))?, None);
            }
            Some("failure_in_state") => {
                let state = step.need("state", step.text("state")?)?;
                let should_break = step.flag("should_break")?.unwrap_or(true);
                let after = after_failure(state, should_break)?;
                step.check("expect", after)?;
                return step.check("expect_state", after);
            }
            Some("cycle") => {
                let times = step.need("times", step.count("times")?)?;
                let Some(Value::Array(states)) = step.get("states") else {
                    return inexpressible("`states` is missing");
                };
                for _ in 0..times {
                    for state in states {
                        force(&subject, &mut isolation, state.as_str())?;
                    }
                }
            }
            Some("record") => subject.record(verdict(step.text("outcome")?)?, None),
            Some("should_break") => step.check("expect", should_break(step)?)?,
            Some("window_kind") => {
                let sampling = step.need("sampling_ms", step.duration("sampling")?)?;
                step.check("expect", window_kind(sampling)?)?;
            }
            op => unknown(op)?,
        }
        let _ = &isolation;
        if let Some(buckets) = &mut buckets {
            let differ = they_differ(buckets, step, before, breaker, clock)?;
            buckets_differ.set(buckets_differ.get() || differ);
        }
        step.check("expect_state", name(breaker.peek()))?;
        let snapshot = breaker.snapshot();
        let calls = snapshot.calls.max(1);
        step.check(
            "expect_health",
            json!({
                "throughput": snapshot.calls,
                "failure_count": snapshot.failures,
                "failure_rate": snapshot.failures as f64 / calls as f64,
            }),
        )?;
        let attempts = attempts.lock().unwrap().clone();
        step.check("expect_break_generator_half_open_attempts", attempts)
    };
    scenario.play(clock, |step: &Step| {
        let result = carry_out(step);
        let difference = buckets_differ.get().then_some(Buckets::REASON);
        unless_parted(result, difference)
    })
}

/// Returns the buckets of the source, if there are several.
fn buckets(config: &Fields) -> Result<Option<Buckets>, Failure> {
    let sampling = config.duration("sampling")?;
    let sampling = sampling.unwrap_or(Duration::from_secs(30));
    let count = config.count_u32("windows")?.unwrap_or(windows(sampling));
    let length = sampling.as_nanos() / u128::from(count.max(1));
    Ok((count > 1).then(|| Buckets::expiring(length, sampling.as_nanos())))
}

/// Returns whether the source's buckets hold other calls than the window of a breaker that was in the state `before`
/// and has carried out a step.
fn they_differ(
    buckets: &mut Buckets,
    step: &Step,
    before: State,
    breaker: &CircuitBreaker,
    clock: &TestClock,
) -> Result<bool, Failure> {
    if before != State::Closed || matches!(step.op(), Some("reset" | "close" | "force")) {
        buckets.clear();
        return Ok(false);
    }
    let now = clock.elapsed().as_nanos();
    let outcome = match step.op() {
        Some("call" | "end" | "record") => step.text("outcome")?,
        op => op,
    };
    match outcome {
        Some("success") => buckets.record(now, false),
        Some("failure" | "error") => buckets.record(now, true),
        _ if step.has("expect_health") => buckets.advance(now),
        _ => return Ok(false),
    }
    let snapshot = breaker.snapshot();
    Ok(buckets.differ(snapshot.calls, snapshot.failures))
}

fn force(subject: &Subject<'_>, isolation: &mut Option<Isolation>, state: Option<&str>) -> Check {
    *isolation = None;
    match state {
        Some("isolated") => *isolation = Some(subject.breaker.isolate()),
        Some(state) => subject.force(state)?,
        None => return inexpressible("`state` is missing"),
    }
    Ok(())
}

/// Returns the state after a failure in `state`, given whether a closed circuit opens.
fn after_failure(state: &str, should_break: bool) -> Result<&'static str, Failure> {
    let trip = Trip::consecutive(if should_break { 1 } else { 2 });
    let builder = CircuitBreaker::builder().half_open(HalfOpen::successes(1));
    let breaker = build(builder.trip_on(trip), &TestClock::new())?;
    let subject = Subject::new(&breaker);
    let mut isolation = None;
    force(&subject, &mut isolation, Some(state))?;
    subject.record(verdict(Some("failure"))?, None);
    Ok(name(breaker.peek()))
}

/// Returns whether the last of these calls opens the circuit. The failures come last, the only order in which no
/// earlier call decides.
fn should_break(step: &Step) -> Result<bool, Failure> {
    let calls = step.need("throughput", step.count_u32("throughput")?)?;
    let minimum = step.need("minimum", step.count_u32("minimum")?)?;
    let rate = step.need("failure_rate", step.number("failure_rate")?)?;
    let threshold = step.need("threshold", step.number("threshold")?)?;
    let opens = |failures: u32| -> Result<bool, Failure> {
        let trip = Trip::failure_rate(threshold).within(Duration::from_secs(30));
        let trip = trip.from_first_call().min_calls(minimum);
        let builder = CircuitBreaker::builder().trip_on(trip);
        let breaker = build(builder.trip_on_failures_only(true), &TestClock::new())?;
        let subject = Subject::new(&breaker);
        for call in 0..calls {
            let failed = call + failures >= calls;
            subject.record(
                verdict(Some(if failed { "failure" } else { "success" }))?,
                None,
            );
        }
        Ok(breaker.state() == State::Open)
    };
    // The rate may lie between two whole numbers of failures; both must agree.
    let failures = rate * f64::from(calls);
    let (fewer, more) = ((failures + 1e-9).floor(), (failures - 1e-9).ceil());
    match (opens(fewer as u32)?, opens(more as u32)?) {
        (a, b) if a == b => Ok(a),
        _ => inexpressible(format!("a rate of {rate} among {calls} calls")),
    }
}

/// Returns whether two calls half a window apart expire one after the other or together.
fn window_kind(sampling: Duration) -> Result<&'static str, Failure> {
    let clock = TestClock::new();
    let trip = Trip::failure_rate(1.0)
        .within(sampling)
        .slices(windows(sampling));
    let builder: CircuitBreakerBuilder = CircuitBreaker::builder();
    let breaker = build(builder.trip_on(trip.from_first_call()), &clock)?;
    let subject = Subject::new(&breaker);
    for _ in 0..2 {
        subject.record(verdict(Some("success"))?, None);
        clock.advance(sampling / 2);
    }
    clock.advance(sampling - sampling / 2 * 2);
    Ok(match breaker.snapshot().calls {
        0 => "single",
        1 => "rolling",
        _ => "neither",
    })
}
