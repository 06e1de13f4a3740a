//! [`Backoff`] as the delays of Polly v8's retry strategy. The source counts attempts from 0.

use std::time::Duration;

use backstop::{Backoff, Jitter};

use super::clock::TestClock;
use super::delays::{delays, fixed, millis};
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

/// Another adapter runs the breaker scenarios of the same file.
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
    // The source's draw, present also for delays without jitter.
    let random = step.number("random")?;
    let random = step.number("u")?.or(random);

    if !jitter || base.is_zero() || max.is_zero() {
        let delay = nth(&backoff, attempt, 0)?;
        return step.check("expect_ms", millis(delay));
    }
    let kind = match step.text("kind")? {
        Some("exponential") => Jitter::DecorrelatedV2,
        _ => Jitter::PlusMinus(0.25),
    };
    let backoff = backoff.jitter(kind);
    if let (true, Jitter::DecorrelatedV2, Some(random)) = (step.has("expect_ms"), kind, random) {
        return given_draws(step, &backoff, attempt, random, max);
    }
    if step.has("expect_ms") {
        return given_random(step, &backoff, attempt, kind, random, max);
    }
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

/// Checks a delay for a random number `u`, which our backoff does not accept. If delays grow with `u`, it is the `u`
/// quantile of all delays.
fn given_random(
    step: &Step,
    backoff: &Backoff,
    attempt: u32,
    kind: Jitter,
    random: Option<f64>,
    max: Duration,
) -> Check {
    const DRAWS: usize = 2000;
    let delays = (0..DRAWS as u64).map(|seed| nth(backoff, attempt, seed));
    let mut delays = delays.collect::<Result<Vec<_>, _>>()?;
    delays.sort_unstable();
    if delays[0] == delays[DRAWS - 1] {
        // All delays are at the maximum, so no draw matters.
        return step.check("expect_ms", millis(delays[0]));
    }
    let (Some(random), Jitter::PlusMinus(share)) = (random, kind) else {
        return inexpressible("a delay for given random numbers");
    };
    let expected = step.need("expect_ms", step.number("expect_ms")?)? / 1e3;
    let index = (random * (DRAWS - 1) as f64).clamp(0.0, (DRAWS - 1) as f64);
    let delay = delays[index as usize];
    if delay == max {
        // Cut to the maximum, like most draws.
        return step.check("expect_ms", millis(delay));
    }
    let delay = delay.as_secs_f64();
    // Five standard deviations of that many draws.
    match (delay - expected).abs() <= 0.06 * 2.0 * share * expected {
        true => Ok(()),
        false => failed(format!("{delay} s for {random}, not {expected} s")),
    }
}

/// Checks a delay that depends on the last two draws, both `random` in the source, with a call whose own draws are
/// close to that.
fn given_draws(step: &Step, backoff: &Backoff, attempt: u32, random: f64, max: Duration) -> Check {
    const SEEDS: u64 = 20_000;
    const NEAR: f64 = 0.02;
    // A long delay means a large draw.
    let draws = Backoff::fixed(Duration::from_secs(1)).jitter(Jitter::Full);
    let is_near = |seed: &u64| {
        let draws = draws.delays(*seed).take(attempt as usize + 1);
        let mut last = draws.skip((attempt as usize).saturating_sub(1));
        last.all(|draw| (draw.as_secs_f64() - random).abs() < NEAR)
    };
    let Some(seed) = (0..SEEDS).find(is_near) else {
        return inexpressible(format!("no draws near {random}"));
    };
    let expected = step.need("expect_ms", step.number("expect_ms")?)? / 1e3;
    let delay = nth(backoff, attempt, seed)?;
    if delay == max {
        return step.check("expect_ms", millis(delay));
    }
    let delay = delay.as_secs_f64();
    match (delay - expected).abs() <= 3.0 * NEAR * expected {
        true => Ok(()),
        false => failed(format!("{delay} s for {random}, not {expected} s")),
    }
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

/// Returns the delay before the retry after `attempt`, counted from 0.
fn nth(backoff: &Backoff, attempt: u32, seed: u64) -> Result<Duration, Failure> {
    match delays(backoff.clone(), attempt.saturating_add(1), seed) {
        Ok(delays) => Ok(delays[attempt as usize]),
        Err(error) => failed(error.to_string()),
    }
}
