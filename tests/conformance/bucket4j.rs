//! A [`RateLimiter`] with several quotas as Bucket4j's bandwidths.

use std::time::Duration;

use backstop::RateLimiter;
use backstop::rate_limiter::Quota;
use serde_json::Value;

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, inexpressible, unknown};
use super::limits::{available, foresee, limiter, nanos, reserve};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, token buckets and fixed windows",
    accepts: |file| file.is_from("bucket4j/bucket4j"),
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let Some(Value::Array(list)) = scenario.config.get("bandwidths") else {
        return inexpressible("no `bandwidths`");
    };
    let quotas = list.iter().map(quota).collect::<Result<Vec<_>, _>>()?;
    if let Some(created) = scenario.config.nanos("created_at")? {
        clock.move_to(created);
    }
    let limiter = limiter(&clock, quotas.iter().copied())?;
    scenario.play(&clock, |step: &Step| {
        let tokens = step.count("tokens")?;
        match step.op() {
            Some("add_tokens") => limiter.add(step.need("tokens", tokens)?),
            Some("force_consume" | "consume_ignoring_rate_limits") => {
                reserve(&limiter, step.need("tokens", tokens)?, Duration::MAX);
            }
            Some("try_consume" | "consume") => {
                let taken = limiter.try_acquire_n(step.need("tokens", tokens)?).is_ok();
                step.check("expect", taken)?;
            }
            Some("consume_all" | "try_consume_as_much_as_possible") => {
                let there = available(&limiter).max(0) as u64;
                let most = tokens.map_or(there, |tokens| tokens.min(there));
                let taken = limiter.try_acquire_n(most).map_or(0, |()| most);
                step.check("expect", taken)?;
            }
            Some("reset") => limiter.add(u64::MAX >> 24),
            Some("delay_to_consume") => {
                let tokens = step.need("tokens", tokens)?;
                let checked = step.flag("check_capacity")?.unwrap_or(true);
                let holds = quotas.iter().all(|quota| tokens <= quota.limit());
                let delay = match foresee(&limiter, tokens) {
                    Some(delay) if holds || !checked => nanos(delay),
                    // Java's largest `long`.
                    _ => i64::MAX as u64,
                };
                step.check("expect_ns", delay)?;
                step.check("expect", delay)?;
            }
            None => {}
            op => return unknown(op),
        }
        step.check("expect_available", available(&limiter))?;
        step.check("expect_full_refill_ns", nanos(limiter.peek().reset_after))?;
        if step.has("rounding_error_ns_x_tokens") {
            step.check("rounding_error_ns_x_tokens", rest(&limiter, &quotas)?)?;
        }
        Ok(())
    })
}

fn quota(bandwidth: &Value) -> Result<Quota, Failure> {
    let Value::Object(map) = bandwidth else {
        return inexpressible("a bandwidth is not an object");
    };
    let fields = Fields::new(map.clone());
    let capacity = fields.count("capacity")?;
    let tokens = fields.count("refill_tokens")?;
    let period = fields.duration("refill_period")?;
    let (Some(capacity), Some(tokens), Some(period)) = (capacity, tokens, period) else {
        return inexpressible("a bandwidth without capacity, refill or period");
    };
    let quota = Quota::new(tokens, period).burst(capacity);
    let quota = match fields.text("refill")? {
        None | Some("greedy") => quota,
        Some("intervally") => quota.fixed_window(),
        Some(other) => return inexpressible(format!("refill {other}")),
    };
    let initial = fields.count("initial")?;
    fields.finish("bandwidth key")?;
    match initial {
        Some(initial) if initial > capacity => {
            inexpressible("starts with more tokens than it can hold")
        }
        Some(initial) => Ok(quota.initial(initial)),
        None => Ok(quota),
    }
}

/// Returns the earned part of the next token, in the unit of Bucket4j's carry.
fn rest(limiter: &RateLimiter, quotas: &[Quota]) -> Result<u64, Failure> {
    let [quota] = quotas else {
        return inexpressible("the carry of one of several bandwidths");
    };
    let missing = i128::from(quota.limit()) - i128::from(available(limiter));
    let period = i128::from(nanos(quota.period()));
    let left = i128::from(nanos(limiter.peek().reset_after));
    let rest = missing * period - left * i128::from(quota.tokens());
    Ok(u64::try_from(rest).unwrap_or(0))
}
