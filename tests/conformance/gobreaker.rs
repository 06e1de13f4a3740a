//! [`CircuitBreaker`] as sony/gobreaker.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Permit, State, Trip};
use backstop::{CircuitBreaker, Verdict};
use serde_json::{Value, json};

use super::breakers::{NANOSECOND, build, fixed, name};
use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, inexpressible, unknown, unless_parted,
};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "CircuitBreaker",
    accepts: |file| file.is_from("sony/gobreaker") && file.pattern() == "circuit_breaker",
    run,
};

/// Without an interval, calls are counted while the circuit is closed.
const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
const NEVER: u32 = u32::MAX;

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let span = Span::read(config)?;
    let probes = config.count_u32("max_requests_half_open")?.unwrap_or(1);
    let timeout = match config.duration("open_timeout")? {
        None | Some(Duration::ZERO) => Duration::from_secs(60),
        Some(timeout) => timeout,
    };
    let probes = probes.max(1);
    let mut builder = CircuitBreaker::builder()
        // Never opens, but counts.
        .trip_on(span.over(Trip::failures(NEVER)))
        .trip_on(Trip::consecutive(NEVER))
        .trip_on_failures_only(true)
        // In the source a break ends strictly after its duration.
        .break_for(fixed(timeout + NANOSECOND))
        .half_open(HalfOpen::successes(probes))
        .permitted_calls(probes)
        .probe_lease(Duration::MAX);
    let trip = trip(config, &span)?;
    builder = trip
        .into_iter()
        .fold(builder, |builder, trip| builder.trip_on(trip));
    let breaker = build(builder, &clock)?;
    let actor = Gobreaker {
        breaker: &breaker,
        clock: &clock,
        ratio: ratio(config),
        generation: breaker.snapshot().generation,
        began: Duration::ZERO,
        excluded: Vec::new(),
        consecutive_successes: 0,
        calls: HashMap::new(),
        difference: None,
        span,
    };
    scenario.play(&clock, actor)
}

/// The time span over which calls are counted while the circuit is closed.
enum Span {
    Ever,
    /// A new generation begins after each.
    Interval(Duration),
    /// A window of this many buckets of this length.
    Buckets(u32, Duration),
}

impl Span {
    fn read(config: &Fields) -> Result<Self, Failure> {
        let bucket = config.duration("bucket_period")?.unwrap_or_default();
        Ok(
            match (config.duration("interval")?.unwrap_or_default(), bucket) {
                (Duration::ZERO, _) => Self::Ever,
                (interval, Duration::ZERO) => Self::Interval(interval),
                (interval, bucket) => {
                    let count = interval.as_nanos().div_ceil(bucket.as_nanos());
                    match u32::try_from(count) {
                        Ok(1) => Self::Interval(bucket),
                        Ok(count) => Self::Buckets(count, bucket),
                        Err(_) => return inexpressible(format!("{count} buckets")),
                    }
                }
            },
        )
    }

    fn over(&self, trip: Trip) -> Trip {
        match *self {
            // `roll_over` ends an interval.
            Self::Ever | Self::Interval(_) => trip.within(EVER).slices(1).from_first_call(),
            Self::Buckets(count, length) => {
                let window = length.saturating_mul(count);
                trip.within(window).slices(count).from_first_call()
            }
        }
    }
}

