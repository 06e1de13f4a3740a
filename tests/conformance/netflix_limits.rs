//! The limit algorithms and the partitions of a bulkhead as those of Netflix concurrency-limits.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::bulkhead::OwnedPermit;
use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, ExpAverage, Fixed, Gradient2, Sample, Vegas, curve,
};
use backstop::{Bulkhead, Clock, Context};
use serde_json::{Map, Value};

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "limits and partitions",
    accepts: |file| file.is_from("Netflix/concurrency-limits"),
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    if config.has("partitions") {
        partitions(scenario)
    } else if config.has("algo") {
        let algorithm = algorithm(config)?;
        let is_vegas = config.text("algo")? == Some("vegas");
        samples(scenario, algorithm, is_vegas)
    } else {
        functions(scenario)
    }
}

/// Vegas in the Go port. The queue must be below the threshold rather than at most at it, and steps have a fraction
/// where the logarithm does not come from a table.
pub(crate) fn run_go_vegas(scenario: &Scenario<'_>) -> Check {
    const TABLE: f64 = 1000.0;

    let log10 = |limit: f64| match limit < TABLE {
        true => log10_floor(limit),
        false => limit.log10(),
    };
    let algorithm = vegas(&scenario.config, 1.0, log10)?;
    samples(scenario, algorithm, true)
}

/// The step of Vegas as the scenarios write it: the logarithm, rounded down, and at least 1.
fn log10_floor(limit: f64) -> f64 {
    curve::log10(limit as u32)
}

/// Feeds an algorithm with samples.
fn samples(
    scenario: &Scenario<'_>,
    mut algorithm: Box<dyn ConcurrencyLimit>,
    is_vegas: bool,
) -> Check {
    let clock = TestClock::new();
    let mut smallest = Duration::MAX;
    scenario.play(&clock, |step: &Step| {
        match step.op() {
            Some("sample") => {
                let latency = step.need("rtt", step.duration("rtt")?)?;
                let in_flight = step.need("inflight", step.count_u32("inflight")?)?;
                let mut sample = Sample::new(clock.now(), latency, in_flight);
                // The source checks nothing else about a new smallest latency.
                let leaves_limit = is_vegas && latency < smallest;
                smallest = smallest.min(latency);
                sample.overloaded = step.flag("dropped")?.unwrap_or(false) && !leaves_limit;
                algorithm.on_sample(&sample);
            }
            op => unknown(op)?,
        }
        step.check("expect_limit", algorithm.limit())
    })
}

fn algorithm(config: &Fields) -> Result<Box<dyn ConcurrencyLimit>, Failure> {
    let number = |key: &str, default: u32| Ok(config.count_u32(key)?.unwrap_or(default));
    // In the source a limit may be 0, and then stays 0.
    let min = || Ok(number("min", 20)?.max(1));
    let error = |error: backstop::ConfigError| Failure::Failed(error.to_string());
    Ok(match config.text("algo")? {
        Some("vegas") => vegas(config, 0.0, log10_floor)?,
        Some("aimd") => {
            let aimd = Aimd::builder()
                .initial(number("initial", 20)?)
                .min(min()?)
                .max(number("max", 200)?)
                .decrease_factor(config.number("backoff_ratio")?.unwrap_or(0.9))
                .every_sample(true);
            let timeout = config.duration("timeout")?;
            let aimd = timeout.map_or(aimd, |timeout| aimd.timeout(timeout));
            Box::new(aimd.build().map_err(error)?)
        }
        Some("gradient2") => {
            let gradient2 = Gradient2::builder()
                .initial(number("initial", 20)?)
                .min(min()?)
                .max(number("max", 200)?)
                .queue_size(number("queue_size", 4)?)
                .long_window(number("long_window", 600)?)
                .smoothing(config.number("smoothing")?.unwrap_or(0.2))
                .tolerance(config.number("tolerance")?.unwrap_or(1.5));
            Box::new(gradient2.build().map_err(error)?)
        }
        Some("fixed") => Box::new(Fixed::new(number("limit", 10)?)),
        other => return inexpressible(format!("algorithm {other:?}")),
    })
}

