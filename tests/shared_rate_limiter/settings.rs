//! Builders, keyed limits, shadow mode.

use std::time::Duration;

use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::MemoryStore;
use backstop::{
    Event, ManualClock, Policy, Quota, Reason, SharedKeyedRateLimiter, SharedRateLimiter,
};

#[test]
fn settings_without_meaning_are_errors_that_name_them() {
    let clock = ManualClock::new();
    let builder = || {
        SharedRateLimiter::builder()
            .store(MemoryStore::new(clock.clone()))
            .key("key")
            .quota(Quota::per_second(1))
            .clock(clock.clone())
    };
    let second = Duration::from_secs(1);
    let cases = [
        (builder().quota(Quota::per_second(0)), "quota"),
        (
            builder().quota(Quota::per_second(1).fixed_window()),
            "quota",
        ),
        (
            builder().quota(Quota::per_second(1).warm_up(second, 2)),
            "quota",
        ),
        (builder().quota(Quota::per_second(2).initial(1)), "quota"),
        (builder().quota(Quota::per_second(1_000_001)), "quota"),
        (builder().quota(Quota::new(1, Duration::MAX)), "quota"),
        (builder().quota(Quota::per_day(1).burst(4000)), "quota"),
        (
            builder().on_outage(Outage::Local(Quota::per_second(0))),
            "quota",
        ),
        (
            builder().on_outage(Outage::Local(Quota::per_second(1).sliding_log())),
            "on_outage",
        ),
        (builder().sync_every(Duration::ZERO), "sync_every"),
        (builder().sync_every(Duration::MAX), "sync_every"),
        (builder().store_timeout(Duration::ZERO), "store_timeout"),
        (builder().max_waiting(0).max_wait(second), "max_waiting"),
    ];
    for ends in [Duration::from_millis(1), Duration::from_secs(10)] {
        assert!(builder().sync_every(ends).build().is_ok());
    }
    for (builder, setting) in cases {
        let text = format!("{builder:?}");
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(setting), "{error}: {text}");
    }
    assert!(
        SharedRateLimiter::builder()
            .build()
            .unwrap_err()
            .to_string()
            .contains("key")
    );
    assert!(
        builder()
            .quota(Quota::per_second(1_000_000))
            .build()
            .is_ok()
    );
    assert!(builder().quota(Quota::per_day(1)).build().is_ok());
    assert!(builder().store_timeout(Duration::MAX).build().is_ok());
}

#[test]
fn each_key_has_a_limit_of_its_own_in_the_store() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let build = || {
        SharedKeyedRateLimiter::<String>::builder()
            .store(store.clone())
            .key_by(|user| format!("api:{user}"))
            .quota(Quota::per_second(2))
            .quota_for(|user| (user == "gold").then_some(Quota::per_second(20)))
            .max_keys(2)
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let (one, other) = (build(), build());
    let admitted = |limits: &SharedKeyedRateLimiter<String>, user: &str| {
        let calls = (0..15).filter(|_| clock.block_on(limits.try_acquire(user)).is_ok());
        calls.count()
    };
    // More keys than there is room for: they have their limits nevertheless.
    for user in ["a", "b", "c", "d"] {
        assert_eq!(admitted(&one, user) + admitted(&other, user), 2, "{user}");
    }
    assert_eq!(admitted(&one, "gold") + admitted(&other, "gold"), 20);
    assert_eq!(one.get("a").key(), "api:a");
    assert_eq!(one.snapshot().keys, 2);
    // Idle keys are evicted, here and in the store.
    clock.advance(Duration::from_secs(10));
    assert!(store.is_empty());
    assert_eq!(admitted(&one, "e"), 2);
    assert!(one.snapshot().keys <= 2);
}

