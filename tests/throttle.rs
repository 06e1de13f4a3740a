//! The throttle as its users see it, in virtual time.

use std::cell::Cell;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use backstop::policy::Health;
use backstop::throttle::{Load, ThrottleBuilder};
use backstop::{
    Classify, Clock, Event, Instant, Keyed, ManualClock, Pipeline, Policy, Reason, Rejected, Retry,
    Sleep, Throttle, Timeout, Verdict,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn builder(clock: &ManualClock) -> ThrottleBuilder {
    Throttle::builder().seed(1).clock(clock.clone())
}

/// A throttle that refuses all it may as soon as something has failed, and forces no probe.
fn strict(clock: &ManualClock) -> ThrottleBuilder {
    builder(clock)
        .success_threshold(1.0)
        .min_requests(0)
        .max_rejection(1.0)
        .probe_every(Duration::MAX)
}

fn counts(throttle: &Throttle) -> (u64, u64, u64, u64) {
    let seen = throttle.snapshot();
    (seen.requests, seen.accepts, seen.failures, seen.pending)
}

fn probability(throttle: &Throttle) -> f64 {
    throttle.snapshot().rejection_probability
}

fn fail(throttle: &Throttle, times: u32) {
    for _ in 0..times {
        throttle.record(Verdict::failure());
    }
}

/// How many of so many calls are refused. Those let through are taken back.
fn refused(throttle: &Throttle, calls: u32) -> u32 {
    (0..calls)
        .map(|_| u32::from(throttle.try_acquire().is_err()))
        .sum()
}

// ===== The rule =====

#[test]
fn refusals_come_as_often_as_the_probability_says() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    for call in 0..100 {
        let verdict = if call % 2 == 0 {
            Verdict::success()
        } else {
            Verdict::transient()
        };
        throttle.record(verdict);
    }
    let expected = (100.0 - 50.0 / 0.9) / 101.0;
    assert!((probability(&throttle) - expected).abs() < 1e-12);
    let share = f64::from(refused(&throttle, 20_000)) / 20_000.0;
    assert!((share - expected).abs() < 0.015, "{share}");
    assert!(throttle.snapshot().rejected > 8_000);
}

#[test]
fn a_seed_reproduces_the_decisions() {
    let decisions = |seed| {
        let clock = ManualClock::new();
        let throttle = builder(&clock).seed(seed).build().unwrap();
        fail(&throttle, 15);
        let draw = |_| throttle.try_acquire().is_ok();
        (0..100).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(decisions(1), decisions(1));
    assert_ne!(decisions(1), decisions(2));
}

#[test]
fn the_probability_is_capped() {
    let clock = ManualClock::new();
    for cap in [0.0, 0.3, 0.9] {
        let throttle = builder(&clock).max_rejection(cap).build().unwrap();
        fail(&throttle, 10_000);
        assert_eq!(probability(&throttle), cap);
        let share = f64::from(refused(&throttle, 10_000)) / 10_000.0;
        assert!((share - cap).abs() < 0.02, "{share}");
    }
}

#[test]
fn nothing_is_refused_below_the_least_number_of_calls() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).max_rejection(1.0).build().unwrap();
    fail(&throttle, 9);
    assert_eq!((probability(&throttle), refused(&throttle, 100)), (0.0, 0));
    fail(&throttle, 1);
    assert_eq!(probability(&throttle), 10.0 / 11.0);
}

#[test]
fn nothing_is_refused_below_the_least_rate() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).min_rps(1.0).build().unwrap();
    fail(&throttle, 59);
    assert_eq!(probability(&throttle), 0.0);
    fail(&throttle, 1);
    assert_eq!(throttle.snapshot().requests_per_second, 1.0);
    assert_eq!(probability(&throttle), 0.9);
}

#[test]
fn failures_are_forgotten_after_one_window() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    fail(&throttle, 20);
    clock.advance(MINUTE - Duration::from_nanos(1));
    assert_eq!(probability(&throttle), 0.9);
    clock.advance(Duration::from_nanos(1));
    assert_eq!((probability(&throttle), counts(&throttle).0), (0.0, 0));
}

