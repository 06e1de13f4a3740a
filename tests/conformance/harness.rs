//! Replays scenarios: files, adapters, and steps.
//!
//! # A file
//!
//! One JSON object: `source` (`owner/name@commit path` of the original tests), `pattern` (the tested pattern),
//! `semantics` (the ops and rules of that system, in words), and `scenarios`. A scenario has an `id`, a `config`
//! (neutral names that end in their unit; missing settings have the source's default), and `steps`.
//!
//! A step may have
//!
//! * a time since the start of the scenario: `at_ms`, `at_ns`, `at_s`, `at_us`, or `at_ticks` (100 ns). Without
//!   one it happens at the time of the previous step;
//! * an `op` and its arguments. `repeat` and `loop` run their `body` (ops, names of ops, or a sentence) `times`
//!   times, or from `from_...` to `to_...` every `every_...`; `begin` and `end` with the same `call` are a call in
//!   flight;
//! * expectations, which hold after the op: `expect` for the result of the op, `expect_...` for observable state,
//!   `tol` for the tolerance of a number. A step may have expectations only.
//!
//! # An adapter
//!
//! ```text
//! pub(crate) const ADAPTER: Adapter = Adapter {
//!     name: "our token bucket as golang/time",
//!     accepts: |file| file.is_from("golang/time"),
//!     run,
//! };
//!
//! fn run(scenario: &Scenario<'_>) -> Check {
//!     let clock = TestClock::new();
//!     let rate = scenario.config.number("rate_per_s")?.unwrap_or(1.0);
//!     let limiter = ...clock(clock.clone())...;
//!     scenario.play(&clock, |step: &Step| match step.op() {
//!         Some("allow") => step.check("expect", limiter.try_acquire().is_ok()),
//!         op => unknown(op),
//!     })
//! }
//! ```
//!
//! It recognizes files by `source` and `pattern`, not by name, and never a scenario by its id. It need not check for
//! unknown keys: if a key of the configuration or of a step was never read, the scenario is not expressible, and
//! the report names the key.

use std::ops::Deref;

use serde_json::{Map, Value};

use super::clock::TestClock;
use super::fields::Fields;
use super::file::File;

/// Maps one source's scenarios to backstop.
pub(crate) struct Adapter {
    /// The name in the report.
    pub(crate) name: &'static str,
    /// Returns whether the adapter understands this file.
    pub(crate) accepts: fn(&File) -> bool,
    /// Replays one scenario.
    pub(crate) run: fn(&Scenario<'_>) -> Check,
}

/// The result of a scenario, or of a part of it.
pub(crate) type Check = Result<(), Failure>;

/// The reason why a scenario did not pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// backstop or the adapter cannot express it.
    NotExpressible(String),
    /// The result differs from the expectation.
    Failed(String),
}

pub(crate) fn inexpressible<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::NotExpressible(reason.into()))
}

pub(crate) fn failed<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Failed(what.into()))
}

/// Returns the answer to an unknown op, or to a missing one: a step without an op has expectations only, which
/// [`Fields::check`] checks.
pub(crate) fn unknown(op: Option<&str>) -> Check {
    match op {
        Some(op) => inexpressible(format!("op `{op}`")),
        None => Ok(()),
    }
}

/// Turns a failure into "not expressible" if the source has done something by now that backstop does not do;
/// `difference` describes it.
pub(crate) fn unless_parted(result: Check, difference: Option<&str>) -> Check {
    match (result, difference) {
        (Err(Failure::Failed(what)), Some(difference)) => {
            inexpressible(format!("{difference}; here {what}"))
        }
        (result, _) => result,
    }
}

impl Failure {
    fn at(self, place: &str) -> Self {
        match self {
            Self::NotExpressible(reason) => Self::NotExpressible(format!("{place}: {reason}")),
            Self::Failed(what) => Self::Failed(format!("{place}: {what}")),
        }
    }
}

/// One scenario of a file.
pub(crate) struct Scenario<'a> {
    pub(crate) file: &'a File,
    pub(crate) config: Fields,
    /// Remarks of the file. Some say when a count begins.
    pub(crate) notes: String,
    steps: Vec<Step>,
}

