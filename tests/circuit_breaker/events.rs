use std::sync::{Arc, Mutex};

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Event, ManualClock, Pipeline, Policy};
use futures::future::join;

use super::{builder, feed, secs};

#[test]
fn each_metrics_only_time_reports_its_rules_again() {
    let clock = ManualClock::new();
    let reported = Arc::new(Mutex::new(0));
    let log = reported.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .observer(move |event: &Event| {
            if matches!(event, Event::CircuitWouldOpen { .. }) {
                *log.lock().unwrap() += 1;
            }
        })
        .build()
        .unwrap();
    // The two window sets alternate.
    for time in 1..=4 {
        breaker.metrics_only();
        feed(&breaker, &clock, "xx");
        assert_eq!(*reported.lock().unwrap(), time);
    }
}

#[test]
fn a_subscription_receives_every_transition_in_order() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let mut transitions = breaker.subscribe();
    let received = clock.clone().block_on(async {
        let listen = async {
            let mut received = Vec::new();
            while let Some(change) = transitions.next().await {
                received.push(change.to_string());
            }
            received
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
        received,
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
fn a_slow_subscription_counts_the_transitions_it_missed() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    let mut transitions = breaker.subscribe();
    for _ in 0..50 {
        drop(breaker.isolate());
    }
    assert_eq!(transitions.missed(), 36);
    let first = transitions.try_next().unwrap();
    assert_eq!(first.to, State::Isolated);
    // The newest are kept.
    let count = std::iter::from_fn(|| transitions.try_next()).count();
    assert_eq!(count, 63);
}

#[cfg(feature = "stream")]
#[test]
fn transitions_are_a_stream_with_the_feature_stream() {
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
fn events_describe_transitions_and_rejections() {
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
fn metrics_only_reports_each_matching_rule_once() {
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
fn shadow_mode_reports_rejections_and_admits_all_calls() {
    let clock = ManualClock::new();
    let rejected = Arc::new(Mutex::new(0));
    let count = rejected.clone();
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
        (*rejected.lock().unwrap(), breaker.snapshot().would_reject),
        (5, 5)
    );
    assert_eq!(breaker.snapshot().consecutive_trips, 1);
    clock.advance(secs(5));
    feed(&breaker, &clock, ".");
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_generation_is_the_number_of_earlier_changes() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    assert_eq!(breaker.snapshot().generation, 0);
    let mut transitions = breaker.subscribe();
    breaker.trip();
    assert_eq!(breaker.snapshot().generation, 1);
    breaker.close();
    breaker.reset();
    breaker.trip();
    let generations = std::iter::from_fn(|| transitions.try_next()).map(|change| change.generation);
    // A reset of a closed circuit is a change without a transition.
    assert_eq!(generations.collect::<Vec<_>>(), [0, 1, 3]);
}