// ===== Counted at the start =====

/// zeromicro/go-zero#5011: calls that hang were invisible until they failed.
#[test]
fn calls_that_hang_weigh_before_they_fail() {
    let clock = ManualClock::new();
    let at_once = builder(&clock).grace(Duration::ZERO).build().unwrap();
    let hanging: Vec<_> = (0..10).map(|_| at_once.try_acquire().unwrap()).collect();
    assert_eq!(counts(&at_once), (10, 0, 0, 10));
    assert_eq!(probability(&at_once), 0.9);
    drop(hanging);

    // By default, when they are older than the grace. Slices are 3 s long.
    let throttle = builder(&clock).build().unwrap();
    let hanging: Vec<_> = (0..100).map(|_| throttle.try_acquire().unwrap()).collect();
    assert_eq!(counts(&throttle), (100, 0, 0, 100));
    assert_eq!(probability(&throttle), 0.0);
    clock.advance(6 * SECOND);
    assert_eq!(probability(&throttle), 0.9);
    for permit in hanging {
        permit.success();
    }
    assert_eq!(counts(&throttle), (100, 100, 0, 0));
    assert_eq!(probability(&throttle), 0.0);

    // Never before they end.
    let at_end = builder(&clock).grace(Duration::MAX).build().unwrap();
    let hanging: Vec<_> = (0..100).map(|_| at_end.try_acquire().unwrap()).collect();
    clock.advance(MINUTE - 4 * SECOND);
    assert_eq!(probability(&at_end), 0.0);
    for permit in hanging {
        permit.failure();
    }
    assert_eq!(probability(&at_end), 0.9);
}

#[test]
fn the_grace_is_at_least_what_was_asked_for_and_at_most_two_slices_more() {
    for start in [0, 1, 2_999, 3_000, 4_500] {
        let clock = ManualClock::new();
        clock.advance(Duration::from_millis(start));
        let throttle = builder(&clock).build().unwrap();
        let hanging: Vec<_> = (0..20).map(|_| throttle.try_acquire().unwrap()).collect();
        clock.advance(SECOND);
        assert_eq!(probability(&throttle), 0.0, "{start}");
        clock.advance(6 * SECOND);
        assert_eq!(probability(&throttle), 0.9, "{start}");
        drop(hanging);
    }
}

#[test]
fn a_burst_after_a_pause_passes() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let burst: Vec<_> = (0..1000).map(|_| throttle.try_acquire().unwrap()).collect();
    clock.advance(SECOND / 2);
    for permit in burst {
        permit.success();
    }
    assert_eq!(throttle.snapshot().rejected, 0);
}

#[test]
fn a_result_counts_where_its_request_does() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let slow = throttle.try_acquire().unwrap();
    clock.advance(57 * SECOND);
    slow.success();
    throttle.record(Verdict::failure());
    assert_eq!(counts(&throttle), (2, 1, 1, 0));
    clock.advance(3 * SECOND);
    assert_eq!(counts(&throttle), (1, 0, 1, 0));

    // One that ends after its slice has left changes nothing.
    let slower = throttle.try_acquire().unwrap();
    clock.advance(MINUTE);
    slower.success();
    assert_eq!(counts(&throttle), (0, 0, 0, 0));
}

// ===== Probes =====

#[test]
fn a_call_is_let_through_when_none_was_for_a_while() {
    let clock = ManualClock::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let throttle = strict(&clock)
        .probe_every(SECOND)
        .name("users")
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    clock.advance(10 * SECOND);
    fail(&throttle, 100_000);
    // The last one that passed is long ago.
    assert!(throttle.try_acquire().unwrap().is_probe());
    let mut probes = 0;
    for _ in 0..200 {
        clock.advance(SECOND / 20);
        if let Ok(permit) = throttle.try_acquire() {
            probes += 1;
            assert!(permit.is_probe());
            permit.failure();
        }
    }
    assert_eq!(probes, 10);
    let events = events.lock().unwrap();
    let forced = "users: let a call through as a probe";
    assert_eq!(events.iter().filter(|event| *event == forced).count(), 11);
    assert_eq!(events[1], "users: rejected a call: throttled");
    assert_eq!(events.len(), 201);
}

