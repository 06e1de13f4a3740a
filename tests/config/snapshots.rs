//! Snapshots are values of serde, so state survives a restart.

use std::fmt::Debug;
use std::time::Duration;

use backstop::circuit_breaker::{self, State};
use backstop::rate_limiter::Decision;
use backstop::{
    Bulkhead, CircuitBreaker, DeadLetterQueue, Endpoints, Hedge, Keyed, LoadShedder, ManualClock,
    Quota, RateLimiter, RetryBudget, Stale, Standard, Throttle,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn round_trip<S: Serialize + DeserializeOwned + PartialEq + Debug>(snapshot: &S) {
    let text = serde_json::to_string(snapshot).unwrap();
    let back: S = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *snapshot, "{text}");
    // TOML leaves out what is absent.
    let text = toml::to_string(snapshot).unwrap();
    let back: S = toml::from_str(&text).unwrap();
    assert_eq!(back, *snapshot, "{text}");
}

#[test]
fn a_snapshot_survives_its_text() {
    let clock = ManualClock::new();
    let c = || clock.clone();
    round_trip(
        &Standard::builder()
            .quota(Quota::per_minute(10).burst(3))
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    round_trip(
        &Bulkhead::builder()
            .partition("a", 0.5)
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    round_trip(
        &RateLimiter::builder()
            .quota(Quota::per_day(7).sliding_log())
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    round_trip(
        &RetryBudget::percentage()
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    round_trip(&Hedge::builder().clock(c()).build().unwrap().snapshot());
    round_trip(&Throttle::builder().clock(c()).build().unwrap().snapshot());
    round_trip(
        &LoadShedder::builder()
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    round_trip(
        &Endpoints::builder()
            .node("a", 1)
            .clock(c())
            .build()
            .unwrap()
            .snapshot(),
    );
    let stale: Stale<u32> = Stale::builder()
        .max_age(Duration::MAX)
        .clock(c())
        .build()
        .unwrap();
    round_trip(&stale.snapshot());
    let letters: DeadLetterQueue<u32> = DeadLetterQueue::builder().clock(c()).build().unwrap();
    round_trip(&letters.snapshot());
    let template = CircuitBreaker::builder().clock(c());
    let keyed: Keyed<u32, CircuitBreaker> =
        Keyed::builder(move |_: &u32| template.clone().build().unwrap())
            .build()
            .unwrap();
    round_trip(&keyed.snapshot());
}

#[test]
fn a_decision_is_a_value_of_serde() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(1))
        .clock(ManualClock::new())
        .build()
        .unwrap();
    round_trip(&limiter.decide(1));
    let rejected = limiter.decide(1);
    round_trip(&rejected);
    let text = serde_json::to_string(&rejected).unwrap();
    assert!(text.contains(r#""allowed":false"#), "{text}");
    assert!(text.contains(r#""retry_after":"1m""#), "{text}");
    // Written before the field existed.
    let older = text.replace(r#","more_after":"1m""#, "");
    assert_ne!(older, text);
    let older: Decision = serde_json::from_str(&older).unwrap();
    assert_eq!(
        (older.retry_after, older.more_after),
        (rejected.retry_after, None)
    );
}

#[test]
fn a_breaker_continues_after_a_restart() {
    let clock = ManualClock::new();
    let build = || {
        CircuitBreaker::builder()
            .name("github")
            .clock(clock.clone())
    };
    let before = build().build().unwrap();
    before.trip_for(Duration::from_secs(40));
    clock.advance(Duration::from_secs(10));
    let text = serde_json::to_string(&before.snapshot()).unwrap();
    assert!(
        text.contains("\"state\":\"open\"") && text.contains("\"retry_after\":\"30s\""),
        "{text}"
    );
    let snapshot: circuit_breaker::Snapshot = serde_json::from_str(&text).unwrap();
    let after = build().restore(snapshot).build().unwrap();
    assert_eq!((after.state(), after.name()), (State::Open, "github"));
    assert_eq!(after.snapshot().retry_after, Some(Duration::from_secs(30)));
    clock.advance(Duration::from_secs(30));
    assert!(after.try_acquire().is_ok());
}
