use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use std::{fmt, thread};

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{
    Backoff, BlockingClock, CircuitBreaker, Clock, Event, Instant, ManualClock, Policy, Sleep,
};

use super::{builder, feed, secs};

/// A reproducible xorshift generator.
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
fn a_hundred_racing_threads_get_exactly_the_permitted_probes() {
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
                        // No probe is released before all threads have tried.
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
fn probes_never_exceed_the_limit_and_are_never_lost() {
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
    // All results are neutral, so the circuit stays half-open.
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

/// Two threads make calls that succeed, fail, panic, or are cancelled, while the circuit opens and closes.
/// `BACKSTOP_BREAKER_CALLS` sets the number of calls; fewer by default in debug builds.
#[test]
fn after_many_calls_of_two_threads_the_circuit_still_closes() {
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
        // No lease, so a probe that is lost stays lost.
        .probe_lease(Duration::MAX)
        .build()
        .unwrap();
    let recorded = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (breaker, clock, recorded) = (&breaker, &clock, &recorded);
            scope.spawn(move || {
                let mut random = Random(thread + 7);
                for call in 0..calls / 2 {
                    // Alternating failure rates, so that all rules match and all states occur.
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
                                recorded.fetch_add(1, Ordering::Relaxed);
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
    assert!(recorded.into_inner() > calls / 10);
    assert!(breaker.snapshot().generation > 10, "{breaker:?}");
    // From any state, a few successes close the circuit.
    clock.advance(secs(3600));
    let mut successes = 0;
    while breaker.state() != State::Closed && successes < 10 {
        feed(&breaker, &clock, ".");
        successes += 1;
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

/// Observers may receive the events of two threads in any order; sequence numbers give the order of the
/// transitions.
#[test]
fn the_transition_with_the_largest_sequence_number_is_the_current_state() {
    for round in 0..200 {
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = received.clone();
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
        let mut numbered = std::mem::take(&mut *received.lock().unwrap());
        numbered.sort_by_key(|(number, _)| *number);
        for (index, (number, _)) in (1..).zip(&numbered) {
            assert_eq!(
                index, *number,
                "sequence numbers have no gaps and no duplicates"
            );
        }
        let received: Vec<_> = numbered.iter().filter_map(|(_, change)| *change).collect();
        assert_eq!(
            received.last().unwrap().to,
            breaker.state(),
            "round {round}"
        );
        for pair in received.windows(2) {
            assert!(pair[0].generation < pair[1].generation);
            assert_eq!(pair[0].to, pair[1].from);
        }
        // Subscriptions receive them in that order.
        let streamed: Vec<_> = std::iter::from_fn(|| transitions.try_next()).collect();
        assert_eq!(streamed, received);
    }
}

type Action = Box<dyn FnOnce() + Send>;

/// A clock that runs an action the next time it is read.
#[derive(Clone, Default)]
struct InterruptingClock(Arc<Mutex<Option<Action>>>);

impl InterruptingClock {
    fn arm(&self, action: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(action));
    }
}

impl fmt::Debug for InterruptingClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterruptingClock")
    }
}

impl Clock for InterruptingClock {
    fn now(&self) -> Instant {
        let action = self.0.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
        Instant::ORIGIN
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

#[test]
fn a_rule_that_matched_before_a_reset_does_not_open_after_it() {
    let clock = InterruptingClock::default();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    let permit = breaker.try_acquire().unwrap();
    let handle = breaker.clone();
    // The clock is read between counting the failure and opening.
    clock.arm(move || handle.reset());
    permit.failure();
    assert!(clock.0.lock().unwrap().is_none(), "the clock was read");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().consecutive_trips, 0);
}
