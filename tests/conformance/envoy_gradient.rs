//! [`Gradient`] as Envoy's gradient controller.

use std::time::Duration;

use backstop::Clock;
use backstop::bulkhead::limit::{Calibration, ConcurrencyLimit, Gradient, GradientBuilder, Sample};

use serde_json::Value;

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown,
};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Gradient",
    accepts: |file| file.is_from("envoyproxy/envoy") && file.pattern() == "adaptive_limit",
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let request_count = config.count_u32("request_count")?.unwrap_or(50);
    let builder = builder(config)?;
    let algorithm = match builder.build() {
        Ok(algorithm) => algorithm,
        Err(error) => return failed(error.to_string()),
    };
    let actor = Envoy {
        algorithm,
        clock: &clock,
        builder,
        interval: config.duration("min_rtt_interval")?.unwrap_or(MINUTE),
        jitter: jitter(config)?,
        request_count,
        in_flight: 0,
        remembered: None,
    };
    scenario.play(&clock, actor)
}

const MINUTE: Duration = Duration::from_secs(60);

/// Reads the jitter under either of two names; the name with the unit takes precedence.
fn jitter(fields: &Fields) -> Result<f64, Failure> {
    let plain = fields.number("jitter")?;
    Ok(fields.number("jitter_pct")?.or(plain).unwrap_or(15.0) / 100.0)
}

fn builder(fields: &Fields) -> Result<GradientBuilder, Failure> {
    let percent = |key: &str, default: f64| Ok(fields.number(key)?.unwrap_or(default) / 100.0);
    let min = fields.count_u32("min_concurrency")?.unwrap_or(3);
    let calibration = Calibration::every(fields.duration("min_rtt_interval")?.unwrap_or(MINUTE))
        .jitter(jitter(fields)?)
        .samples(fields.count_u32("request_count")?.unwrap_or(50))
        .concurrency(min)
        .quantile(percent("percentile", 50.0)?);
    let update = fields.duration("update_interval")?;
    Ok(Gradient::builder()
        .min(min)
        .max(fields.count_u32("max_concurrency")?.unwrap_or(1000))
        .update_interval(update.unwrap_or(Duration::from_millis(100)))
        .quantile(percent("percentile", 50.0)?)
        .buffer(percent("buffer_pct", 25.0)?)
        .calibration(calibration))
}

struct Envoy<'a> {
    algorithm: Gradient,
    clock: &'a TestClock,
    builder: GradientBuilder,
    /// The time between probes, and the largest share that is added to it.
    interval: Duration,
    jitter: f64,
    request_count: u32,
    in_flight: u32,
    remembered: Option<u32>,
}

impl Envoy<'_> {
    /// Returns a sample. In the source the utilization does not matter.
    fn sample(&self, latency: Duration) -> Sample {
        Sample::new(self.clock.now(), latency, self.algorithm.limit())
    }

    /// Returns the limit after the timers that are due have run.
    fn limit(&mut self) -> u32 {
        self.algorithm.tick(self.clock.now());
        self.algorithm.limit()
    }

    fn admit(&mut self) -> bool {
        let admitted = self.in_flight < self.limit();
        self.in_flight += u32::from(admitted);
        admitted
    }

    fn record(&mut self, latency: Duration) {
        self.algorithm.tick(self.clock.now());
        self.in_flight = self.in_flight.saturating_sub(1);
        // A request takes no time on this clock, so its start is its end.
        let mut sample = self.sample(latency);
        sample.started = sample.now;
        self.algorithm.on_sample(&sample);
    }

    /// Checks the time between two probes if the source draws `random`. The source adds the remainder of its division
    /// by the longest addition; here that is a share.
    fn timer(&self, step: &Step) -> Check {
        let random = step.need("random", step.count("random")?)?;
        let expected = step.need("expect_ms", step.duration("expect")?)?;
        let millis = self.interval.as_secs_f64() * 1e3 * self.jitter;
        let longest = (millis - 1e-9).ceil().max(1.0) as u64;
        let mut algorithm = match self.builder.build() {
            Ok(algorithm) => algorithm,
            Err(error) => return failed(error.to_string()),
        };
        for _ in 0..self.request_count {
            let mut sample = self.sample(Duration::from_millis(5));
            sample.started = sample.now;
            sample.random = (random % longest) as f64 / longest as f64;
            algorithm.on_sample(&sample);
        }
        let now = self.clock.now();
        let probes_at = |after: Duration| {
            let mut algorithm = algorithm.clone();
            algorithm.tick(now + after);
            algorithm.is_calibrating()
        };
        let early = expected.saturating_sub(Duration::from_micros(1));
        match (probes_at(early), probes_at(expected)) {
            (false, true) => Ok(()),
            early_and_then => failed(format!(
                "probes before and at {expected:?}: {early_and_then:?}"
            )),
        }
    }

    /// Runs one clause of a sentence: `5x(admit; sample 6 ms)`, `advance 101 ms`.
    fn clause(&mut self, clause: &str) -> Check {
        if let Some((times, body)) = clause.split_once("x(") {
            let body = body.trim_end_matches(')');
            let Ok(times) = times.trim().parse::<u32>() else {
                return inexpressible(format!("{clause:?}"));
            };
            for _ in 0..times {
                for clause in body.split(';') {
                    self.clause(clause)?;
                }
            }
            return Ok(());
        }
        let words: Vec<_> = clause.split_whitespace().collect();
        let time = |number: &str| match number.parse() {
            Ok(number) => Ok(Duration::from_millis(number)),
            Err(_) => inexpressible(format!("{clause:?}")),
        };
        match words[..] {
            ["expect", "limit", number] => {
                let limit = self.limit();
                match number.parse::<u32>() {
                    Ok(expected) if limit == expected => Ok(()),
                    Ok(expected) => failed(format!("expected limit {expected}, got {limit}")),
                    Err(_) => inexpressible(format!("{clause:?}")),
                }
            }
            ["cancel"] => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Ok(())
            }
            ["admit"] => match self.admit() {
                true => Ok(()),
                false => failed("a request was not admitted"),
            },
            ["sample", number, "ms"] => {
                self.record(time(number)?);
                Ok(())
            }
            ["advance", number, "ms"] => {
                self.clock.advance(time(number)?);
                self.limit();
                Ok(())
            }
            _ => inexpressible(format!("{clause:?}")),
        }
    }
}

