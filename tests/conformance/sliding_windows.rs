//! A [`RateLimiter`] with a sliding counter as RussellLuo's sliding window.

use backstop::rate_limiter::Quota;

use super::clock::TestClock;
use super::harness::{Adapter, Check, Scenario, Step, unknown};
use super::limits::{available, limiter};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, sliding counter",
    accepts: |file| file.pattern() == "rate_limiter_sliding_counter",
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let size = scenario.config.duration("size")?.unwrap_or_default();
    let limit = scenario.config.count("limit")?.unwrap_or(0);
    let limiter = limiter(&clock, [Quota::new(limit, size).sliding_counter()])?;
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("allow") => {
                let tokens = step.count("n")?.unwrap_or(1);
                step.check("expect", limiter.try_acquire_n(tokens).is_ok())?;
            }
            op => unknown(op)?,
        }
        step.check("expect_available", available(&limiter))
    })
}