#[test]
fn each_decision_about_a_key_that_finds_no_room_takes_a_trip() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limits = SharedKeyedRateLimiter::<String>::builder()
        .store(store.clone())
        .key_by(String::clone)
        .quota(Quota::per_hour(10))
        .max_keys(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let _in_use = limits.get("a");
    let calls = (0..50).filter(|_| clock.block_on(limits.try_acquire("b")).is_ok());
    assert_eq!(calls.count(), 10);
    assert_eq!((store.requests(), limits.snapshot().keys), (50, 1));
}

#[test]
fn shadow_mode_admits_what_it_would_have_rejected() {
    let clock = ManualClock::new();
    let limiter = SharedRateLimiter::builder()
        .store(MemoryStore::new(clock.clone()))
        .key("key")
        .quota(Quota::per_second(1))
        .sync(SyncMode::Exact)
        .shadow(true)
        .max_wait(Duration::from_secs(9))
        .clock(clock.clone())
        .build()
        .unwrap();
    for _ in 0..5 {
        assert!(clock.block_on(limiter.try_acquire()).is_ok());
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.rejected, snapshot.would_reject), (0, 4));
    assert_eq!(backstop::Clock::now(&clock).as_nanos(), 0, "nothing waited");
}

#[test]
fn in_shadow_mode_a_call_that_the_store_decides_has_not_waited() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    store.set_latency(Duration::from_millis(1));
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = events.clone();
    let limiter = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_hour(2))
        .shadow(true)
        .max_wait(Duration::from_secs(9))
        .observer(move |event: &Event| heard.lock().unwrap().push(event.to_string()))
        .clock(clock.clone())
        .build()
        .unwrap();
    for _ in 0..3 {
        let call = limiter.call(|| async { Ok::<_, ()>(()) });
        assert!(clock.block_on(call).is_ok());
        assert!(clock.block_on(limiter.acquire()).is_ok());
    }
    let events = events.lock().unwrap();
    let would_reject = events.iter().filter(|event| event.contains("would"));
    assert_eq!((would_reject.count(), events.len()), (4, 4), "{events:?}");
}

#[test]
fn a_cost_beyond_the_burst_is_rejected_without_the_store() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limiter = SharedRateLimiter::builder()
        .store(store.clone())
        .key("key")
        .quota(Quota::per_second(5))
        .clock(clock.clone())
        .build()
        .unwrap();
    let rejected = clock.block_on(limiter.acquire_n(6)).unwrap_err();
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
    assert_eq!(rejected.retry_after(), None);
    assert!(clock.block_on(limiter.try_acquire_n(0)).is_ok());
    assert_eq!(store.requests(), 0);
    assert!(clock.block_on(limiter.acquire_n(5)).is_ok());
}

#[test]
fn a_limiter_is_evictable_once_its_lease_is_over_and_nothing_else_holds_it() {
    use backstop::keyed::Evictable;

    let clock = ManualClock::new();
    let hour = Duration::from_secs(3600);
    let limiter = SharedRateLimiter::builder()
        .store(MemoryStore::new(clock.clone()))
        .key("key")
        .quota(Quota::per_second(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.advance(hour);
    assert_eq!(limiter.evictable_in(), Some(Duration::ZERO));
    assert_eq!(limiter.snapshot().remaining, None);
    clock.block_on(limiter.try_acquire()).unwrap();
    let snapshot = limiter.snapshot();
    let left = snapshot
        .remaining
        .map(|remaining| remaining + snapshot.held);
    assert_eq!(left, Some(99));
    let wait = limiter.evictable_in().unwrap();
    assert!(Duration::ZERO < wait && wait < hour, "{wait:?}");
    clock.advance(wait - Duration::from_nanos(1));
    assert!(!limiter.is_evictable());
    clock.advance(Duration::from_nanos(1));
    assert!(limiter.is_evictable());
    let other = limiter.clone();
    assert_eq!(limiter.evictable_in(), None);
    drop(other);
    limiter.set_quota(Quota::per_second(50)).unwrap();
    clock.advance(hour);
    assert_eq!(limiter.evictable_in(), None);
}
