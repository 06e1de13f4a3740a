use std::cell::Cell;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{
    Backoff, CircuitBreaker, Classify, Error, Event, ManualClock, Pipeline, Policy, Reason, Retry,
    Timeout, Verdict,
};
use futures::future::{join, select};
use futures::pin_mut;

use super::{builder, feed, ms, secs};

#[test]
fn manual_states_do_what_they_say() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    breaker.disable();
    feed(&breaker, &clock, "xxx");
    assert_eq!(
        (breaker.state(), breaker.snapshot().consecutive_failures),
        (State::Disabled, 0)
    );
    breaker.metrics_only();
    feed(&breaker, &clock, "xxx");
    assert_eq!(breaker.state(), State::MetricsOnly);
    assert_eq!(breaker.snapshot().consecutive_failures, 3);
    breaker.close();
    assert_eq!(breaker.snapshot().consecutive_failures, 0);
    breaker.trip_for(secs(60));
    assert_eq!(
        breaker.try_acquire().unwrap_err().retry_after(),
        Some(secs(60))
    );
    breaker.trip();
    assert_eq!(
        (breaker.snapshot().retry_after, breaker.snapshot().trips),
        (Some(secs(5)), 2)
    );
    breaker.half_open();
    assert!(breaker.try_acquire().unwrap().is_probe());
    breaker.reset();
    assert_eq!(
        (breaker.state(), breaker.snapshot().trips),
        (State::Closed, 0)
    );
    breaker.trip_for(Duration::MAX);
    clock.advance(secs(1 << 40));
    assert!(breaker.try_acquire().is_err());
}

#[test]
fn tripping_an_open_circuit_keeps_what_opened_it() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(0.5).of_last(10).min_calls(2))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, ".x");
    clock.advance(secs(5));
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.snapshot().calls, 1, "the trial's");
    breaker.trip();
    assert_eq!(breaker.snapshot().calls, 1);
    breaker.trip_for(secs(1));
    assert_eq!(breaker.snapshot().calls, 1);
}

#[test]
fn isolations_nest_and_leave_the_state_as_it_was() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(3))
        .build()
        .unwrap();
    feed(&breaker, &clock, "xx");
    let before = breaker.try_acquire().unwrap();
    let (first, second) = (breaker.isolate(), breaker.isolate());
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(
        (rejected.reason(), rejected.retry_after()),
        (Reason::Isolated, None)
    );
    drop(first);
    assert_eq!(breaker.state(), State::Isolated);
    assert_eq!(breaker.snapshot().underlying, State::Closed);
    before.failure();
    drop(second);
    assert_eq!(breaker.snapshot().consecutive_failures, 2);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);

    // A trial that is interrupted begins anew, with all of its places.
    clock.advance(secs(5));
    let probe = breaker.try_acquire().unwrap();
    drop(breaker.isolate());
    assert_eq!(breaker.peek(), State::HalfOpen);
    probe.failure();
    assert_eq!(breaker.state(), State::Open);
    feed(&breaker, &clock, "..");
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_subscription_hears_every_transition_in_order() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let mut transitions = breaker.subscribe();
    let heard = clock.clone().block_on(async {
        let listen = async {
            let mut heard = Vec::new();
            while let Some(change) = transitions.next().await {
                heard.push(change.to_string());
            }
            heard
        };
        let work = async move {
            feed(&breaker, &clock, "x");
            clock.sleep(secs(5)).await;
            feed(&breaker, &clock, ".");
            feed(&breaker, &clock, ".");
            breaker.reset();
            drop(breaker.isolate());
        };
        join(listen, work).await.0
    });
    assert_eq!(
        heard,
        [
            "closed -> open: consecutive failures, for 5s",
            "open -> half-open: break over",
            "half-open -> closed: probes succeeded",
            "closed -> isolated: manual",
            "isolated -> closed: manual",
        ]
    );
}

#[test]
fn a_late_subscriber_is_told_how_much_it_missed() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let mut transitions = breaker.subscribe();
    for _ in 0..50 {
        drop(breaker.isolate());
    }
    assert_eq!(transitions.missed(), 36);
    let first = transitions.try_next().unwrap();
    assert_eq!(first.to, State::Isolated);
    // Held are the last ones.
    let count = std::iter::from_fn(|| transitions.try_next()).count();
    assert_eq!(count, 63);
}

#[cfg(feature = "stream")]
#[test]
fn with_the_feature_it_is_a_stream() {
    use futures::StreamExt;

    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let transitions = breaker.subscribe();
    breaker.trip();
    breaker.reset();
    drop(breaker);
    let states = clock.block_on(transitions.map(|change| change.to).collect::<Vec<_>>());
    assert_eq!(states, [State::Open, State::Closed]);
}

