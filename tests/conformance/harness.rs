//! Reads scenario files, finds the adapter of each, replays the scenarios and reports.
//!
//! # A file
//!
//! One JSON object: `source` (`owner/name@commit path`, whose tests these are), `pattern` (what they
//! test), `semantics` (the ops and rules of that system, in words) and `scenarios`. A scenario has an
//! `id`, a `config` (neutral names ending in their unit; what is not named has the source's default)
//! and `steps`.
//!
//! A step may have
//!
//! * a time since the start of the scenario: `at_ms`, `at_ns`, `at_s`, `at_us` or `at_ticks` (100
//!   ns). Without one it happens when the step before it does;
//! * an `op` and what belongs to it. `repeat` and `loop` run their `body` (ops, or names of ops)
//!   `times` times; `begin` and `end` with the same `call` are a call in flight;
//! * expectations, which hold after the op: `expect` is what the op returned, `expect_...` what can
//!   be seen, `tol` how far a number may be off. A step may have nothing but these.
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
//! It knows its source's files by `source` and `pattern`, not by name, and no scenario by its id. It
//! need not look for what it does not know: when a key of the configuration or of a step was never
//! read, the scenario is not expressible, and the report names the key.

use std::any::Any;
use std::fmt;
use std::fs;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Map, Value};

use super::clock::TestClock;
use super::fields::Fields;

/// Maps one source's scenarios to backstop.
pub(crate) struct Adapter {
    /// For the report.
    pub(crate) name: &'static str,
    /// Whether it speaks the dialect of this file.
    pub(crate) accepts: fn(&File) -> bool,
    /// Replays one scenario.
    pub(crate) run: fn(&Scenario<'_>) -> Check,
}

/// What came of a scenario, or of a part of it.
pub(crate) type Check = Result<(), Failure>;

/// Why a scenario did not pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// backstop, or the adapter, has no words for it.
    NotExpressible(String),
    /// It came out differently.
    Failed(String),
}

pub(crate) fn inexpressible<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::NotExpressible(reason.into()))
}

pub(crate) fn failed<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Failed(what.into()))
}

/// The answer to an op that the adapter does not know, or to its absence: a step without an op
/// has expectations only, and those are checked with [`Fields::check`].
pub(crate) fn unknown(op: Option<&str>) -> Check {
    match op {
        Some(op) => inexpressible(format!("op `{op}`")),
        None => Ok(()),
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

/// A scenario file.
pub(crate) struct File {
    name: String,
    source: String,
    pattern: String,
    rules: Vec<String>,
    scenarios: Vec<Value>,
}

impl File {
    /// Whether these are tests of `project`, such as `grpc/grpc-go`, among others.
    pub(crate) fn is_from(&self, project: &str) -> bool {
        self.source
            .split([' ', ';', ',', '(', ')'])
            .any(|word| word.split('@').next() == Some(project))
    }

    /// What the scenarios test.
    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the source or one of its rules says `text`.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text) || self.rules.iter().any(|rule| rule.contains(text))
    }

    /// Reads a file's text; the error says what is wrong with it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let text = |key: &str| match value[key].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("no `{key}`")),
        };
        if text("schema")? != "scenario/1" {
            return Err(format!("unknown schema {}", value["schema"]));
        }
        let rules = value["semantics"]["rules"].as_array();
        Ok(Self {
            name: name.to_owned(),
            source: text("source")?,
            pattern: text("pattern")?,
            rules: rules
                .into_iter()
                .flatten()
                .filter_map(|rule| Some(rule.as_str()?.to_owned()))
                .collect(),
            scenarios: match value["scenarios"].as_array() {
                Some(scenarios) if !scenarios.is_empty() => scenarios.clone(),
                _ => return Err("no `scenarios`".to_owned()),
            },
        })
    }
}

/// One scenario of a file.
pub(crate) struct Scenario<'a> {
    pub(crate) file: &'a File,
    pub(crate) config: Fields,
    steps: Vec<Step>,
}

impl<'a> Scenario<'a> {
    fn parse(file: &'a File, value: &Value) -> Result<Self, Failure> {
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
        scenario.finish("scenario key")?;
        Ok(Self {
            file,
            config: Fields::new(config),
            steps,
        })
    }

