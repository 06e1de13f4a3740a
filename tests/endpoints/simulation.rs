//! Whole systems: what callers see while nodes fail, slow down, and restart.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use backstop::endpoints::Endpoint;
use backstop::{Backoff, Clock, Endpoints, Instant, ManualClock, Policy, Retry, Timeout};

use crate::{Counts, SECOND, builder, ms, name, simulate};

fn percentile(latencies: &RefCell<Vec<Duration>>, share: f64) -> Duration {
    let mut latencies = latencies.borrow_mut();
    latencies.sort();
    latencies[((latencies.len() - 1) as f64 * share) as usize]
}

/// Calls ten nodes that take 20 ms each, of which one fails after 1 ms from `from` on. Returns
/// that node's share of the calls in the next second.
fn share_of_the_one_that_fails(
    endpoints: &Endpoints<usize>,
    clock: &ManualClock,
    from: Duration,
) -> f64 {
    let counts = Counts::default();
    let start = clock.sleep(from);
    let broken = Cell::new(false);
    let calls = async {
        start.await;
        broken.set(true);
    };
    let (counts, broken, handle) = (&counts, &broken, clock.clone());
    let mut calls: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = vec![Box::pin(calls)];
    let all = (from + SECOND).as_millis() as u32;
    for number in 0..all {
        let clock = &handle;
        calls.push(Box::pin(async move {
            // After the timer that breaks the node, if both are due.
            clock.sleep(ms(1) * number + Duration::from_micros(1)).await;
            let _ = endpoints
                .call(|node| async move {
                    let fails = broken.get() && *node == 0;
                    if broken.get() {
                        counts.add(*node);
                    }
                    clock.sleep(if fails { ms(1) } else { ms(20) }).await;
                    if fails { Err("down") } else { Ok(()) }
                })
                .await;
        }));
    }
    clock.block_on(futures::future::join_all(calls));
    counts.share(0)
}

#[test]
fn a_node_that_fails_fast_gets_hardly_any_calls() {
    for from in [Duration::ZERO, 5 * SECOND] {
        let clock = ManualClock::new();
        let endpoints = builder(&clock, 10).build().unwrap();
        let share = share_of_the_one_that_fails(&endpoints, &clock, from);
        assert!(share <= 0.02, "{share} with ejection, from {from:?} on");

        // Its latency alone keeps calls away too.
        let clock = ManualClock::new();
        let endpoints = builder(&clock, 10).eject_after(0).build().unwrap();
        let share = share_of_the_one_that_fails(&endpoints, &clock, from);
        assert!(share <= 0.02, "{share} without ejection, from {from:?} on");

        // Neither: it looks like the fastest one.
        let clock = ManualClock::new();
        let endpoints = builder(&clock, 10)
            .eject_after(0)
            .failure_penalty(Duration::ZERO);
        let share = share_of_the_one_that_fails(&endpoints.build().unwrap(), &clock, from);
        assert!(
            share > 0.1,
            "{share} without penalty and ejection, from {from:?} on"
        );
    }
}

/// The 99th percentile of calls to four nodes that take 10 ms, of which two take 200 ms.
fn p99_with_two_slow_nodes(choices: usize) -> Duration {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 4).choices(choices).build().unwrap();
    let latencies = RefCell::new(Vec::new());
    let (handle, endpoints, seen) = (&clock, &endpoints, &latencies);
    simulate(&clock, 200, 60 * SECOND, |_| async move {
        let begun = handle.now();
        let result = endpoints.call(|node| async move {
            handle.sleep(if *node < 2 { ms(200) } else { ms(10) }).await;
            Ok::<_, ()>(())
        });
        result.await.unwrap();
        let took = handle.now().saturating_duration_since(begun);
        seen.borrow_mut().push(took);
    });
    percentile(&latencies, 0.99)
}

#[test]
fn three_choices_avoid_two_slow_nodes_of_four() {
    assert!(p99_with_two_slow_nodes(3) <= ms(15));
    // One pair of six is slow.
    assert!(p99_with_two_slow_nodes(2) >= ms(200));
}

