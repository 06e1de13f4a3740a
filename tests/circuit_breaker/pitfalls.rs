use std::cell::Cell;
use std::future::{Future, Pending, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context as TaskContext, Waker};
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::policy::{Health, Run};
use backstop::{CircuitBreaker, Context, Event, ManualClock, Operation, Outcome, Policy, Reason};

use super::{builder, feed, ms, secs};

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut TaskContext::from_waker(Waker::noop()))
}

#[test]
fn pitfall_01_a_long_healthy_past_does_not_dilute_the_window() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).of_last(10);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &".".repeat(1000));
    feed(&breaker, &clock, "xxxx");
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn pitfall_02_nor_with_slow_calls() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::slow_rate(0.5).of_last(100))
        .slow_call(secs(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, &".".repeat(100_000));
    feed(&breaker, &clock, &"s".repeat(49));
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "s");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn pitfall_03_the_minimum_counts_and_not_the_size_of_the_window() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).of_last(100).min_calls(5);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, "xxxx");
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn pitfall_04_five_of_five_open_at_the_fifth() {
    let clock = ManualClock::new();
    for trip in [Trip::failures(5).of_last(5), Trip::consecutive(5)] {
        let breaker = builder(&clock).trip_on(trip).build().unwrap();
        feed(&breaker, &clock, "xxxx");
        assert_eq!(breaker.state(), State::Closed);
        feed(&breaker, &clock, "x");
        assert_eq!(breaker.state(), State::Open);
    }
}

#[test]
fn pitfall_05_probes_wider_than_the_window() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failures(1).within(ms(100)))
        .half_open(HalfOpen::successes(2))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    clock.advance(secs(5));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::HalfOpen);
    clock.advance(ms(200));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
}

/// A breaker that is half-open for one trial call at a time.
fn one_probe(clock: &ManualClock) -> CircuitBreaker {
    let breaker = builder(clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    feed(&breaker, clock, "x");
    clock.advance(secs(5));
    breaker
}

#[test]
fn pitfall_06_a_cancelled_probe_gives_its_place_back() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    {
        let mut call = pin!(breaker.call(pending::<Result<(), ()>>));
        assert!(poll_once(call.as_mut()).is_pending());
        assert!(breaker.try_acquire().is_err());
    }
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(
        clock.block_on(breaker.call(|| async { Ok::<_, ()>(1) })),
        Ok(1)
    );
    assert_eq!(breaker.state(), State::Closed);
}

/// Waits for ever, as a full limiter or bulkhead may.
struct Stuck;

impl Policy for Stuck {}

impl<Op: Operation> Run<Op> for &Stuck {
    type Future = Pending<Outcome<Op::Value, Op::Error>>;

    fn run(self, _: Op, _: Context) -> Self::Future {
        pending()
    }
}

#[test]
fn pitfall_07_also_while_it_waits_on_an_inner_layer() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    let stack = (&breaker, Stuck);
    for _ in 0..10 {
        let mut call = pin!(stack.call(|| async { Ok::<_, ()>(1) }));
        assert!(poll_once(call.as_mut()).is_pending());
        assert_eq!(breaker.snapshot().probes_in_flight, 1);
    }
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn pitfall_08_a_probe_that_never_ends_loses_its_lease() {
    let clock = ManualClock::new();
    for (lost_as, after) in [
        (Health::Neutral, State::HalfOpen),
        (Health::Unhealthy, State::Open),
    ] {
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .half_open(HalfOpen::successes(1))
            .probe_lease(secs(2))
            .lost_probes_as(lost_as)
            .build()
            .unwrap();
        feed(&breaker, &clock, "x");
        clock.advance(secs(5));
        let hung = breaker.try_acquire().unwrap();
        clock.advance(secs(2) - Duration::from_nanos(1));
        assert!(breaker.try_acquire().is_err());
        clock.advance(Duration::from_nanos(1));
        assert_eq!(breaker.peek(), after);
        match breaker.try_acquire() {
            Ok(permit) => {
                assert_eq!(lost_as, Health::Neutral);
                // What has lost its place changes nothing.
                hung.failure();
                assert_eq!(breaker.state(), State::HalfOpen);
                permit.success();
                assert_eq!(breaker.state(), State::Closed);
            }
            Err(rejected) => {
                assert_eq!(rejected.retry_after(), Some(secs(5)));
                hung.success();
                assert_eq!(breaker.state(), State::Open);
            }
        }
    }
}

