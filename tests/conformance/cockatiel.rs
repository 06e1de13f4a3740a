//! [`CircuitBreaker`] as cockatiel's circuit breaker policy, and its windows as the policy's breakers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Isolation, State, Trip};
use backstop::{Backoff, CircuitBreaker, Event, Jitter, Reason, Verdict};
use serde_json::Value;

use super::breakers::{Subject, name, verdict};
use super::buckets::Buckets;
use super::clock::TestClock;
use super::delays::{delays, millis};
use super::fields::Fields;
use super::harness::{
    Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown, unless_parted,
};
use super::limits::Since;

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "CircuitBreaker and Backoff",
    accepts: |file| file.is_from("connor4312/cockatiel"),
    run: |scenario| {
        if scenario.does(&["delay"]) {
            backoff(scenario)
        } else if scenario.config.has("breaker") {
            policy(scenario)
        } else {
            breaker(scenario)
        }
    },
};

/// A configured breaker: its trip rule, and its buckets if they may differ from ours.
struct Rule {
    trip: Trip,
    has_window: bool,
    buckets: Option<Buckets>,
}

impl Rule {
    fn of(kind: &str, config: &Fields) -> Result<Self, Failure> {
        let threshold = config.number("threshold")?;
        let threshold = || threshold.map_or_else(|| inexpressible("no `threshold`"), Ok);
        match kind {
            "consecutive" => Ok(Self {
                trip: Trip::consecutive((threshold()? as u32).max(1)),
                has_window: false,
                buckets: None,
            }),
            "count" => {
                let Some(size) = config.count_u32("size")? else {
                    return inexpressible("a count without `size`");
                };
                let least = config.count_u32("minimum_calls")?.unwrap_or(size);
                let trip = Trip::failure_rate(above(threshold()?));
                Ok(Self {
                    trip: trip.of_last(size).min_calls(least),
                    has_window: true,
                    buckets: None,
                })
            }
            "sampling" => {
                let Some(duration) = config.duration("duration")? else {
                    return inexpressible("a sampling without `duration`");
                };
                let rate = config.number("minimum_rps")?.filter(|rate| *rate != 0.0);
                Ok(Self::sampling(threshold()?, duration, rate))
            }
            kind => inexpressible(format!("a breaker of kind {kind:?}")),
        }
    }

    fn sampling(threshold: f64, duration: Duration, rate: Option<f64>) -> Self {
        let millis = duration.as_secs_f64() * 1e3;
        let count = (millis / 1e3).ceil().max(5.0);
        // Whole milliseconds, so the window may be slightly longer or shorter.
        let length = (millis / count).round();
        let least = length * count * (rate.unwrap_or(5.0 / threshold) / 1e3);
        let length = Duration::from_millis(length as u64);
        let count = count as u32;
        let trip = Trip::failure_rate(above(threshold))
            .within(length.saturating_mul(count))
            .slices(count)
            .min_calls((least.ceil() as u32).max(1));
        Self {
            trip,
            has_window: true,
            buckets: Some(Buckets::ring(length.as_nanos(), count as usize)),
        }
    }
}

/// Returns the next number after a threshold: thresholds of the source are strict.
fn above(threshold: f64) -> f64 {
    f64::from_bits(threshold.to_bits() + 1)
}

/// Runs a breaker alone, which keeps counting after it has tripped: ours never opens.
fn breaker(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let Some(kind) = config.text("kind")? else {
        return inexpressible("no `kind`");
    };
    let rule = Rule::of(kind, config)?;
    let threshold = config.number("threshold")?.unwrap_or(0.0);
    let tripped = Arc::new(AtomicBool::new(false));
    let log = tripped.clone();
    let builder = CircuitBreaker::builder()
        .trip_on(rule.trip)
        .trip_on_failures_only(true)
        .observer(move |event: &Event| {
            if let Event::CircuitWouldOpen { .. } = event {
                log.store(true, Ordering::SeqCst);
            }
        });
    let breaker = builder.clock(Since::now(&clock)).build();
    let breaker = breaker.or_else(|error| failed(error.to_string()))?;
    breaker.metrics_only();
    let subject = Subject::new(&breaker);
    let mut buckets = rule.buckets;
    let mut difference = None;
    scenario.play(&clock, |step: &Step| {
        let in_trial = match step.text("state")? {
            None | Some("closed") => false,
            Some("half_open") => true,
            state => return inexpressible(format!("a breaker told of the state {state:?}")),
        };
        let op = step.op();
        if let Some(op @ ("success" | "failure")) = op {
            if op == "success" && in_trial {
                breaker.metrics_only();
                tripped.store(false, Ordering::SeqCst);
                buckets.iter_mut().for_each(Buckets::clear);
            }
            let had_tripped = tripped.load(Ordering::SeqCst);
            subject.record(verdict(Some(op))?, None);
            if let Some(buckets) = &mut buckets {
                buckets.record(clock.elapsed().as_nanos(), op == "failure");
            }
            // Reported only once; afterwards the window tells.
            let snapshot = breaker.snapshot();
            let holds = match kind {
                "consecutive" => f64::from(snapshot.consecutive_failures) >= threshold,
                _ => snapshot.failure_rate().is_some_and(|rate| rate > threshold),
            };
            let trips = in_trial || holds;
            if op == "failure" && !had_tripped && holds != tripped.load(Ordering::SeqCst) {
                return failed(format!("the window and the rule disagree: {snapshot:?}"));
            }
            let differ = buckets
                .as_ref()
                .is_some_and(|buckets| buckets.differ(snapshot.calls, snapshot.failures));
            difference = difference.or(differ.then_some(Buckets::REASON));
            let trips = op == "failure" && trips;
            unless_parted(step.check("expect_trip", trips), difference)?;
            unless_parted(step.check("expect", trips), difference)?;
        } else {
            unknown(op)?;
        }
        let snapshot = breaker.snapshot();
        unless_parted(step.check("expect_failures", snapshot.failures), difference)?;
        unless_parted(
            step.check("expect_successes", snapshot.successes()),
            difference,
        )
    })
}

