//! A [`RateLimiter`] as Polly v7's rate limit.

use std::time::Duration;

use backstop::rate_limiter::Quota;
use serde_json::Value;

use super::clock::TestClock;
use super::harness::{Adapter, Check, Scenario, Step, unknown, unless_parted};
use super::limits::{available, limiter};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, token bucket",
    accepts: |file| {
        file.is_from("App-vNext/Polly") && file.pattern() == "rate_limiter_token_bucket"
    },
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let interval = scenario.config.duration("one_per")?;
    let interval = interval.unwrap_or(Duration::from_secs(1));
    let burst = scenario.config.count("burst")?.unwrap_or(1);
    let limiter = limiter(&clock, [Quota::new(1, interval).burst(burst)])?;
    // A difference of the source so far, if any.
    let mut difference = None;
    let mut last_admitted = Duration::ZERO;
    let mut was_emptied = false;
    scenario.play(&clock, |step: &Step| {
        if step.op() != Some("call") {
            return unknown(step.op());
        }
        let mut answer = "ok";
        let mut retry_after = Value::Null;
        for _ in 0..step.count("times")?.unwrap_or(1) {
            let elapsed = clock.elapsed();
            let is_full = available(&limiter) >= i64::try_from(burst).unwrap_or(i64::MAX);
            if is_full && !was_emptied && !elapsed.is_zero() {
                difference = Some("idle time of a full bucket, kept until it is empty");
            }
            match limiter.try_acquire() {
                Ok(()) => {
                    let passed = elapsed.saturating_sub(last_admitted).as_nanos();
                    if passed % interval.as_nanos().max(1) != 0 {
                        difference = Some("an interval that begins when a call notices a refill");
                    }
                    last_admitted = elapsed;
                    was_emptied = available(&limiter) == 0;
                }
                Err(rejected) => {
                    let wait = rejected.retry_after().unwrap_or(Duration::MAX);
                    retry_after = (wait.as_nanos() as f64 / 100.0).into();
                    answer = "rejected";
                }
            }
            // Several calls must all have the same result.
            unless_parted(step.check("expect", answer), difference)?;
        }
        let checked = step.check("expect_retry_after_ticks", retry_after);
        unless_parted(checked, difference)
    })
}
