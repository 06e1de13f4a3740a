//! The schema: it cannot drift, the documented files fit it, and every setter of every builder is in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> Json {
    serde_json::to_value(backstop::config::schema()).unwrap()
}

/// Every feature that has settings of its own.
const IS_WHOLE: bool = cfg!(all(feature = "chaos", feature = "dead-letter-file"));

#[test]
fn the_schema_of_the_documentation_is_that_of_the_code() {
    if !IS_WHOLE {
        return;
    }
    let path = root().join("docs/config-schema.json");
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "run this test with UPDATE_SCHEMA=1 and commit {}",
        path.display()
    );
}

/// Checks a value against as much of JSON Schema as ours uses. Returns what does not fit.
fn misfit(root: &Json, schema: &Json, value: &Json, path: &str) -> Option<String> {
    let fits = |schema: &Json| misfit(root, schema, value, path).is_none();
    if schema == &Json::Bool(false) {
        return Some(format!("{path}: is not allowed"));
    }
    if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
        let target = root.pointer(target.strip_prefix('#').unwrap()).unwrap();
        if let Some(found) = misfit(root, target, value, path) {
            return Some(found);
        }
    }
    if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
        if !choices.iter().any(fits) {
            let all: Vec<_> = choices
                .iter()
                .map(|it| misfit(root, it, value, path))
                .collect();
            return Some(format!("{path}: {all:?}"));
        }
    }
    if let Some(condition) = schema.get("if") {
        let then = if fits(condition) { "then" } else { "else" };
        if let Some(found) = misfit(root, &schema[then], value, path) {
            return Some(found);
        }
    }
    if let Some(one) = schema.get("const").filter(|one| *one != value) {
        return Some(format!("{path}: is not {one}"));
    }
    let is_type = match schema.get("type").and_then(Json::as_str) {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{path}: {other} in {schema}"),
    };
    if !is_type {
        return Some(format!("{path}: is no {}", schema["type"]));
    }
    if let Some(names) = schema.get("enum").and_then(Json::as_array) {
        if !names.contains(value) {
            return Some(format!("{path}: is none of {names:?}"));
        }
    }
    if let (Some(most), Some(number)) = (schema.get("maximum"), value.as_u64()) {
        if number > most.as_u64().unwrap() {
            return Some(format!("{path}: is above {most}"));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        return values.iter().find_map(|one| misfit(root, items, one, path));
    }
    let table = value.as_object()?;
    let required = schema.get("required").and_then(Json::as_array);
    for key in required.into_iter().flatten() {
        if !table.contains_key(key.as_str().unwrap()) {
            return Some(format!("{path}: lacks {key}"));
        }
    }
    table.iter().find_map(|(key, one)| {
        let path = format!("{path}.{key}");
        let more = schema.get("additionalProperties");
        match schema.get("properties").and_then(|all| all.get(key)) {
            Some(schema) => misfit(root, schema, one, &path),
            None if more == Some(&Json::Bool(false)) => Some(format!("{path}: is unknown")),
            None => misfit(root, more?, one, &path),
        }
    })
}

