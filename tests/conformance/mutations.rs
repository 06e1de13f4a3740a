//! Changes the expectations of passing scenarios one at a time. A replay that still passes does not check the
//! expectation.
//!
//! `cargo test --test conformance -- --ignored --nocapture mutated` prints the unnoticed changes and the number of
//! all changes.

use serde_json::{Number, Value, json};

use super::file::File;
use super::harness::{Adapter, Failure};
use super::report::{files, run_scenario};
use super::{ADAPTERS, directory};

/// The limit on the share of unnoticed changes, in percent.
const MOST_UNNOTICED_PERCENT: usize = 2;

#[test]
#[ignore = "replays every scenario once for each of its expectations"]
fn mutated_expectations_are_noticed() {
    let mut seen = Seen::default();
    for (_, file) in files(&directory()).unwrap() {
        let file = file.unwrap();
        mutate_file(&file, ADAPTERS, &mut seen);
    }
    let percent = 100.0 * seen.unnoticed.len() as f64 / seen.mutations.max(1) as f64;
    let list: String = seen.unnoticed.iter().map(|it| format!("{it}\n")).collect();
    print!(
        "\n{list}mutations: {} changed expectations, {} made the scenario fail, {} inexpressible, {} went \
         unnoticed ({percent:.2} %)\n",
        seen.mutations,
        seen.failed,
        seen.mutations - seen.failed - seen.unnoticed.len(),
        seen.unnoticed.len(),
    );
    assert!(seen.mutations > 0);
    assert!(seen.unnoticed.len() * 100 < seen.mutations * MOST_UNNOTICED_PERCENT);
}

/// Results of the mutations so far.
#[derive(Default)]
struct Seen {
    mutations: usize,
    failed: usize,
    /// The file, the scenario, and the change.
    unnoticed: Vec<String>,
}

/// Replays every passing scenario of a file with each of its expectations changed.
fn mutate_file(file: &File, adapters: &[Adapter], seen: &mut Seen) {
    let adapters: Vec<_> = adapters
        .iter()
        .filter(|adapter| (adapter.accepts)(file))
        .collect();
    for scenario in &file.scenarios {
        if run_scenario(file, scenario, &adapters).is_err() {
            continue;
        }
        for mutation in mutations(scenario) {
            let mut mutant = scenario.clone();
            if let Some(value) = mutant.pointer_mut(&mutation.pointer) {
                *value = mutation.to.clone();
            }
            seen.mutations += 1;
            match run_scenario(file, &mutant, &adapters) {
                Err(Failure::Failed(_)) => seen.failed += 1,
                Err(Failure::NotExpressible(_)) => {}
                Ok(()) => {
                    let (name, id) = (&file.name, &scenario["id"]);
                    let Mutation { pointer, to } = &mutation;
                    let from = scenario.pointer(pointer).unwrap_or(&Value::Null);
                    let change = format!("{name}: {id}: {pointer}: {from} -> {to}");
                    seen.unnoticed.push(change);
                }
            }
        }
    }
}

/// One change of one expectation.
struct Mutation {
    /// The place, as a JSON pointer.
    pointer: String,
    to: Value,
}

/// Returns a change for each number, Boolean, string, and null that a step expects.
fn mutations(scenario: &Value) -> Vec<Mutation> {
    let mut found = Vec::new();
    of_steps(&scenario["steps"], "/steps", &mut found);
    found
}

fn of_steps(steps: &Value, place: &str, found: &mut Vec<Mutation>) {
    match steps {
        Value::Array(steps) => {
            for (index, step) in steps.iter().enumerate() {
                of_steps(step, &format!("{place}/{index}"), found);
            }
        }
        Value::Object(step) => {
            let tolerance = step.get("tol").and_then(Value::as_f64).unwrap_or(0.0);
            for (key, value) in step {
                let place = format!("{place}/{key}");
                if is_expectation(key) {
                    of_value(key, value, tolerance, place, found);
                } else if key == "body" {
                    of_steps(value, &place, found);
                }
            }
        }
        _ => {}
    }
}

/// Returns whether a key of a step is an expectation: by the format of the files, and for three keys with other
/// names.
fn is_expectation(key: &str) -> bool {
    key.starts_with("expect") || ["left", "states", "rounding_error_ns_x_tokens"].contains(&key)
}

fn of_value(key: &str, value: &Value, tol: f64, pointer: String, found: &mut Vec<Mutation>) {
    let to = match value {
        Value::Object(map) => {
            for (key, value) in map {
                of_value(key, value, tol, format!("{pointer}/{key}"), found);
            }
            return;
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                of_value(key, value, tol, format!("{pointer}/{index}"), found);
            }
            return;
        }
        Value::Number(number) => changed(key, number, tol),
        Value::Bool(flag) => json!(!flag),
        Value::String(text) => json!(format!("{text}_")),
        Value::Null => json!(1),
    };
    found.push(Mutation { pointer, to });
}

/// Returns a number that is off by 1 and twice the tolerance, or a bound that no number satisfies.
fn changed(key: &str, number: &Number, tolerance: f64) -> Value {
    let ends_in = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
    if ends_in(&["_max", "_lt", "_lte"]) {
        return json!(-1e18);
    }
    if ends_in(&["_min", "_gt", "_gte"]) {
        return json!(1e18);
    }
    match number.as_i64() {
        Some(whole) if tolerance == 0.0 => json!(whole.checked_add(1).unwrap_or(whole - 1)),
        _ => json!(number.as_f64().unwrap_or(0.0) + 1.0 + 2.0 * tolerance),
    }
}

#[test]
fn an_expectation_that_an_adapter_does_not_check_is_found() {
    use super::harness::{Scenario, Step};

    // Reads `expect_color` without checking it.
    const BLIND: Adapter = Adapter {
        name: "blind",
        accepts: |_| true,
        run: |scenario: &Scenario<'_>| {
            let clock = super::clock::TestClock::new();
            scenario.play(&clock, |step: &Step| {
                step.text("expect_color")?;
                step.check("expect", true)?;
                step.check("expect_limits", json!([1, 2.5]))
            })
        },
    };
    let steps = json!([
        {"op": "look", "expect": true, "expect_color": "red"},
        {"op": "loop", "times": 2, "body": [{"op": "look", "expect_limits": [1, 2.5]}]},
    ]);
    let text = json!({
        "schema": "scenario/1", "source": "some/thing", "pattern": "blind",
        "scenarios": [{"id": "a", "steps": steps}, {"id": "fails", "steps": [{"op": "look", "expect": 1}]}],
    });
    let mut seen = Seen::default();
    let file = File::parse("blind.json", &text.to_string()).unwrap();
    mutate_file(&file, &[BLIND], &mut seen);
    assert_eq!((seen.mutations, seen.failed), (4, 3));
    assert_eq!(
        seen.unnoticed,
        [r#"blind.json: "a": /steps/0/expect_color: "red" -> "red_""#]
    );
    let bound = |key| changed(key, &Number::from(3), 0.0).as_f64().unwrap();
    assert!(bound("expect_wait_ns_max") < 0.0 && bound("expect_gt") > 3.0);
    assert_eq!(
        changed("expect", &Number::from(i64::MAX), 0.0),
        json!(i64::MAX - 1)
    );
}
