//! Subscriptions, health checks, and numbers of events beyond the breaker that they began with.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use backstop::circuit_breaker::{HalfOpen, Transition, Transitions};

use super::*;

/// A stack whose breaker needs one good probe.
fn with_breaker(clock: &ManualClock) -> Standard {
    let standard = standard(clock).without_retry().breaker(rules(false));
    standard.build().unwrap()
}

fn rules(measures: bool) -> backstop::circuit_breaker::CircuitBreakerBuilder {
    let rules = CircuitBreaker::builder().half_open(HalfOpen::successes(1));
    rules.measure_durations(measures)
}

/// Replaces the breaker, and returns the new one.
fn replace(standard: &Standard, measures: bool) -> CircuitBreaker {
    let config = standard.config().breaker(rules(measures));
    standard.reconfigure(config).unwrap();
    let new = standard.breaker().unwrap();
    // No breaker can begin or cease to measure.
    assert_eq!(new.snapshot().total_duration.is_some(), measures);
    new
}

fn seen(transitions: &mut Transitions) -> Vec<(State, State)> {
    let all = std::iter::from_fn(|| transitions.try_next());
    all.map(|change: Transition| (change.from, change.to))
        .collect()
}

#[test]
fn a_subscription_continues_with_the_breaker_that_replaces_its_own() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let first = standard.breaker().unwrap();
    let mut transitions = first.subscribe();
    // Twice, because the new breaker may be replaced too.
    let second = replace(&standard, true);
    second.trip();
    let third = replace(&standard, false);
    third.close();
    assert_eq!(
        seen(&mut transitions),
        [(State::Closed, State::Open), (State::Open, State::Closed)]
    );
    // A subscription through a handle from before is one of the circuit in force.
    let mut late = first.subscribe();
    first.trip();
    third.trip();
    for transitions in [&mut transitions, &mut late] {
        assert_eq!(seen(transitions), [(State::Closed, State::Open)]);
    }
    drop((first, second, standard));
    assert_eq!(poll(pin!(transitions.next())), Poll::Pending);
    drop(third);
    assert_eq!(poll(pin!(transitions.next())), Poll::Ready(None));
    assert_eq!(poll(pin!(late.next())), Poll::Ready(None));
}

#[test]
fn an_isolation_that_continues_is_no_transition() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let first = standard.breaker().unwrap();
    let mut transitions = first.subscribe();
    let isolation = first.isolate();
    let config = standard.config().breaker(rules(true));
    standard.reconfigure(config).unwrap();
    drop(isolation);
    assert_eq!(
        seen(&mut transitions),
        [
            (State::Closed, State::Isolated),
            (State::Isolated, State::Closed)
        ]
    );
}

#[test]
fn subscribers_and_observers_see_numbers_that_continue() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let observer = move |event: &Event| {
        if let Event::CircuitChanged {
            change, sequence, ..
        } = event
        {
            log.lock().unwrap().push((*sequence, change.generation));
        }
    };
    let observed = |measures| rules(measures).observer(observer.clone());
    let breaker = observed(false);
    let standard = standard(&clock).without_retry().breaker(breaker);
    let standard = standard.build().unwrap();
    for measures in [true, false] {
        standard.breaker().unwrap().trip();
        standard.breaker().unwrap().close();
        let config = standard.config().breaker(observed(measures));
        standard.reconfigure(config).unwrap();
    }
    standard.breaker().unwrap().trip();
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 5);
    assert!(
        heard
            .windows(2)
            .all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1),
        "{heard:?}"
    );
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut TaskContext::from_waker(Waker::noop()))
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_health_check_continues_with_the_breaker_that_replaces_its_own() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let first = standard.breaker().unwrap();
    let healthy = AtomicU32::new(0);
    let ping = || async {
        (healthy.load(Ordering::Relaxed) > 0)
            .then_some(())
            .ok_or(())
    };
    let mut check = Box::pin(first.check_with(s(1), ping));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut task = TaskContext::from_waker(&waker);
    assert!(check.as_mut().poll(&mut task).is_pending());
    // Replaced while it is closed.
    let second = replace(&standard, true);
    assert!(
        woken.0.load(Ordering::Relaxed) > 0,
        "the check was not woken"
    );
    assert!(check.as_mut().poll(&mut task).is_pending());
    second.trip();
    assert!(check.as_mut().poll(&mut task).is_pending());
    clock.advance(s(1000));
    assert!(second.try_acquire().is_err(), "checks replace probes");
    // Replaced while it is open, with its break over.
    let third = replace(&standard, false);
    assert_eq!(third.state(), State::Open);
    assert!(third.try_acquire().is_err(), "checks replace probes");
    healthy.store(1, Ordering::Relaxed);
    assert!(check.as_mut().poll(&mut task).is_pending());
    assert_eq!(third.state(), State::Closed);
    // Without a check, there are probes again.
    drop(check);
    third.trip();
    clock.advance(s(1000));
    third.try_acquire().unwrap().success();
    assert_eq!(third.state(), State::Closed);
}