#[test]
fn events_tell_what_happens() {
    let clock = ManualClock::new();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .name("github")
        .build()
        .unwrap();
    let pipeline = Pipeline::new(&breaker).observer(move |event: &Event| {
        if event.kind() != "call_finished" {
            log.lock().unwrap().push(event.to_string());
        }
    });
    for _ in 0..2 {
        let _ = clock.block_on(pipeline.call(|| async { Err::<(), _>("down") }));
    }
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "github: closed -> open: consecutive failures, for 5s",
            "github: rejected a call: circuit open, retry after 5s",
        ]
    );
}

#[test]
fn rules_that_hold_while_nothing_opens_are_told_once() {
    let clock = ManualClock::new();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(0.5).of_last(5))
        .trip_on(Trip::slow_rate(0.5).of_last(5))
        .slow_call(secs(1))
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    breaker.metrics_only();
    feed(&breaker, &clock, &"S".repeat(20));
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "circuit_breaker: closed -> metrics only: manual",
            "circuit_breaker: would open: failure rate",
            "circuit_breaker: would open: slow rate",
        ]
    );
}

#[test]
fn a_shadow_decides_and_never_refuses() {
    let clock = ManualClock::new();
    let refused = Arc::new(Mutex::new(0));
    let count = refused.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(2))
        .half_open(HalfOpen::successes(1))
        .shadow(true)
        .observer(move |event: &Event| {
            if event.kind() == "would_reject" {
                *count.lock().unwrap() += 1;
            }
        })
        .build()
        .unwrap();
    feed(&breaker, &clock, "xx");
    assert_eq!(breaker.state(), State::Open);
    feed(&breaker, &clock, "xxxxx");
    assert_eq!(
        (*refused.lock().unwrap(), breaker.snapshot().rejected),
        (5, 5)
    );
    assert_eq!(breaker.snapshot().trips, 1);
    clock.advance(secs(5));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_snapshot_restores_a_breaker() {
    let clock = ManualClock::new();
    let template = || {
        builder(&clock)
            .trip_on(Trip::failure_rate(0.5).of_last(40))
            .trip_on(Trip::consecutive(4))
            .half_open(HalfOpen::successes(1))
            .break_for(Backoff::exponential(secs(2)).jitter(backstop::Jitter::None))
    };
    let breaker = template().build().unwrap();
    feed(&breaker, &clock, "....x.xxx");
    let restored = template().restore(breaker.snapshot()).build().unwrap();
    let (old, new) = (breaker.snapshot(), restored.snapshot());
    assert_eq!(
        (new.calls, new.failures, new.consecutive_failures),
        (9, 4, 3)
    );
    assert_eq!(old.state, new.state);
    feed(&restored, &clock, "x");
    assert_eq!(restored.state(), State::Open);

    clock.advance(secs(2));
    feed(&restored, &clock, "x");
    clock.advance(secs(1));
    let restored = template().restore(restored.snapshot()).build().unwrap();
    assert_eq!(
        (restored.state(), restored.snapshot().trips),
        (State::Open, 2)
    );
    assert_eq!(
        restored.try_acquire().unwrap_err().retry_after(),
        Some(secs(3))
    );
    clock.advance(secs(3));
    feed(&restored, &clock, "x");
    assert_eq!(restored.snapshot().retry_after, Some(secs(8)));

    // The other states.
    for (manual, state) in [
        (
            CircuitBreaker::disable as fn(&CircuitBreaker),
            State::Disabled,
        ),
        (CircuitBreaker::metrics_only, State::MetricsOnly),
        (CircuitBreaker::half_open, State::Open),
    ] {
        manual(&restored);
        let again = template().restore(restored.snapshot()).build().unwrap();
        assert_eq!(again.state(), state);
        assert!(again.try_acquire().is_ok());
    }
    let _isolation = restored.isolate();
    let again = template().restore(restored.snapshot()).build().unwrap();
    assert_eq!(again.peek(), State::HalfOpen);
}

#[test]
fn durations_are_measured_where_asked_for() {
    for (trip, mean) in [
        (Trip::failure_rate(1.0).of_last(4), ms(750)),
        (Trip::failure_rate(1.0).within(secs(100)), ms(600)),
    ] {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(trip)
            .measure_durations(true)
            .build()
            .unwrap();
        feed(&breaker, &clock, ".s.ss");
        assert_eq!(breaker.snapshot().mean_duration(), Some(mean));
    }
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    assert_eq!(breaker.snapshot().mean_duration(), None);
    breaker
        .try_acquire()
        .unwrap()
        .record_taken(Verdict::success(), secs(1));
}

