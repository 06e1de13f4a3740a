//! [`Gradient`] as Envoy's gradient controller.

use std::time::Duration;

use backstop::Clock;
use backstop::bulkhead::limit::{ConcurrencyLimit, Gradient, GradientBuilder, Probe, Sample};

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
    let algorithm = match builder(config)?.build() {
        Ok(algorithm) => algorithm,
        Err(error) => return failed(error.to_string()),
    };
    let actor = Envoy {
        algorithm,
        clock: &clock,
        request_count,
        in_flight: 0,
    };
    scenario.play(&clock, actor)
}

fn builder(fields: &Fields) -> Result<GradientBuilder, Failure> {
    let percent = |key: &str, default: f64| Ok(fields.number(key)?.unwrap_or(default) / 100.0);
    let minute = Duration::from_secs(60);
    let min = fields.count_u32("min_concurrency")?.unwrap_or(3);
    let jitter = match fields.number("jitter")? {
        Some(percent) => percent / 100.0,
        None => percent("jitter_pct", 15.0)?,
    };
    let probe = Probe::every(fields.duration("min_rtt_interval")?.unwrap_or(minute))
        .jitter(jitter)
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
        .probe(probe))
}

struct Envoy<'a> {
    algorithm: Gradient,
    clock: &'a TestClock,
    request_count: u32,
    in_flight: u32,
}

impl Envoy<'_> {
    /// There the use of the limit does not matter.
    fn sample(&self, latency: Duration) -> Sample {
        Sample::new(self.clock.now(), latency, self.algorithm.limit())
    }

    /// The limit once the timers that are due have run.
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
        // A request takes no time on this clock: it began when it ends.
        let mut sample = self.sample(latency);
        sample.started = sample.now;
        self.algorithm.on_sample(&sample);
    }

    /// One clause of a sentence: `5x(admit; sample 6 ms)`, `advance 101 ms`.
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
            Some("cancel") => self.in_flight = self.in_flight.saturating_sub(1),
            Some("finish_min_rtt") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                for _ in 0..self.request_count {
                    self.record(latency);
                }
                if self.algorithm.is_probing() {
                    return failed("the probe goes on");
                }
            }
            op => unknown(op)?,
        }
        if let Some(expected) = step.get("expect_defaults") {
            let Some(expected) = expected.as_object() else {
                return inexpressible("`expect_defaults` is no object");
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
        step.check("expect_limit", limit)
    }

    fn prose(&mut self, step: &Step, body: &str) -> Check {
        let times = step.need("times", step.count("times")?)?;
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
        for round in 1..=times {
            let before = self.limit();
            // A `;` inside of brackets does not end a clause.
            let mut depth = 0;
            for clause in body.split(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                letter == ';' && depth == 0
            }) {
                self.clause(clause)?;
            }
            let after = self.limit();
            if !holds(before, after) {
                return failed(format!(
                    "round {round}: the limit went from {before} to {after}"
                ));
            }
        }
        Ok(())
    }
}
