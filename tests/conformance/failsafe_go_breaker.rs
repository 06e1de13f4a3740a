//! [`CircuitBreaker`] as failsafe-go's, with its statistics.

use std::time::Duration;

use backstop::CircuitBreaker;
use backstop::circuit_breaker::{HalfOpen, Trip};
use serde_json::{Value, json};

use super::breakers::{Subject, build, fixed, name, verdict};
use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| file.is_from("failsafe-go/failsafe-go") && file.pattern() == "circuit_breaker",
    run,
};

pub(crate) const STATS: Adapter = Adapter {
    name: "CircuitBreaker::metrics_only",
    accepts: |file| {
        file.is_from("failsafe-go/failsafe-go") && file.pattern() == "sliding_window_metrics"
    },
    run: run_stats,
};

/// Reads `k` of the last `n`; without `n`, `k` consecutive ones.
fn ratio(config: &Fields, key: &str) -> Result<Option<(u32, u32)>, Failure> {
    let Some(Value::Object(map)) = config.get(key) else {
        return Ok(None);
    };
    let fields = Fields::new(map.clone());
    let k = fields.count_u32("k")?.unwrap_or(1);
    let n = fields.count_u32("n")?.unwrap_or(k);
    fields.finish(key)?;
    Ok(Some((k, n)))
}

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let (k, n) = ratio(&scenario.config, "failure")?.unwrap_or((1, 1));
    // Without a rule for successes the rule for failures decides: as many successes as keep it from opening.
    let (good, of) = ratio(&scenario.config, "success")?.unwrap_or((n + 1 - k, n));
    let delay = scenario.config.duration("delay")?;
    let builder = CircuitBreaker::builder()
        .trip_on(Trip::failures(k).of_last(n))
        .half_open(HalfOpen::successes(good).of(of))
        .permitted_calls(of)
        .probe_lease(Duration::MAX)
        .break_for(fixed(delay.unwrap_or(Duration::from_secs(60))));
    let breaker = build(builder, &clock)?;
    let subject = Subject::new(&breaker);
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("force") => subject.force(step.need("state", step.text("state")?)?)?,
            Some("try_acquire") => step.check("expect", subject.acquire())?,
            Some(op @ ("success" | "failure")) => {
                subject.record_unasked(verdict(Some(op))?, None);
            }
            Some("begin") => {
                let call = step.need("call", step.text("call")?)?;
                step.check("expect", subject.begin(call))?;
            }
            Some("end") => {
                let call = step.need("call", step.text("call")?)?;
                subject.end(call, verdict(step.text("outcome")?)?);
            }
            op => unknown(op)?,
        }
        step.check("expect_state", name(breaker.state()))?;
        let rest = breaker.snapshot().retry_after.unwrap_or(Duration::MAX);
        step.check("expect_remaining_delay_ms", rest.as_secs_f64() * 1e3)
    })
}

/// Checks that buckets are aligned to the clock, like ours: `bucket index = floor(now/1000ms); ...`.
fn check_alignment(config: &Fields, bucket: Duration) -> Check {
    let Some(text) = config.text("bucket_align")? else {
        return Ok(());
    };
    let length = text.strip_prefix("bucket index = floor(now/");
    let length = length.and_then(|rest| rest.split_once("ms)"));
    match length.map(|(millis, _)| millis.trim().parse().map(Duration::from_millis)) {
        Some(Ok(length)) if length == bucket => Ok(()),
        _ => inexpressible(format!("`bucket_align` is {text:?}")),
    }
}

fn run_stats(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let trip = Trip::failure_rate(1.0).min_calls(1);
    let trip = match config.text("window")? {
        Some("count_based") => trip.of_last(config.count_u32("window_size")?.unwrap_or(100)),
        Some("time_based") => {
            let mut window = Duration::from_secs(60);
            for name in ["window_size", "window", "period"] {
                window = config.duration(name)?.unwrap_or(window);
            }
            let buckets = config.count_u32("buckets")?;
            let slices = match (
                buckets.or(config.count_u32("bucket_count")?),
                config.duration("bucket")?,
            ) {
                (Some(buckets), None) => buckets,
                (None, Some(bucket)) => {
                    let slices = window.as_nanos() / bucket.as_nanos().max(1);
                    u32::try_from(slices).unwrap_or(u32::MAX)
                }
                _ => 10,
            };
            check_alignment(config, window / slices.max(1))?;
            trip.within(window).slices(slices)
        }
        kind => return inexpressible(format!("window {kind:?}")),
    };
    let breaker = build(CircuitBreaker::builder().trip_on(trip), &clock)?;
    breaker.metrics_only();
    let subject = Subject::new(&breaker);
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("record_seq") => {
                for result in step.need("seq", step.text("seq")?)?.chars() {
                    let outcome = match result {
                        'S' => "success",
                        'F' => "failure",
                        other => return inexpressible(format!("result {other:?}")),
                    };
                    subject.record(verdict(Some(outcome))?, None);
                }
            }
            Some(op @ ("success" | "failure")) => subject.record(verdict(Some(op))?, None),
            Some("reset") => breaker.metrics_only(),
            op => unknown(op)?,
        }
        let snapshot = breaker.snapshot();
        let failures = snapshot.failure_rate();
        let rate = |rate: Option<f64>| (rate.unwrap_or(0.0) * 100.0).round() / 100.0;
        step.check(
            "expect_stats",
            json!({
                "executions": snapshot.calls,
                "successes": snapshot.successes(),
                "failures": snapshot.failures,
                "success_rate": rate(failures.map(|failures| 1.0 - failures)),
                "failure_rate": rate(failures),
            }),
        )
    })
}
