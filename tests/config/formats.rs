//! Formats, durations, and the way back into a file.

use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::config::{
    AdaptiveSettings, BulkheadSettings, HedgeSettings, RetrySettings, StandardSettings,
    ThrottleSettings, Value,
};
use backstop::standard::Config;
use backstop::{Backoff, CircuitBreaker, Jitter, Quota, RateLimiter, Retry};

use super::{registry, toml};

const TOML: &str = r#"
    [defaults]
    attempt_timeout = "2s"
    [defaults.retry]
    max_attempts = 3
    backoff = { initial = "100ms", max = "20s" }

    [clients.github]
    total_timeout = "1m 30s"
    limiter = { quota = ["5000/h", { tokens = 100, per = "1s", burst = 20 }], max_waiting = 10 }
    retry = { max_attempts = 4, backoff = { jitter = { plus_minus = 0.2 } } }
    budget = { ratio = 0.1, floor_per_second = 5 }
    breaker = { trip_on = { failure_rate = 0.5, within = "30s" }, shadow = true }

    [clients.mail]
    retry = { enabled = false }
    attempt_timeout = "unlimited"
"#;

const JSON: &str = r#"{
    "defaults": {
        "attempt_timeout": "2s",
        "retry": { "max_attempts": 3, "backoff": { "initial": "100ms", "max": "20s" } }
    },
    "clients": {
        "github": {
            "total_timeout": "1m 30s",
            "limiter": { "quota": ["5000/h", { "tokens": 100, "per": "1s", "burst": 20 }], "max_waiting": 10 },
            "retry": { "max_attempts": 4, "backoff": { "jitter": { "plus_minus": 0.2 } } },
            "budget": { "ratio": 0.1, "floor_per_second": 5 },
            "breaker": { "trip_on": { "failure_rate": 0.5, "within": "30s" }, "shadow": true }
        },
        "mail": { "retry": { "enabled": false }, "attempt_timeout": "unlimited" }
    }
}"#;

const YAML: &str = r#"
defaults:
  attempt_timeout: 2s
  retry:
    max_attempts: 3
    backoff: { initial: 100ms, max: 20s }
clients:
  github:
    total_timeout: 1m 30s
    limiter:
      quota:
        - 5000/h
        - { tokens: 100, per: 1s, burst: 20 }
      max_waiting: 10
    retry:
      max_attempts: 4
      backoff: { jitter: { plus_minus: 0.2 } }
    budget: { ratio: 0.1, floor_per_second: 5 }
    breaker:
      trip_on: { failure_rate: 0.5, within: 30s }
      shadow: true
  mail:
    retry: { enabled: false }
    attempt_timeout: unlimited
"#;

#[test]
fn toml_json_and_yaml_of_the_same_settings_are_equal() {
    let json: Value = serde_json::from_str(JSON).unwrap();
    let yaml: Value = serde_saphyr::from_str(YAML).unwrap();
    let clients = [toml(TOML), json, yaml].map(|file| {
        let builder = backstop::config::Registry::builder().clock(backstop::ManualClock::new());
        builder.build(&file).unwrap()
    });
    for other in &clients[1..] {
        assert_eq!(other.settings(), clients[0].settings());
        for name in ["github", "mail"] {
            let config = |it: &backstop::config::Registry| it.get(name).unwrap().config();
            assert_eq!(config(other), config(&clients[0]));
        }
    }
}

#[test]
fn a_file_leads_to_the_stack_that_the_builders_lead_to() {
    let clients = registry(TOML);
    let backoff = Backoff::exponential(Duration::from_millis(100)).max(Duration::from_secs(20));
    let retry = Retry::builder().max_attempts(4);
    let github = Config::new()
        .total_timeout(Duration::from_secs(90))
        .attempt_timeout(Duration::from_secs(2))
        .limiter(
            RateLimiter::builder()
                .quota(Quota::per_hour(5000))
                .quota(Quota::per_second(100).burst(20))
                .max_waiting(10),
        )
        .retry(retry.backoff(backoff.jitter(Jitter::PlusMinus(0.2))))
        .budget_share(0.1, 5)
        .breaker(
            CircuitBreaker::builder()
                .trip_on(Trip::failure_rate(0.5).within(Duration::from_secs(30)))
                .shadow(true),
        );
    assert_eq!(clients.get("github").unwrap().config(), github);
    let mail = Config::new().without_retry().without_attempt_timeout();
    assert_eq!(clients.get("mail").unwrap().config(), mail);
    assert!(clients.get("other").is_none());
}

#[test]
fn the_effective_settings_are_a_file_that_leads_to_the_same_clients() {
    let clients = registry(TOML);
    let text = toml::to_string(&clients.settings()).unwrap();
    let again = registry(&text);
    assert_eq!(again.settings(), clients.settings());
    assert_eq!(toml::to_string(&again.settings()).unwrap(), text);
    let github = clients.settings().clients["github"].clone();
    assert_eq!(github.retry.as_ref().unwrap().max_attempts, Some(4));
    assert_eq!(
        github.retry.unwrap().max_hint,
        Some(Duration::from_secs(60))
    );
    assert_eq!(github.breaker.unwrap().shadow, Some(true));
    assert!(text.contains("total_timeout = \"1m 30s\""), "{text}");
}