#[test]
fn the_documented_files_fit_the_schema_and_the_code() {
    let schema = schema();
    let page = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let files: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .map(|it| it.split("```").next().unwrap())
        .collect();
    assert!(!files.is_empty());
    for file in files {
        let json: Json = toml::from_str(file).unwrap();
        assert_eq!(misfit(&schema, &schema, &json, ""), None, "{file}");
        // The effective settings too: they have every key that has a default.
        let effective = serde_json::to_value(super::registry(file).settings()).unwrap();
        assert_eq!(misfit(&schema, &schema, &effective, ""), None);
    }
    for (wrong, message) in [
        (
            r#"{ "clients": { "a": { "retry": { "max_attempts": "3" } } } }"#,
            ".clients.a.retry.max_attempts",
        ),
        (
            r#"{ "clients": { "a": { "retri": {} } } }"#,
            ".clients.a.retri: is unknown",
        ),
        (r#"{}"#, "lacks"),
    ] {
        let found = misfit(&schema, &schema, &serde_json::from_str(wrong).unwrap(), "");
        assert!(
            found.as_ref().is_some_and(|found| found.contains(message)),
            "{found:?}"
        );
    }
}

/// Builders, and the settings that set them up.
const BUILDERS: [(&str, &str); 32] = [
    ("AimdBuilder", "AimdSettings"),
    ("BulkheadBuilder", "BulkheadSettings"),
    ("ChaosBuilder", "ChaosSettings"),
    ("CircuitBreakerBuilder", "BreakerSettings"),
    ("CircuitVotesBuilder", "CircuitVotesSettings"),
    ("CoalesceBuilder", "CoalesceSettings"),
    ("CodelBuilder", "CodelMachineSettings"),
    ("CorrelatedBuilder", "CorrelatedSettings"),
    ("CubicRateBuilder", "CubicRateSettings"),
    ("DeadLetterQueueBuilder", "DeadLetterSettings"),
    ("EndpointsBuilder", "EndpointsSettings"),
    ("FileSinkBuilder", "FileSinkSettings"),
    ("Gradient2Builder", "Gradient2Settings"),
    ("GradientBuilder", "GradientSettings"),
    ("GrpcBudgetBuilder", "GrpcBudgetSettings"),
    ("HedgeBuilder", "HedgeSettings"),
    ("InFlightBudgetBuilder", "InFlightBudgetSettings"),
    ("KeyedBuilder", "KeyedSettings"),
    ("KeyedRateLimiterBuilder", "KeyedLimiterSettings"),
    ("LoadShedderBuilder", "LoadShedderSettings"),
    ("PercentageBudgetBuilder", "PercentageBudgetSettings"),
    ("RateLimiterBuilder", "LimiterSettings"),
    ("RetryBuilder", "RetrySettings"),
    ("SharedBulkheadBuilder", "SharedBulkheadSettings"),
    (
        "SharedKeyedRateLimiterBuilder",
        "SharedKeyedLimiterSettings",
    ),
    ("SharedRateLimiterBuilder", "SharedLimiterSettings"),
    ("StaleBuilder", "StaleSettings"),
    ("StandardBuilder", "StandardSettings"),
    ("ThrottleBuilder", "ThrottleSettings"),
    ("TimeoutBuilder", "TimeoutSettings"),
    ("TokenBudgetBuilder", "TokenBudgetSettings"),
    ("VegasBuilder", "VegasSettings"),
];

/// Builders set up in another way.
const OTHER_BUILDERS: [(&str, &str); 3] = [
    ("UserFairnessBuilder", "FairnessSettings"),
    ("WindowedBuilder", "WindowedSettings"),
    ("RegistryBuilder", ""),
];

/// Setters that are no data, with the reason.
const NO_DATA: &[(&str, &str, &str)] = &[
    ("*", "clock", "an object"),
    ("*", "observer", "an object"),
    ("*", "store", "an object: a connection"),
    ("CircuitBreakerBuilder", "break_with", "a closure"),
    ("CircuitBreakerBuilder", "restore", "state, not a setting"),
    ("CircuitVotesBuilder", "breaker", "a handle"),
    ("ChaosBuilder", "behavior", "a closure"),
    ("ChaosBuilder", "error", "a closure"),
    ("ChaosBuilder", "result", "a closure"),
    ("ChaosBuilder", "only", "a closure"),
    (
        "DeadLetterQueueBuilder",
        "sink",
        "an object; that of files has FileSinkSettings",
    ),
    ("DeadLetterQueueBuilder", "redact", "a closure"),
    ("DeadLetterQueueBuilder", "redact_error", "a closure"),
    ("DeadLetterQueueBuilder", "timestamps", "a closure"),
    ("EndpointsBuilder", "node", "a value"),
    ("EndpointsBuilder", "nodes", "values"),
    ("HedgeBuilder", "after_with", "a closure"),
    ("KeyedRateLimiterBuilder", "quota_for", "a closure"),
    ("SharedKeyedRateLimiterBuilder", "quota_for", "a closure"),
    ("SharedKeyedRateLimiterBuilder", "key_by", "a closure"),
    ("LoadShedderBuilder", "signal", "a closure"),
    ("LoadShedderBuilder", "shared_threshold", "a handle"),
    ("RetryBuilder", "delay_with", "a closure"),
    ("RetryBuilder", "on_retry", "a closure"),
    ("TimeoutBuilder", "after_with", "a closure"),
    ("VegasBuilder", "alpha", "a closure"),
    ("VegasBuilder", "beta", "a closure"),
    ("VegasBuilder", "threshold", "a closure"),
    ("VegasBuilder", "increase", "a closure"),
    ("VegasBuilder", "decrease", "a closure"),
    ("BulkheadBuilder", "codel_default", "the same as codel = {}"),
    ("StandardBuilder", "config", "all other settings together"),
    ("StandardBuilder", "quota", "the same as limiter.quota"),
    (
        "StandardBuilder",
        "max_attempts",
        "the same as retry.max_attempts",
    ),
    ("StandardBuilder", "backoff", "the same as retry.backoff"),
    ("StandardBuilder", "budget_share", "the same as budget"),
    (
        "StandardBuilder",
        "without_limiter",
        "limiter.enabled = false",
    ),
    ("StandardBuilder", "without_retry", "retry.enabled = false"),
    (
        "StandardBuilder",
        "without_breaker",
        "breaker.enabled = false",
    ),
    (
        "StandardBuilder",
        "without_budget",
        "budget = \"unlimited\"",
    ),
    (
        "StandardBuilder",
        "without_total_timeout",
        "total_timeout = \"unlimited\"",
    ),
    (
        "StandardBuilder",
        "without_attempt_timeout",
        "attempt_timeout = \"unlimited\"",
    ),
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// Returns the name of a setter that a line of source begins to define.
fn setter(line: &str) -> Option<&str> {
    if line.contains("&self") {
        return None;
    }
    let rest = line.trim_start().strip_prefix("pub ")?;
    let rest = rest
        .strip_prefix("const ")
        .unwrap_or(rest)
        .strip_prefix("fn ")?;
    let name = rest.split(['(', '<']).next()?;
    (name != "build" && name != "open" && name != "around").then_some(name)
}

/// Returns the setters that a macro defines: functions whose first argument is `mut self`.
fn macro_setters(source: &str, name: &str) -> Vec<String> {
    // `setters!` itself is told which setters to define.
    let start = source.find(&format!("macro_rules! {name} "));
    let Some(start) = start.filter(|_| name != "setters") else {
        return Vec::new();
    };
    let body = &source[start..];
    let body = &body[..body.find("\n}\n").unwrap()];
    body.lines()
        .filter_map(setter)
        .map(str::to_owned)
        .filter(|it| !it.contains('$'))
        .collect()
}

/// Returns all setters of all builders of the sources.
fn setters() -> BTreeSet<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let sources: Vec<String> = files
        .iter()
        .map(|it| fs::read_to_string(it).unwrap())
        .collect();
    let mut found = BTreeSet::new();
    for source in &sources {
        let mut builder = None;
        let mut in_setters = false;
        for line in source.lines() {
            if line.starts_with("impl") && !line.contains(" for ") {
                let of = line.split_whitespace().find(|it| it.contains("Builder"));
                builder = of.map(|it| it.split(['<', '{']).next().unwrap().trim().to_owned());
                if let Some(name) = line
                    .strip_prefix("impl<")
                    .and_then(|it| it.split("> ").last())
                {
                    if name.contains("Builder") {
                        builder = Some(name.split('<').next().unwrap().to_owned());
                    }
                }
            } else if line.starts_with('}') {
                builder = None;
            }
            let Some(builder) = &builder else { continue };
            let word = line.trim();
            if word.ends_with("! {") || word.ends_with("!();") || word.ends_with("config }") {
                let name = word.split('!').next().unwrap();
                in_setters = word.ends_with("! {");
                for source in &sources {
                    for setter in macro_setters(source, name) {
                        found.insert((builder.clone(), setter));
                    }
                }
            } else if line == "    }" {
                in_setters = false;
            } else if let (true, Some(name)) = (in_setters, word.strip_suffix(';')) {
                if name.chars().all(|it| it.is_alphanumeric() || it == '_') {
                    found.insert((builder.clone(), name.to_owned()));
                }
            } else if let Some(name) = setter(line) {
                found.insert((builder.clone(), name.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_setter_of_every_builder_is_a_setting() {
    if !IS_WHOLE {
        return;
    }
    let schema = schema();
    let keys = |settings: &str| {
        let keys = schema["$defs"][settings]["properties"].as_object();
        keys.unwrap_or_else(|| panic!("{settings}"))
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    let setters = setters();
    let builders: BTreeSet<&str> = setters
        .iter()
        .map(|(builder, _)| builder.as_str())
        .collect();
    let all = || BUILDERS.iter().chain(&OTHER_BUILDERS);
    for builder in &builders {
        assert!(
            all().any(|(known, _)| known == builder),
            "{builder} has no settings"
        );
    }
    let mut missing = Vec::new();
    for (builder, settings) in all().filter(|(_, settings)| !settings.is_empty()) {
        let keys = keys(settings);
        let of = setters.iter().filter(|(of, _)| of == builder);
        let of: Vec<&str> = of.map(|(_, setter)| setter.as_str()).collect();
        assert!(!of.is_empty(), "{builder} has no setters in the sources");
        for setter in of {
            let is_data =
                |it: &&(&str, &str, &str)| (it.0 == "*" || it.0 == *builder) && it.1 == setter;
            let excused = NO_DATA.iter().any(|it| is_data(&it));
            if keys.contains(setter) == excused {
                missing.push(format!("{builder}::{setter}"));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    // Each excuse is needed.
    for (builder, setter, reason) in NO_DATA {
        let exists = setters
            .iter()
            .any(|(of, name)| (*builder == "*" || of == builder) && name == setter);
        assert!(exists, "{builder}::{setter} ({reason})");
    }
}

/// The keys of a quota and of a budget depend on each other.
#[test]
fn the_schema_of_dependent_keys_accepts_what_the_code_reads() {
    let schema = schema();
    let budget = &schema["$defs"]["StandardSettings"]["properties"]["budget"];
    for (table, fits) in [
        (r#"{ "ratio": 0.1, "floor_per_second": 3 }"#, true),
        (r#"{ "ratio": 0.1, "floor": 3 }"#, false),
        (
            r#"{ "kind": "percentage", "ratio": 0.1, "floor": 3 }"#,
            true,
        ),
    ] {
        let value: Json = serde_json::from_str(table).unwrap();
        assert_eq!(
            misfit(&schema, budget, &value, "").is_none(),
            fits,
            "{table}"
        );
        let read: Result<backstop::config::StandardSettings, _> =
            serde_json::from_value(serde_json::json!({ "budget": value }));
        assert_eq!(read.is_ok(), fits, "{table}");
    }
    let quota = &schema["$defs"]["LimiterSettings"]["properties"]["quota"];
    for (table, fits) in [
        (r#"{ "tokens": 5, "per": "1s" }"#, true),
        (r#"{ "tokens": 5 }"#, false),
        (r#"{ "per": "1s" }"#, false),
        (r#"{ "tokens": 5, "per": "1M", "burst": 7 }"#, true),
        (
            r#"{ "tokens": 5, "per": "1s", "algorithm": "leaky_bucket" }"#,
            false,
        ),
        (
            r#"{ "tokens": 5, "per": "1s", "algorithm": "leaky_bucket", "queue": 3 }"#,
            true,
        ),
        (r#"{ "tokens": 5, "per": "1s", "queue": 3 }"#, false),
        (
            r#"{ "tokens": 5, "per": "1s", "warm_up": { "within": "3s" } }"#,
            false,
        ),
        (
            r#"{ "tokens": 5, "per": "1s", "warm_up": { "within": "3s", "cold": 3 } }"#,
            true,
        ),
        (r#"{ "tokens": 5, "per": "1s", "unit": 3 }"#, false),
    ] {
        let value: Json = serde_json::from_str(table).unwrap();
        assert_eq!(
            misfit(&schema, quota, &value, "").is_none(),
            fits,
            "{table}"
        );
        let read: Result<backstop::config::LimiterSettings, _> =
            serde_json::from_value(serde_json::json!({ "quota": value }));
        assert_eq!(read.is_ok(), fits, "{table}");
    }
}
