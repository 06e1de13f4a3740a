//! The harness reports failures and ignores nothing.

use std::fs;
use std::panic::resume_unwind;
use std::path::Path;
use std::time::Duration;

use backstop::Clock;
use serde_json::{Value, json};

use super::clock::TestClock;
use super::file::File;
use super::harness::{
    Actor, Adapter, Check, Scenario, Step, failed, inexpressible, unknown, unless_parted,
};
use super::report::{Count, FileReport, run_directory, run_file};

/// A subject of three ops: `add` (returns the sum), `boom` and `wait`.
const COUNTER: Adapter = Adapter {
    name: "counter",
    accepts: |file| file.is_from("some/counter") && file.pattern() == "counter",
    run: |scenario: &Scenario<'_>| {
        let clock = TestClock::new();
        let sum = scenario.config.count("start")?.unwrap_or(0);
        let counter = Counter {
            clock: clock.clone(),
            sum,
            at_repeat: sum,
        };
        scenario.play(&clock, counter)
    },
};

struct Counter {
    clock: TestClock,
    sum: u64,
    at_repeat: u64,
}

impl Actor for Counter {
    fn step(&mut self, step: &Step) -> Check {
        match step.op() {
            Some("add") => {
                self.sum += step.count("amount")?.unwrap_or(1);
                step.check("expect", self.sum)?;
            }
            // A panic without output on the terminal.
            Some("boom") => resume_unwind(Box::new(format!("at {}", self.sum))),
            Some("wait") => {
                let wait = step.need("for", step.duration("for")?)?;
                self.clock.advance(wait);
            }
            None => step.check("expect_added", self.sum - self.at_repeat)?,
            op => unknown(op)?,
        }
        step.check("expect_sum", self.sum)?;
        step.check("expect_half", self.sum as f64 / 2.0)?;
        step.check("expect_state", json!({ "sum": self.sum }))?;
        step.check("expect_ms", self.clock.elapsed().as_millis() as u64)
    }

    fn before_repeat(&mut self) {
        self.at_repeat = self.sum;
    }
}

fn file(scenarios: &Value) -> File {
    let text = json!({
        "schema": "scenario/1",
        "source": "else/where@1 a; some/counter@2 b",
        "pattern": "counter",
        "scenarios": scenarios,
    });
    File::parse("test.json", &text.to_string()).unwrap()
}

fn replay(steps: Value) -> FileReport {
    let scenario = json!({"id": "it", "config": {"start": 0}, "steps": steps});
    run_file(&file(&json!([scenario])), &[COUNTER])
}

const PASSED: Count = Count {
    passed: 1,
    not_expressible: 0,
    failed: 0,
};
const NOT_EXPRESSIBLE: Count = Count {
    passed: 0,
    not_expressible: 1,
    failed: 0,
};
const FAILED: Count = Count {
    passed: 0,
    not_expressible: 0,
    failed: 1,
};

#[test]
fn good_scenarios_pass() {
    for steps in [
        json!([{"op": "add", "amount": 2, "expect": 2}, {"expect_sum": 2.0, "expect_half": 1}]),
        json!([{"op": "add", "amount": 3.0, "expect_half": 1.4, "tol": 0.1, "notes": "about"}]),
        json!([{"op": "add", "expect_state": {"sum": 1}, "info_sum_later": 7}]),
        json!([{"op": "repeat", "times": 5, "body": ["add", {"op": "add"}], "expect_added": 10}]),
        json!([{"op": "repeat", "times": 3, "body": {"op": "add"}, "expect_sum": 3}]),
        json!([{"op": "add"}, {"op": "loop", "times": 2, "body": ["add"]}, {"expect_sum": 3}]),
    ] {
        assert_eq!(replay(steps.clone()).count(), PASSED, "{steps}");
    }
}

#[test]
fn wrong_scenarios_fail_and_name_the_step() {
    for (steps, says) in [
        (
            json!([{"op": "add"}, {"op": "add", "expect": 3}]),
            "FAILED: it: step 1: expect: expected 3, got 2",
        ),
        (
            json!([{"op": "add", "expect_state": {"sum": 2}}]),
            "step 0: expect_state.sum: expected 2, got 1",
        ),
        (
            json!([{"op": "add", "expect_half": 0.7, "tol": 0.1}]),
            "step 0: expect_half: expected 0.7, got 0.5",
        ),
        (
            json!([{"op": "repeat", "times": 3, "body": ["add"], "expect_added": 4}]),
            "step 0: expect_added: expected 4, got 3",
        ),
        (
            json!([{"op": "repeat", "times": 3, "body": [{"op": "add", "expect": 1}]}]),
            "step 0: round 2: body 0: expect: expected 1, got 2",
        ),
        (json!([{"op": "add"}, {"op": "boom"}]), "panicked: at 1"),
    ] {
        let report = replay(steps);
        assert_eq!(report.count(), FAILED, "{report}");
        assert!(report.to_string().contains(says), "{report}");
    }
}