impl<'a> Scenario<'a> {
    pub(crate) fn parse(file: &'a File, value: &Value) -> Result<Self, Failure> {
        let scenario = Fields::new(object(value)?);
        scenario.get("id");
        let config = match scenario.get("config") {
            Some(config) => object(config)?,
            None => Map::new(),
        };
        let steps = match scenario.get("steps") {
            Some(Value::Array(steps)) => Step::parse_all(steps, "step ")?,
            other => return inexpressible(format!("`steps` is {other:?}")),
        };
        let notes = scenario.get("notes").and_then(Value::as_str);
        let notes = notes.unwrap_or_default().to_owned();
        scenario.finish("scenario key")?;
        Ok(Self {
            file,
            config: Fields::new(config),
            notes,
            steps,
        })
    }

    /// Returns all steps, including those of loops, for adapters that must look ahead. Reading a key here does not mark
    /// it as read.
    pub(crate) fn steps(&self) -> Vec<&Step> {
        fn collect<'a>(steps: &'a [Step], all: &mut Vec<&'a Step>) {
            for step in steps {
                all.push(step);
                if let Body::Steps(body) = &step.body {
                    collect(body, all);
                }
            }
        }
        let mut all = Vec::new();
        collect(&self.steps, &mut all);
        all
    }

    /// Returns whether some step has one of these ops.
    pub(crate) fn does(&self, ops: &[&str]) -> bool {
        let steps = self.steps();
        let mut ops_of_steps = steps.iter().filter_map(|step| step.op());
        ops_of_steps.any(|op| ops.contains(&op))
    }

    /// Runs the steps in order and moves `clock` to the time of each.
    ///
    /// The adapter must have read the whole configuration: an unread key makes the scenario inexpressible. So does an
    /// unread key of a step after the actor has run it.
    pub(crate) fn play(&self, clock: &TestClock, mut actor: impl Actor) -> Check {
        self.config.finish("config key")?;
        let mut last = i128::MIN;
        play_all(&self.steps, clock, &mut last, &mut actor)
    }
}

/// Carries out the steps of a scenario. Every `FnMut(&Step) -> Check` is one.
pub(crate) trait Actor {
    /// Carries out a step and checks its expectations. A `repeat` with expectations is passed after its body has run, as
    /// a step without an op.
    fn step(&mut self, step: &Step) -> Check;

    /// Called before the body of a `repeat` runs for the first time.
    fn before_repeat(&mut self) {}

    /// Runs one round of a `repeat` whose body is a sentence.
    fn prose(&mut self, _step: &Step, body: &str) -> Check {
        inexpressible(format!("a body in prose: {body:?}"))
    }
}

impl<F: FnMut(&Step) -> Check> Actor for F {
    fn step(&mut self, step: &Step) -> Check {
        self(step)
    }
}

/// One step of a scenario.
pub(crate) struct Step {
    fields: Fields,
    op: Option<String>,
    place: String,
    body: Body,
}

/// The body of a loop.
enum Body {
    /// Not a loop.
    None,
    Steps(Vec<Step>),
    Prose(String),
}

impl Deref for Step {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl Step {
    /// Returns the op; `None` if the step has expectations only.
    pub(crate) fn op(&self) -> Option<&str> {
        self.op.as_deref()
    }

    /// Returns a required value.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, Failure> {
        value.map_or_else(|| inexpressible(format!("`{key}` is missing")), Ok)
    }

    /// Returns a step with the same expectations and no op.
    fn without_op(&self) -> Self {
        Self {
            fields: self.fields.clone(),
            op: None,
            place: self.place.clone(),
            body: Body::None,
        }
    }

    /// Starts a replay: keys that were read before, to look ahead or in an earlier round, are unread again.
    fn begin(&self) {
        self.fields.forget_reads();
        self.fields.get("op");
        self.fields.get("body");
    }

    fn parse_all(steps: &[Value], place: &str) -> Result<Vec<Self>, Failure> {
        let parse = |(index, step): (usize, &Value)| {
            let place = format!("{place}{index}");
            Self::parse(step, &place).map_err(|failure| failure.at(&place))
        };
        steps.iter().enumerate().map(parse).collect()
    }

