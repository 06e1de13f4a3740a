//! Long inputs: their cost is linear, so that a mistake in a generated file is an error and not a hang.

use backstop::ManualClock;
use backstop::config::{LoadError, Registry, Value};

use crate::watchdog::within_a_minute;

fn build(text: String) -> Result<Registry, LoadError> {
    within_a_minute(move || {
        let file: Value = serde_json::from_str(&text).unwrap();
        Registry::builder().clock(ManualClock::new()).build(&file)
    })
}

#[test]
fn a_long_unknown_key_is_compared_with_no_key() {
    let key = "k".repeat(4 << 20);
    let clients: Vec<String> = (0..8)
        .map(|n| format!("\"c{n}\": {{\"{key}\": 1}}"))
        .collect();
    let error = build(format!("{{\"clients\": {{ {} }}}}", clients.join(","))).unwrap_err();
    assert_eq!(error.problems().len(), 8);
    assert!(error.problems()[0].rule().starts_with("unknown key"));
}

#[test]
fn many_keys_of_a_table_are_read_in_linear_time() {
    let keys: Vec<String> = (0..200_000).map(|n| format!("\"c{n}\": {{}}")).collect();
    let text = format!("{{\"clients\": {{ {} }}}}", keys.join(","));
    let value = within_a_minute(move || serde_json::from_str::<Value>(&text).unwrap());
    assert!(value.get("clients").is_some());
}

#[test]
fn many_mistakes_are_listed_in_linear_time() {
    let clients: Vec<String> = (0..150_000)
        .map(|n| format!("\"c{n}\": {{\"retry\": {{\"max_attempts\": 0}}}}"))
        .collect();
    let error = build(format!("{{\"clients\": {{ {} }}}}", clients.join(","))).unwrap_err();
    assert_eq!(error.problems().len(), 150_000);
}
