//! Mistakes: each is named with its path, its value, and the rule, and changes nothing.

use backstop::ManualClock;
use backstop::config::{Registry, Value};

use super::{registry, toml};

/// The settings in force while broken files are applied.
const GOOD: &str = r#"
    [clients.a]
    total_timeout = "7s"
    attempt_timeout = "3s"
    limiter = { quota = "100/s" }
"#;

/// Broken files, and the message that each leads to.
const BROKEN: [(&str, &str); 50] = [
    // Shapes.
    (
        "[clients.a]\ntotal_timeout = -1",
        "clients.a.total_timeout: must be a duration such as \"1h30m\", \"1.5s\", or \"unlimited\", is -1",
    ),
    (
        "[clients.a]\ntotal_timeout = nan",
        "clients.a.total_timeout: must be a duration such as \"1h30m\", \"1.5s\", or \"unlimited\", is NaN",
    ),
    (
        "[clients.a]\ntotal_timeout = \" 1.5 \"",
        "clients.a.total_timeout: must be a duration with its unit: say \"1.5s\", is \" 1.5 \"",
    ),
    (
        "[clients.a.breaker]\ntrip_on = []",
        "clients.a.breaker.trip_on: must have at least one rule, is []",
    ),
    ("", "clients: must be given"),
    ("clients = 3", "clients: must be a table, is 3"),
    ("[clients]\na = 1", "clients.a: must be a table, is 1"),
    (
        "[clients.a.retry]\nmax_attempts = \"3\"",
        "clients.a.retry.max_attempts: must be a whole number from 0 to 4294967295, is \"3\"",
    ),
    (
        "[clients.a.retry]\nmax_attempts = -1",
        "clients.a.retry.max_attempts: must be a whole number from 0 to 4294967295, is -1",
    ),
    (
        "[clients.a.retry]\nmax_attempts = 2.5",
        "clients.a.retry.max_attempts: must be a whole number from 0 to 4294967295, is 2.5",
    ),
    (
        "[clients.a.retry]\nretry_open_circuit = \"yes\"",
        "clients.a.retry.retry_open_circuit: must be true or false, is \"yes\"",
    ),
    (
        "[clients.a]\nretry = false",
        "clients.a.retry: must be a table, is false",
    ),
    (
        "[clients.a.breaker]\nname = 4",
        "clients.a.breaker.name: must be a string, is 4",
    ),
    // Unknown keys.
    (
        "[client.a]\n[clients.a]",
        "client: unknown key (did you mean `clients`?), is { a = {} }",
    ),
    (
        "[clients.a.retry]\nmax_attempt = 4",
        "clients.a.retry.max_attempt: unknown key (did you mean `max_attempts`?), is 4",
    ),
    (
        "[clients.a]\ncircuit_breaker = {}",
        "clients.a.circuit_breaker: unknown key (did you mean `breaker`?), is {}",
    ),
    (
        "[clients.a]\nrate_limit = { quota = \"1/s\" }",
        "clients.a.rate_limit: unknown key (did you mean `limiter`?), is { quota = \"1/s\" }",
    ),
    (
        "[clients.a.retry.backoff]\ncap = \"3s\"",
        "clients.a.retry.backoff.cap: unknown key (did you mean `max`?), is \"3s\"",
    ),
    (
        "[clients.a.limiter]\nquota = \"1/s\"\ncolor = 1",
        "clients.a.limiter.color: unknown key (known are enabled, quota, adaptive, pause_on_hint, max_wait, max_waiting, max_debt, stripes, shadow, name), is 1",
    ),
    (
        "[clients.a]\nname = \"b\"",
        "clients.a.name: must not be given: the key of the table is the name, is \"b\"",
    ),
    // Durations.
    (
        "[clients.a]\ntotal_timeout = 30",
        "clients.a.total_timeout: must be a duration with its unit: say \"30s\", is 30",
    ),
    (
        "[clients.a]\ntotal_timeout = \"30\"",
        "clients.a.total_timeout: must be a duration with its unit: say \"30s\", is \"30\"",
    ),
    (
        "[clients.a]\ntotal_timeout = 1.5",
        "clients.a.total_timeout: must be a duration with its unit: say \"1.5s\", is 1.5",
    ),
    (
        "[clients.a]\ntotal_timeout = \"soon\"",
        "clients.a.total_timeout: must be a duration such as \"1h30m\", \"1.5s\", or \"unlimited\", is \"soon\"",
    ),
    (
        "[clients.a]\ntotal_timeout = \"-3s\"",
        "clients.a.total_timeout: must be a duration such as \"1h30m\", \"1.5s\", or \"unlimited\", is \"-3s\"",
    ),
    // What builders check.
    (
        "[clients.a.retry]\nmax_attempts = 0",
        "clients.a.retry.max_attempts: must be at least 1, is 0",
    ),
    (
        "[clients.a.retry.backoff]\nfactor = 0.5",
        "clients.a.retry.backoff: needs a factor of at least 1, and finite, is { factor = 0.5 }",
    ),
    (
        "[clients.a.retry.backoff]\ninitial = \"0s\"",
        "clients.a.retry.backoff: needs a delay above zero, or Backoff::NONE, is { initial = \"0s\" }",
    ),
    (
        "[clients.a.retry.backoff]\nkind = \"fixed\"",
        "clients.a.retry.backoff.delay: must be given for a backoff of kind \"fixed\"",
    ),
    (
        "[clients.a.retry.backoff]\nkind = \"fixed\"\ndelay = \"1s\"\nfactor = 3",
        "clients.a.retry.backoff.factor: does not apply to a backoff of kind \"fixed\", is 3.0",
    ),
    (
        "[clients.a.retry.backoff]\nkind = \"doubling\"",
        "clients.a.retry.backoff.kind: must be \"none\", \"fixed\", \"linear\", \"exponential\" or \"fibonacci\", is \"doubling\"",
    ),
    (
        "[clients.a.retry.backoff]\njitter = \"some\"",
        "clients.a.retry.backoff.jitter: must be one of none, full, equal, decorrelated, decorrelated_v2, or a table such as { plus_minus = 0.2 }, is \"some\"",
    ),
    (
        "[clients.a.retry]\nhint = { until = \"5s\" }",
        "clients.a.retry.hint: must be \"obey\", \"ignore\", { within = \"5s\" }, or { up_to = \"5s\" }, is { until = \"5s\" }",
    ),
    (
        "[clients.a.budget]\nratio = -1",
        "clients.a.budget.ratio: must be from 0 to 1000, is -1.0",
    ),
    (
        "[clients.a.budget]\nkind = \"percentage\"\nwindow = \"2m\"",
        "clients.a.budget.window: must be from 1 to 60 s, is \"2m\"",
    ),
    (
        "[clients.a.budget]\nkind = \"bucket\"",
        "clients.a.budget.kind: must be \"percentage\", \"tokens\", \"grpc\" or \"in_flight\", is \"bucket\"",
    ),
    (
        "[clients.a.budget]\n[clients.a.retry.budget]",
        "clients.a.budget: is set twice: in the retry, and for the stack, is { ratio = 0.2, floor_per_second = 10 }",
    ),
    (
        "[clients.a.limiter]\nmax_wait = \"1s\"",
        "clients.a.limiter.quota: must be given",
    ),
    (
        "[clients.a.limiter]\nquota = \"many\"",
        "clients.a.limiter.quota: must be like \"300/1s\" or \"10/min, burst 5\", is \"many\"",
    ),
    (
        "[clients.a.limiter]\nquota = \"0/s\"",
        "clients.a.limiter.quota: must have at least one token, and a period above zero, is \"0/s\"",
    ),
    (
        "[clients.a.limiter]\nquota = { tokens = 5 }",
        "clients.a.limiter.quota.per: must be given",
    ),
    (
        "[clients.a.limiter]\nquota = { tokens = 5, per = \"1s\", algorithm = \"leaky_bucket\" }",
        "clients.a.limiter.quota.queue: must be given for a leaky bucket, and only then",
    ),
    (
        "[clients.a.limiter]\nquota = \"5/s\"\nadaptive = { decrease_factor = 2 }",
        "clients.a.limiter.adaptive.decrease_factor: must be in 0 to 1, is 2.0",
    ),
    (
        "[clients.a.breaker]\ntrip_on = { failure_rate = 1.5, within = \"9s\" }",
        "clients.a.breaker.trip_on: must be a rate above 0 and at most 1, is { failure_rate = 1.5, within = \"9s\" }",
    ),
    (
        "[clients.a.breaker]\ntrip_on = [{ consecutive = 5 }, { min_calls = 5 }]",
        "clients.a.breaker.trip_on[1]: must have exactly one of consecutive, failures, failure_rate, slow_rate, success_average, is { min_calls = 5 }",
    ),
    (
        "[clients.a.breaker]\nlost_probes_as = \"dead\"",
        "clients.a.breaker.lost_probes_as: must be \"healthy\", \"unhealthy\" or \"neutral\", is \"dead\"",
    ),
    // Contradictions.
    (
        "[clients.a]\nattempt_timeout = \"40s\"",
        "clients.a.attempt_timeout: must be shorter than total_timeout of 30s, is \"40s\"",
    ),
    (
        "[clients.a]\nretry.max_elapsed = \"50s\"",
        "clients.a.retry.max_elapsed: must be shorter than total_timeout of 30s, is \"50s\"",
    ),
    (
        "[clients.a]\nbreaker.slow_call = \"11s\"",
        "clients.a.breaker.slow_call: must be shorter than attempt_timeout of 10s, is \"11s\"",
    ),
    (
        "[defaults.retry]\nmax_attempts = 0\n[clients.a]\n[clients.b]",
        "defaults.retry.max_attempts: must be at least 1, is 0",
    ),
];