#[test]
fn a_health_check_ends_neither_a_pause_nor_a_hint_of_a_breaker_that_was_replaced() {
    let holds: [fn(&CircuitBreaker); 3] = [
        |breaker| breaker.trip_for(s(20)),
        |breaker| breaker.pause_for(s(20)),
        |breaker| {
            let permit = breaker.try_acquire().unwrap();
            permit.record(Verdict::throttled(s(20)));
        },
    ];
    for (number, hold) in holds.into_iter().enumerate() {
        let clock = ManualClock::new();
        let tripping = |measures| rules(measures).trip_on(Trip::consecutive(1));
        let standard = standard(&clock).without_retry().breaker(tripping(false));
        let standard = standard.build().unwrap();
        let first = standard.breaker().unwrap();
        hold(&first);
        let ping = || async { Ok::<_, ()>(()) };
        let mut check = Box::pin(first.check_with(s(1), ping));
        assert_eq!(poll(check.as_mut()), Poll::Pending);
        let config = standard.config().breaker(tripping(true));
        standard.reconfigure(config).unwrap();
        let second = standard.breaker().unwrap();
        for second_passed in 0..20 {
            assert_eq!(poll(check.as_mut()), Poll::Pending);
            assert_eq!(second.state(), State::Open, "{number}, {second_passed} s");
            clock.advance(s(1));
        }
        assert_eq!(poll(check.as_mut()), Poll::Pending);
        clock.advance(s(1));
        assert_eq!(poll(check.as_mut()), Poll::Pending);
        assert_eq!(second.state(), State::Closed, "{number}");
    }
}

#[test]
fn a_half_open_circuit_continues_half_open_and_as_long_as_it_may() {
    let clock = ManualClock::new();
    let limited = |measures| {
        rules(measures)
            .max_half_open(s(10))
            .max_half_open_ends_in(State::Closed)
    };
    let standard = standard(&clock).without_retry().breaker(limited(false));
    let standard = standard.build().unwrap();
    let first = standard.breaker().unwrap();
    first.half_open();
    let mut transitions = first.subscribe();
    let of_first = first.try_acquire().unwrap();
    clock.advance(s(6));
    let config = standard.config().breaker(limited(true));
    standard.reconfigure(config).unwrap();
    let second = standard.breaker().unwrap();
    assert_eq!(second.state(), State::HalfOpen);
    assert_eq!(second.snapshot().in_state, s(6));
    // A probe of its own; that of the former breaker decides nothing here.
    let probe = second.try_acquire().unwrap();
    assert!(probe.is_probe());
    of_first.failure();
    assert_eq!(second.state(), State::HalfOpen);
    drop(probe);
    clock.advance(s(4));
    assert!(!second.try_acquire().unwrap().is_probe());
    // No change from open, which it has not been.
    assert_eq!(seen(&mut transitions), [(State::HalfOpen, State::Closed)]);
}

#[test]
fn a_ramp_up_continues_with_the_breaker_that_replaces_its_own() {
    let clock = ManualClock::new();
    let ramped = |measures| rules(measures).ramp_up(s(100)).seed(1);
    let standard = standard(&clock).without_retry().breaker(ramped(false));
    let standard = standard.build().unwrap();
    let first = standard.breaker().unwrap();
    first.trip();
    first.close();
    let config = standard.config().breaker(ramped(true));
    standard.reconfigure(config).unwrap();
    let second = standard.breaker().unwrap();
    let rejected = || (0..100).filter(|_| second.try_acquire().is_err()).count();
    // A tenth of the calls at first, all of them at the end.
    assert!((80..100).contains(&rejected()));
    clock.advance(s(100));
    assert_eq!(rejected(), 0);
}

#[test]
fn each_of_several_windows_continues_with_its_own_content() {
    let clock = ManualClock::new();
    let windows = |measures| {
        let breaker = CircuitBreaker::builder().measure_durations(measures);
        breaker
            .trip_on(Trip::failures(50).within(s(600)))
            .trip_on(Trip::failures(5).within(s(10)))
            .trip_on(Trip::failures(5).of_last(10))
            .trip_on(Trip::failures(42).of_last(1000))
    };
    let standard = standard(&clock).without_retry().breaker(windows(false));
    let standard = standard.build().unwrap();
    let first = standard.breaker().unwrap();
    for _ in 0..40 {
        first.try_acquire().unwrap().failure();
        first.try_acquire().unwrap().success();
        first.try_acquire().unwrap().success();
        clock.advance(s(5));
    }
    (0..10).for_each(|_| first.try_acquire().unwrap().success());
    let config = standard.config().breaker(windows(true));
    standard.reconfigure(config).unwrap();
    let second = standard.breaker().unwrap();
    second.try_acquire().unwrap().success();
    assert_eq!(second.state(), State::Closed, "too many in a short window");
    second.try_acquire().unwrap().failure();
    assert_eq!(second.state(), State::Closed);
    second.try_acquire().unwrap().failure();
    assert_eq!(second.state(), State::Open, "too few in a long window");
}