#[test]
fn a_rolling_restart_fails_no_idempotent_call() {
    for is_graceful in [false, true] {
        let clock = ManualClock::new();
        let endpoints = builder(&clock, 10).build().unwrap();
        let handle = clock.clone();
        let timeout = Timeout::builder().after(SECOND).clock(clock.clone());
        let retry = Retry::builder()
            .backoff(Backoff::exponential(ms(10)))
            .seed(1);
        let stack = (
            retry.clock(clock.clone()).build().unwrap(),
            endpoints.clone(),
            timeout.build().unwrap(),
        );
        // Each node is down for 3 s, one after the other, with a second in between.
        let is_down = |node: usize, clock: &ManualClock| {
            let now = clock.now().as_nanos() / 1_000_000;
            let start = 1000 + 4000 * node as u64;
            (start..start + 3000).contains(&now)
        };
        let (failed, attempts) = (Cell::new(0), Cell::new(0));
        let (stack, endpoints, failed, attempts) = (&stack, &endpoints, &failed, &attempts);
        let restarts = async {
            for node in 0..10 {
                handle.sleep(SECOND - ms(50)).await;
                if is_graceful {
                    // Calls in flight end within the time that the node has left.
                    endpoints.drain(&name(node)).unwrap().await;
                }
                let start = Instant::ORIGIN + ms(4000 * (node as u64 + 1));
                handle.sleep_until(start).await;
                if is_graceful {
                    endpoints.resume(&name(node));
                }
            }
        };
        let mut all: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = vec![Box::pin(restarts)];
        let clock = &handle;
        for number in 0..42_u32 * 500 {
            all.push(Box::pin(async move {
                clock.sleep(SECOND * number / 500).await;
                let call = stack.call_with(endpoints.each(|node| async move {
                    attempts.set(attempts.get() + 1);
                    if !is_down(*node, clock) {
                        clock.sleep(ms(20)).await;
                    }
                    // No connection, or one that was cut off.
                    match is_down(*node, clock) {
                        true => Err("connection reset"),
                        false => Ok(()),
                    }
                }));
                failed.set(failed.get() + i32::from(call.await.is_err()));
            }));
        }
        clock.block_on(futures::future::join_all(all));
        assert_eq!(failed.get(), 0);
        let extra = attempts.get() - 42 * 500;
        match is_graceful {
            true => assert_eq!(extra, 0, "a drained node gets no calls"),
            // Each failure makes the node less attractive: of the 150 calls a node would have got, 50.
            false => assert!((10..600).contains(&extra), "{extra} of 21 000"),
        }
    }
}

#[test]
fn calls_spill_over_to_the_next_priority_in_proportion() {
    let clock = ManualClock::new();
    let nodes = (0..20).map(|node| Endpoint::new(name(node), node).priority(node as u32 / 10));
    let endpoints = Endpoints::builder()
        .nodes(nodes)
        .seed(1)
        .clock(clock.clone());
    let endpoints = endpoints.build().unwrap();
    for (drained, percent) in [(0, 100), (2, 100), (5, 100)] {
        // Drained nodes do not count: those that are left are all of their priority.
        (0..drained).for_each(|node| drop(endpoints.drain(&name(node))));
        assert_eq!(endpoints.snapshot().priorities[0].percent, percent);
    }
    (0..5).for_each(|node| assert!(endpoints.resume(&name(node))));
    let park = backstop::Verdict::throttled(100 * SECOND);
    let mut parked = 0;
    while parked < 5 {
        // Half of the preferred nodes ask to come back later.
        let permit = endpoints.try_acquire().unwrap();
        if permit.node().priority() == 0 {
            permit.record(park);
            parked += 1;
        }
    }
    assert_eq!(endpoints.snapshot().priorities[0].percent, 70);
    let picks = crate::picks(&endpoints, 10_000);
    let preferred: u32 = picks
        .iter()
        .filter(|(node, _)| **node < 10)
        .map(|(_, count)| count)
        .sum();
    assert!((6_800..7_200).contains(&preferred), "{preferred}");
}
