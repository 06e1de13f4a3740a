//! [`CubicRate`] and its parts as the client rate limiter of the AWS SDKs' adaptive mode.

use std::time::Duration;

use backstop::Clock;
use backstop::adaptive_rate::{CubicCurve, CubicRate, RateBucket, RateMeter};
use serde_json::json;

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "CubicRate",
    accepts: |file| file.pattern() == "adaptive_rate",
    run,
};

/// Runs the part that the settings and ops of the scenario select.
fn run(scenario: &Scenario<'_>) -> Check {
    let does = |ops: &[&str]| scenario.does(ops);
    let sets = |keys: &[&str]| keys.iter().any(|key| scenario.config.has(key));
    if does(&["response"]) {
        limiter(scenario)
    } else if sets(&["max_rate", "min_rate"]) || does(&["acquire", "set_max_rate"]) {
        bucket(scenario)
    } else if sets(&["bucket_s", "bucket_ms", "measure_bucket_ms"]) || does(&["record"]) {
        meter(scenario)
    } else {
        curve(scenario)
    }
}

/// Runs the whole limiter: answers in, a rate out, and calls that take tokens.
fn limiter(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let mut builder = CubicRate::builder();
    if let Some(beta) = config.number("beta")? {
        builder = builder.decrease_factor(beta);
    }
    if let Some(scale) = config.number("scale_constant")? {
        builder = builder.scale(scale);
    }
    if let Some(share) = number(config, ["smooth", "smoothing"])? {
        builder = builder.smoothing(share);
    }
    if let Some(rate) = number(config, ["min_fill_rate", "min_rate"])? {
        builder = builder.min_rate(rate);
    }
    if let Some(window) = duration(config, ["measure_bucket", "bucket"])? {
        builder = builder.window(window);
    }
    if config
        .number("min_capacity")?
        .is_some_and(|least| least != 1.0)
    {
        return inexpressible("a bucket that holds at least more than one token");
    }
    let mut limiter = match builder.build(clock.now()) {
        Ok(limiter) => limiter,
        Err(error) => return failed(error.to_string()),
    };
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("response") => {
                let throttled = step.need("throttled", step.flag("throttled")?)?;
                limiter.on_response(clock.now(), throttled);
            }
            Some("acquire") => {
                let tokens = step.number("amount")?.unwrap_or(1.0);
                taken(step, limiter.try_take(clock.now(), tokens))?;
            }
            op => unknown(op)?,
        }
        step.check("expect_measured_tx_rate", limiter.meter().rate())?;
        step.check("expect_fill_rate", limiter.bucket().rate())?;
        step.check("expect_max_capacity", limiter.bucket().capacity())?;
        step.check("expect_last_max_rate", limiter.curve().max_rate())?;
        step.check("expect_time_window", limiter.curve().plateau())?;
        step.check("expect_enabled", limiter.rate().is_some())
    })
}

/// Runs the curve alone.
fn curve(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let max_rate = number(config, ["last_max_rate", "starting_max_rate"])?.unwrap_or(0.0);
    let since = match duration(config, ["last_throttle", "start_time"])? {
        Some(since) => clock.now() + since,
        None => clock.now(),
    };
    let beta = config.number("beta")?.unwrap_or(0.7);
    let scale = config.number("scale_constant")?.unwrap_or(0.4);
    let mut curve = CubicCurve::new(since, beta, scale, max_rate);
    // The current rate, for steps without one.
    let mut rate = max_rate;
    let start = clock.now();
    scenario.play(&clock, |step: &Step| {
        let current = step.number("current_rate")?.unwrap_or(rate);
        let now = clock.now();
        rate = match step.op() {
            Some("cubic") if step.flag("throttled")?.unwrap_or(false) => {
                curve.on_throttle(now, current)
            }
            Some("error" | "throttle") => curve.on_throttle(now, current),
            Some("cubic" | "success") => curve.on_success(now),
            Some("k") => {
                step.check("expect", curve.plateau())?;
                rate
            }
            op => {
                unknown(op)?;
                rate
            }
        };
        step.check("expect_rate", rate)?;
        let last = curve.last_throttle().saturating_duration_since(start);
        step.check(
            "expect_params",
            json!({
                "w_max": curve.max_rate(),
                "k": curve.plateau(),
                "last_fail_s": last.as_secs_f64(),
                "last_fail_ms": last.as_secs_f64() * 1000.0,
            }),
        )
    })
}

/// Runs the meter alone.
fn meter(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let window = duration(config, ["bucket", "measure_bucket"])?;
    let smoothing = number(config, ["smoothing", "smooth"])?;
    let mut meter = RateMeter::new(
        clock.now(),
        window.unwrap_or(Duration::from_millis(500)),
        smoothing.unwrap_or(0.8),
    );
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("record") => {
                let amount = step.count("amount")?.unwrap_or(1);
                let rate = meter.record(clock.now(), amount);
                step.check("expect", rate)?;
            }
            op => unknown(op)?,
        }
        step.check("expect_rate", meter.rate())
    })
}

/// Runs the bucket alone. It starts empty.
fn bucket(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let min_rate = number(config, ["min_rate", "min_fill_rate"])?.unwrap_or(0.5);
    let max_rate = config.number("max_rate")?.unwrap_or(1.0);
    let mut bucket = RateBucket::new(clock.now(), max_rate, min_rate);
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("acquire") => {
                let tokens = step.number("amount")?.unwrap_or(1.0);
                let mut result = bucket.try_take(clock.now(), tokens);
                if let (Err(wait), Some(true)) = (result, step.flag("block")?) {
                    // A caller that may wait sleeps that long and then has them.
                    step.check("expect_wait_s", wait.as_secs_f64())?;
                    clock.advance(wait);
                    result = bucket.try_take(clock.now(), tokens);
                    step.check("expect", result.is_ok())?;
                } else {
                    taken(step, result)?;
                }
            }
            Some("set_max_rate") => {
                let rate = step.need("rate", step.number("rate")?)?;
                bucket.set_rate(clock.now(), rate);
            }
            op => unknown(op)?,
        }
        let state = json!({
            "max_rate": bucket.rate(),
            "max_capacity": bucket.capacity(),
            "available_capacity": bucket.available(),
        });
        for key in ["max_rate", "max_capacity", "available_capacity"] {
            step.check(&format!("expect_{key}"), state[key].clone())?;
        }
        // The result of `acquire` was checked above; otherwise the expectation is about the bucket.
        if step.op() != Some("acquire") {
            step.check("expect", state)?;
        }
        Ok(())
    })
}

fn taken(step: &Step, result: Result<(), Duration>) -> Check {
    step.check(
        "expect_wait_s",
        result.err().unwrap_or_default().as_secs_f64(),
    )?;
    step.check("expect", result.is_ok())
}

/// Returns the value of the first name that is present.
fn number(fields: &Fields, names: [&str; 2]) -> Result<Option<f64>, Failure> {
    let [first, second] = names;
    Ok(fields.number(first)?.or(fields.number(second)?))
}

fn duration(fields: &Fields, names: [&str; 2]) -> Result<Option<Duration>, Failure> {
    let [first, second] = names;
    Ok(fields.duration(first)?.or(fields.duration(second)?))
}
