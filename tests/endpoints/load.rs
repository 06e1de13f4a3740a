//! What calls leave behind on their nodes.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::{Clock, Endpoints, Error, ManualClock, Policy, Timeout, Verdict};
use futures::FutureExt;

use crate::{SECOND, builder, ms, of};

fn in_flight(endpoints: &Endpoints<usize>) -> u32 {
    endpoints
        .snapshot()
        .nodes
        .iter()
        .map(|node| node.in_flight)
        .sum()
}

#[test]
fn calls_in_flight_return_to_zero_however_they_end() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 3).build().unwrap();
    for _ in 0..1000 {
        let mut call = pin!(endpoints.call(|_| std::future::pending::<Result<(), ()>>()));
        assert!(
            call.as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(in_flight(&endpoints), 1);
    }
    assert_eq!(
        in_flight(&endpoints),
        0,
        "after a thousand that were cancelled"
    );
    assert_eq!(
        endpoints
            .snapshot()
            .nodes
            .iter()
            .map(|node| node.calls)
            .sum::<u64>(),
        0
    );

    let polled = async || -> Result<(), ()> { panic!("on purpose") };
    for _ in 0..10 {
        let call = endpoints.call(|_| polled());
        assert!(catch_unwind(AssertUnwindSafe(|| clock.block_on(call))).is_err());
        let starts =
            endpoints.call(|_| -> std::future::Ready<Result<(), ()>> { panic!("on purpose") });
        assert!(catch_unwind(AssertUnwindSafe(|| clock.block_on(starts))).is_err());
    }
    assert_eq!(in_flight(&endpoints), 0, "after panics");
    let failures: u64 = endpoints
        .snapshot()
        .nodes
        .iter()
        .map(|node| node.failures)
        .sum();
    assert!(failures >= 20, "panics are failures: {failures}");
}

#[test]
fn a_call_is_in_flight_until_its_operation_is_dropped() {
    struct OnDrop<'a>(&'a Endpoints<usize>, &'a Cell<u32>);
    impl Drop for OnDrop<'_> {
        fn drop(&mut self) {
            self.1.set(in_flight(self.0));
        }
    }
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 3).build().unwrap();
    let seen = Cell::new(9);
    let (set, cell) = (&endpoints, &seen);
    let call = endpoints.call(|_| async move {
        let _guard = OnDrop(set, cell);
        Ok::<_, ()>(())
    });
    clock.block_on(call).unwrap();
    assert_eq!(seen.get(), 1);
    assert_eq!(in_flight(&endpoints), 0);
}

#[test]
fn a_cancelled_call_counts_the_time_it_took_and_no_failure() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let timeout = Timeout::builder()
        .after(3 * SECOND)
        .clock(clock.clone())
        .build()
        .unwrap();
    // Outside, the timeout cancels the call.
    let outside = (timeout.clone(), endpoints.clone());
    let handle = clock.clone();
    let hang = || async {
        handle
            .sleep(Duration::from_secs(100))
            .map(Ok::<_, ()>)
            .await
    };
    assert!(clock.block_on(outside.call(hang)).unwrap_err().is_timeout());
    let node = of(&endpoints.snapshot(), 0);
    assert_eq!(
        (node.calls, node.failures, node.latency),
        (0, 0, Some(3 * SECOND))
    );
    // Inside, it is a failure, which counts at least the penalty.
    let inside = (endpoints.clone(), timeout);
    assert!(clock.block_on(inside.call(hang)).unwrap_err().is_timeout());
    let node = of(&endpoints.snapshot(), 0);
    assert_eq!((node.calls, node.failures), (1, 1));
}

#[test]
fn rejections_by_inner_layers_say_nothing_about_the_node() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 1).build().unwrap();
    let bulkhead = backstop::Bulkhead::builder()
        .max_concurrent(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (endpoints.clone(), bulkhead.clone());
    let _held = bulkhead.try_acquire().unwrap();
    for _ in 0..20 {
        let result = clock.block_on(stack.call(|| async { Ok::<_, ()>(()) }));
        assert!(matches!(result, Err(Error::Rejected(_))));
    }
    let node = of(&endpoints.snapshot(), 0);
    assert_eq!(
        (node.calls, node.failures, node.latency, node.in_flight),
        (0, 0, None, 0)
    );
}

#[test]
fn the_verdict_of_a_classifier_inside_counts() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).build().unwrap();
    let stack = (
        endpoints.clone(),
        backstop::Classify::errors(|_: &&str| Verdict::permanent()),
    );
    for _ in 0..50 {
        let call = stack.call_with(endpoints.each(|_| async { Err::<(), _>("not found") }));
        assert!(clock.block_on(call).is_err());
    }
    let snapshot = endpoints.snapshot();
    assert_eq!(
        snapshot.nodes.iter().map(|node| node.failures).sum::<u64>(),
        0
    );
    assert_eq!(
        snapshot.nodes.iter().map(|node| node.calls).sum::<u64>(),
        50
    );
}

#[test]
fn a_call_reads_the_clock_twice() {
    #[derive(Debug)]
    struct Counting(ManualClock, std::sync::atomic::AtomicU32);
    impl Clock for Counting {
        fn now(&self) -> backstop::Instant {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.now()
        }
        fn sleep_until(&self, deadline: backstop::Instant) -> backstop::Sleep {
            self.0.sleep_until(deadline)
        }
    }
    let clock = std::sync::Arc::new(Counting(ManualClock::new(), 0.into()));
    let endpoints = Endpoints::builder()
        .node("a", 1)
        .node("b", 2)
        .clock(clock.clone())
        .build()
        .unwrap();
    let read = || clock.1.swap(0, std::sync::atomic::Ordering::Relaxed);
    read();
    let call = endpoints.call(|_| async { Ok::<_, ()>(()) });
    assert_eq!(call.now_or_never(), Some(Ok(())));
    assert_eq!(read(), 2);
}

#[test]
fn round_robin_takes_turns_whatever_the_latency() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 3).round_robin().build().unwrap();
    let mut nodes = Vec::new();
    for _ in 0..9 {
        let permit = endpoints.try_acquire().unwrap();
        clock.advance(ms(100) * **permit.node() as u32);
        nodes.push(**permit.node());
        permit.success();
    }
    assert_eq!(nodes, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}