    /// The steps, for adapters that must know beforehand what will be asked of them.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Plays the steps one after the other and moves `clock` to the time of each.
    ///
    /// The adapter must have read the whole configuration by now: a key left over makes the scenario
    /// inexpressible, and so does one of a step after the actor has seen it.
    pub(crate) fn play(&self, clock: &TestClock, mut actor: impl Actor) -> Check {
        self.config.finish("config key")?;
        let mut last = i128::MIN;
        play_all(&self.steps, clock, &mut last, &mut actor)
    }
}

/// Carries out the steps of a scenario. Every `FnMut(&Step) -> Check` is one.
pub(crate) trait Actor {
    /// Carries out a step and checks what it expects. A `repeat` comes here after its body has run,
    /// when it expects something, as a step without an op.
    fn step(&mut self, step: &Step) -> Check;

    /// The body of a `repeat` is about to run for the first time.
    fn before_repeat(&mut self) {}

    /// A `repeat` whose body is a sentence.
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
}

impl Deref for Step {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl Step {
    /// What to do; `None` when the step only looks.
    pub(crate) fn op(&self) -> Option<&str> {
        self.op.as_deref()
    }

    /// A value this op can't do without.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, Failure> {
        value.map_or_else(|| inexpressible(format!("`{key}` is missing")), Ok)
    }

    /// The same expectations with nothing to do.
    fn without_op(&self) -> Self {
        Self {
            fields: self.fields.clone(),
            op: None,
            place: self.place.clone(),
        }
    }

    fn parse_all(steps: &[Value], place: &str) -> Result<Vec<Self>, Failure> {
        let parse = |(index, step): (usize, &Value)| {
            let map = match step {
                Value::String(op) => Map::from_iter([("op".to_owned(), op.clone().into())]),
                step => object(step)?,
            };
            let fields = Fields::new(map);
            Ok(Self {
                op: fields.text("op")?.map(str::to_owned),
                fields,
                place: format!("{place}{index}"),
            })
        };
        steps.iter().enumerate().map(parse).collect()
    }
}

fn object(value: &Value) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        other => inexpressible(format!("{other} where an object belongs")),
    }
}

fn play_all(steps: &[Step], clock: &TestClock, last: &mut i128, actor: &mut impl Actor) -> Check {
    for step in steps {
        play_one(step, clock, last, actor).map_err(|failure| failure.at(&step.place))?;
    }
    Ok(())
}

fn play_one(step: &Step, clock: &TestClock, last: &mut i128, actor: &mut impl Actor) -> Check {
    if let Some(at) = step.nanos("at")? {
        // An op may have taken the clock further than this; only a file sets it back.
        if at < *last || at > i128::try_from(clock.elapsed().as_nanos()).unwrap_or(i128::MAX) {
            clock.move_to(at);
        }
        *last = at;
    }
    let repeats = matches!(step.op(), Some("repeat" | "loop"));
    if repeats {
        let times = step.need("times", step.count("times")?)?;
        match step.get("body") {
            Some(body @ (Value::Array(_) | Value::Object(_))) => {
                let body = match body {
                    Value::Array(body) => body,
                    one => std::slice::from_ref(one),
                };
                let body = Step::parse_all(body, "body ")?;
                actor.before_repeat();
                for round in 1..=times {
                    play_all(&body, clock, last, actor)
                        .map_err(|failure| failure.at(&format!("round {round}")))?;
                }
            }
            Some(Value::String(body)) => actor.prose(step, body)?,
            body => return inexpressible(format!("`body` is {body:?}")),
        }
    }
    // A step may do no more than move the clock, or repeat.
    if step.unread().is_empty() && (repeats || step.op().is_none()) {
        return Ok(());
    }
    if repeats {
        let look = step.without_op();
        actor.step(&look)?;
        return look.finish("step key");
    }
    actor.step(step)?;
    step.finish("step key")
}