#[test]
fn of_a_hundred_threads_one_gets_the_probe() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).probe_every(SECOND).build().unwrap();
    fail(&throttle, 100_000);
    for _ in 0..20 {
        clock.advance(SECOND);
        let start = Barrier::new(100);
        let probes = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    start.wait();
                    if let Ok(permit) = throttle.try_acquire() {
                        assert!(permit.is_probe());
                        probes.fetch_add(1, Ordering::Relaxed);
                        permit.failure();
                    }
                });
            }
        });
        assert_eq!(probes.into_inner(), 1);
    }
}

/// A probe that hangs is one call; the next one comes in its time, and it counts when it ends.
#[test]
fn a_probe_that_hangs_holds_nothing_up() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).probe_every(SECOND).build().unwrap();
    clock.advance(10 * SECOND);
    fail(&throttle, 100_000);
    let hanging = throttle.try_acquire().unwrap();
    let mut probes = 0;
    for _ in 0..300 {
        clock.advance(SECOND / 10);
        probes += u32::from(throttle.try_acquire().is_ok_and(|permit| permit.is_probe()));
    }
    assert_eq!(probes, 30);
    drop(hanging);
    assert_eq!(counts(&throttle).3, 0);
}

#[test]
fn a_k_below_one_is_refused_and_extreme_settings_are_not() {
    for bad in [0.0, -1.0, 1.000_001, f64::NAN, f64::INFINITY] {
        let error = Throttle::builder().success_threshold(bad).build();
        assert_eq!(error.unwrap_err().setting(), "success_threshold");
    }
    let clock = ManualClock::new();
    let throttle = builder(&clock)
        .success_threshold(f64::MIN_POSITIVE)
        .window(Duration::MAX)
        .grace(Duration::MAX)
        .probe_every(Duration::MAX)
        .aggression(f64::MAX)
        .min_rps(f64::MAX)
        .min_requests(u32::MAX)
        .build()
        .unwrap();
    fail(&throttle, 100);
    assert_eq!(probability(&throttle), 0.0);
    assert_eq!(refused(&throttle, 10), 0);
}

/// What is counted covers the window but for at most one slice, whenever a call comes.
#[test]
fn a_call_leaves_with_its_slice() {
    let slice = MINUTE / 20;
    let nano = Duration::from_nanos(1);
    for into_slice in [Duration::ZERO, nano, slice / 2, slice - nano] {
        let clock = ManualClock::new();
        clock.advance(7 * slice + into_slice);
        let throttle = builder(&clock).build().unwrap();
        fail(&throttle, 1);
        clock.advance(MINUTE - into_slice - nano);
        assert_eq!(counts(&throttle).0, 1, "{into_slice:?}");
        clock.advance(nano);
        assert_eq!(counts(&throttle).0, 0, "{into_slice:?}");
    }
}

#[test]
fn no_probe_is_forced_while_others_pass() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).max_rejection(0.5).build().unwrap();
    clock.advance(10 * SECOND);
    fail(&throttle, 100);
    let mut probes = 0;
    for _ in 0..1000 {
        clock.advance(SECOND / 100);
        probes += u32::from(throttle.try_acquire().is_ok_and(|permit| permit.is_probe()));
    }
    assert!(probes <= 1, "{probes}");
}

// ===== What counts =====