    fn parse(step: &Value, place: &str) -> Result<Self, Failure> {
        let map = match step {
            Value::String(op) => Map::from_iter([("op".to_owned(), op.clone().into())]),
            step => object(step)?,
        };
        let fields = Fields::new(map);
        let op = fields.text("op")?.map(str::to_owned);
        let body = match (op.as_deref(), fields.get("body")) {
            (Some("repeat" | "loop"), Some(Value::Array(body))) => {
                Body::Steps(Self::parse_all(body, "body ")?)
            }
            (Some("repeat" | "loop"), Some(one @ Value::Object(_))) => {
                Body::Steps(Self::parse_all(std::slice::from_ref(one), "body ")?)
            }
            (Some("repeat" | "loop"), Some(Value::String(text))) => Body::Prose(text.clone()),
            (Some("repeat" | "loop"), body) => return inexpressible(format!("`body` is {body:?}")),
            (_, None) => Body::None,
            (op, Some(_)) => return inexpressible(format!("op {op:?} with a `body`")),
        };
        Ok(Self {
            fields,
            op,
            place: place.to_owned(),
            body,
        })
    }

    /// Returns the times of a loop's rounds; `None` for a round at the time of the previous one.
    fn rounds(&self) -> Result<Vec<Option<i128>>, Failure> {
        let bounds = (self.nanos("from")?, self.nanos("to")?, self.nanos("every")?);
        let (from, to, every) = match bounds {
            (None, None, None) => {
                let times = self.need("times", self.count("times")?)?;
                if times > MAX_ROUNDS {
                    return inexpressible(format!("{times} rounds"));
                }
                return Ok(vec![None; times as usize]);
            }
            (from, Some(to), Some(every)) if every > 0 => (from.unwrap_or(0), to, every),
            bounds => return inexpressible(format!("a loop from, to, every {bounds:?}")),
        };
        if (to - from) / every > i128::from(MAX_ROUNDS) {
            return inexpressible("a loop of too many rounds");
        }
        let times = std::iter::successors(Some(from), |at| Some(at + every));
        Ok(times.take_while(|at| *at < to).map(Some).collect())
    }
}

/// The most rounds of a loop; more are a mistake in the file.
const MAX_ROUNDS: u64 = 10_000_000;

fn object(value: &Value) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        other => inexpressible(format!("{other} in place of an object")),
    }
}

fn play_all(steps: &[Step], clock: &TestClock, last: &mut i128, actor: &mut impl Actor) -> Check {
    for step in steps {
        play_one(step, clock, last, actor).map_err(|failure| failure.at(&step.place))?;
    }
    Ok(())
}

fn play_one(step: &Step, clock: &TestClock, last: &mut i128, actor: &mut impl Actor) -> Check {
    step.begin();
    if let Some(at) = step.nanos("at")? {
        move_to(at, clock, last);
    }
    if matches!(step.body, Body::None) {
        // A step may only move the clock.
        if step.op().is_none() && step.unread().is_empty() {
            return Ok(());
        }
        actor.step(step)?;
        return step.finish("step key");
    }
    actor.before_repeat();
    for (round, at) in step.rounds()?.into_iter().enumerate() {
        if let Some(at) = at {
            move_to(at, clock, last);
        }
        let result = match &step.body {
            Body::Steps(body) => play_all(body, clock, last, actor),
            Body::Prose(body) => actor.prose(step, body),
            Body::None => Ok(()),
        };
        result.map_err(|failure| failure.at(&format!("round {}", round + 1)))?;
    }
    let look = step.without_op();
    if !look.unread().is_empty() {
        actor.step(&look)?;
    }
    look.finish("step key")
}

fn move_to(at: i128, clock: &TestClock, last: &mut i128) {
    // An op may have advanced the clock further; only a file moves it backwards.
    if at < *last || at > i128::try_from(clock.elapsed().as_nanos()).unwrap_or(i128::MAX) {
        clock.move_to(at);
    }
    *last = at;
}