#[test]
fn a_broken_file_is_explained_and_changes_nothing() {
    let clients = registry(GOOD);
    let before = serde_json::to_string(&clients.settings()).unwrap();
    let config = clients.get("a").unwrap().config();
    for (file, line) in BROKEN {
        let file = toml(file);
        let error = clients.apply(&file).expect_err(line);
        assert_eq!(error.to_string(), line);
        let [problem] = error.problems() else {
            panic!("{error}");
        };
        assert!(line.starts_with(problem.path()) && line.contains(problem.rule()));
        if let Some(value) = problem.value() {
            assert!(line.ends_with(value));
        }
        assert_eq!(serde_json::to_string(&clients.settings()).unwrap(), before);
        assert_eq!(clients.get("a").unwrap().config(), config);
        assert_eq!(clients.names(), ["a"]);
        assert_eq!(clients.last_error().unwrap().to_string(), line);
    }
}

#[test]
fn all_mistakes_are_listed_together() {
    let file = toml(
        r#"
        [defaults]
        total_timeout = 5
        [clients.a]
        attempt_timeout = "40s"
        retry = { max_attempts = 0, backoff = { factor = 0.1 }, max_hints = "1s" }
        [clients.b]
        limiter = { quota = "10/s", stripes = 0, pause_on_hint = "0s" }
        breaker = { permitted_calls = 0, slow_call = "0s", trip_on = { failures = 0 } }
        [clients.c]
        total_timeout = "1s"
        "#,
    );
    let error = registry(GOOD).apply(&file).unwrap_err();
    let mut paths: Vec<&str> = error.problems().iter().map(|it| it.path()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "clients.a.attempt_timeout",
            "clients.a.retry.backoff",
            "clients.a.retry.max_attempts",
            "clients.a.retry.max_hints",
            "clients.b.breaker.permitted_calls",
            "clients.b.breaker.slow_call",
            "clients.b.breaker.trip_on",
            "clients.b.limiter.pause_on_hint",
            "clients.b.limiter.stripes",
            "clients.c.attempt_timeout",
            "defaults.total_timeout",
        ],
        "{error}"
    );
}

