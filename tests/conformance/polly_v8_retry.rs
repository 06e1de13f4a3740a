//! [`Backoff`] as the delays of Polly v8's retry strategy. Attempts count from 0 there.

use std::time::Duration;

use backstop::{Backoff, Jitter};

use super::clock::TestClock;
use super::delays::{delays, fixed, millis};
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

/// The breaker's scenarios of the same file are another adapter's.
pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Backoff",
    accepts: |file| file.is_from("App-vNext/Polly") && file.pattern().contains("retry_delay"),
    run: |scenario: &Scenario<'_>| {
        scenario.play(&TestClock::new(), |step: &Step| match step.op() {
            Some("delay") => delay(step),
            op => unknown(op),
        })
    },
};

fn delay(step: &Step) -> Check {
    let attempt = step.need("attempt", step.count_u32("attempt")?)?;
    let base = step.need("base_ms", step.duration("base")?)?;
    let max = step.duration("max")?.unwrap_or(Duration::MAX);
    let jitter = step.flag("jitter")?.unwrap_or(false);
    let backoff = backoff(step, base, max)?;

    if !jitter || base.is_zero() || max.is_zero() {
        let delay = nth(&backoff, attempt, 0)?;
        return step.check("expect_ms", millis(delay));
    }
    if step.has("expect_ms") {
        return inexpressible("a delay for given random numbers");
    }
    let kind = match step.text("kind")? {
        Some("exponential") => Jitter::DecorrelatedV2,
        _ => Jitter::PlusMinus(0.25),
    };
    let backoff = backoff.jitter(kind);
    let least = step.duration("expect_min")?.unwrap_or(Duration::ZERO);
    let most = step.duration("expect_max")?.unwrap_or(Duration::MAX);
    for seed in 0..100 {
        let delay = nth(&backoff, attempt, seed)?;
        if !(least..=most).contains(&delay) {
            return failed(format!("{delay:?} is not in {least:?}..={most:?}"));
        }
    }
    Ok(())
}

fn backoff(step: &Step, base: Duration, max: Duration) -> Result<Backoff, Failure> {
    let backoff = match step.text("kind")? {
        Some("constant") if !max.is_zero() => Ok(fixed(base)),
        _ if base.is_zero() || max.is_zero() => Ok(Backoff::NONE),
        Some("linear") => Ok(Backoff::linear(base, base)),
        Some("exponential") => Ok(Backoff::exponential(base)),
        kind => inexpressible(format!("kind {kind:?}")),
    }?;
    Ok(match max.is_zero() {
        true => backoff,
        false => backoff.max(max).jitter(Jitter::None),
    })
}

/// The delay before the retry after `attempt`, from 0.
fn nth(backoff: &Backoff, attempt: u32, seed: u64) -> Result<Duration, Failure> {
    match delays(backoff.clone(), attempt.saturating_add(1), seed) {
        Ok(delays) => Ok(delays[attempt as usize]),
        Err(error) => failed(error.to_string()),
    }
}