/// Returns the break durations: a constant, or a list whose last value repeats.
fn lengths(config: &Fields) -> Result<Vec<Duration>, Failure> {
    let Some(value) = config.get("half_open_after_ms") else {
        return match config.duration("half_open_after")? {
            Some(length) => Ok(vec![length]),
            None => inexpressible("no `half_open_after_ms`"),
        };
    };
    let list = match value {
        Value::Array(list) if !list.is_empty() => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    list.iter()
        .map(|millis| match millis.as_f64() {
            Some(millis) if millis >= 0.0 => Ok(Duration::from_secs_f64(millis / 1e3)),
            _ => inexpressible(format!("a length of {millis} ms")),
        })
        .collect()
}

/// Parses `consecutive 2`, or an object like the configuration of a breaker alone.
fn inner(config: &Fields) -> Result<Rule, Failure> {
    match config.get("breaker") {
        Some(Value::String(text)) => {
            let parsed = text
                .split_once(' ')
                .map(|(kind, n)| (kind, n.trim().parse::<u32>()));
            match parsed {
                Some(("consecutive", Ok(failures))) => Ok(Rule {
                    trip: Trip::consecutive(failures.max(1)),
                    has_window: false,
                    buckets: None,
                }),
                _ => inexpressible(format!("`breaker` is {text:?}")),
            }
        }
        Some(Value::Object(map)) => {
            let fields = Fields::new(map.clone());
            let kind = fields.text("kind")?.unwrap_or_default().to_owned();
            let rule = Rule::of(&kind, &fields)?;
            fields.finish("breaker key")?;
            Ok(rule)
        }
        other => inexpressible(format!("`breaker` is {other:?}")),
    }
}

/// Returns the number of probes that decide the half-open phase, and the share of them that may fail.
fn sampling(config: &Fields) -> Result<(u32, f64), Failure> {
    match config.get("half_open_sampling") {
        None => Ok((1, 0.0)),
        Some(Value::Object(map)) => {
            let fields = Fields::new(map.clone());
            let calls = fields.count_u32("calls")?.unwrap_or(1);
            let threshold = fields.number("threshold")?.unwrap_or(0.0);
            fields.finish("half_open_sampling key")?;
            Ok((calls, threshold))
        }
        Some(other) => inexpressible(format!("`half_open_sampling` is {other}")),
    }
}

fn policy(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let rule = inner(config)?;
    let lengths = lengths(config)?;
    let (calls, threshold) = sampling(config)?;
    let builder = CircuitBreaker::builder()
        .trip_on(rule.trip)
        .trip_on_failures_only(true)
        .half_open(HalfOpen::failure_rate(above(threshold)).of(calls))
        .permitted_calls(calls)
        .probe_lease(Duration::MAX)
        .break_with(move |trips, _| lengths[lengths.len().min(trips as usize) - 1]);
    let breaker = builder.clock(Since::now(&clock)).build();
    let breaker = breaker.or_else(|error| failed(error.to_string()))?;
    let policy = Policy {
        subject: Subject::new(&breaker),
        breaker: &breaker,
        clock: &clock,
        calls: u64::from(calls),
        isolations: RefCell::default(),
        begun: RefCell::default(),
        has_window: rule.has_window,
        buckets: RefCell::new(rule.buckets),
        sampled: Cell::new(0),
        difference: Cell::new(None),
    };
    scenario.play(&clock, |step: &Step| {
        let result = policy.carry_out(step);
        unless_parted(result, policy.difference.get())
    })
}

struct Policy<'a> {
    subject: Subject<'a>,
    breaker: &'a CircuitBreaker,
    clock: &'a TestClock,
    /// Number of probes in a half-open phase.
    calls: u64,
    isolations: RefCell<Vec<Isolation>>,
    /// Names of calls in flight, and the generation and state in which they were admitted.
    begun: RefCell<Vec<(String, u64, State)>>,
    buckets: RefCell<Option<Buckets>>,
    has_window: bool,
    /// Results of the current half-open phase.
    sampled: Cell<u64>,
    difference: Cell<Option<&'static str>>,
}

