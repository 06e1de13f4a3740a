//! A [`Throttle`] as failsafe-go's adaptive throttler and as Envoy's admission control.
//!
//! Both sources count a call at its end and do not count rejected ones. If a scenario gives counts instead of calls,
//! that many calls are made at one instant.

use std::time::Duration;

use backstop::throttle::{Load, ThrottleBuilder};
use backstop::{Throttle, Verdict};
use serde_json::{Value, json};

use super::clock::TestClock;
use super::fields::Fields;
use super::file::File;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown,
};

pub(crate) const FAILSAFE_GO: Adapter = Adapter {
    name: "Throttle as failsafe-go's",
    accepts: |file| is_throttler(file) && file.is_from("failsafe-go/failsafe-go"),
    run: |scenario| run(scenario, failsafe_go(&scenario.config)?),
};

pub(crate) const ENVOY: Adapter = Adapter {
    name: "Throttle as Envoy's admission control",
    accepts: |file| is_throttler(file) && file.is_from("envoyproxy/envoy"),
    run: |scenario| run(scenario, envoy(&scenario.config)?),
};

fn is_throttler(file: &File) -> bool {
    file.pattern() == "adaptive_throttler"
}

/// The source's defaults and the number of its slices.
struct Dialect {
    builder: ThrottleBuilder,
    window: Duration,
}

fn failsafe_go(config: &Fields) -> Result<Dialect, Failure> {
    let failure_rate = config.number("failure_rate_threshold")?;
    let success_rate = config.number("success_rate_threshold")?;
    let threshold = success_rate.or(failure_rate.map(|rate| 1.0 - rate));
    let window = config.duration("window")?.or(config.duration("period")?);
    let window = window.unwrap_or(60 * SECOND);
    let builder = Throttle::builder()
        .success_threshold(threshold.unwrap_or(0.9))
        .max_rejection(config.number("max_rejection_rate")?.unwrap_or(0.9))
        .min_calls(config.count_u32("execution_threshold")?.unwrap_or(0).max(1))
        .slices(config.count_u32("slices")?.unwrap_or(20));
    Ok(Dialect { builder, window })
}

fn envoy(config: &Fields) -> Result<Dialect, Failure> {
    let percent = |key: &str, default: f64| -> Result<f64, Failure> {
        Ok((config.number(key)?.unwrap_or(default) / 100.0).min(1.0))
    };
    let window = config.duration("window")?.unwrap_or(30 * SECOND);
    let slice = config.duration("bucket")?.unwrap_or(SECOND);
    if slice.is_zero() || window.as_nanos() % slice.as_nanos() != 0 {
        return inexpressible("a window that is not a whole number of buckets");
    }
    let builder = Throttle::builder()
        .success_threshold(percent("sr_threshold_pct", 95.0)?)
        .max_rejection(percent("max_rejection_pct", 80.0)?)
        // The source raises smaller values to 1.
        .aggression(config.number("aggression")?.unwrap_or(1.0).max(1.0))
        .min_calls_per_second(config.number("rps_threshold")?.unwrap_or(0.0))
        .min_calls(1)
        .slices(u32::try_from(window.as_nanos() / slice.as_nanos()).unwrap_or(u32::MAX));
    Ok(Dialect { builder, window })
}

const SECOND: Duration = Duration::from_secs(1);

impl Dialect {
    /// Builds a throttle with a window of this length, in the source's number of slices.
    fn build(&self, clock: &TestClock, window: Duration) -> Result<Throttle, Failure> {
        let throttle = self
            .builder
            .clone()
            .window(window)
            // Counts calls at their end.
            .grace(Duration::MAX)
            .probe_every(Duration::MAX)
            .seed(1)
            .clock(clock.clone())
            .build();
        throttle.or_else(|error| failed(error.to_string()))
    }

    /// Builds a throttle that has just recorded these calls.
    fn after(
        &self,
        clock: &TestClock,
        window: Duration,
        (total, successes): (u64, u64),
    ) -> Result<Throttle, Failure> {
        if successes > total || total > 1_000_000 {
            return inexpressible(format!("{successes} successes of {total} calls"));
        }
        let throttle = self.build(clock, window)?;
        for call in 0..total {
            throttle.record(verdict(call < successes));
        }
        Ok(throttle)
    }
}

