//! Observers, values, and wakers that call back or panic.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};

use backstop::endpoints::{Endpoint, NodeState};
use backstop::{Endpoints, Event, ManualClock};

use crate::watchdog::within_a_minute;
use crate::{SECOND, fail, name, rotating, state};

#[test]
fn an_observer_may_use_the_set_that_reports_to_it() {
    within_a_minute(|| {
        static SET: OnceLock<Endpoints<usize>> = OnceLock::new();
        let clock = ManualClock::new();
        let observer = |event: &Event| {
            let set = SET.get().expect("it is built");
            assert!(!set.snapshot().nodes.is_empty(), "{event}");
            drop(set.try_acquire());
            drop(set.drain(&name(9)));
        };
        let set = SET.get_or_init(|| rotating(&clock, 10).observer(observer).build().unwrap());
        fail(set, 3, 5);
        assert_eq!(state(set, 3), NodeState::Ejected);
        assert_eq!(state(set, 9), NodeState::Draining);
    });
}

#[test]
fn an_observer_that_panics_costs_no_call_and_no_change() {
    let clock = ManualClock::new();
    let observer = |_: &Event| panic!("on purpose");
    let endpoints = rotating(&clock, 10).observer(observer).build().unwrap();
    fail(&endpoints, 3, 4);
    assert!(catch_unwind(AssertUnwindSafe(|| fail(&endpoints, 3, 1))).is_err());
    assert_eq!(state(&endpoints, 3), NodeState::Ejected);
    assert!(
        endpoints
            .snapshot()
            .nodes
            .iter()
            .all(|node| node.in_flight == 0)
    );
    clock.advance(30 * SECOND);
    let probe = endpoints.try_acquire().unwrap();
    assert_eq!(**probe.node(), 3);
    assert!(catch_unwind(AssertUnwindSafe(|| probe.success())).is_err());
    assert_eq!(state(&endpoints, 3), NodeState::Starting);
}

#[test]
fn values_that_use_the_set_when_they_are_dropped_do_not_deadlock() {
    within_a_minute(|| {
        struct Value(Arc<OnceLock<Endpoints<Self>>>);
        impl Drop for Value {
            fn drop(&mut self) {
                if let Some(set) = self.0.get() {
                    assert!(set.snapshot().nodes.len() < 10);
                    drop(set.try_acquire());
                    drop(set.update([]));
                }
            }
        }
        let set = Arc::new(OnceLock::new());
        let nodes = || ["a", "b"].map(|name| Endpoint::new(name, Value(set.clone())));
        let endpoints = Endpoints::builder()
            .nodes(nodes())
            .clock(ManualClock::new())
            .build()
            .unwrap();
        assert!(set.set(endpoints.clone()).is_ok());
        endpoints.update(nodes()).unwrap();
        let permit = endpoints.try_acquire();
        drop(permit);
        endpoints.update([]).unwrap();
        assert_eq!(endpoints.snapshot().nodes.len(), 0);
    });
}

#[test]
fn an_observer_that_panics_about_an_ejection_does_not_prevent_the_park() {
    let clock = ManualClock::new();
    let observer = |event: &Event| assert_ne!(event.kind(), "endpoint_ejected");
    let endpoints = rotating(&clock, 10).observer(observer).build().unwrap();
    fail(&endpoints, 3, 4);
    let permit = std::iter::repeat_with(|| endpoints.try_acquire().unwrap())
        .find(|permit| **permit.node() == 3)
        .unwrap();
    let hint = backstop::Verdict::throttled(100 * SECOND);
    assert!(catch_unwind(AssertUnwindSafe(|| permit.record(hint))).is_err());
    let node = crate::of(&endpoints.snapshot(), 3);
    assert_eq!(
        (node.state, node.retry_after),
        (NodeState::Ejected, Some(100 * SECOND))
    );
}

#[test]
fn a_value_that_panics_when_it_is_dropped_costs_no_event_and_no_change() {
    struct Value(bool);
    impl Drop for Value {
        fn drop(&mut self) {
            assert!(!self.0, "on purpose");
        }
    }
    let clock = ManualClock::new();
    let heard = crate::Heard::default();
    let node = |name: &'static str, panics| Endpoint::new(name, Value(panics)).priority(1);
    let endpoints = Endpoints::builder()
        .nodes([node("a", true), node("b", false)])
        .observer(heard.observer())
        .clock(clock)
        .build()
        .unwrap();
    let permit = endpoints.try_acquire().unwrap();
    permit.record(backstop::Verdict::throttled(SECOND));
    let permit = endpoints.try_acquire().unwrap();
    permit.record(backstop::Verdict::throttled(SECOND));
    heard.take();
    let update = || endpoints.update([node("c", false)]);
    assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
    assert_eq!(
        heard.take(),
        ["endpoints: enough endpoints of priority 1 again"]
    );
    assert_eq!(endpoints.try_acquire().unwrap().node().name(), "c");
}

/// Drains node 0, on which a call is in flight, and ends a panic of the routes by `change`, about which the observer
/// panics. Returns how often the drain was woken.
fn wakes_of_a_drain(change: impl FnOnce(&Endpoints<usize>)) -> u32 {
    struct Woken(AtomicU32);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let clock = ManualClock::new();
    let observer = |event: &Event| assert!(!event.to_string().ends_with("again"), "on purpose");
    let endpoints = rotating(&clock, 2).observer(observer).build().unwrap();
    let mut permits = [0, 1].map(|_| endpoints.try_acquire().unwrap());
    permits.sort_by_key(|permit| **permit.node());
    let [_in_flight, other] = permits;
    let mut drain = Box::pin(endpoints.drain(&name(0)).unwrap());
    other.record(backstop::Verdict::throttled(60 * SECOND));
    let woken = Arc::new(Woken(AtomicU32::new(0)));
    let waker = Waker::from(woken.clone());
    let poll = drain.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll.is_pending());
    let caught = catch_unwind(AssertUnwindSafe(|| change(&endpoints)));
    assert!(caught.is_err(), "the observer has panicked");
    woken.0.load(Ordering::Relaxed)
}

#[test]
fn an_observer_that_panics_about_a_resumed_node_does_not_lose_the_wake_up_of_its_drain() {
    let resume = |endpoints: &Endpoints<usize>| assert!(endpoints.resume(&name(0)));
    assert_eq!(wakes_of_a_drain(resume), 1);
}

#[test]
fn an_observer_that_panics_about_a_node_that_comes_back_does_not_lose_the_wake_up_of_its_drain() {
    let node = |node: usize| Endpoint::new(name(node), node);
    let remove_and_add = |endpoints: &Endpoints<usize>| {
        endpoints.update([node(1)]).unwrap();
        endpoints.update([node(0), node(1)]).unwrap();
    };
    assert_eq!(wakes_of_a_drain(remove_and_add), 1);
}
