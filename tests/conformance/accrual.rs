//! [`CircuitBreaker`] as Finagle's failure accrual policies and as linkerd's consecutive failures.

use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, Jitter};
use serde_json::Value;

use super::breakers::{Subject, build, verdict};
use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, inexpressible, unknown};

pub(crate) const FINAGLE: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| {
        file.is_from("twitter/finagle") && file.pattern() == "circuit_breaker_per_endpoint"
    },
    run: run_finagle,
};

pub(crate) const LINKERD: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| file.is_from("linkerd/linkerd2-proxy") && file.pattern() == "circuit_breaker",
    run: run_linkerd,
};

/// Returns the breakers of a policy: one, or a stack with one per member.
fn breakers(config: &Fields, clock: &TestClock) -> Result<Vec<CircuitBreaker>, Failure> {
    let required = || Ok(config.number("required")?.unwrap_or(0.8));
    let trip = match config.text("policy")? {
        Some("or") => {
            let Some(Value::Array(members)) = config.get("members") else {
                return inexpressible("`members` is missing");
            };
            let mut all = Vec::new();
            for member in members {
                let Value::Object(member) = member else {
                    return inexpressible("a member is not an object");
                };
                let member = Fields::new(member.clone());
                all.extend(breakers(&member, clock)?);
                member.finish("member key")?;
            }
            return Ok(all);
        }
        Some("consecutive") => Trip::consecutive(config.count_u32("n")?.unwrap_or(5)),
        Some("success_rate_ema") => {
            let requests = config.count_u32("window_requests")?.unwrap_or(100);
            Trip::success_average(required()?)
                .of_last(requests)
                .min_calls(1)
        }
        Some("success_rate_ema_time") => {
            let window = config
                .duration("window")?
                .unwrap_or(Duration::from_secs(30));
            let least = config.count_u32("min_requests")?.unwrap_or(5).max(1);
            Trip::success_average(required()?)
                .within(window)
                .min_calls(least)
        }
        policy => return inexpressible(format!("policy {policy:?}")),
    };
    let lengths = lengths(config.text("backoff")?.unwrap_or("const 5000"))?;
    let builder = CircuitBreaker::builder()
        .trip_on(trip)
        .trip_on_failures_only(true)
        .half_open(HalfOpen::successes(1))
        .break_with(move |trips, _| {
            let length = lengths.get(trips as usize - 1).or(lengths.last());
            length.copied().unwrap_or(Duration::ZERO)
        });
    Ok(vec![build(builder, clock)?])
}

/// Parses `const 5000`, `first value 5000`, or `list [5000, 7000]`, in milliseconds. The last value repeats for
/// ever; after a list it is 300 s.
fn lengths(backoff: &str) -> Result<Vec<Duration>, Failure> {
    let numbers = backoff.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter_map(|number| number.parse().ok());
    let mut lengths: Vec<_> = numbers.map(Duration::from_millis).collect();
    if backoff.starts_with("list") {
        lengths.push(Duration::from_secs(300));
        return Ok(lengths);
    }
    match backoff.starts_with("const") || backoff.starts_with("first value") {
        true if lengths.len() == 1 => Ok(lengths),
        _ => inexpressible(format!("backoff {backoff:?}")),
    }
}

fn run_finagle(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let breakers = breakers(&scenario.config, &clock)?;
    let subjects: Vec<_> = breakers.iter().map(Subject::new).collect();
    scenario.play(&clock, |step: &Step| {
        // A result for a dead endpoint is that of a probe: the policy itself does not know the time.
        let record = |outcome| -> Result<Option<Duration>, Failure> {
            let mut dead_for = None;
            for subject in &subjects {
                if subject.breaker.state() == State::Open {
                    subject.breaker.half_open();
                }
                subject.record(verdict(Some(outcome))?, None);
                if subject.breaker.state() == State::Open {
                    dead_for = dead_for.max(subject.breaker.snapshot().retry_after);
                }
            }
            Ok(dead_for)
        };
        match step.op() {
            Some("success") => {
                record("success")?;
                Ok(())
            }
            Some("failure") => {
                let dead_for = record("failure")?.map(|dead_for| dead_for.as_secs_f64() * 1e3);
                step.check("expect_dead_for_ms", dead_for)
            }
            Some("revived") => {
                breakers.iter().for_each(CircuitBreaker::reset);
                Ok(())
            }
            op => unknown(op),
        }
    })
}

fn run_linkerd(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let min = config
        .duration("backoff_min")?
        .unwrap_or(Duration::from_secs(1));
    let max = config
        .duration("backoff_max")?
        .unwrap_or(Duration::from_secs(60));
    let jitter = match config.number("jitter")?.unwrap_or(0.0) {
        0.0 => Jitter::None,
        jitter => return inexpressible(format!("jitter {jitter} on top of the delay only")),
    };
    let builder = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(
            config.count_u32("max_failures")?.unwrap_or(7),
        ))
        .break_for(Backoff::exponential(min).max(max).jitter(jitter))
        .half_open(HalfOpen::successes(1))
        .probe_lease(Duration::MAX);
    let breaker = build(builder, &clock)?;
    let subject = Subject::new(&breaker);
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("result") => subject.record(verdict(step.text("outcome")?)?, None),
            Some("take_probe") => step.check("expect", subject.acquire())?,
            op => unknown(op)?,
        }
        let (gate, permits) = match (breaker.state(), breaker.peek()) {
            (State::Open, State::HalfOpen) => ("limited", 1),
            (_, State::HalfOpen) => ("limited", breaker.snapshot().probes_free),
            (_, State::Open) => ("shut", 0),
            _ => ("open", 0),
        };
        step.check("expect_gate", gate)?;
        step.check("expect_probe_permits", permits)
    })
}
