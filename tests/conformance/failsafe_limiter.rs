//! [`Correlated`] as failsafe-go's adaptive limiter.

use backstop::Clock;
use backstop::bulkhead::limit::{
    ConcurrencyLimit, Correlated, CorrelatedBuilder, Sample, Windowed,
};

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Correlated",
    accepts: |file| file.is_from("failsafe-go/failsafe-go") && file.pattern() == "adaptive_limit",
    run,
};

/// In the source the first samples of the baseline have equal weight.
const WARM_UP: u64 = 10;

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let builder = builder(&scenario.config)?;
    let mut algorithm = match builder.build() {
        Ok(algorithm) => algorithm,
        Err(error) => return failed(error.to_string()),
    };
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("sample") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                let in_flight = step.need("inflight", step.count_u32("inflight")?)?;
                let mut sample = Sample::new(clock.now(), latency, in_flight);
                sample.full = step.flag("full")?.unwrap_or(false);
                // The source leaves out dropped calls, like our neutral ones.
                if !step.flag("dropped")?.unwrap_or(false) {
                    algorithm.on_sample(&sample);
                }
            }
            Some("max_limit") => {
                let in_flight = step.need("inflight", step.count_u32("inflight")?)?;
                let most = builder.max_limit_at(in_flight);
                // A whole number is the number of calls that fit.
                let whole = step.get("expect").is_some_and(|expected| expected.is_u64());
                step.check("expect", if whole { most.floor() } else { most })?;
            }
            op => unknown(op)?,
        }
        let correlated = algorithm.inner();
        for (key, latency) in [
            ("expect_median_ms", correlated.median_latency()),
            ("expect_smoothed_recent_rtt_ms", correlated.recent_latency()),
            ("expect_baseline_rtt_ms", correlated.baseline()),
        ] {
            step.check(
                key,
                latency.map_or(0.0, |latency| latency.as_secs_f64() * 1e3),
            )?;
        }
        step.check("expect_limit", algorithm.limit())
    })
}

fn builder(config: &Fields) -> Result<CorrelatedBuilder, Failure> {
    let number = |key: &str, default: u32| Ok(config.count_u32(key)?.unwrap_or(default));
    let mut builder = Correlated::builder()
        .initial(number("initial_limit", 20)?)
        .min(number("min_limit", 1)?)
        .max(number("max_limit", 200)?)
        .long_window(number("baseline_age", 10)?)
        .correlation_window(number("correlation_window", 50)? as usize)
        .max_limit_factor(
            config.number("max_limit_factor")?.unwrap_or(5.0),
            config.number("decay")?.unwrap_or(0.0),
            config.number("min_factor")?.unwrap_or(1.0),
        );
    if let Some(window) = config.duration("max_limit_stabilization")? {
        builder = builder.max_limit_stabilization(window);
    }
    let second = std::time::Duration::from_secs(1);
    let window = Windowed::builder()
        .window_between(
            config.duration("recent_window_min")?.unwrap_or(second),
            config.duration("recent_window_max")?.unwrap_or(30 * second),
        )
        .min_calls(number("recent_min_samples", 50)?)
        .quantile(config.number("recent_quantile")?.unwrap_or(0.9))
        .min_latency(std::time::Duration::ZERO);
    builder = builder.windowed(window);
    if let Some(preload) = config.get("preload_baseline") {
        let preload = match preload.as_object() {
            Some(preload) => Fields::new(preload.clone()),
            None => return inexpressible("`preload_baseline` is not an object"),
        };
        if preload.count("samples")?.unwrap_or(WARM_UP) < WARM_UP {
            return inexpressible("a baseline of fewer than ten samples");
        }
        if let Some(latency) = preload.duration("rtt")? {
            builder = builder.baseline(latency);
        }
        preload.finish("preload_baseline key")?;
    }
    Ok(builder)
}