#[test]
fn pitfall_09_a_result_of_an_older_generation_changes_nothing() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    let old: Vec<_> = (0..4).map(|_| breaker.try_acquire().unwrap()).collect();
    let mut old = old.into_iter();
    feed(&breaker, &clock, "x");
    old.next().unwrap().failure();
    assert_eq!(breaker.snapshot().trips, 1);
    assert_eq!(breaker.snapshot().retry_after, Some(secs(5)));

    clock.advance(secs(5));
    let probe = breaker.try_acquire().unwrap();
    old.next().unwrap().success();
    assert_eq!(breaker.state(), State::HalfOpen);
    old.next().unwrap().failure();
    assert_eq!(breaker.state(), State::HalfOpen);
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
    // Nor in the next closed time.
    old.next().unwrap().failure();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn pitfall_12_there_is_no_blind_time_after_the_start() {
    let clock = ManualClock::new();
    let trip = Trip::failure_rate(0.5).within(secs(30)).min_calls(10);
    let breaker = builder(&clock).trip_on(trip).build().unwrap();
    feed(&breaker, &clock, &"x".repeat(10));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn pitfall_13_failures_within_one_millisecond_count() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    for _ in 0..1000 {
        feed(&breaker, &clock, ".");
        clock.advance(ms(1));
    }
    let mut failures = 0;
    while breaker.state() == State::Closed && failures < 1001 {
        feed(&breaker, &clock, "x");
        clock.advance(Duration::from_nanos(1000));
        failures += 1;
    }
    assert_eq!(failures, 1000);
}

#[test]
fn pitfall_14_short_windows_are_windows() {
    for window in [ms(4), ms(500)] {
        let clock = ManualClock::new();
        let trip = Trip::failure_rate(0.5).within(window).min_calls(3);
        let breaker = builder(&clock).trip_on(trip).build().unwrap();
        feed(&breaker, &clock, "xx");
        clock.advance(window);
        feed(&breaker, &clock, "xx");
        assert_eq!(breaker.state(), State::Closed);
        clock.advance(window / 2);
        feed(&breaker, &clock, "x");
        assert_eq!(breaker.state(), State::Open);
    }
}

#[test]
fn pitfall_15_looking_changes_nothing() {
    let clock = ManualClock::new();
    let breaker = one_probe(&clock);
    let before = breaker.snapshot();
    for _ in 0..100 {
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.peek(), State::HalfOpen);
        let _ = format!("{breaker:?} {:?}", breaker.snapshot());
    }
    assert_eq!(breaker.snapshot(), before);
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn pitfall_16_refusals_are_no_failures_and_an_open_circuit_runs_nothing() {
    let clock = ManualClock::new();
    let (inner, outer) = (
        one_probe(&clock),
        builder(&clock).trip_on(Trip::consecutive(1)),
    );
    let outer = outer.build().unwrap();
    inner.trip();
    let (runs, stack) = (Cell::new(0), (&outer, &inner));
    for _ in 0..10 {
        let call = stack.call(|| async {
            runs.set(runs.get() + 1);
            Ok::<_, ()>(())
        });
        let error = clock.block_on(call).unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CircuitOpen));
        assert_eq!(error.retry_after(), Some(secs(5)));
    }
    assert_eq!(runs.get(), 0);
    assert_eq!(outer.state(), State::Closed);
    assert_eq!((inner.snapshot().rejected, inner.snapshot().trips), (10, 2));
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn pitfall_18_the_breaker_obeys_tokios_paused_clock() {
    let breaker = CircuitBreaker::builder().build().unwrap();
    breaker.trip();
    assert!(breaker.try_acquire().is_err());
    tokio::time::advance(secs(3600)).await;
    assert!(breaker.try_acquire().is_ok());
}

/// Runs what may wait for ever when something is wrong, on a thread of its own, so that the test fails
/// then. No time is asserted: a minute is only longer than anything it does.
fn must_end<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(what));
        let _ = sender.send(result);
    });
    let result = receiver.recv_timeout(secs(60)).expect("a lock is held");
    thread.join().expect("it has caught its panic");
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Without a listener's call being outside the lock it would wait for itself. That the lock is free is
/// also asserted in `src/circuit_breaker/tests.rs`, for all events and without waiting.
#[test]
fn pitfall_19_a_listener_may_use_the_handle() {
    let (state, heard) = must_end(|| {
        let clock = ManualClock::new();
        let handle: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
        let heard = Arc::new(AtomicU32::new(0));
        let breaker = {
            let (handle, heard) = (handle.clone(), heard.clone());
            builder(&clock)
                .trip_on(Trip::consecutive(1))
                .observer(move |event: &Event| {
                    let breaker = handle.lock().unwrap().clone().unwrap();
                    heard.fetch_add(1, Ordering::SeqCst);
                    let _ = (breaker.state(), breaker.peek(), breaker.snapshot());
                    if heard.load(Ordering::SeqCst) == 1 {
                        assert_eq!(event.kind(), "circuit_changed");
                        let _ = breaker.try_acquire();
                        breaker.close();
                    }
                })
                .build()
                .unwrap()
        };
        *handle.lock().unwrap() = Some(breaker.clone());
        feed(&breaker, &clock, "x");
        (breaker.state(), heard.load(Ordering::SeqCst))
    });
    assert_eq!(state, State::Closed);
    // Opened, a refusal, closed.
    assert_eq!(heard, 3);
}