#[test]
fn unknown_ops_and_keys_are_named_and_do_not_pass() {
    for (steps, says) in [
        (json!([{"op": "subtract"}]), "step 0: op `subtract`"),
        (
            json!([{"op": "add", "twice": true}]),
            "step 0: step key `twice`",
        ),
        (
            json!([{"expect_color": "red"}]),
            "step 0: step key `expect_color`",
        ),
        (
            json!([{"op": "add", "expect_state": {"color": 1}}]),
            "`expect_state.color`",
        ),
        (
            json!([{"op": "add", "amount": "many"}]),
            "`amount` is \"many\"",
        ),
        (json!([{"op": "wait"}]), "`for` is missing"),
        (json!([{"op": "wait", "for_ms": -1}]), "`for` is negative"),
        (
            json!([{"op": "loop", "times": 2, "body": "add twice"}]),
            "prose: \"add twice\"",
        ),
        (json!("add"), "`steps` is"),
    ] {
        let report = replay(steps);
        assert_eq!(report.count(), NOT_EXPRESSIBLE, "{report}");
        assert!(report.to_string().contains(says), "{report}");
    }
    let config = json!([{"id": "it", "config": {"colour": 1}, "steps": []}]);
    let report = run_file(&file(&config), &[COUNTER]);
    assert_eq!(report.count(), NOT_EXPRESSIBLE);
    assert!(
        report.to_string().contains("config key `colour`"),
        "{report}"
    );
}

#[test]
fn a_file_without_an_adapter_is_not_expressible() {
    let report = run_file(
        &file(&json!([{"id": "a", "steps": []}, {"steps": []}])),
        &[],
    );
    assert_eq!(
        report.to_string(),
        "test.json: 0 passed, 2 not expressible, 0 failed (no adapter)\n"
    );
}

#[test]
fn the_next_adapter_is_asked_about_what_the_first_cannot_express() {
    const DEAF: Adapter = Adapter {
        name: "deaf",
        accepts: |_| true,
        run: |scenario| scenario.play(&TestClock::new(), |step: &Step| unknown(step.op())),
    };
    let scenario = json!([{"id": "it", "steps": [{"op": "add", "expect": 2}]}]);
    let report = run_file(&file(&scenario), &[DEAF, COUNTER]);
    assert_eq!(report.count(), FAILED);
    let scenario = json!([{"id": "it", "steps": [{"op": "fly"}]}]);
    let report = run_file(&file(&scenario), &[DEAF, COUNTER]);
    assert_eq!(report.count(), NOT_EXPRESSIBLE);
}

#[test]
fn steps_move_the_clock_in_both_directions() {
    for steps in [
        json!([{"at_ms": 5, "expect_ms": 5}, {"op": "add", "expect_ms": 5}]),
        json!([{"at_s": 2}, {"expect_ms": 2000}, {"at_ns": 2_001_000_000, "expect_ms": 2001}]),
        json!([{"at_ticks": 70_000, "expect_ms": 7}, {"at_ms": 8.5, "expect_ms": 8}]),
        json!([{"at_ms": 100}, {"at_ms": 40, "expect_ms": 40}, {"at_ms": 60, "expect_ms": 60}]),
        // The op advanced the clock beyond the time of the next step, which does not move it backwards.
        json!([{"at_ms": 1, "op": "wait", "for_s": 1}, {"at_ms": 5, "expect_ms": 1001}]),
    ] {
        assert_eq!(replay(steps.clone()).count(), PASSED, "{steps}");
    }
    let clock = TestClock::new();
    let start = clock.now();
    clock.move_to(-1_000_000_000);
    assert_eq!(clock.now() + Duration::from_secs(1), start);
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

#[test]
fn empty_missing_unreadable_and_inexpressible_directories_are_failures() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    let _ = fs::remove_dir_all(&root);
    let replay = |name: &str, files: &[(&str, &str)]| {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        run_directory(&directory, &[COUNTER])
    };
    let good = r#"{"schema": "scenario/1", "source": "some/counter", "pattern": "counter",
        "scenarios": [{"id": "a", "steps": [{"op": "add", "expect": 1}]}]}"#;
    let other = good.replace("scenario/1", "scenario/2");
    let wrong = good.replace("\"expect\": 1", "\"expect\": 2");

    let report = replay(
        "good",
        &[
            ("any_name.json", good),
            (".hidden.json", ""),
            ("README.md", "-"),
        ],
    );
    assert!(report.is_good());
    let last = "conformance: 1 passed, 0 not expressible, 0 failed\n";
    assert!(report.to_string().ends_with(last), "{report}");

    // An adapter that lost an op would make its scenarios inexpressible, and nothing would be checked.
    let lost = good.replace("\"op\": \"add\"", "\"op\": \"lost\"");
    let report = replay("lost", &[("a.json", good), ("b.json", &lost)]);
    assert!(!report.is_good());
    let last = "conformance: 1 passed, 1 not expressible, 0 failed\n";
    assert!(report.to_string().ends_with(last), "{report}");

    assert!(!run_directory(&root.join("missing"), &[COUNTER]).is_good());
    assert!(!replay("empty", &[("README.md", "-")]).is_good());
    for (name, text) in [
        ("broken", "{"),
        ("schema", &other),
        ("hollow", "{}"),
        ("wrong", &wrong),
    ] {
        let report = replay(name, &[("a.json", good), ("b.json", text)]);
        assert!(!report.is_good(), "{name}");
        let last = "conformance: 1 passed, 0 not expressible, 1 failed\n";
        assert!(report.to_string().ends_with(last), "{report}");
    }
}