/// Returns `ReadyToTrip` as rules. `None` if it never trips.
fn trip(config: &Fields, span: &Span) -> Result<Option<Trip>, Failure> {
    let fields = match config.get("trip") {
        Some(Value::Object(trip)) => Fields::new(trip.clone()),
        Some(other) => return inexpressible(format!("`trip` is {other}")),
        None => Fields::new(
            [
                ("kind".into(), "consecutive_failures_gt".into()),
                ("n".into(), 5.into()),
            ]
            .into_iter()
            .collect(),
        ),
    };
    let n = fields.count_u32("n")?;
    let least = |more: u32| match n {
        Some(n) => Ok(n.saturating_add(more)),
        None => inexpressible("a trip without `n`"),
    };
    let trip = match fields.text("kind")? {
        // The comparison happens at a failure, so zero is equivalent to one.
        Some("consecutive_failures_gt") => Some(Trip::consecutive(least(1)?)),
        Some("consecutive_failures_gte") => Some(Trip::consecutive(least(0)?.max(1))),
        Some("failures_gt" | "total_failures_gt") => Some(span.over(Trip::failures(least(1)?))),
        Some("failures_gte" | "total_failures_gte") => {
            Some(span.over(Trip::failures(least(0)?.max(1))))
        }
        Some("ratio") => {
            let ratio = fields.number("ratio")?.unwrap_or(0.5);
            let calls = fields.count_u32("min_requests")?.unwrap_or(0).max(1);
            let trip = Trip::failure_rate(ratio.max(f64::MIN_POSITIVE)).min_calls(calls);
            (ratio <= 1.0).then(|| span.over(trip))
        }
        Some("never") => None,
        kind => return inexpressible(format!("the trip function {kind:?}")),
    };
    fields.finish("trip key")?;
    Ok(trip)
}

fn ratio(config: &Fields) -> Option<(u64, f64)> {
    let trip = config.get("trip")?;
    let least = trip["min_requests"].as_u64().unwrap_or(0);
    (trip["kind"] == "ratio").then(|| (least, trip["ratio"].as_f64().unwrap_or(0.5)))
}

struct Gobreaker<'a> {
    breaker: &'a CircuitBreaker,
    clock: &'a TestClock,
    span: Span,
    /// The minimum number of calls and the ratio of a ratio rule.
    ratio: Option<(u64, f64)>,
    /// The generation of the numbers below, and its start.
    generation: u64,
    began: Duration,
    /// Admission times of calls with a neutral result, which the breaker does not count.
    excluded: Vec<Duration>,
    consecutive_successes: u64,
    /// Calls in flight, with their generation and admission time.
    calls: HashMap<String, (Permit<'a>, u64, Duration)>,
    difference: Option<&'static str>,
}

impl<'a> Gobreaker<'a> {
    /// Restarts the counts when the breaker has changed.
    fn follow(&mut self) {
        let generation = self.breaker.snapshot().generation;
        if generation != self.generation {
            self.generation = generation;
            self.began = self.clock.elapsed();
            self.excluded.clear();
            self.consecutive_successes = 0;
        }
    }

    /// Ends an interval: the first read of the state strictly after its end starts a new generation, like a reset
    /// here.
    fn roll_over(&mut self) {
        if let (Span::Interval(interval), State::Closed) = (&self.span, self.breaker.state()) {
            if self.clock.elapsed() > self.began + *interval {
                self.breaker.reset();
                self.follow();
            }
        }
    }