/// Builds Vegas with a threshold lower by `below` and steps of `log10`.
fn vegas(
    config: &Fields,
    below: f64,
    log10: fn(f64) -> f64,
) -> Result<Box<dyn ConcurrencyLimit>, Failure> {
    let number = |key: &str, default: u32| Ok(config.count_u32(key)?.unwrap_or(default));
    let parsed = |key: &str, default: &str| match config.get(key) {
        Some(Value::String(text)) => Curve::parse(text),
        Some(Value::Number(number)) => Curve::parse(&number.to_string()),
        Some(other) => inexpressible(format!("`{key}` is {other}")),
        None => Curve::parse(default),
    };
    let alpha = parsed("alpha", "3*log10root")?;
    let beta = parsed("beta", "6*log10root")?;
    let threshold = parsed("threshold", "log10root")?;
    let increase = parsed("increase", "limit+log10root")?;
    let decrease = parsed("decrease", "limit-log10root")?;
    let floored = log10_floor;
    let vegas = Vegas::builder()
        .initial(number("initial", 20)?)
        .max(number("max", 1000)?)
        .alpha(move |limit| alpha.at(limit, floored))
        .beta(move |limit| beta.at(limit, floored))
        .threshold(move |limit| threshold.at(limit, floored) - below)
        .increase(move |limit| increase.at(limit, log10))
        .decrease(move |limit| decrease.at(limit, log10))
        .smoothing(config.number("smoothing")?.unwrap_or(1.0))
        // The source measures the smallest latency again after hundreds of samples.
        .calibration(None)
        .every_sample(true);
    match vegas.build() {
        Ok(vegas) => Ok(Box::new(vegas)),
        Err(error) => failed(error.to_string()),
    }
}

/// A sum of products of numbers, `limit`, `log10root`, and `sqrtroot`.
struct Curve(Vec<(char, Vec<(char, Factor)>)>);

#[derive(Clone, Copy)]
enum Factor {
    Number(f64),
    Limit,
    Log10,
    Sqrt,
}

impl Curve {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut terms = Vec::new();
        for (sign, term) in split(text, ['+', '-']) {
            let mut factors = Vec::new();
            for (operator, factor) in split(&term, ['*', '/']) {
                let factor = match factor.trim() {
                    "limit" => Factor::Limit,
                    "log10root" => Factor::Log10,
                    "sqrtroot" => Factor::Sqrt,
                    number => match number.parse() {
                        Ok(number) => Factor::Number(number),
                        Err(_) => return inexpressible(format!("the function {text:?}")),
                    },
                };
                factors.push((operator, factor));
            }
            terms.push((sign, factors));
        }
        Ok(Self(terms))
    }

    fn at(&self, limit: f64, log10: fn(f64) -> f64) -> f64 {
        let value = |factor| match factor {
            Factor::Number(number) => number,
            Factor::Limit => limit,
            Factor::Log10 => log10(limit),
            Factor::Sqrt => f64::from(curve::sqrt(limit as u32, 1)),
        };
        let term = |factors: &[(char, Factor)]| {
            factors
                .iter()
                .fold(1.0, |product, (operator, factor)| match operator {
                    '/' => product / value(*factor),
                    _ => product * value(*factor),
                })
        };
        self.0.iter().fold(0.0, |sum, (sign, factors)| match sign {
            '-' => sum - term(factors),
            _ => sum + term(factors),
        })
    }
}

