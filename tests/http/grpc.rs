use std::time::Duration;

use backstop::http::grpc::{self, Pushback};
use backstop::{
    Classified, Clock, ErrorClass, Health, ManualClock, Policy, Retry, RetryAdvice, Verdict,
};
use http::HeaderMap;

use crate::headers;

#[test]
fn codes_have_the_verdicts_of_the_table() {
    let none = HeaderMap::new();
    let verdict = |code| grpc::verdict(code, &none);
    assert_eq!(verdict(0), Verdict::success());
    assert_eq!(verdict(1), Verdict::ignore());
    for code in [2, 13, 14, 15] {
        assert_eq!(verdict(code), Verdict::transient(), "{code}");
    }
    assert_eq!(verdict(4), Verdict::timed_out());
    assert_eq!(
        verdict(8),
        Verdict::throttled(None).with_health(Health::Neutral)
    );
    for code in [3, 5, 6, 7, 9, 10, 11, 12, 16, 99, -1] {
        assert_eq!(verdict(code), Verdict::permanent(), "{code}");
    }
}

/// Attempts, and the time until the last one.
fn call(pushback: &'static str) -> (u32, Duration) {
    let clock = ManualClock::new();
    let retry = Retry::builder()
        .max_attempts(3)
        .clock(clock.clone())
        .build()
        .unwrap();
    let start = clock.now();
    let report = clock.block_on(retry.call_reported_classified(pushback));
    (report, clock.now().saturating_duration_since(start))
}

trait CountAttempts {
    fn call_reported_classified(&self, pushback: &'static str) -> impl Future<Output = u32>;
}

impl CountAttempts for Retry {
    async fn call_reported_classified(&self, pushback: &'static str) -> u32 {
        let attempts = std::cell::Cell::new(0);
        let result = self.call_classified(|| async {
            attempts.set(attempts.get() + 1);
            let metadata = headers(&[("grpc-retry-pushback-ms", pushback)]);
            Err::<(), _>(Classified::new("unavailable", grpc::verdict(14, &metadata)))
        });
        assert!(result.await.is_err());
        attempts.get()
    }
}

#[test]
fn a_negative_or_malformed_pushback_stops_the_retry() {
    for pushback in ["-1", "abc", "", "+5", "1.5", "99999999999"] {
        assert_eq!(call(pushback).0, 1, "{pushback}");
        let metadata = headers(&[("grpc-retry-pushback-ms", pushback)]);
        assert_eq!(grpc::read_pushback(&metadata), Some(Pushback::Never));
        assert_eq!(grpc::verdict(14, &metadata).health(), Health::Unhealthy);
    }
}

#[test]
fn two_pushbacks_stop_the_retry() {
    let two = |one, other| {
        let name = "grpc-retry-pushback-ms";
        grpc::read_pushback(&headers(&[(name, one), (name, other)]))
    };
    for (one, other) in [("250", "-1"), ("-1", "250"), ("250", "500"), ("250", "250")] {
        assert_eq!(two(one, other), Some(Pushback::Never), "{one}, {other}");
    }
}

#[test]
fn a_pushback_replaces_the_delay() {
    let (attempts, took) = call("250");
    assert_eq!(attempts, 3);
    // As told, twice, and what the jitter adds.
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_millis(800),
        "{took:?}"
    );
    let metadata = headers(&[("grpc-retry-pushback-ms", "250")]);
    let throttled = grpc::verdict(8, &metadata);
    assert_eq!(
        throttled.retry(),
        RetryAdvice::After(Duration::from_millis(250))
    );
    assert_eq!(
        (throttled.class(), throttled.health()),
        (ErrorClass::Throttled, Health::Neutral)
    );
    assert!(throttled.resets_backoff());
    // It does not make a fault of the caller retryable.
    assert_eq!(grpc::verdict(3, &metadata), Verdict::permanent());
}

#[test]
fn a_pushback_not_to_retry_costs_a_token_of_the_budget() {
    let clock = ManualClock::new();
    for (code, tokens) in [(14, 9.0), (8, 9.0), (3, 10.0)] {
        let budget = backstop::RetryBudget::grpc(10, 0.1).build().unwrap();
        let retry = Retry::builder().budget(budget.clone()).clock(clock.clone());
        let retry = retry.build().unwrap();
        let call = retry.call_classified(|| async {
            let metadata = headers(&[("grpc-retry-pushback-ms", "-1")]);
            Err::<(), _>(Classified::new("no", grpc::verdict(code, &metadata)))
        });
        assert!(clock.block_on(call).is_err());
        assert_eq!(budget.snapshot().available, tokens, "{code}");
    }
}