impl Policy<'_> {
    fn acquire(&self, call: &str) -> &'static str {
        let before = self.breaker.state();
        let rejected = match self.breaker.try_acquire() {
            Ok(permit) => {
                if self.breaker.state() != before {
                    self.sampled.set(0);
                }
                self.subject.name(call, permit);
                let generation = self.breaker.snapshot().generation;
                let state = self.breaker.state();
                let call = (call.to_owned(), generation, state);
                self.begun.borrow_mut().push(call);
                return "ok";
            }
            Err(rejected) => rejected,
        };
        if self.breaker.state() == State::HalfOpen {
            self.difference
                .set(Some("calls that wait for the half-open decision"));
        }
        match rejected.reason() {
            Reason::Isolated => "rejected_isolated",
            _ => "rejected",
        }
    }

    fn end(&self, call: &str, outcome: Option<&str>) -> Check {
        let mut begun = self.begun.borrow_mut();
        let Some(index) = begun.iter().position(|(name, ..)| name == call) else {
            return Ok(());
        };
        let (_, generation, admitted_in) = begun.swap_remove(index);
        let state = self.breaker.state();
        let mut verdict = match outcome {
            // A result that the policy does not handle is a successful probe.
            Some("unhandled_error") if state == State::HalfOpen => Verdict::success(),
            outcome => verdict(outcome)?,
        };
        if self.breaker.snapshot().generation != generation && admitted_in == State::Closed {
            self.difference
                .set(Some("a late result that the source still counts"));
            verdict = Verdict::ignore();
        }
        self.subject.end(call, verdict);
        if state == State::HalfOpen {
            self.sampled.set(self.sampled.get() + 1);
            let closed = self.breaker.state() == State::Closed;
            if closed && self.sampled.get() < self.calls {
                self.difference.set(Some(
                    "a half-open circuit that closes only after all probes, but opens before",
                ));
            } else if closed && self.has_window {
                self.difference
                    .set(Some("a window that begins with the closing success"));
            }
        }
        self.count(state, outcome);
        Ok(())
    }

    /// Keeps the source's buckets up to date.
    fn count(&self, before: State, outcome: Option<&str>) {
        let mut buckets = self.buckets.borrow_mut();
        let (Some(buckets), Some(outcome @ ("success" | "failure"))) = (&mut *buckets, outcome)
        else {
            return;
        };
        if before != State::Closed {
            buckets.clear();
            return;
        }
        buckets.record(self.clock.elapsed().as_nanos(), outcome == "failure");
        let snapshot = self.breaker.snapshot();
        if buckets.differ(snapshot.calls, snapshot.failures) {
            self.difference.set(Some(Buckets::REASON));
        }
    }

    fn carry_out(&self, step: &Step) -> Check {
        match step.op() {
            Some("call") => {
                let outcome = step.text("outcome")?;
                let answer = self.acquire("");
                step.check("expect", answer)?;
                if answer == "ok" {
                    self.end("", outcome)?;
                }
            }
            Some("begin") => {
                let call = step.need("call", step.text("call")?)?;
                step.check("expect", self.acquire(call))?;
            }
            Some("end") => {
                let call = step.need("call", step.text("call")?)?;
                self.end(call, step.text("outcome")?)?;
            }
            Some("isolate") => self.isolations.borrow_mut().push(self.breaker.isolate()),
            Some("dispose" | "end_isolation" | "reset") => {
                let mut isolations = self.isolations.borrow_mut();
                let was_isolated = isolations.pop().is_some();
                let is_over = was_isolated && isolations.is_empty();
                if is_over && self.breaker.state() != State::Closed {
                    // The source closes, from any state.
                    self.breaker.reset();
                    self.difference
                        .set(Some("failures that keep counting after an isolation"));
                }
            }
            op => unknown(op)?,
        }
        // The end of a break takes effect with the next call.
        step.check("expect_state", name(self.breaker.state()))
    }
}

fn backoff(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    let initial = config.duration("initial")?;
    let max = config.duration("max")?.unwrap_or(Duration::from_secs(30));
    let multiplier = config.number("multiplier")?.or(config.number("exponent")?);
    let backoff = Backoff::exponential(initial.unwrap_or(Duration::from_millis(128)))
        .factor(multiplier.unwrap_or(2.0))
        .max(max)
        .jitter(Jitter::None);
    scenario.play(&TestClock::new(), |step: &Step| match step.op() {
        Some("delay") => {
            let attempt = step.need("attempt", step.count_u32("attempt")?)?;
            if attempt == 0 {
                return inexpressible("attempts count from 1");
            }
            let delays = delays(backoff.clone(), attempt, 0);
            let delays = delays.or_else(|error| failed(error.to_string()))?;
            step.check("expect_ms", millis(delays[attempt as usize - 1]))
        }
        op => unknown(op),
    })
}