const fn verdict(success: bool) -> Verdict {
    if success {
        Verdict::success()
    } else {
        Verdict::failure()
    }
}

fn run(scenario: &Scenario<'_>, dialect: Dialect) -> Check {
    let clock = TestClock::new();
    let throttle = dialect.build(&clock, dialect.window)?;
    let actor = Throttler {
        throttle,
        dialect,
        clock: &clock,
    };
    scenario.play(&clock, actor)
}

struct Throttler<'a> {
    /// The throttle for the calls of the scenario.
    throttle: Throttle,
    dialect: Dialect,
    clock: &'a TestClock,
}

impl Actor for Throttler<'_> {
    fn step(&mut self, step: &Step) -> Check {
        match step.op() {
            Some("success") => self.throttle.record(Verdict::success()),
            Some("failure") => self.throttle.record(Verdict::failure()),
            Some("record") => {
                let outcome = step.need("outcome", step.text("outcome")?)?;
                match outcome {
                    "success" | "failure" => self.throttle.record(verdict(outcome == "success")),
                    other => return inexpressible(format!("outcome `{other}`")),
                }
            }
            Some("acquire" | "try_acquire") => {
                // Dropped without a result: separate ops record results.
                let allowed = self.throttle.try_acquire().is_ok();
                step.check("expect", allowed)?;
            }
            Some(op @ ("rejection_rate" | "rejection_probability")) => {
                let calls = self.calls(step, "successes")?;
                let rate = self.rate_after(calls)?;
                step.check("expect", rate)?;
                compare(step, op, rate)?;
            }
            Some("rejection_rate_ordering") => self.ordering(step)?,
            Some("decide") => self.decide(step)?,
            Some("combine_stats") => combine(step)?,
            op => unknown(op)?,
        }
        self.observe(step)
    }
}

impl Throttler<'_> {
    fn calls(&self, step: &Step, successes: &str) -> Result<(u64, u64), Failure> {
        Ok((total(step)?, step.need(successes, step.count(successes)?)?))
    }

    fn rate_after(&self, calls: (u64, u64)) -> Result<f64, Failure> {
        let throttle = self.dialect.after(self.clock, self.dialect.window, calls)?;
        Ok(throttle.snapshot().rejection_probability)
    }

    /// Compares the rates after several numbers of successes.
    fn ordering(&self, step: &Step) -> Check {
        let total = total(step)?;
        let Some(Value::Array(successes)) = step.get("successes") else {
            return inexpressible("`successes` is no list");
        };
        let rates: Vec<f64> = successes
            .iter()
            .map(|successes| match successes.as_u64() {
                Some(successes) => self.rate_after((total, successes)),
                None => inexpressible(format!("{successes} successes")),
            })
            .collect::<Result<_, _>>()?;
        let holds: fn(f64, f64) -> bool = match step.text("expect")? {
            Some("strictly increasing") => |a, b| a < b,
            Some("strictly decreasing") => |a, b| a > b,
            Some("increasing" | "non-decreasing") => |a, b| a <= b,
            Some("decreasing" | "non-increasing") => |a, b| a >= b,
            Some("equal") => |a, b| a == b,
            other => return inexpressible(format!("an ordering {other:?}")),
        };
        match rates.windows(2).all(|pair| holds(pair[0], pair[1])) {
            true => Ok(()),
            false => failed(format!("{rates:?}")),
        }
    }

    /// Checks the decision about a call after these calls if the source draws `random`.
    ///
    /// Our draws cannot be set. A draw rejects a call exactly if it is less than the probability, that is, if the share
    /// of rejections among many draws is greater than it.
    fn decide(&self, step: &Step) -> Check {
        const DRAWS: u32 = 20_000;
        let calls = self.calls(step, "successes")?;
        let window = match step.number("average_rps")? {
            // The rate is per window, so the calls are made at one instant in a window of matching length.
            Some(rps) if rps > 0.0 => Duration::from_secs_f64(calls.0 as f64 / rps),
            Some(_) => Duration::from_secs(1 << 30),
            None => self.dialect.window,
        };
        let throttle = self.dialect.after(self.clock, window, calls)?;
        let rejected = (0..DRAWS).filter(|_| throttle.try_acquire().is_err());
        let share = rejected.count() as f64 / f64::from(DRAWS);
        // The source's mock draws zero unless a test says otherwise.
        let random = match step.number("random")?.unwrap_or(0.0) {
            share if share < 1.0 => share,
            of_ten_thousand => of_ten_thousand % 1e4 / 1e4,
        };
        let decision = if share > random { "reject" } else { "admit" };
        step.check("expect", decision)
    }

    fn observe(&self, step: &Step) -> Check {
        let seen = self.throttle.snapshot();
        let counts = json!({
            "requests": seen.calls,
            "executions": seen.calls,
            "successes": seen.accepts,
            "failures": seen.failures,
        });
        step.check("expect_counts", counts)?;
        step.check("expect_requests", seen.calls)?;
        step.check("expect_executions", seen.calls)?;
        step.check("expect_successes", seen.accepts)?;
        step.check("expect_failures", seen.failures)?;
        // In the source a whole number, over the time since the oldest call instead of the whole window.
        let average = seen.calls_per_second.floor();
        match step.check("expect_average_rps", average) {
            Err(Failure::Failed(what)) => {
                return inexpressible(format!("an average since the oldest call; here {what}"));
            }
            checked => checked?,
        }
        for name in ["expect_rejection_rate", "expect_rejection_probability"] {
            step.check(name, seen.rejection_probability)?;
            compare(step, name, seen.rejection_probability)?;
        }
        Ok(())
    }
}