/// Replays every `*.json` of a directory.
pub(crate) fn run_directory(directory: &Path, adapters: &[Adapter]) -> Report {
    let mut report = Report::default();
    let mut paths = match fs::read_dir(directory) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_scenario_file(path))
            .collect::<Vec<_>>(),
        Err(error) => {
            report
                .trouble
                .push(format!("{}: {error}", directory.display()));
            return report;
        }
    };
    paths.sort();
    if paths.is_empty() {
        let problem = format!("{}: no scenario files", directory.display());
        report.trouble.push(problem);
    }
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| File::parse(&name, &text));
        match file {
            Ok(file) => report.files.push(run_file(&file, adapters)),
            Err(problem) => report
                .trouble
                .push(format!("{name}: unreadable: {problem}")),
        }
    }
    report
}

/// `*.json`, as a shell understands it: without the hidden ones.
fn is_scenario_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".json") && !name.starts_with('.')
}

/// Replays every scenario of a file.
pub(crate) fn run_file(file: &File, adapters: &[Adapter]) -> FileReport {
    let adapters: Vec<_> = adapters
        .iter()
        .filter(|adapter| (adapter.accepts)(file))
        .collect();
    let results = file
        .scenarios
        .iter()
        .enumerate()
        .map(|(index, scenario)| {
            let id = match scenario["id"].as_str() {
                Some(id) => id.to_owned(),
                None => format!("scenario {index}"),
            };
            (id, run_scenario(file, scenario, &adapters))
        })
        .collect();
    FileReport {
        name: file.name.clone(),
        adapters: adapters.iter().map(|adapter| adapter.name).collect(),
        results,
    }
}

/// The answer of the first adapter that can express the scenario.
fn run_scenario(file: &File, scenario: &Value, adapters: &[&Adapter]) -> Check {
    let mut reasons = Vec::new();
    for adapter in adapters {
        // Parsed anew: each adapter must read all keys itself.
        let replay = || Scenario::parse(file, scenario).and_then(|parsed| (adapter.run)(&parsed));
        match catch_unwind(AssertUnwindSafe(replay)) {
            Ok(Err(Failure::NotExpressible(reason))) => reasons.push(reason),
            Ok(decided) => return decided,
            Err(panic) => return failed(format!("panicked: {}", panic_text(&*panic))),
        }
    }
    match reasons[..] {
        [] => inexpressible("no adapter for this file"),
        _ => inexpressible(reasons.join(" | ")),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no text)")
}

/// What came of all files.
#[derive(Default)]
pub(crate) struct Report {
    files: Vec<FileReport>,
    /// What kept files from being read.
    trouble: Vec<String>,
}

impl Report {
    /// Whether there was something to replay and nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.trouble.is_empty() && self.files.iter().all(|file| file.count().failed == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sum = Count::default();
        for file in &self.files {
            write!(f, "{file}")?;
            let count = file.count();
            sum.passed += count.passed;
            sum.not_expressible += count.not_expressible;
            sum.failed += count.failed;
        }
        for problem in &self.trouble {
            writeln!(f, "{problem}")?;
        }
        sum.failed += self.trouble.len();
        writeln!(f, "conformance: {sum}")
    }
}

/// What came of one file.
pub(crate) struct FileReport {
    name: String,
    adapters: Vec<&'static str>,
    results: Vec<(String, Check)>,
}

impl FileReport {
    pub(crate) fn count(&self) -> Count {
        let mut count = Count::default();
        for (_, result) in &self.results {
            *match result {
                Ok(()) => &mut count.passed,
                Err(Failure::NotExpressible(_)) => &mut count.not_expressible,
                Err(Failure::Failed(_)) => &mut count.failed,
            } += 1;
        }
        count
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.count())?;
        if self.adapters.is_empty() {
            return writeln!(f, " (no adapter)");
        }
        writeln!(f, " ({})", self.adapters.join(" + "))?;
        for (id, result) in &self.results {
            match result {
                Ok(()) => {}
                Err(Failure::NotExpressible(reason)) => {
                    writeln!(f, "    not expressible: {id}: {reason}")?;
                }
                Err(Failure::Failed(what)) => writeln!(f, "    FAILED: {id}: {what}")?,
            }
        }
        Ok(())
    }
}

/// How many scenarios came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) not_expressible: usize,
    pub(crate) failed: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            not_expressible,
            failed,
        } = self;
        write!(
            f,
            "{passed} passed, {not_expressible} not expressible, {failed} failed"
        )
    }
}
