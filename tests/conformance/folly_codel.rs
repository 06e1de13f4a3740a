//! [`Codel`] as folly's.

use std::time::Duration;

use backstop::Clock;
use backstop::codel::Codel;

use super::clock::TestClock;
use super::harness::{Adapter, Check, Scenario, Step, failed, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Codel",
    accepts: |file| file.is_from("facebook/folly") && file.pattern() == "load_shedding_codel",
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let mut builder = Codel::builder();
    if let Some(target) = config.duration("target_delay")? {
        builder = builder.target(target);
    }
    if let Some(interval) = config.duration("interval")? {
        builder = builder.interval(interval);
    }
    if let Some(factor) = config.count_u32("slough_factor")? {
        builder = builder.stale_after(factor);
    }
    let mut codel = match builder.build(clock.now()) {
        Ok(codel) => codel,
        Err(error) => return failed(error.to_string()),
    };
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("dequeue") => {
                let delay = step.need("queue_delay", step.duration("queue_delay")?)?;
                let dropped = codel.should_drop(delay, clock.now());
                step.check("expect_drop", dropped)?;
            }
            Some("set_options") => {
                let target = step.duration("target_delay")?.unwrap_or(codel.target());
                let interval = step.duration("interval")?.unwrap_or(codel.interval());
                let changed = codel.retune(target, interval);
                step.check("expect_error", changed.is_err())?;
            }
            op => unknown(op)?,
        }
        // The source rounds down to whole percent.
        let load = (codel.load() * 100.0 + 1e-9).floor();
        step.check("expect_load", load)?;
        if let Some(bound) = step.number("expect_load_lt")? {
            if load >= bound {
                return failed(format!("the load is {load}, not below {bound}"));
            }
        }
        if let Some(bound) = step.number("expect_load_gt")? {
            if load <= bound {
                return failed(format!("the load is {load}, not above {bound}"));
            }
        }
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        step.check(
            "expect_min_delay_ms",
            ms(codel.min_delay().unwrap_or_default()),
        )?;
        step.check("expect_target_delay_ms", ms(codel.target()))?;
        step.check("expect_interval_ms", ms(codel.interval()))?;
        step.check("expect_overloaded", codel.is_overloaded())
    })
}