#[test]
fn verdicts_decide_what_a_call_was() {
    let clock = ManualClock::new();
    for (verdict, expected) in [
        (Verdict::success(), (1, 1, 0, 0)),
        (Verdict::permanent(), (1, 1, 0, 0)),
        (Verdict::transient(), (1, 0, 1, 0)),
        (Verdict::throttled(SECOND), (1, 0, 1, 0)),
        (Verdict::timed_out(), (1, 0, 1, 0)),
        (Verdict::failure(), (1, 0, 1, 0)),
        (Verdict::ignore(), (0, 0, 0, 0)),
    ] {
        let stack = (
            builder(&clock).build().unwrap(),
            Classify::errors(move |()| verdict),
        );
        let result = clock.block_on(stack.call(|| ready(Err::<(), _>(()))));
        assert!(result.is_err());
        assert_eq!(counts(&stack.0), expected, "{verdict:?}");

        let throttle = builder(&clock).build().unwrap();
        throttle.try_acquire().unwrap().record(verdict);
        assert_eq!(counts(&throttle), expected, "{verdict:?}");
        throttle.reset();
        throttle.record(verdict);
        assert_eq!(counts(&throttle), expected, "{verdict:?}");
    }
}

#[test]
fn refusals_of_inner_layers_say_nothing() {
    let clock = ManualClock::new();
    let inner = strict(&clock).name("inner").build().unwrap();
    fail(&inner, 100_000);
    let stack = (builder(&clock).build().unwrap(), &inner);
    // The first one is the probe that is due, as nothing has passed since the clock's origin.
    for _ in 0..50 {
        let result = clock.block_on(stack.call(|| ready(Ok::<_, ()>(()))));
        let rejected = Rejected::new("inner", Reason::Throttled);
        assert_eq!(result.unwrap_err(), rejected.into());
    }
    assert_eq!(counts(&stack.0), (0, 0, 0, 0));
}

#[test]
fn timeouts_inside_are_failures() {
    let clock = ManualClock::new();
    let timeout = Timeout::builder().after(SECOND).clock(clock.clone());
    let stack = (builder(&clock).build().unwrap(), timeout.build().unwrap());
    let result = clock.block_on(stack.call(pending::<Result<(), ()>>));
    assert!(result.unwrap_err().is_timeout());
    assert_eq!(counts(&stack.0), (1, 0, 1, 0));
}

#[test]
fn a_cancelled_call_is_taken_back_or_counts_as_told() {
    let clock = ManualClock::new();
    for (health, expected) in [
        (Health::Neutral, (0, 0, 0, 0)),
        (Health::Healthy, (1, 1, 0, 0)),
        (Health::Unhealthy, (1, 0, 1, 0)),
    ] {
        let throttle = builder(&clock).cancelled_as(health).build().unwrap();
        {
            let mut call = pin!(throttle.call(pending::<Result<(), ()>>));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert_eq!(counts(&throttle), (1, 0, 0, 1));
        }
        assert_eq!(counts(&throttle), expected);
        throttle.reset();
        drop(throttle.try_acquire().unwrap());
        assert_eq!(counts(&throttle), expected);
    }
}

#[test]
fn a_panic_counts_as_told() {
    let clock = ManualClock::new();
    for (health, expected) in [
        (Health::Unhealthy, (1, 0, 1, 0)),
        (Health::Neutral, (0, 0, 0, 0)),
        (Health::Healthy, (1, 1, 0, 0)),
    ] {
        let throttle = builder(&clock).panicked_as(health).build().unwrap();
        let when_polled = throttle.call(|| async { panic!("boom") as Result<(), ()> });
        let ended = catch_unwind(AssertUnwindSafe(|| clock.block_on(when_polled)));
        assert!(ended.is_err());
        assert_eq!(counts(&throttle), expected);

        throttle.reset();
        let when_made = throttle.call(|| -> std::future::Ready<Result<(), ()>> { panic!("boom") });
        let ended = catch_unwind(AssertUnwindSafe(|| clock.block_on(when_made)));
        assert!(ended.is_err());
        assert_eq!(counts(&throttle), expected);

        throttle.reset();
        let holding = || {
            let _permit = throttle.try_acquire().unwrap();
            panic!("boom")
        };
        assert!(catch_unwind(AssertUnwindSafe(holding)).is_err());
        assert_eq!(counts(&throttle), expected);
    }
    assert_eq!(
        counts(&{
            let throttle = builder(&clock).build().unwrap();
            let held = throttle.try_acquire().unwrap();
            held.success();
            throttle.clone()
        }),
        (1, 1, 0, 0)
    );
}

