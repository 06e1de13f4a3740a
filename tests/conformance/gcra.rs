//! A [`RateLimiter`] as the GCRA of redis-cell, throttled and governor.

use std::time::Duration;

use backstop::RateLimiter;
use backstop::rate_limiter::{Decision, Quota};
use serde_json::{Value, json};

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown,
};
use super::limits::{limiter, nanos};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, token bucket",
    accepts: |file| file.pattern() == "rate_limiter_gcra",
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    if scenario.does(&["emission_interval"]) {
        return scenario.play(&TestClock::new(), |step: &Step| match step.op() {
            Some("emission_interval") => emission_interval(step),
            op => unknown(op),
        });
    }
    let clock = TestClock::new();
    let quota = quota(&scenario.config)?;
    let limit = scenario.config.count("limit")?;
    if limit.is_some_and(|limit| limit != quota.limit()) {
        return failed(format!("limit: expected {limit:?}, got {}", quota.limit()));
    }
    let actor = Gcra {
        limiter: limiter(&clock, [quota])?,
        clock: clock.clone(),
    };
    scenario.play(&clock, actor)
}

/// Checks the emission interval.
fn emission_interval(step: &Step) -> Check {
    let count = step.need("count", step.count("count")?)?;
    let period = step.need("period", step.duration("period")?)?;
    let quota = Quota::new(count, period).burst(1);
    let limiter = RateLimiter::builder().quota(quota).clock(TestClock::new());
    let limiter = limiter.build();
    step.check("expect_error", limiter.is_err())?;
    let interval = match limiter {
        Ok(limiter) => limiter.decide(1).reset_after,
        Err(_) => Duration::ZERO,
    };
    step.check("expect_ms", interval.as_secs_f64() * 1e3)?;
    step.check("expect_ns", nanos(interval))
}

fn quota(config: &Fields) -> Result<Quota, Failure> {
    let units = [
        ("per_s", Quota::per_second as fn(u64) -> Quota),
        ("per_second", Quota::per_second),
        ("per_minute", Quota::per_minute),
        ("per_hour", Quota::per_hour),
    ];
    let mut quota = None;
    for (name, make) in units {
        if let Some(count) = config.count(name)? {
            // In the source the burst is the number, for any unit.
            quota = Some(make(count).burst(count));
        }
    }
    if let Some(interval) = config.duration("replenish_1_per")? {
        quota = Some(Quota::new(1, interval).burst(1));
    }
    if let Some(period) = config.duration("period")? {
        quota = Some(Quota::new(config.count("count")?.unwrap_or(1), period).burst(1));
    }
    let Some(quota) = quota else {
        return inexpressible("no rate");
    };
    Ok(match (config.count("max_burst")?, config.count("burst")?) {
        (Some(beyond), _) => quota.burst(beyond + 1),
        (None, Some(burst)) => quota.burst(burst),
        (None, None) => quota,
    })
}

struct Gcra {
    limiter: RateLimiter,
    clock: TestClock,
}

impl Gcra {
    fn check(&self, step: &Step) -> Check {
        let decision = self.limiter.decide(step.count("n")?.unwrap_or(1));
        let wait = decision.retry_after.unwrap_or_default();
        let answer = match (decision.allowed, decision.retry_after) {
            (true, _) => json!(true),
            (false, Some(_)) => json!(false),
            (false, None) => json!("insufficient_capacity"),
        };
        step.check("expect", answer)?;
        step.check("expect_wait_ms", wait.as_secs_f64() * 1e3)?;
        step.check("expect_wait_ns", nanos(wait))?;
        step.check("expect_remaining", decision.remaining)
    }
}

/// Returns the answer in every unit.
fn answer(decision: Decision) -> Value {
    let mut answer = json!({
        "limited": !decision.allowed,
        "limit": decision.limit,
        "remaining": decision.remaining,
    });
    let times = [
        ("reset_after", Some(decision.reset_after)),
        ("retry_after", decision.retry_after),
    ];
    for (name, time) in times {
        for (unit, per_second) in [("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)] {
            let time = time.map_or(-1.0, |time: Duration| time.as_secs_f64() * per_second);
            answer[format!("{name}_{unit}")] = json!(time);
        }
    }
    answer
}

impl Actor for Gcra {
    fn step(&mut self, step: &Step) -> Check {
        match step.op() {
            Some("check") => self.check(step),
            Some("gcra") => {
                let decision = self.limiter.decide(step.count("quantity")?.unwrap_or(1));
                step.check("expect", answer(decision))
            }
            op => unknown(op),
        }
    }

    fn prose(&mut self, step: &Step, body: &str) -> Check {
        let pause = body
            .strip_prefix("advance ")
            .and_then(|rest| rest.split_once(" ms; "))
            .filter(|(_, rest)| {
                *rest == "check; when refused advance by the reported wait and check again"
            })
            .and_then(|(number, _)| number.parse().ok());
        let Some(pause) = pause.map(Duration::from_millis) else {
            return inexpressible(format!("a body in prose: {body:?}"));
        };
        self.clock.advance(pause);
        if let Err(rejected) = self.limiter.try_acquire() {
            let wait = rejected.retry_after().unwrap_or_default();
            self.clock.advance(wait);
            if self.limiter.try_acquire().is_err() {
                return failed(format!("rejected after waiting {wait:?}"));
            }
        }
        let times = step.count("times")?.unwrap_or(0);
        // One call per round conforms.
        step.check(
            "expect",
            format!("every second check succeeds, {times} conforming"),
        )
    }
}