/// Looks ahead for the largest expected amount.
const FORESEEING: Adapter = Adapter {
    name: "foreseeing",
    accepts: |_| true,
    run: |scenario: &Scenario<'_>| {
        for step in scenario.steps() {
            step.number("expect_sum")?;
            step.number("expect_color")?;
        }
        (COUNTER.run)(scenario)
    },
};

#[test]
fn a_key_read_ahead_is_still_checked() {
    let replay = |steps: Value| {
        let scenario = json!({"id": "it", "config": {"start": 0}, "steps": steps});
        run_file(&file(&json!([scenario])), &[FORESEEING])
    };
    let report = replay(json!([{"op": "add"}, {"expect_sum": 7}]));
    assert_eq!(report.count(), FAILED, "{report}");
    let report = replay(json!([{"op": "add"}, {"expect_sum": 1}]));
    assert_eq!(report.count(), PASSED, "{report}");
    // The same in a loop, in the first and in the second round.
    let body = json!([{"op": "add"}, {"expect_sum": 1}]);
    let report = replay(json!([{"op": "loop", "times": 2, "body": body}]));
    assert_eq!(report.count(), FAILED, "{report}");
    assert!(report.to_string().contains("round 2"), "{report}");
    let report = replay(json!([{"expect_color": 7}]));
    assert_eq!(report.count(), NOT_EXPRESSIBLE, "{report}");
    assert!(
        report.to_string().contains("step key `expect_color`"),
        "{report}"
    );
}

#[test]
fn looking_ahead_includes_the_steps_of_loops() {
    let steps =
        json!([{"op": "loop", "times": 2, "body": [{"op": "loop", "times": 1, "body": ["add"]}]}]);
    let file = file(&json!([{"id": "it", "steps": steps}]));
    let scenario = Scenario::parse(&file, &json!({"id": "it", "steps": steps})).unwrap();
    assert!(scenario.does(&["add"]) && !scenario.does(&["wait"]));
    assert_eq!(scenario.steps().len(), 3);
}

#[test]
fn loops_may_be_timed() {
    for steps in [
        // At 0, 2 and 4 ms.
        json!([{"op": "loop", "from_ms": 0, "to_ms": 5, "every_ms": 2, "body": ["add"], "expect_sum": 3, "expect_ms": 4}]),
        json!([{"op": "loop", "from_ms": 10, "to_ms": 12, "every_ms": 2, "body": ["add"], "expect_sum": 1, "expect_ms": 10}]),
        json!([{"op": "loop", "to_s": 1, "every_ms": 500, "body": ["add"]}, {"expect_sum": 2, "expect_ms": 500}]),
    ] {
        assert_eq!(replay(steps.clone()).count(), PASSED, "{steps}");
    }
    for (step, says) in [
        (json!({"op": "loop", "body": ["add"]}), "`times` is missing"),
        (
            json!({"op": "loop", "from_ms": 0, "to_ms": 1, "every_ms": 0, "body": ["add"]}),
            "a loop from, to, every",
        ),
        (json!({"op": "loop", "times": 2}), "`body` is None"),
        (json!({"op": "add", "body": ["add"]}), "with a `body`"),
    ] {
        let report = replay(json!([step]));
        assert_eq!(report.count(), NOT_EXPRESSIBLE, "{report}");
        assert!(report.to_string().contains(says), "{report}");
    }
}

#[test]
fn a_failure_after_a_known_difference_is_not_expressible() {
    assert_eq!(unless_parted(Ok(()), Some("grows by two")), Ok(()));
    let wrong = || failed("limit: expected 3, got 2");
    assert_eq!(unless_parted(wrong(), None), wrong());
    assert_eq!(
        unless_parted(wrong(), Some("grows by two")),
        inexpressible("grows by two; here limit: expected 3, got 2")
    );
}