#[test]
fn what_the_effective_settings_say_is_what_the_builders_do_by_default() {
    // Everything is given explicitly, and leads to the same as nothing.
    let explicit = StandardSettings::default().effective().config().unwrap();
    let trips = CircuitBreaker::builder()
        .trip_on(
            Trip::failure_rate(0.5)
                .within(Duration::from_secs(30))
                .slices(10)
                .min_calls(20),
        )
        .break_for(
            Backoff::exponential(Duration::from_secs(5))
                .max(Duration::from_secs(300))
                .jitter(Jitter::Equal),
        )
        .half_open(HalfOpen::successes(2).of(3));
    let exponential = |millis| {
        Backoff::exponential(Duration::from_millis(millis))
            .factor(2.0)
            .max(Duration::from_secs(20))
    };
    let retry = Retry::builder()
        .backoff(exponential(50))
        .throttled_backoff(exponential(1000));
    assert_eq!(explicit, Config::new().breaker(trips).retry(retry));
    let handles = |settings: [String; 4]| settings;
    let default = handles([
        format!("{:?}", RetrySettings::default().build().unwrap()),
        format!("{:?}", BulkheadSettings::default().build().unwrap()),
        format!(
            "{:?}",
            HedgeSettings::default()
                .apply_to(backstop::Hedge::builder())
                .unwrap()
        ),
        format!(
            "{:?}",
            ThrottleSettings::default()
                .apply_to(backstop::Throttle::builder())
                .unwrap()
        ),
    ]);
    let explicit = handles([
        format!(
            "{:?}",
            RetrySettings::default().effective().build().unwrap()
        ),
        format!(
            "{:?}",
            BulkheadSettings::default().effective().build().unwrap()
        ),
        format!(
            "{:?}",
            HedgeSettings::default()
                .effective()
                .apply_to(backstop::Hedge::builder())
                .unwrap()
        ),
        format!(
            "{:?}",
            ThrottleSettings::default()
                .effective()
                .apply_to(backstop::Throttle::builder())
                .unwrap()
        ),
    ]);
    assert_eq!(default, explicit);
}

#[test]
fn durations_are_texts_with_units() {
    for (text, duration) in [
        ("1h30m", Duration::from_secs(5400)),
        ("1.5s", Duration::from_millis(1500)),
        ("0s", Duration::ZERO),
        ("250us", Duration::from_micros(250)),
        ("1 day", Duration::from_secs(86_400)),
        ("unlimited", Duration::MAX),
    ] {
        let settings: RetrySettings = toml::from_str(&format!("max_elapsed = {text:?}")).unwrap();
        assert_eq!(settings.max_elapsed, Some(duration));
        let back = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<RetrySettings>(&back).unwrap(), settings);
    }
}

#[test]
fn settings_are_part_of_larger_ones() {
    #[derive(serde::Deserialize)]
    struct App {
        port: u16,
        bulkhead: BulkheadSettings,
    }
    let app: App = toml::from_str(
        "port = 80\nbulkhead = { adaptive = { kind = \"vegas\", max = 50 }, max_waiting = 8, codel = {} }",
    )
    .unwrap();
    assert_eq!(app.port, 80);
    assert!(matches!(
        app.bulkhead.adaptive,
        Some(AdaptiveSettings::Vegas(_))
    ));
    let bulkhead = app.bulkhead.build().unwrap();
    assert_eq!(bulkhead.snapshot().limit, 20);
    let error = toml::from_str::<App>("port = 80\nbulkhead = { max_waitings = 8, max_wait = 3 }");
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("max_waitings: unknown key (did you mean `max_waiting`?), is 8"),
        "{error}"
    );
    assert!(
        error.contains("max_wait: must be a duration with its unit: say \"3s\", is 3"),
        "{error}"
    );
}

#[test]
fn the_builders_check_all_settings() {
    let settings: BulkheadSettings =
        toml::from_str("max_concurrent = 0\nmax_wait = \"1s\"\nadaptive = { kind = \"aimd\", min = 0, decrease_factor = 7 }").unwrap();
    let error = settings.build().unwrap_err().to_string();
    let mut lines: Vec<&str> = error.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "adaptive.decrease_factor: must be from 0 to 1, is 7.0",
            "adaptive.min: must be at least 1, because a limit of 0 could never grow, is 0",
            "max_concurrent: must be at least 1, is 0",
            "max_wait: needs max_waiting, is \"1s\"",
        ]
    );
}

/// If any crate of a program turns on `arbitrary_precision` of `serde_json`, its numbers are tables of one text.
#[test]
fn json_numbers_of_any_precision_are_numbers() {
    use serde::Deserialize;
    use serde::de::value::{Error, MapDeserializer};
    let read = |text: &str| {
        let number = [("$serde_json::private::Number", text)].into_iter();
        Value::deserialize(MapDeserializer::<_, Error>::new(number)).unwrap()
    };
    assert_eq!(read("4"), Value::Integer(4));
    assert_eq!(read("-18446744073709551616"), Value::Integer(-(1 << 64)));
    assert_eq!(read("0.5"), Value::Float(0.5));
    assert_eq!(read("1e3"), Value::Float(1000.0));
}
