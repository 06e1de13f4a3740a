//! Keyed limiters that learn from results: pauses of keys, and a rate for each key.

use backstop::adaptive_rate::CubicRate;
use backstop::rate_limiter::{Inherit, KeyedRateLimiter, KeyedRateLimiterBuilder};
use backstop::{CircuitBreaker, Classify, Policy, Reason, Verdict};

use super::*;

fn keyed(clock: &ManualClock) -> KeyedRateLimiterBuilder<&'static str> {
    KeyedRateLimiter::builder().clock(clock.clone())
}

/// A call that is answered with this status and `Retry-After`, in seconds.
fn call(
    clock: &ManualClock,
    limits: &KeyedRateLimiter<&'static str>,
    key: &'static str,
    throttled: Option<Option<u64>>,
) -> Result<(), Option<Duration>> {
    let classify = Classify::errors(|seconds: &Option<u64>| {
        Verdict::throttled(seconds.map(Duration::from_secs))
    });
    let answer = throttled.map_or(Ok(()), Err);
    match run(
        clock,
        (limits.get(&key), classify).call(|| async { answer }),
    ) {
        Err(error) if error.is_rejected() => Err(error.retry_after()),
        _ => Ok(()),
    }
}

#[test]
fn a_hint_pauses_the_key_of_the_call_and_no_other() {
    for quota in [Quota::per_second(100), Quota::per_second(100).sliding_log()] {
        let clock = ManualClock::new();
        let limits = keyed(&clock).quota(quota).pause_on_hint(60 * SECOND);
        let limits = limits.build().unwrap();
        assert_eq!(call(&clock, &limits, "a", Some(None)), Ok(()));
        assert_eq!(call(&clock, &limits, "a", Some(Some(30))), Ok(()));
        assert_eq!(call(&clock, &limits, "a", None), Err(Some(30 * SECOND)));
        assert_eq!(call(&clock, &limits, "b", None), Ok(()));
        clock.advance(30 * SECOND);
        assert_eq!(call(&clock, &limits, "a", None), Ok(()));

        // Hints beyond the longest pause count as that.
        limits.record(&"b", &Verdict::throttled(Some(86_400 * SECOND)));
        assert_eq!(call(&clock, &limits, "b", None), Err(Some(60 * SECOND)));
    }
}

#[test]
fn a_call_that_waited_pauses_its_key_too() {
    let clock = ManualClock::new();
    let limits = keyed(&clock)
        .quota(Quota::per_second(1))
        .max_wait(10 * SECOND)
        .pause_on_hint(60 * SECOND)
        .build()
        .unwrap();
    limits.try_acquire(&"a").unwrap();
    assert_eq!(call(&clock, &limits, "a", Some(Some(40))), Ok(()));
    let paused = limits.try_acquire(&"a").unwrap_err();
    assert_eq!(paused.retry_after(), Some(40 * SECOND));
}

#[test]
fn without_the_option_or_from_a_layer_inside_a_hint_pauses_nothing() {
    let clock = ManualClock::new();
    let limits = keyed(&clock).quota(Quota::per_second(100)).build().unwrap();
    assert_eq!(call(&clock, &limits, "a", Some(Some(30))), Ok(()));
    limits.record(&"a", &Verdict::throttled(Some(SECOND)));
    assert_eq!(call(&clock, &limits, "a", None), Ok(()));

    let limits = keyed(&clock).quota(Quota::per_second(100));
    let limits = limits.pause_on_hint(60 * SECOND).build().unwrap();
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    breaker.trip();
    let stack = (limits.get(&"a"), breaker);
    let error = run(&clock, stack.call(|| async { Ok::<_, ()>(()) })).unwrap_err();
    assert!(error.retry_after().is_some());
    assert!(limits.try_acquire(&"a").is_ok());
}

/// Calls at `rate` a second, of which the dependency throttles all above `limit` in a second. Returns how
/// many were sent, and how many of those throttled.
fn load(
    clock: &ManualClock,
    limits: &KeyedRateLimiter<&'static str>,
    key: &'static str,
    (rate, seconds, limit): (u32, u32, u32),
) -> (u32, u32) {
    let (mut sent, mut throttled) = (0, 0);
    for _ in 0..seconds {
        let mut in_second = 0;
        for _ in 0..rate {
            clock.advance(SECOND / rate);
            let is_throttled = in_second >= limit;
            if call(clock, limits, key, is_throttled.then_some(None)).is_ok() {
                in_second += 1;
                sent += 1;
                throttled += u32::from(is_throttled);
            }
        }
    }
    (sent, throttled)
}

