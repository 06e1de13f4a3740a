//! Endpoints between other layers.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use backstop::circuit_breaker::Trip;
use backstop::{
    Bulkhead, CircuitBreaker, Endpoints, Event, ManualClock, Pipeline, Policy, Priority, Reason,
    Verdict,
};

use super::Fault::Down;
use super::{Fault, classify, ms, retry, timeout};

fn endpoints(clock: &ManualClock) -> Endpoints<u32> {
    let nodes = Endpoints::builder().node("a", 1).node("b", 2).node("c", 3);
    nodes.seed(1).clock(clock.clone()).build().unwrap()
}

#[test]
fn a_node_that_hangs_is_left_for_another_one() {
    let clock = ManualClock::new();
    let endpoints = endpoints(&clock);
    let stack = (
        timeout(&clock, 1000),
        retry(&clock),
        endpoints.clone(),
        timeout(&clock, 50),
    );
    let first = Cell::new(0);
    let (seen, handle) = (&first, &clock);
    let each = endpoints.each(|node| async move {
        if seen.get() == 0 {
            seen.set(*node);
        }
        if seen.get() == *node {
            handle.sleep(ms(10_000)).await;
        }
        Ok::<_, Fault>(*node)
    });
    let answer = clock.block_on(stack.call_with(each)).unwrap();
    assert_ne!(answer, first.get());
    let snapshot = endpoints.snapshot();
    assert_eq!(
        snapshot.nodes.iter().map(|node| node.failures).sum::<u64>(),
        1,
        "the timeout"
    );
}

#[test]
fn the_wait_of_another_layer_is_not_part_of_the_latency_of_a_node() {
    let clock = ManualClock::new();
    let endpoints = endpoints(&clock);
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(9)
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (bulkhead, endpoints.clone());
    let handle = &clock;
    let work = || async move {
        handle.sleep(ms(10)).await;
        Ok::<_, ()>(())
    };
    let call = || stack.call(work);
    clock.block_on(futures::future::join_all((0..6).map(|_| call())));
    let nodes = endpoints.snapshot().nodes;
    assert!(
        nodes
            .iter()
            .all(|node| node.latency.is_none_or(|latency| latency == ms(10)))
    );
}

#[test]
fn a_rejection_without_a_node_is_waited_out_by_a_retry() {
    let clock = ManualClock::new();
    let nodes = Endpoints::builder()
        .node("a", 1)
        .panic_threshold(0.0)
        .clock(clock.clone());
    let endpoints = nodes.build().unwrap();
    endpoints
        .try_acquire()
        .unwrap()
        .record(Verdict::throttled(ms(700)));
    let stack = (retry(&clock), endpoints.clone());
    let report = clock.block_on(stack.call_reported(|| async { Ok::<_, Fault>(()) }));
    assert_eq!(
        (report.result, report.attempts, report.elapsed),
        (Ok(()), 1, ms(700))
    );
    assert_eq!(report.last_rejection.unwrap().reason(), Reason::NoEndpoint);
}

#[test]
fn a_breaker_outside_sees_each_attempt_and_ends_the_retries() {
    let clock = ManualClock::new();
    let endpoints = endpoints(&clock);
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(2))
        .clock(clock.clone());
    let stack = (
        retry(&clock),
        breaker.build().unwrap(),
        endpoints.clone(),
        classify(),
    );
    let seen = RefCell::new(Vec::new());
    let nodes = &seen;
    let each = endpoints.each(|node| async move {
        nodes.borrow_mut().push(*node);
        Err::<(), _>(Down)
    });
    assert_eq!(
        clock
            .block_on(stack.call_with(each))
            .unwrap_err()
            .operation(),
        Some(&Down)
    );
    let seen = seen.borrow();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn options_reach_the_operation_and_events_the_observer_of_the_call() {
    let clock = ManualClock::new();
    let nodes = Endpoints::builder()
        .node("a", 1)
        .node("b", 2)
        .eject_after(1)
        .clock(clock.clone());
    let endpoints = nodes.build().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let pipeline = Pipeline::new(endpoints.clone())
        .observer(move |event: &Event| log.lock().unwrap().push(event.kind()));
    let options = backstop::CallOptions::new().priority(Priority::LOW);
    let with = pipeline.with(options);
    let call = with.call_with(|attempt| {
        let node = endpoints.node(&attempt).map(|node| *node);
        async move { Err::<(), _>((node.is_some(), attempt.priority())) }
    });
    let seen = clock.block_on(call).unwrap_err().into_operation();
    assert_eq!(seen, Some((true, Priority::LOW)));
    assert_eq!(
        *events.lock().unwrap(),
        ["endpoint_ejected", "call_finished"]
    );
}

#[cfg(feature = "chaos")]
#[test]
fn chaos_inside_endpoints_can_make_one_node_fail() {
    let clock = ManualClock::new();
    let endpoints = endpoints(&clock);
    let chaos = backstop::Chaos::builder()
        .error(1.0, || Down)
        .max_share(1.0)
        .clock(clock.clone());
    let chaos = chaos.build().unwrap();
    let stack = (retry(&clock), endpoints.clone());
    let broken = &chaos;
    for _ in 0..50 {
        let each = endpoints.each(|node| async move {
            match *node {
                1 => broken.call(|| async { Ok(1) }).await.map_err(|_| Down),
                node => Ok(node),
            }
        });
        assert_ne!(clock.block_on(stack.call_with(each)), Ok(1));
    }
    let nodes = endpoints.snapshot().nodes;
    assert_eq!(nodes[0].failures, chaos.snapshot().error);
    assert!(nodes[0].failures >= 1 && nodes[1].failures + nodes[2].failures == 0);
}