#[test]
fn pitfall_20_a_panic_counts_and_gives_everything_back() {
    for (as_health, state) in [
        (Health::Unhealthy, State::Open),
        (Health::Neutral, State::HalfOpen),
        (Health::Healthy, State::Closed),
    ] {
        for sync in [false, true] {
            let clock = ManualClock::new();
            let breaker = builder(&clock)
                .trip_on(Trip::consecutive(2))
                .half_open(HalfOpen::successes(1))
                .panicked_as(as_health)
                .build()
                .unwrap();
            feed(&breaker, &clock, "xx");
            clock.advance(secs(5));
            let panicked = catch_unwind(AssertUnwindSafe(|| match sync {
                true => {
                    let _permit = breaker.try_acquire().unwrap();
                    panic!("on purpose");
                }
                false => clock.block_on(breaker.call(|| async {
                    match Ok::<(), ()>(()) {
                        Ok(()) => panic!("on purpose"),
                        error => error,
                    }
                })),
            }));
            assert!(panicked.is_err());
            assert_eq!(breaker.state(), state, "{as_health:?} {sync}");
            assert_eq!(breaker.snapshot().probes_in_flight, 0);
            clock.advance(secs(5));
            assert!(breaker.try_acquire().is_ok());
        }
    }
}

#[test]
fn a_panic_while_the_future_is_made_counts_too() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let call = breaker.call(|| {
            assert!(clock.sleepers() > 0, "on purpose");
            async { Ok::<(), ()>(()) }
        });
        clock.block_on(call)
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_call_dropped_by_somebody_elses_panic_was_cancelled() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut call = pin!(breaker.call(pending::<Result<(), ()>>));
        assert!(poll_once(call.as_mut()).is_pending());
        panic!("elsewhere");
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Closed);
}

/// What guards this is that a window is a number of words that its settings decide, and no list of
/// calls: nothing is allocated after `build`, so what a call looks at does not grow either.
#[test]
fn pitfall_21_sixty_seconds_of_calls_take_no_memory() {
    let clock = ManualClock::new();
    let one = builder(&clock).trip_on(Trip::failure_rate(0.9).within(secs(60)));
    let many = one
        .clone()
        .trip_on(Trip::slow_rate(0.9).within(secs(60)))
        .trip_on(Trip::failure_rate(0.9).of_last(100))
        .slow_call(ms(1));
    let timed = many.clone().measure_durations(true);
    let call = |breaker: &CircuitBreaker, index: u32| {
        let permit = breaker.try_acquire().unwrap();
        // Within the window at first, then beyond it.
        clock.advance(Duration::from_micros(if index % 7 == 0 {
            2_000
        } else {
            500
        }));
        match index % 5 {
            0 => permit.failure(),
            1 => drop(permit),
            _ => permit.success(),
        }
    };
    // Most of them are in the window at the end.
    const CALLS: u32 = 100_000;
    for builder in [one, many, timed] {
        let build = || builder.clone().build().unwrap();
        let mut kept = None;
        let empty = measure(|| kept = Some(build()));
        drop(kept.take());
        let full = measure(|| {
            let breaker = build();
            (0..CALLS).for_each(|index| call(&breaker, index));
            kept = Some(breaker);
        });
        let snapshot = kept.as_ref().unwrap().snapshot();
        assert!(snapshot.calls > 50_000, "{snapshot:?}");
        assert!(empty.bytes_current > 0);
        assert_eq!(full.bytes_current, empty.bytes_current);
        assert_eq!(full.count_total, empty.count_total);
    }
}

/// Without the lock being given back before the operation runs, the others would wait for it. That the
/// lock is free is also asserted in `src/circuit_breaker/tests.rs`, without waiting.
#[test]
fn pitfall_22_nothing_is_held_while_the_operation_runs() {
    let result = must_end(|| {
        let clock = ManualClock::new();
        let breaker = one_probe(&clock);
        clock.block_on(breaker.call(|| {
            // A slow operation without an await: everybody else goes on.
            let other = breaker.clone();
            let calls = must_end(move || {
                assert!(other.try_acquire().is_err());
                drop(other.isolate());
                other.reset();
                other.snapshot().calls
            });
            assert_eq!(calls, 0);
            async { Ok::<_, ()>(()) }
        }))
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn pitfall_23_open_without_an_end_is_impossible() {
    let clock = ManualClock::new();
    let panics = Arc::new(AtomicU32::new(0));
    let breaker = {
        let panics = panics.clone();
        CircuitBreaker::builder()
            .clock(clock.clone())
            .trip_on(Trip::consecutive(1))
            .half_open(HalfOpen::successes(1))
            .break_with(move |_, _| {
                let panics = panics.fetch_add(1, Ordering::SeqCst);
                assert!(panics % 2 == 1, "on purpose");
                secs(5)
            })
            .build()
            .unwrap()
    };
    let fail = || {
        let failed = catch_unwind(AssertUnwindSafe(|| feed(&breaker, &clock, "x")));
        assert!(failed.is_err());
    };
    fail();
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.snapshot().retry_after, Some(secs(5)));
    clock.advance(secs(5));
    // The trial failed, and how long the break is nobody knows yet: it stays due.
    fail();
    assert_eq!(breaker.state(), State::HalfOpen);
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(secs(5)));
    assert_eq!(breaker.state(), State::Open);
}