#[test]
fn a_health_check_replaces_trial_calls() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let checks = Cell::new(0);
    let healthy_after = secs(30);
    clock.block_on(async {
        let check = breaker.probe_with(secs(10), || {
            checks.set(checks.get() + 1);
            let hangs = checks.get() == 2;
            let is_healthy = backstop::Clock::now(&clock).as_nanos() >= nanos(healthy_after);
            async move {
                if hangs {
                    pending::<()>().await;
                }
                if is_healthy { Ok(()) } else { Err(()) }
            }
        });
        let work = async {
            feed(&breaker, &clock, "x");
            clock.sleep(secs(8)).await;
            // The break is over, but no trial calls are wanted.
            let rejected = breaker.try_acquire().unwrap_err();
            assert_eq!(rejected.retry_after(), None);
            clock.sleep(secs(22)).await;
            assert_eq!(breaker.state(), State::Open);
            clock.sleep(secs(2)).await;
            assert_eq!(breaker.state(), State::Closed);
            feed(&breaker, &clock, "x");
        };
        pin_mut!(check, work);
        select(check, work).await;
    });
    // At 0, at 10 (hangs until 21), and at 31.
    assert_eq!(checks.get(), 3);
    assert_eq!(clock.sleepers(), 0);
    clock.advance(secs(5));
    assert!(breaker.try_acquire().is_ok(), "trial calls again");
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

#[test]
fn a_retry_inside_out_of_luck_and_the_order_that_works() {
    let clock = ManualClock::new();
    let retry = || {
        Retry::builder()
            .max_attempts(5)
            .backoff(Backoff::NONE)
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(3))
        .build()
        .unwrap();
    let calls = Cell::new(0);
    let stack = (retry(), &breaker);
    let call = stack.call_reported(|| async {
        calls.set(calls.get() + 1);
        Err::<(), _>("down")
    });
    let report = clock.block_on(call);
    // Every attempt counts, and the open circuit ends the retries.
    assert_eq!((calls.get(), breaker.state()), (3, State::Open));
    assert_eq!(report.rejected().unwrap().reason(), Reason::CircuitOpen);
    assert_eq!(report.result.unwrap_err().into_operation(), Some("down"));

    assert_eq!(Pipeline::new((retry(), breaker.clone())).check(), []);
    let found = Pipeline::new((breaker, retry())).check();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn timeouts_inside_are_failures_and_outside_are_nothing() {
    let clock = ManualClock::new();
    let timeout = || {
        let timeout = Timeout::builder().after(secs(1)).clock(clock.clone());
        timeout.build().unwrap()
    };
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let hang = pending::<Result<(), ()>>;
    let result = clock.block_on((timeout(), &breaker).call(hang));
    assert!(matches!(result, Err(Error::TimedOut(_))));
    assert_eq!(breaker.state(), State::Closed);
    let result = clock.block_on((&breaker, timeout()).call(hang));
    assert!(matches!(result, Err(Error::TimedOut(_))));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_classifier_inside_says_what_counts() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let stack = (
        &breaker,
        Classify::errors(|status: &u16| match status {
            404 => Verdict::permanent(),
            499 => Verdict::ignore(),
            _ => Verdict::throttled(secs(30)),
        }),
    );
    for status in [404, 499] {
        let _ = clock.block_on(stack.call(|| async { Err::<(), u16>(status) }));
        assert_eq!(breaker.state(), State::Closed);
    }
    let _ = clock.block_on(stack.call(|| async { Err::<(), u16>(429) }));
    assert_eq!(breaker.snapshot().retry_after, Some(secs(30)));
}

#[test]
fn handles_and_futures_go_anywhere() {
    fn anywhere<T: Send + Sync + Unpin + 'static>() {}
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    anywhere::<CircuitBreaker>();
    anywhere::<backstop::circuit_breaker::Isolation>();
    anywhere::<backstop::circuit_breaker::Transitions>();
    anywhere::<backstop::circuit_breaker::Snapshot>();
    anywhere::<backstop::Keyed<String, CircuitBreaker>>();
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    drop(is_send(breaker.call(|| async { Ok::<(), ()>(()) })));
    drop(is_send(breaker.try_acquire().unwrap()));
    drop(is_send(
        breaker.probe_with(secs(1), || async { Ok::<(), ()>(()) }),
    ));
}

#[test]
fn a_snapshot_has_no_rate_before_there_are_enough_calls() {
    let clock = ManualClock::new();
    let rule = Trip::failure_rate(1.0).of_last(10).min_calls(4);
    let breaker = builder(&clock)
        .trip_on(rule)
        .slow_call(secs(1))
        .build()
        .unwrap();
    assert_eq!(breaker.snapshot().failure_rate(), None);
    feed(&breaker, &clock, ".xs");
    let early = breaker.snapshot();
    assert_eq!((early.failure_rate(), early.slow_rate()), (None, None));
    assert_eq!((early.calls, early.successes()), (3, 2));
    feed(&breaker, &clock, ".");
    let enough = breaker.snapshot();
    assert_eq!(enough.failure_rate(), Some(0.25));
    assert_eq!(enough.slow_rate(), Some(0.25));
}