#[test]
fn each_key_of_an_adaptive_limiter_finds_its_own_rate() {
    let clock = ManualClock::new();
    let limits = keyed(&clock)
        .adaptive(CubicRate::builder())
        .build()
        .unwrap();
    assert_eq!(load(&clock, &limits, "a", (200, 10, 1000)), (2000, 0));
    let (sent, throttled) = load(&clock, &limits, "a", (200, 60, 50));
    assert!((1200..3300).contains(&sent), "{sent} sent");
    assert!(throttled * 5 < sent, "{throttled} of {sent} throttled");
    assert_eq!(load(&clock, &limits, "b", (200, 10, 1000)), (2000, 0));
}

#[test]
fn a_key_that_has_found_a_rate_stays_and_one_that_has_not_is_evicted_after_a_minute() {
    let clock = ManualClock::new();
    let limits = keyed(&clock)
        .adaptive(CubicRate::builder())
        .build()
        .unwrap();
    load(&clock, &limits, "a", (20, 2, 0));
    load(&clock, &limits, "b", (20, 2, 1000));
    let keys = || {
        limits.evict_idle();
        let mut keys = Vec::new();
        limits.for_each(|key, _| keys.push(*key));
        keys.sort_unstable();
        keys
    };
    clock.advance(59 * SECOND);
    assert_eq!(keys(), ["a", "b"]);
    clock.advance(3600 * SECOND);
    assert_eq!(keys(), ["a"]);
    assert!(limits.forget(&"a"));
}

#[test]
fn settings_that_contradict_adaptive_are_errors() {
    let clock = ManualClock::new();
    let adaptive = || keyed(&clock).adaptive(CubicRate::builder());
    let quota = Quota::per_second(10);
    for (builder, setting) in [
        (adaptive().quota(quota).quota(quota), "adaptive"),
        (adaptive().quota(quota.sliding_log()), "adaptive"),
        (
            adaptive().adaptive(CubicRate::builder().decrease_factor(2.0)),
            "decrease_factor",
        ),
        (
            keyed(&clock).quota(quota).pause_on_hint(Duration::ZERO),
            "pause_on_hint",
        ),
        (
            keyed(&clock).quota(quota).max_wait(SECOND).max_waiting(0),
            "max_wait",
        ),
        (keyed(&clock), "quota"),
    ] {
        assert_eq!(builder.clone().build().unwrap_err().setting(), setting);
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    let limits = adaptive().build().unwrap();
    let changed = limits.set_quota(quota, Inherit::AsIs).unwrap_err();
    assert!(changed.to_string().contains("adaptive"));
}

#[test]
fn max_waiting_bounds_the_wait_queue_of_each_key_and_lets_calls_wait() {
    for quota in [
        Quota::per_second(1),
        Quota::per_second(1).fixed_window_from_first(),
    ] {
        let clock = ManualClock::new();
        let limits = keyed(&clock).quota(quota).max_waiting(2).build().unwrap();
        let call = || async { Ok::<_, ()>(()) };
        let (a, b) = (limits.get(&"a"), limits.get(&"b"));
        let results = run(&clock, async {
            let waiting =
                futures::future::join4(a.call(call), a.call(call), a.call(call), a.call(call));
            let waiting = futures::future::join(waiting, b.call(call));
            let counted = async { limits.snapshot().waiting };
            futures::future::join(waiting, counted).await
        });
        let (((first, second, third, fourth), of_b), waiting) = results;
        assert_eq!(
            (first, second, third, of_b),
            (Ok(()), Ok(()), Ok(()), Ok(()))
        );
        assert_eq!(
            fourth.unwrap_err().reason(),
            Some(Reason::RateLimited),
            "{quota}"
        );
        assert_eq!(waiting, 2, "{quota}");
        assert_eq!(limits.snapshot().waiting, 0);
    }
}

#[test]
fn a_call_that_waited_for_a_key_says_for_how_long() {
    let clock = ManualClock::new();
    let heard: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let limits = keyed(&clock)
        .quota(Quota::per_second(2).burst(1))
        .max_wait(SECOND)
        .observer(move |event: &backstop::Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    assert_eq!(call(&clock, &limits, "a", None), Ok(()));
    assert_eq!(call(&clock, &limits, "a", None), Ok(()));
    let line = "keyed_rate_limiter: admitted a call after it waited 500ms";
    assert_eq!(*heard.lock().unwrap(), [line]);
}

#[test]
fn a_key_is_slowed_by_a_throttled_answer_that_is_neutral() {
    let clock = ManualClock::new();
    let limits = keyed(&clock)
        .adaptive(CubicRate::builder())
        .build()
        .unwrap();
    for _ in 0..100 {
        clock.advance(SECOND / 20);
        limits.try_acquire(&"a").unwrap();
        limits.record(&"a", &Verdict::success());
    }
    let throttled = Verdict::throttled(None).with_health(backstop::Health::Neutral);
    limits.record(&"a", &throttled.not_executed());
    let admitted = (0..100).filter(|_| limits.try_acquire(&"a").is_ok());
    assert_eq!(admitted.count(), 13);
    assert!((0..100).all(|_| limits.try_acquire(&"b").is_ok()));
}