// ===== Refusals, shadow mode, neighbours =====

#[test]
fn a_refusal_says_throttled_and_no_time_to_come_back() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).name("users").build().unwrap();
    fail(&throttle, 100_000);
    let started = Cell::new(0);
    let error = loop {
        let call = throttle.call(|| {
            started.set(started.get() + 1);
            ready(Ok::<_, ()>(()))
        });
        if let Err(error) = clock.block_on(call) {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(Reason::Throttled));
    assert_eq!(error.retry_after(), None);
    assert_eq!(
        error.map(|()| "").to_string(),
        "rejected by users: throttled"
    );
    assert_eq!(started.get(), 0);
}

#[test]
fn a_shadow_decides_counts_and_reports_but_lets_all_through() {
    let clock = ManualClock::new();
    let throttle = strict(&clock).shadow(true).build().unwrap();
    fail(&throttle, 100_000);
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let pipeline = Pipeline::new(throttle.clone())
        .observer(move |event: &Event| log.lock().unwrap().push(event.kind()));
    for _ in 0..10 {
        let result = clock.block_on(pipeline.call(|| ready(Ok::<_, ()>(()))));
        assert_eq!(result, Ok(()));
    }
    let kinds = events.lock().unwrap();
    let would = kinds.iter().filter(|kind| **kind == "would_reject");
    assert_eq!(would.count() as u64, throttle.snapshot().rejected);
    assert_eq!(throttle.snapshot().rejected, 10);
    assert_eq!(counts(&throttle), (100_010, 10, 100_000, 0));
}

#[test]
fn refused_calls_count_only_when_told() {
    let clock = ManualClock::new();
    for (count, expected) in [(false, 100), (true, 150)] {
        let throttle = strict(&clock).success_threshold(0.001);
        let throttle = throttle.count_refused(count).build().unwrap();
        fail(&throttle, 100);
        let mut refusals = 0;
        while refusals < 50 {
            refusals += u64::from(throttle.try_acquire().is_err());
        }
        assert_eq!(counts(&throttle), (expected, 0, expected, 0));
    }
}

#[test]
fn inside_a_retry_every_attempt_counts() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let retry = || Retry::builder().clock(clock.clone()).build().unwrap();
    let inside = Pipeline::new((retry(), throttle.clone()));
    let _ = clock.block_on(inside.call(|| ready(Err::<(), _>(()))));
    assert_eq!(counts(&throttle), (3, 0, 3, 0));
    assert_eq!(inside.check(), []);

    let outside = Pipeline::new((throttle, retry()));
    let found = outside.check();
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .to_string()
            .starts_with("layer 1 (retry) inside layer 0 (throttle): ")
    );
}

#[test]
fn several_are_looked_at_as_one() {
    let load = |requests, rejection_probability, max_rejection| Load {
        requests,
        rejection_probability,
        max_rejection,
    };
    assert_eq!(Load::combine([]), load(0, 0.0, 0.0));
    assert_eq!(Load::combine([load(0, 0.8, 0.7)]), load(0, 0.0, 0.7));
    let both = Load::combine([load(150, 0.6, 0.9), load(50, 0.1, 0.8)]);
    assert!((both.rejection_probability - 0.475).abs() < 1e-12);
    assert_eq!((both.requests, both.max_rejection), (200, 0.8));
    let full = load(u64::MAX, 1.0, 1.0);
    assert_eq!(Load::combine([full, full]), full);

    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    fail(&throttle, 20);
    assert_eq!(throttle.snapshot().load(), load(20, 0.9, 0.9));
}

#[test]
fn one_for_each_key_leaves_when_nothing_has_failed() {
    let clock = ManualClock::new();
    let template = clock.clone();
    let keyed = Keyed::new(move |_: &u32| builder(&template).build().unwrap());
    fail(&keyed.get(&1), 20);
    assert_eq!(probability(&keyed.get(&1)), 0.9);
    assert_eq!(probability(&keyed.get(&2)), 0.0);
}