#[test]
fn a_breaker_that_is_removed_and_put_back_with_other_windows_keeps_its_subscriptions() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let mut transitions = standard.breaker().unwrap().subscribe();
    let config = standard.config().without_breaker();
    standard.reconfigure(config).unwrap();
    let config = standard.config().breaker(rules(true));
    standard.reconfigure(config).unwrap();
    standard.breaker().unwrap().trip();
    assert_eq!(seen(&mut transitions), [(State::Closed, State::Open)]);
}

#[test]
fn threads_that_subscribe_and_reconfigure_lose_no_subscription() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let kept: Vec<Transitions> = std::thread::scope(|scope| {
        let threads = (0..3_u64).map(|thread| {
            let standard = &standard;
            scope.spawn(move || {
                let mut kept = Vec::new();
                for round in 0..20 {
                    kept.push(standard.breaker().unwrap().subscribe());
                    let other = CircuitBreaker::builder().seed(thread * 1000 + round);
                    let config = standard.config().breaker(other);
                    standard.reconfigure(config).unwrap();
                }
                kept
            })
        });
        let threads: Vec<_> = threads.collect();
        let kept = threads.into_iter().map(|thread| thread.join().unwrap());
        kept.flatten().collect()
    });
    standard.breaker().unwrap().trip();
    for mut transitions in kept {
        assert_eq!(seen(&mut transitions), [(State::Closed, State::Open)]);
    }
}

#[test]
fn a_kept_handle_controls_and_reads_the_breaker_in_force() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let kept = standard.breaker().unwrap();
    let maintenance = kept.isolate();
    drop(maintenance);
    replace(&standard, true);
    let new = replace(&standard, false);
    type Change = fn(&CircuitBreaker);
    let changes: [(Change, State); 8] = [
        (CircuitBreaker::trip, State::Open),
        (CircuitBreaker::reset, State::Closed),
        (|breaker| breaker.trip_for(s(9)), State::Open),
        (CircuitBreaker::half_open, State::HalfOpen),
        (|breaker| breaker.pause_for(s(3)), State::Open),
        (CircuitBreaker::close, State::Closed),
        (CircuitBreaker::disable, State::Disabled),
        (CircuitBreaker::metrics_only, State::MetricsOnly),
    ];
    for (change, state) in changes {
        change(&kept);
        assert_eq!([new.state(), kept.state(), kept.peek()], [state; 3]);
        assert_eq!(kept.snapshot(), standard.snapshot().breaker.unwrap());
    }
    kept.reset();
    let isolation = kept.isolate();
    let call = || clock.block_on(standard.call(|| async { Err::<(), _>("down") }));
    assert_eq!(call().unwrap_err().reason(), Some(Reason::Isolated));
    // Also beyond a further replacement.
    replace(&standard, true);
    assert_eq!(call().unwrap_err().reason(), Some(Reason::Isolated));
    drop(isolation);
    assert_eq!(call(), Err(Error::Operation("down")));
    assert_eq!(kept.snapshot().failures, 1);
    // Without the stack, the handle is one of its own breaker again.
    drop((standard, new));
    kept.trip();
    assert!(kept.try_acquire().is_err());
}

#[test]
fn breakers_that_were_replaced_are_freed_with_the_stack() {
    let clock = ManualClock::new();
    let standard = with_breaker(&clock);
    let observed = Arc::new(());
    let mut transitions = standard.breaker().unwrap().subscribe();
    let isolation = standard.breaker().unwrap().isolate();
    let first = standard.breaker().unwrap();
    let check = async move { first.check_with(s(1), || async { Ok::<_, ()>(()) }).await };
    let mut check = Box::pin(check);
    assert_eq!(poll(check.as_mut()), Poll::Pending);
    for seed in 0..5 {
        let observed = observed.clone();
        let breaker = rules(false).seed(seed).observer(move |_: &Event| {
            let _observed = &observed;
        });
        let config = standard.config().breaker(breaker);
        standard.reconfigure(config).unwrap();
        assert_eq!(poll(check.as_mut()), Poll::Pending);
    }
    drop((standard, isolation, check));
    assert_eq!(Arc::strong_count(&observed), 1);
    while transitions.try_next().is_some() {}
    assert_eq!(poll(pin!(transitions.next())), Poll::Ready(None));
}