/// Returns the number of calls, under the name of either source.
fn total(step: &Step) -> Result<u64, Failure> {
    let total = match step.count("total")? {
        Some(total) => Some(total),
        None => step.count("executions")?,
    };
    step.need("total", total)
}

/// Checks bounds on a value. Bounds on the result of an op are named `expect_gt` and so on; bounds on an observation
/// include its name.
fn compare(step: &Step, name: &str, actual: f64) -> Check {
    type Bound = (&'static str, fn(f64, f64) -> bool);
    const BOUNDS: [Bound; 6] = [
        ("gt", |a, b| a > b),
        ("lt", |a, b| a < b),
        ("gte", |a, b| a >= b),
        ("lte", |a, b| a <= b),
        ("min", |a, b| a >= b),
        ("max", |a, b| a <= b),
    ];
    let name = if name.starts_with("expect_") {
        name
    } else {
        "expect"
    };
    for (suffix, holds) in BOUNDS {
        let key = format!("{name}_{suffix}");
        if let Some(bound) = step.number(&key)? {
            // The source computes with 32-bit floats.
            if !holds(actual, bound) && (actual - bound).abs() > 1e-9 {
                return failed(format!("{key}: {bound}, got {actual}"));
            }
        }
    }
    Ok(())
}

/// Merges the statistics of several throttles.
fn combine(step: &Step) -> Check {
    let Some(Value::Array(inputs)) = step.get("inputs") else {
        return inexpressible("`inputs` is no list");
    };
    let mut loads = Vec::new();
    for input in inputs {
        // A throttle without statistics contributes nothing.
        let Value::Object(input) = input else {
            if input.is_null() {
                continue;
            }
            return inexpressible(format!("the input {input}"));
        };
        let input = Fields::new(input.clone());
        loads.push(Load {
            calls: input.count("executions")?.unwrap_or(0),
            rejection_probability: input.number("rejection_rate")?.unwrap_or(0.0),
            max_rejection: input.number("max_rejection_rate")?.unwrap_or(0.0),
        });
        input.finish("input key")?;
    }
    let combined = Load::combine(loads);
    step.check(
        "expect",
        json!({
            "executions": combined.calls,
            "rejection_rate": combined.rejection_probability,
            "max_rejection_rate": combined.max_rejection,
        }),
    )
}
