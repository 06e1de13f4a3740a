use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Backoff, BlockingClock, CircuitBreaker, Event, ManualClock, Policy};

use super::{builder, feed, secs};

/// A xorshift: good enough to mix things up, and the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn pitfall_10_a_hundred_threads_get_as_many_probes_as_are_permitted() {
    for probes in [1, 3, 10] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .half_open(HalfOpen::successes(probes))
            .build()
            .unwrap();
        feed(&breaker, &clock, "x");
        clock.advance(secs(5));
        let (barrier, admitted) = (Barrier::new(100), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    barrier.wait();
                    if let Ok(permit) = breaker.try_acquire() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                        // Nobody gives a place back before all have tried.
                        std::mem::forget(permit);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), u64::from(probes));
        assert_eq!(breaker.snapshot().rejected, 100 - u64::from(probes));
    }
}

#[test]
fn pitfall_11_probes_are_never_too_many_and_never_lost() {
    const THREADS: u64 = 64;
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(3))
        .break_for(Backoff::NONE)
        .probe_lease(secs(3600))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    // All of them are neutral, so the circuit stays half-open.
    let (in_flight, most) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (breaker, in_flight, most) = (&breaker, &in_flight, &most);
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                for _ in 0..500 {
                    let Ok(permit) = breaker.try_acquire() else {
                        thread::yield_now();
                        continue;
                    };
                    let now = in_flight.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    if random.below(2) == 0 {
                        thread::yield_now();
                    }
                    in_flight.fetch_sub(1, Ordering::SeqCst);
                    match random.below(2) {
                        0 => drop(permit),
                        _ => permit.record(backstop::Verdict::ignore()),
                    }
                }
            });
        }
    });
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(most.into_inner() <= 3);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.probes_in_flight, snapshot.probes_free), (0, 3));
}

/// Two threads make calls of which some fail, some are cancelled and some panic, while the circuit
/// opens and closes. A tenth of the 10 million of a release build, or of what
/// `BACKSTOP_BREAKER_CALLS` says, where the code is not optimised.
#[test]
fn many_calls_from_two_threads_leave_everything_in_order() {
    let calls = match std::env::var("BACKSTOP_BREAKER_CALLS") {
        Ok(calls) => calls.parse().unwrap(),
        Err(_) if cfg!(debug_assertions) => 300_000,
        Err(_) => 10_000_000,
    };
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(0.9).of_last(100))
        .trip_on(Trip::failure_rate(0.95).within(secs(1)).min_calls(50))
        .trip_on(Trip::consecutive(40))
        .half_open(HalfOpen::successes(2).of(4))
        .break_for(Backoff::fixed(secs(1)))
        .slow_call(secs(1))
        // A place that is lost stays lost.
        .probe_lease(Duration::MAX)
        .build()
        .unwrap();
    let tallied = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (breaker, clock, tallied) = (&breaker, &clock, &tallied);
            scope.spawn(move || {
                let mut random = Random(thread + 7);
                for call in 0..calls / 2 {
                    // Phases of trouble, so that all rules and states come to pass.
                    let share = if call / 5_000 % 4 == 0 { 97 } else { 5 };
                    if random.below(200) == 0 {
                        clock.advance(Duration::from_millis(random.below(300)));
                    }
                    match random.below(1000) {
                        0 => {
                            let result = catch_unwind(AssertUnwindSafe(|| {
                                let _permit = breaker.try_acquire();
                                resume_unwind(Box::new("on purpose"));
                            }));
                            assert!(result.is_err());
                        }
                        1..100 => drop(breaker.try_acquire()),
                        _ => {
                            if let Ok(permit) = breaker.try_acquire() {
                                tallied.fetch_add(1, Ordering::Relaxed);
                                match random.below(100) < share {
                                    true => permit.failure(),
                                    false => permit.success(),
                                }
                            }
                        }
                    }
                }
            });
        }
    });
    assert!(tallied.into_inner() > calls / 10);
    assert!(breaker.snapshot().generation > 10, "{breaker:?}");
    // At rest: from any state a few good calls lead to a clean, closed circuit.
    clock.advance(secs(3600));
    let mut good = 0;
    while breaker.state() != State::Closed && good < 10 {
        feed(&breaker, &clock, ".");
        good += 1;
    }
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    feed(&breaker, &clock, &".".repeat(100));
    let snapshot = breaker.snapshot();
    assert_eq!(
        (snapshot.calls, snapshot.failures),
        (100, 0),
        "{snapshot:?}"
    );
}

/// The counters of a window equal what was put into it, when nothing resets it in between.
#[test]
fn every_call_of_two_threads_is_counted() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(1.0).within(secs(10)))
        .build()
        .unwrap();
    breaker.metrics_only();
    let failures = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (breaker, failures) = (&breaker, &failures);
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                for _ in 0..50_000 {
                    let permit = breaker.try_acquire().unwrap();
                    match random.below(3) {
                        0 => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            permit.failure();
                        }
                        _ => permit.success(),
                    }
                }
            });
        }
    });
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.calls, 100_000);
    assert_eq!(snapshot.failures, failures.into_inner());
}

#[test]
fn calls_of_many_tasks_share_a_breaker() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1_000_000))
        .clock(BlockingClock)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let breaker = breaker.clone();
                tokio::spawn(async move {
                    for _ in 0..100 {
                        let _ = breaker.call(|| async { Err::<(), _>(()) }).await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(breaker.snapshot().consecutive_failures, 2000);
}

/// Events of two threads may be heard in any order, and say what that order was.
#[test]
fn the_transition_with_the_largest_number_is_the_current_state() {
    for round in 0..200 {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        let breaker = CircuitBreaker::builder()
            .observer(move |event: &Event| {
                let number = event.sequence().expect("events of a handle are numbered");
                let change = match event {
                    Event::CircuitChanged { change, .. } => Some(*change),
                    _ => None,
                };
                log.lock().unwrap().push((number, change));
            })
            .clock(ManualClock::new())
            .build()
            .unwrap();
        let mut transitions = breaker.subscribe();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        breaker.trip();
                        let _ = breaker.try_acquire();
                        breaker.close();
                    }
                });
            }
        });
        let mut numbered = std::mem::take(&mut *heard.lock().unwrap());
        numbered.sort_by_key(|(number, _)| *number);
        for (index, (number, _)) in (1..).zip(&numbered) {
            assert_eq!(
                index, *number,
                "numbers are without gaps, and no two events share one"
            );
        }
        let heard: Vec<_> = numbered.iter().filter_map(|(_, change)| *change).collect();
        assert_eq!(heard.last().unwrap().to, breaker.state(), "round {round}");
        for pair in heard.windows(2) {
            assert!(pair[0].generation < pair[1].generation);
            assert_eq!(pair[0].to, pair[1].from);
        }
        // Subscriptions get them in that order.
        let streamed: Vec<_> = std::iter::from_fn(|| transitions.try_next()).collect();
        assert_eq!(streamed, heard);
    }
}