impl Actor for Envoy<'_> {
    fn step(&mut self, step: &Step) -> Check {
        match step.op() {
            Some("admit") => {
                let admitted = self.admit();
                step.check("expect", admitted)?;
            }
            Some("sample") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                self.record(latency);
            }
            Some("advance_ms") => {
                let pause = step.need("ms", step.count("ms")?)?;
                self.clock.advance(Duration::from_millis(pause));
                self.limit();
            }
            Some("remember_limit") => self.remembered = Some(self.limit()),
            Some("min_rtt_timer") => self.timer(step)?,
            Some("cancel") => self.in_flight = self.in_flight.saturating_sub(1),
            Some("finish_min_rtt") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                for _ in 0..self.request_count {
                    self.record(latency);
                }
                if self.algorithm.is_calibrating() {
                    return failed("the probe goes on");
                }
            }
            op => unknown(op)?,
        }
        if let Some(expected) = step.get("expect_defaults") {
            let Some(expected) = expected.as_object() else {
                return inexpressible("`expect_defaults` is not an object");
            };
            let expected = Fields::new(expected.clone());
            let (ours, theirs) = (Gradient::builder(), builder(&expected)?);
            expected.finish("default")?;
            if ours != theirs {
                return failed(format!("the defaults are {ours:?}, not {theirs:?}"));
            }
        }
        let limit = self.limit();
        let baseline = self.algorithm.baseline().unwrap_or_default();
        step.check("expect_min_rtt_ms", baseline.as_secs_f64() * 1000.0)?;
        if step.get("expect_limit").and_then(Value::as_str) == Some("remembered") {
            return match self.remembered {
                Some(remembered) if remembered == limit => Ok(()),
                remembered => failed(format!("expect_limit: {remembered:?}, got {limit}")),
            };
        }
        step.check("expect_limit", limit)
    }

    fn prose(&mut self, step: &Step, body: &str) -> Check {
        let expected = step.text("expect")?;
        let holds: fn(u32, u32) -> bool =
            match expected.map(|text| text.trim_end_matches(" every time")) {
                Some("limit strictly grows" | "limit strictly increases") => {
                    |before, after| after > before
                }
                Some(
                    "limit strictly shrinks" | "limit strictly decreases" | "limit strictly falls",
                ) => |before, after| after < before,
                Some("limit unchanged") => |before, after| after == before,
                None => |_, _| true,
                other => return inexpressible(format!("the expectation {other:?}")),
            };
        let before = self.limit();
        // A `;` inside brackets does not end a clause.
        let mut depth = 0;
        for clause in body.split(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            letter == ';' && depth == 0
        }) {
            self.clause(clause)?;
        }
        let after = self.limit();
        match holds(before, after) {
            true => Ok(()),
            false => failed(format!("the limit went from {before} to {after}")),
        }
    }
}
