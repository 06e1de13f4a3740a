//! Clocks and observers of users that panic while a panic drops a call. A second panic that left a drop would abort the
//! process.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstop::circuit_breaker::Trip;
use backstop::endpoints::{NodeSnapshot, NodeState};
use backstop::event::State;
use backstop::store::MemoryStore;
use backstop::{
    CircuitBreaker, Clock, Endpoints, Error, Event, Hedge, Instant, ManualClock, Pipeline, Policy,
    SharedBulkhead, Sleep,
};

use crate::ms;

/// A clock and an observer that panic while they are armed.
#[derive(Clone, Debug)]
struct Failing {
    clock: ManualClock,
    armed: Arc<AtomicBool>,
}

impl Failing {
    fn new() -> Self {
        Self {
            clock: ManualClock::new(),
            armed: Arc::default(),
        }
    }

    fn check(&self) {
        assert!(!self.armed.load(Ordering::Relaxed), "a second panic");
    }

    fn observer(&self) -> impl Fn(&Event) + Send + Sync + use<> + 'static {
        let failing = self.clone();
        move |_: &Event| failing.check()
    }

    /// Panics, and lets the clock and the observer panic from now on.
    async fn panic(&self) -> Result<(), ()> {
        self.clock.sleep(ms(200)).await;
        self.armed.store(true, Ordering::Relaxed);
        panic!("the first panic")
    }

    /// Drives a call that panics. Checks that its panic is the one that goes on.
    fn drive(&self, call: impl Future<Output = Result<(), Error<()>>>) {
        let caught = catch_unwind(AssertUnwindSafe(|| self.clock.block_on(call)));
        self.armed.store(false, Ordering::Relaxed);
        let panic = caught.expect_err("the call panics");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the first panic"));
    }
}

impl Clock for Failing {
    fn now(&self) -> Instant {
        self.check();
        self.clock.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.clock.sleep_until(deadline)
    }
}

#[test]
fn a_breaker_opens_though_its_clock_and_its_observer_panic_while_the_call_unwinds() {
    let failing = Failing::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .observer(failing.observer())
        .clock(failing.clone())
        .build()
        .unwrap();
    failing.drive(breaker.call(|| failing.panic()));
    assert_eq!(breaker.state(), State::Open);
    let isolation = breaker.isolate();
    failing.drive(async {
        let _isolation = isolation;
        failing.panic().await.map_err(Error::Operation)
    });
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_node_is_ejected_though_its_clock_and_its_observer_panic_while_the_call_unwinds() {
    let failing = Failing::new();
    let endpoints = Endpoints::builder()
        .node("a", 1)
        .node("b", 2)
        .eject_after(1)
        .round_robin()
        .observer(failing.observer())
        .clock(failing.clone())
        .build()
        .unwrap();
    failing.drive(endpoints.call(|_| failing.panic()));
    let seen = endpoints.snapshot();
    let ejected = |node: &&NodeSnapshot| node.state == NodeState::Ejected;
    assert_eq!(seen.nodes.iter().filter(ejected).count(), 1, "{seen:?}");
    assert!(seen.nodes.iter().all(|node| node.in_flight == 0));
    // The health checks end with the call.
    let checks = endpoints.check_with(ms(500), |_| failing.panic());
    failing.drive(async {
        checks.await;
        Ok(())
    });
}

#[test]
fn copies_are_lost_though_the_clock_and_the_observer_panic_while_the_call_unwinds() {
    let failing = Failing::new();
    let hedge = Hedge::builder()
        .quantile(0.5)
        .min_calls(1)
        .clock(failing.clone())
        .build()
        .unwrap();
    let good = hedge.call(|| async {
        failing.clock.sleep(ms(50)).await;
        Ok::<(), ()>(())
    });
    failing.clock.block_on(good).unwrap();
    let pipeline = Pipeline::new(&hedge).observer(failing.observer());
    failing.drive(pipeline.call(|| failing.panic()));
    let seen = hedge.snapshot();
    assert_eq!((seen.launched, seen.lost, seen.in_flight), (1, 1, 0));
}

#[test]
fn permits_of_a_fleet_are_released_though_the_clock_panics_while_the_call_unwinds() {
    let failing = Failing::new();
    let bulkhead = SharedBulkhead::builder()
        .store(MemoryStore::new(failing.clock.clone()))
        .key("k")
        .max_concurrent(1)
        .clock(failing.clone())
        .build()
        .unwrap();
    failing.drive(bulkhead.call(|| failing.panic()));
    let result = failing
        .clock
        .block_on(bulkhead.call(|| async { Ok::<_, ()>(7) }));
    assert_eq!(result, Ok(7));
}
