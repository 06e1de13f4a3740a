//! The limit algorithms as those of the Go port of Netflix concurrency-limits.

use std::time::Duration;

use backstop::Clock;
use backstop::bulkhead::limit::{Aimd, ConcurrencyLimit, Gradient2, Sample};

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown, unless_parted,
};
use super::netflix_limits;

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "limits",
    accepts: |file| file.is_from("platinummonkey/go-concurrency-limits"),
    run,
};

/// Returns how the source differs if a sample moves its limit differently from ours.
type Differs = Box<dyn FnMut(&Sample, u32) -> Option<&'static str>>;

fn run(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    let (mut algorithm, mut differs): (Box<dyn ConcurrencyLimit>, Differs) = match config
        .text("algo")?
    {
        Some("aimd") => aimd(config)?,
        Some("gradient2") => gradient2(config)?,
        Some("vegas") => return netflix_limits::run_go_vegas(scenario),
        Some("gradient") => {
            return inexpressible(
                "`gradient`: the smallest latency as the baseline, a queue of sqrt(limit), smoothing of decreases only",
            );
        }
        algo => return inexpressible(format!("algorithm {algo:?}")),
    };
    let clock = TestClock::new();
    let ignores_drops = config.text("algo")? == Some("gradient2");
    let mut difference = None;
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("sample") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                let in_flight = step.need("inflight", step.count_u32("inflight")?)?;
                let mut sample = Sample::new(clock.now(), latency, in_flight);
                sample.overloaded = step.flag("dropped")?.unwrap_or(false) && !ignores_drops;
                difference = difference.or(differs(&sample, algorithm.limit()));
                algorithm.on_sample(&sample);
            }
            op => unknown(op)?,
        }
        unless_parted(step.check("expect_limit", algorithm.limit()), difference)
    })
}

fn aimd(config: &Fields) -> Result<(Box<dyn ConcurrencyLimit>, Differs), Failure> {
    let increase = config.count_u32("increase_by")?.unwrap_or(1).max(1);
    let ratio = config.number("backoff_ratio")?.unwrap_or(0.9);
    // The source has neither a largest limit nor a latency that counts as a drop.
    let aimd = Aimd::builder()
        .initial(config.count_u32("initial")?.unwrap_or(10))
        .min(1)
        .max(u32::MAX)
        .timeout(Duration::MAX)
        .decrease_factor(ratio)
        .increase_by(increase)
        // The source grows only if the limit is reached.
        .utilization(1.0)
        .every_sample(true);
    let differs = move |sample: &Sample, limit: u32| {
        let stays = limit > 1 && (f64::from(limit) * ratio).floor() > f64::from(limit - 1);
        (sample.overloaded && stays).then_some("a decrease by at least one")
    };
    match aimd.build() {
        Ok(aimd) => Ok((Box::new(aimd), Box::new(differs))),
        Err(error) => failed(error.to_string()),
    }
}

fn gradient2(config: &Fields) -> Result<(Box<dyn ConcurrencyLimit>, Differs), Failure> {
    let number = |key: &str, default: u32| Ok(config.count_u32(key)?.unwrap_or(default));
    let smoothing = config.number("smoothing")?.unwrap_or(0.2);
    if smoothing == 0.0 {
        return inexpressible("a smoothing of 0, a limit that never moves");
    }
    let gradient2 = Gradient2::builder()
        .initial(number("initial", 4)?)
        .min(number("min", 4)?)
        .max(number("max", 1000)?)
        .queue_size(number("queue_size", 4)?)
        .long_window(number("long_window", 100)?)
        .smoothing(smoothing)
        .tolerance(config.number("tolerance")?.unwrap_or(1.0))
        .recovery(0.9);
    match gradient2.build() {
        Ok(gradient2) => Ok((Box::new(gradient2), Box::new(|_, _| None))),
        Err(error) => failed(error.to_string()),
    }
}