#[test]
fn a_mistake_of_a_default_that_contradicts_names_both_values() {
    let file = toml("[clients.a]\ntotal_timeout = \"1s\"");
    let error = registry(GOOD).apply(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "clients.a.attempt_timeout: must be shorter than total_timeout of 1s, is \"10s\""
    );
}

#[test]
fn a_contradiction_is_one_mistake() {
    // Both are as long as the other's default.
    let file = toml(
        r#"
        [clients.a]
        attempt_timeout = "30s"
        total_timeout = "10s"
        retry.max_elapsed = "20s"
        breaker.slow_call = "25s"
        "#,
    );
    let error = registry(GOOD).apply(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\
clients.a.attempt_timeout: must be shorter than total_timeout of 10s, is \"30s\"
clients.a.retry.max_elapsed: must be shorter than total_timeout of 10s, is \"20s\""
    );
}

#[test]
fn the_defaults_need_not_fit_those_of_the_library() {
    for text in [
        "defaults.total_timeout = \"5s\"\nclients.a.attempt_timeout = \"1s\"",
        "defaults.attempt_timeout = \"40s\"\nclients.a.total_timeout = \"1m\"",
        "defaults.breaker.slow_call = \"20s\"\nclients.a.attempt_timeout = \"25s\"",
        "defaults.total_timeout = \"5s\"\nclients = {}",
    ] {
        let built = Registry::builder()
            .clock(ManualClock::new())
            .build(&toml(text));
        assert!(built.is_ok(), "{text}: {built:?}");
    }
    for (text, mistake) in [
        (
            "defaults.total_timeout = \"5s\"\n[clients.a]\n[clients.b]\nattempt_timeout = \"1s\"",
            "clients.a.attempt_timeout: must be shorter than total_timeout of 5s, is \"10s\"",
        ),
        (
            "defaults = { total_timeout = \"5s\", attempt_timeout = \"7s\" }\n[clients.a]\n[clients.b]",
            "defaults.attempt_timeout: must be shorter than total_timeout of 5s, is \"7s\"",
        ),
    ] {
        let error = registry(GOOD).apply(&toml(text)).unwrap_err();
        assert_eq!(error.to_string(), mistake);
    }
}

#[test]
fn null_is_not_a_value() {
    let file: Value = serde_json::from_str(r#"{ "clients": { "a": { "retry": null } } }"#).unwrap();
    let error = registry(GOOD).apply(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "clients.a.retry: must be a table, is null"
    );
}

#[test]
fn a_time_in_place_of_a_duration_is_shown_as_written() {
    let file = toml("clients.a.total_timeout = 00:00:10");
    let error = Registry::builder().build(&file).unwrap_err();
    assert_eq!(error.problems()[0].value(), Some("\"00:00:10\""));
}

#[test]
fn a_value_is_one_line_whatever_its_keys_are() {
    let value = toml("\"a\\nb\" = { \"c d\" = 1, \"\" = \"e\\nf\" }\ng-h_1 = 2");
    let line = r#"{ "a\nb" = { "" = "e\nf", "c d" = 1 }, g-h_1 = 2 }"#;
    assert_eq!(value.to_string(), line);
}