    fn acquire(&mut self) -> Option<Permit<'a>> {
        self.roll_over();
        let permit = self.breaker.try_acquire().ok();
        self.follow();
        permit
    }

    /// Ends a call.
    fn end(&mut self, call: (Permit<'a>, u64, Duration), outcome: Option<&str>) -> Check {
        self.roll_over();
        let (permit, generation, admitted) = call;
        let now = self.clock.elapsed();
        let counts = generation == self.generation && self.breaker.state() != State::Open;
        if counts {
            let failed = matches!(outcome, Some("failure" | "panic"));
            self.note_differences(admitted, now, failed);
        }
        match outcome {
            Some("success") => {
                permit.success();
                self.consecutive_successes += u64::from(counts);
            }
            Some("failure") => permit.failure(),
            Some("panic") => drop(catch_unwind(AssertUnwindSafe(|| {
                let _permit = permit;
                // A panic without output on the terminal.
                resume_unwind(Box::new(()))
            }))),
            Some("excluded") => {
                permit.record(Verdict::ignore());
                if counts {
                    self.excluded.push(admitted);
                }
            }
            outcome => return inexpressible(format!("outcome {outcome:?}")),
        }
        if matches!(outcome, Some("failure" | "panic")) && counts {
            self.consecutive_successes = 0;
        }
        self.follow();
        Ok(())
    }

    /// Notes differences of the source for a call that ends now.
    fn note_differences(&mut self, admitted: Duration, now: Duration, failed: bool) {
        if self.breaker.state() != State::Closed {
            return;
        }
        if let (Some((least, ratio)), true) = (self.ratio, failed) {
            let snapshot = self.breaker.snapshot();
            let (calls, failures) = (snapshot.calls + 1, snapshot.failures + 1);
            let trips = |calls: u64| calls >= least && failures as f64 / calls as f64 >= ratio;
            if trips(calls) != trips(calls + self.in_flight() as u64) {
                self.difference = Some("a ratio that includes calls in flight");
            }
        }
        if let Span::Buckets(_, length) = &self.span {
            let length = length.as_nanos();
            let age = |at: Duration| (at - self.began).as_nanos() / length;
            if age(admitted) != age(now) {
                self.difference = Some("a result that counts at the time of its admission");
            }
            let is_first = self.breaker.snapshot().calls == 0;
            if is_first && (now - self.began).as_nanos() % length != 0 {
                self.difference = Some("buckets that begin when the circuit closes");
            }
        }
    }

    fn in_flight(&self) -> usize {
        let calls = self.calls.values();
        calls
            .filter(|(_, generation, _)| *generation == self.generation)
            .count()
    }

    fn counts(&mut self) -> Value {
        let snapshot = self.breaker.snapshot();
        let state = self.breaker.state();
        if state == State::Open {
            // The source resets them when the circuit opens.
            return json!({
                "requests": 0, "successes": 0, "failures": 0, "excluded": 0,
                "consecutive_successes": 0, "consecutive_failures": 0,
            });
        }
        if let (Span::Buckets(count, length), State::Closed) = (&self.span, state) {
            let (length, began) = (length.as_nanos(), self.began);
            let age = |at: Duration| (at - began).as_nanos() / length;
            let now = age(self.clock.elapsed());
            let count = u128::from(*count);
            self.excluded.retain(|at| age(*at) + count > now);
        }
        let excluded = self.excluded.len() as u64;
        json!({
            "requests": snapshot.calls + excluded + self.in_flight() as u64,
            "successes": snapshot.successes(),
            "failures": snapshot.failures,
            "excluded": excluded,
            "consecutive_successes": self.consecutive_successes,
            "consecutive_failures": match state {
                State::Closed => snapshot.consecutive_failures,
                _ => 0,
            },
        })
    }

    fn carry_out(&mut self, step: &Step) -> Check {
        let answer = |admitted| if admitted { "ok" } else { "rejected" };
        match step.op() {
            Some("call") => {
                let outcome = step.text("outcome")?;
                let admitted = self.acquire();
                step.check("expect", answer(admitted.is_some()))?;
                if let Some(permit) = admitted {
                    let call = (permit, self.generation, self.clock.elapsed());
                    self.end(call, outcome)?;
                }
            }
            Some("begin") => {
                let id = step.need("call", step.text("call")?)?.to_owned();
                let admitted = self.acquire();
                step.check("expect", answer(admitted.is_some()))?;
                if let Some(permit) = admitted {
                    let call = (permit, self.generation, self.clock.elapsed());
                    self.calls.insert(id, call);
                }
            }
            Some("end") => {
                let id = step.need("call", step.text("call")?)?;
                let outcome = step.text("outcome")?;
                if let Some(call) = self.calls.remove(id) {
                    self.end(call, outcome)?;
                }
            }
            op => unknown(op)?,
        }
        if step.has("expect_state") {
            self.roll_over();
            step.check("expect_state", name(self.breaker.peek()))?;
        }
        let counts = self.counts();
        step.check("expect_counts", counts)
    }
}

impl Actor for Gobreaker<'_> {
    fn step(&mut self, step: &Step) -> Check {
        let result = self.carry_out(step);
        unless_parted(result, self.difference)
    }
}