/// Splits at the operators. Returns each part with the operator before it.
fn split(text: &str, operators: [char; 2]) -> Vec<(char, String)> {
    let mut parts = vec![(operators[0], String::new())];
    for letter in text.chars() {
        if operators.contains(&letter) {
            parts.push((letter, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

/// Runs the averages and roots that the algorithms use.
fn functions(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    let mut average = match (config.count_u32("window")?, config.count_u32("warmup")?) {
        (Some(window), warm_up) => Some(ExpAverage::new(window, warm_up.unwrap_or(10))),
        (None, _) => None,
    };
    let baseline = config.count_u32("baseline")?;
    scenario.play(&TestClock::new(), |step: &Step| match step.op() {
        Some("add") => {
            let value = step.need("value", step.number("value")?)?;
            match &mut average {
                Some(average) => step.check("expect", average.add(value)),
                None => inexpressible("an average without a window"),
            }
        }
        Some("sqrtroot") => {
            let x = step.need("x", step.count_u32("x")?)?;
            step.check("expect", curve::sqrt(x, baseline.unwrap_or(1)))
        }
        Some("log10root") => {
            let x = step.need("x", step.count_u32("x")?)?;
            // The source adds this baseline.
            step.check("expect", curve::log10(x) + f64::from(baseline.unwrap_or(0)))
        }
        op => unknown(op),
    })
}

/// Runs a bulkhead with partitions. In the source a partition below its share may exceed the total.
fn partitions(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    let clock = TestClock::new();
    let Some(Value::Object(shares)) = config.get("partitions") else {
        return inexpressible("`partitions` is not an object");
    };
    let mut builder = Bulkhead::builder()
        .shares_may_exceed(true)
        .clock(clock.clone());
    for (name, share) in shares {
        let share = share.as_f64().unwrap_or(f64::NAN);
        // Names live as long as the program, there and here.
        builder = builder.partition(name.clone().leak(), share);
    }
    // Calls of this kind bypass the limiter.
    let bypass = config.text("bypass")?;
    match config.text("algo")? {
        None | Some("fixed") => {}
        Some(other) => return inexpressible(format!("partitions of {other}")),
    }
    if let Some(limit) = config.count_u32("limit")? {
        builder = builder.max_concurrent(limit);
    }
    let bulkhead = match builder.build() {
        Ok(bulkhead) => bulkhead,
        Err(error) => return failed(error.to_string()),
    };
    let mut permits: BTreeMap<String, Vec<OwnedPermit>> = BTreeMap::new();
    scenario.play(&clock, |step: &Step| {
        let name = step.text("partition")?;
        let key = name.unwrap_or_default().to_owned();
        match step.op() {
            Some("acquire") if name.is_some() && name == bypass => step.check("expect", true)?,
            Some("release" | "success" | "ignore" | "dropped")
                if name.is_some() && name == bypass => {}
            Some("acquire") => {
                let part = name.and_then(|name| bulkhead.partition(name));
                let part = part.unwrap_or_else(|| bulkhead.clone());
                let permit = part.try_acquire_owned(Context::new());
                step.check("expect", permit.is_ok())?;
                permits.entry(key.clone()).or_default().extend(permit.ok());
            }
            Some("release" | "success" | "ignore" | "dropped") => {
                permits.entry(key.clone()).or_default().pop();
            }
            Some("set_limit") => {
                let limit = step.need("limit", step.count_u32("limit")?)?;
                let error = |error: backstop::ConfigError| Failure::Failed(error.to_string());
                bulkhead.set_limit(limit).map_err(error)?;
            }
            op => unknown(op)?,
        }
        let snapshot = bulkhead.snapshot();
        step.check("expect_limit", snapshot.limit)?;
        step.check("expect_inflight", snapshot.in_flight)?;
        let of_all = |what: fn(&backstop::bulkhead::PartitionSnapshot) -> u32| {
            let each = snapshot.partitions.iter();
            Value::from(
                each.map(|part| (part.name.to_owned(), what(part).into()))
                    .collect::<Map<_, _>>(),
            )
        };
        step.check("expect_partition_limit", of_all(|part| part.guaranteed))?;
        let in_flight = of_all(|part| part.in_flight);
        match name {
            Some(name) => step.check("expect_partition_inflight", in_flight[name].clone()),
            None => step.check("expect_partition_inflight", in_flight),
        }
    })
}