// ===== Clocks =====

/// A clock that can be set back.
#[derive(Debug, Default)]
struct Skewed {
    nanos: AtomicU64,
}

impl Clock for Skewed {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

#[test]
fn a_clock_that_goes_back_neither_freezes_it_nor_makes_it_forget() {
    const HOUR: u64 = 3_600_000_000_000;
    let clock = Arc::new(Skewed::default());
    clock.nanos.store(10 * HOUR, Ordering::Relaxed);
    let throttle = Throttle::builder()
        .seed(1)
        .max_rejection(1.0)
        .clock(clock.clone())
        .build()
        .unwrap();
    for back in [9 * HOUR, 8 * HOUR, 0] {
        fail(&throttle, 100_000);
        clock.nanos.store(back, Ordering::Relaxed);
        let passed = 1000 - refused(&throttle, 1000);
        assert!((1..10).contains(&passed), "{back}: {passed}");
        let later = back + MINUTE.as_nanos() as u64 * 2;
        clock.nanos.store(later, Ordering::Relaxed);
        assert_eq!(counts(&throttle), (0, 0, 0, 0), "{back}");
    }
}

// ===== In the long run =====

/// A dependency that answers so many calls a second, and refuses the rest at once.
fn goodput(throttle: &Throttle, clock: &ManualClock, offered: u32, capacity: u32) -> (u32, u32) {
    let (mut sent, mut good) = (0, 0);
    let tick = SECOND / offered;
    for call in 0..offered {
        clock.advance(tick);
        if let Ok(permit) = throttle.try_acquire() {
            sent += 1;
            // Its tokens come evenly.
            if good * offered <= call * capacity {
                good += 1;
                permit.success();
            } else {
                permit.failure();
            }
        }
    }
    (sent, good)
}

#[test]
fn an_overloaded_dependency_gets_what_the_page_says() {
    // 300 a second offered to one that takes 100.
    for (threshold, count_refused, bound) in [(0.9, false, 195), (0.5, true, 215)] {
        let clock = ManualClock::new();
        let throttle = builder(&clock)
            .success_threshold(threshold)
            .count_refused(count_refused)
            .build()
            .unwrap();
        for _ in 0..180 {
            goodput(&throttle, &clock, 300, 100);
        }
        let runs = (0..30).map(|_| goodput(&throttle, &clock, 300, 100));
        let (sent, good) = runs.fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        assert!(sent / 30 <= bound, "{sent}");
        assert!(good / 30 >= 95, "{good}");
    }
}

#[test]
fn recovery_takes_one_window_unless_refused_calls_count() {
    let passed_after = |throttle: ThrottleBuilder, clock: &ManualClock, seconds| {
        let throttle = throttle.build().unwrap();
        for _ in 0..120 {
            goodput(&throttle, clock, 100, 0);
        }
        for _ in 0..seconds {
            goodput(&throttle, clock, 100, 100);
        }
        goodput(&throttle, clock, 100, 100).0
    };
    let clock = ManualClock::new();
    assert_eq!(passed_after(builder(&clock), &clock, 61), 100);
    let book = || builder(&clock).count_refused(true);
    // What the builder's page warns of.
    assert!(passed_after(book(), &clock, 180) < 50);
    assert!(passed_after(book().success_threshold(0.5), &clock, 300) > 95);
}

#[test]
fn an_observer_that_panics_at_a_probe_does_not_use_it_up() {
    let clock = ManualClock::new();
    clock.advance(MINUTE);
    let throttle = builder(&clock)
        .success_threshold(1.0)
        .min_requests(0)
        .max_rejection(1.0)
        .observer(|event: &Event| {
            assert!(!matches!(event, Event::ProbeForced { .. }), "on purpose");
        })
        .build()
        .unwrap();
    fail(&throttle, 1000);
    // The first call that should be rejected is a probe, but is not made.
    for _ in 0..3 {
        let call = || throttle.try_acquire().map(|permit| permit.is_probe());
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        assert_eq!(throttle.snapshot().pending, 0);
    }
}
