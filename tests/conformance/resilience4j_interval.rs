//! [`Backoff`] as resilience4j's `IntervalFunction`. Both count attempts from 1.

use std::time::Duration;

use backstop::{Backoff, ConfigError, Jitter, Retry};

use super::clock::TestClock;
use super::delays::{delays, millis};
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Backoff",
    accepts: |file| file.is_from("resilience4j/resilience4j") && file.pattern() == "retry_delay",
    run,
};

/// Number of calls to check a range.
const CALLS: u64 = 20;

fn run(scenario: &Scenario<'_>) -> Check {
    let configured = match scenario.config.has("kind") {
        true => Some(backoff(&scenario.config)?),
        false => None,
    };
    let jitter = jitter(&scenario.config)?;
    let given = |step: &Step| step.need("kind", configured.clone().flatten());
    scenario.play(&TestClock::new(), |step: &Step| match step.op() {
        Some("build") => {
            let is_error = match backoff(step)? {
                Some(backoff) => build(backoff).is_err(),
                None => true,
            };
            step.check("expect_error", is_error)
        }
        Some("delay") => {
            let attempt = step.need("attempt", step.count_u32("attempt")?)?;
            if attempt == 0 {
                return inexpressible("attempts count from 1; 0 is no error here");
            }
            let delays = compute(given(step)?, attempt, 0)?;
            step.check("expect_ms", millis(delays[attempt as usize - 1]))
        }
        Some("delays_strictly_increasing") => {
            let (first, last) = range(step)?;
            let delays = compute(given(step)?, last, 0)?;
            let delays = &delays[first as usize - 1..];
            match delays.is_sorted_by(|a, b| a < b) {
                true => Ok(()),
                false => failed(format!("the delays are {delays:?}")),
            }
        }
        Some("delay_in_range") => {
            let (first, last) = range(step)?;
            let min = step.need("min_ms", step.duration("min")?)?;
            let max = step.need("max_ms", step.duration("max")?)?;
            for seed in 0..CALLS {
                for delay in &compute(given(step)?, last, seed)?[first as usize - 1..] {
                    if !(min..=max).contains(delay) {
                        return failed(format!("{delay:?} is not in {min:?}..={max:?}"));
                    }
                }
            }
            Ok(())
        }
        Some("delay_in_range_of_expected") => range_of_expected(step, jitter),
        op => unknown(op),
    })
}

/// Checks bounds around an expected value that grows with each attempt.
///
/// The source rounds the delay down after each multiplication, so it falls behind an exact one. A custom delay does
/// the same, with the jitter of the configuration.
fn range_of_expected(step: &Step, jitter: Jitter) -> Check {
    let (first, last) = range(step)?;
    let formula = |key: &str| {
        let text = step.need(key, step.text(key)?)?;
        Formula::parse(text).map_or_else(|| inexpressible(format!("`{key}` is {text:?}")), Ok)
    };
    let text = step.need("expected_next", step.text("expected_next")?)?;
    let (next, starting) = text.split_once(", starting ").unwrap_or((text, ""));
    let (Some(next), Ok(starting)) = (Formula::parse(next), starting.trim().parse::<f64>()) else {
        return inexpressible(format!("`expected_next` is {text:?}"));
    };
    let (min, max) = (formula("min")?, formula("max")?);
    let steps = move |n: u32| (1..n).fold(starting, |delay, _| next.of(delay));
    let backoff = Backoff::custom(move |n| Duration::from_secs_f64(steps(n) / 1e3));
    let backoff = backoff.max(Duration::MAX).jitter(jitter);
    for seed in 0..CALLS {
        let mut expected = starting;
        for delay in &compute(backoff.clone(), last, seed)?[first as usize - 1..] {
            let (min, max) = (min.of(expected), max.of(expected));
            // The source has whole milliseconds.
            let delay = delay.as_millis() as f64;
            if !(min..=max).contains(&delay) {
                return failed(format!("{delay} ms is not in {min}..={max}"));
            }
            expected = next.of(expected);
        }
    }
    Ok(())
}

/// `floor(expected*1.5)+1`: a multiple of the expected value, rounded down, plus a number.
#[derive(Clone, Copy)]
struct Formula {
    factor: f64,
    summand: f64,
}

impl Formula {
    fn parse(text: &str) -> Option<Self> {
        let text = text.replace(' ', "");
        let (factor, summand) = text.strip_prefix("floor(expected*")?.split_once(')')?;
        Some(Self {
            factor: factor.parse().ok()?,
            summand: match summand {
                "" => 0.0,
                summand => summand.parse().ok()?,
            },
        })
    }

    fn of(&self, expected: f64) -> f64 {
        (expected * self.factor).floor() + self.summand
    }
}

/// Returns the backoff of a configuration or of a `build` step. `None` if one of its times is negative, which the type
/// of our setters rejects.
fn backoff(fields: &Fields) -> Result<Option<Backoff>, Failure> {
    let time = |name: &str, default: i128| -> Result<Option<Duration>, Failure> {
        let nanos = fields.nanos(name)?.unwrap_or(default);
        Ok(u64::try_from(nanos).ok().map(Duration::from_nanos))
    };
    let kind = fields.text("kind")?.unwrap_or_default();
    let exponential = matches!(kind, "exponential" | "exponential_random");
    let jitter = jitter(fields)?;
    let random = jitter != Jitter::None;
    if !exponential && !random && kind != "constant" {
        return inexpressible(format!("kind `{kind}`"));
    }
    let multiplier = match exponential {
        true => fields.number("multiplier")?.unwrap_or(1.5),
        false => 1.0,
    };
    let cap = match fields.nanos("cap")? {
        Some(cap) => u64::try_from(cap).ok().map(Duration::from_nanos),
        None => Some(Duration::MAX),
    };
    let (Some(initial), Some(cap)) = (time("initial", 500_000_000)?, cap) else {
        return Ok(None);
    };
    let backoff = match exponential {
        true => Backoff::exponential(initial).factor(multiplier),
        false => Backoff::fixed(initial),
    };
    Ok(Some(backoff.max(cap).jitter(jitter)))
}

fn jitter(fields: &Fields) -> Result<Jitter, Failure> {
    Ok(match fields.text("kind")? {
        Some("randomized" | "exponential_random") => {
            Jitter::PlusMinus(fields.number("factor")?.unwrap_or(0.5))
        }
        _ => Jitter::None,
    })
}

fn build(backoff: Backoff) -> Result<Retry, ConfigError> {
    let clock = TestClock::new();
    Retry::builder().backoff(backoff).clock(clock).build()
}

fn compute(backoff: Backoff, count: u32, seed: u64) -> Result<Vec<Duration>, Failure> {
    delays(backoff, count, seed).or_else(|error| failed(error.to_string()))
}

/// Reads `attempts`: the first and the last.
fn range(step: &Step) -> Result<(u32, u32), Failure> {
    let attempts = step.get("attempts").and_then(|value| value.as_array());
    let attempts: Vec<_> = attempts.into_iter().flatten().map(|n| n.as_u64()).collect();
    match attempts[..] {
        [Some(first), Some(last)] if 0 < first && first <= last && last <= 10_000 => {
            Ok((first as u32, last as u32))
        }
        _ => inexpressible("`attempts` is not a range from 1"),
    }
}
