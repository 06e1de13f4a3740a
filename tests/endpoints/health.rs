//! Ejections, parks, panics, and slow starts.

use std::sync::OnceLock;
use std::time::Duration;

use backstop::endpoints::{Endpoint, NodeState};
use backstop::{Endpoints, ManualClock, Reason, Verdict};

use crate::{Heard, SECOND, call, fail, ms, name, of, picks, rotating, state};

#[test]
fn a_node_is_ejected_probed_and_starts_slowly() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 10)
        .observer(heard.observer())
        .build()
        .unwrap();
    fail(&endpoints, 3, 4);
    assert_eq!(state(&endpoints, 3), NodeState::Available);
    fail(&endpoints, 3, 1);
    assert_eq!(state(&endpoints, 3), NodeState::Ejected);
    let cause = "5 failures in a row";
    assert_eq!(
        heard.take(),
        [format!(
            "endpoints: ejected node-3 for 30s (ejection 1): {cause}"
        )]
    );
    assert!(!picks(&endpoints, 1000).contains_key(&3));
    assert_eq!(of(&endpoints.snapshot(), 3).retry_after, Some(30 * SECOND));

    // One call is the probe. Until it has ended, no other call goes there.
    clock.advance(30 * SECOND);
    let probe = endpoints.try_acquire().unwrap();
    assert_eq!(**probe.node(), 3);
    assert_eq!(state(&endpoints, 3), NodeState::Returning);
    assert!(!picks(&endpoints, 1000).contains_key(&3));
    probe.success();
    assert_eq!(heard.take(), ["endpoints: node-3 takes calls again"]);
    assert_eq!(state(&endpoints, 3), NodeState::Starting);

    // A tenth at first, then its share.
    let early = picks(&endpoints, 10_000)[&3];
    assert!((50..150).contains(&early), "{early}");
    clock.advance(15 * SECOND);
    let half = picks(&endpoints, 10_000)[&3];
    assert!((400..650).contains(&half), "{half}");
    clock.advance(15 * SECOND);
    let full = picks(&endpoints, 10_000)[&3];
    assert!((800..1_200).contains(&full), "{full}");
    assert_eq!(state(&endpoints, 3), NodeState::Available);
}

#[test]
fn a_probe_that_fails_lengthens_the_ejection_and_one_that_is_cancelled_does_not() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).build().unwrap();
    fail(&endpoints, 3, 5);
    clock.advance(30 * SECOND);
    for _ in 0..3 {
        let probe = endpoints.try_acquire().unwrap();
        assert_eq!(**probe.node(), 3, "the next call is the probe");
        drop(probe);
    }
    endpoints.try_acquire().unwrap().failure();
    let snapshot = of(&endpoints.snapshot(), 3);
    assert_eq!(snapshot.state, NodeState::Ejected);
    assert_eq!(
        (snapshot.retry_after, snapshot.ejections),
        (Some(60 * SECOND), 2)
    );
}

#[test]
fn a_probe_that_hangs_is_replaced_after_a_while() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).build().unwrap();
    fail(&endpoints, 3, 5);
    clock.advance(30 * SECOND);
    let hanging = endpoints.try_acquire().unwrap();
    clock.advance(30 * SECOND - ms(1));
    assert_ne!(**endpoints.try_acquire().unwrap().node(), 3);
    clock.advance(ms(1));
    let second = endpoints.try_acquire().unwrap();
    assert_eq!(**second.node(), 3);
    second.success();
    // The late failure of the first one belongs to an earlier epoch.
    hanging.failure();
    assert_eq!(state(&endpoints, 3), NodeState::Starting);
}

#[test]
fn a_sole_node_is_never_ejected() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 1)
        .observer(heard.observer())
        .build()
        .unwrap();
    for _ in 0..1000 {
        let result = clock.block_on(endpoints.call(|_| async { Err::<(), _>("down") }));
        assert_eq!(
            result.unwrap_err().into_operation(),
            Some("down"),
            "the error passes"
        );
        clock.advance(ms(50));
    }
    assert_eq!(state(&endpoints, 0), NodeState::Available);
    let events = heard.take();
    let line = "endpoints: did not eject node-0 (last available): 5 failures in a row";
    assert!(
        events.iter().filter(|event| *event == line).count() >= 200 - 4,
        "{}",
        events.len()
    );
    assert!(
        !events
            .iter()
            .any(|event| event.contains("ejected node-0 for"))
    );
}

#[test]
fn of_two_nodes_that_fail_one_is_ejected() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2).build().unwrap();
    (0..1000).for_each(|_| call(&clock, &endpoints, false));
    let states = [0, 1].map(|node| state(&endpoints, node));
    assert_eq!(
        states
            .iter()
            .filter(|state| **state == NodeState::Ejected)
            .count(),
        1
    );
}

#[test]
fn a_late_failure_does_not_eject_a_node_that_has_returned() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2).build().unwrap();
    // Ten calls in flight on each.
    let mut held: Vec<_> = (0..20).map(|_| endpoints.try_acquire().unwrap()).collect();
    let late: Vec<_> = held.extract(|permit| **permit.node() == 0);
    assert!(late.len() >= 9, "{}", late.len());
    fail(&endpoints, 0, 5);
    clock.advance(30 * SECOND);
    endpoints.try_acquire().unwrap().success();
    assert_eq!(state(&endpoints, 0), NodeState::Starting);
    late.into_iter()
        .for_each(backstop::endpoints::Permit::failure);
    assert_eq!(state(&endpoints, 0), NodeState::Starting);
}

/// `Vec::extract_if` of newer releases.
trait Extract<T> {
    fn extract(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<T>;
}

impl<T> Extract<T> for Vec<T> {
    fn extract(&mut self, is_wanted: impl Fn(&T) -> bool) -> Self {
        let (wanted, others) = std::mem::take(self).into_iter().partition(is_wanted);
        *self = others;
        wanted
    }
}

#[test]
fn a_hint_parks_only_its_node() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 3)
        .observer(heard.observer())
        .build()
        .unwrap();
    let permit = endpoints.try_acquire().unwrap();
    let node = **permit.node();
    permit.record(Verdict::throttled(20 * SECOND));
    assert_eq!(state(&endpoints, node), NodeState::Parked);
    assert_eq!(
        heard.take(),
        [format!("endpoints: parked {} for 20s", name(node))]
    );
    assert!(!picks(&endpoints, 100).contains_key(&node));
    clock.advance(20 * SECOND);
    assert_eq!(state(&endpoints, node), NodeState::Available);
    assert!(picks(&endpoints, 100).contains_key(&node));
}

#[test]
fn hints_are_cut_to_the_longest_and_neutral_ones_are_ignored() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 1).max_hint(7 * SECOND).build().unwrap();
    let neutral = Verdict::throttled(SECOND).with_health(backstop::Health::Neutral);
    endpoints.try_acquire().unwrap().record(neutral);
    assert_eq!(state(&endpoints, 0), NodeState::Available);
    endpoints
        .try_acquire()
        .unwrap()
        .record(Verdict::throttled(Duration::MAX));
    assert_eq!(of(&endpoints.snapshot(), 0).retry_after, Some(7 * SECOND));
    let without = rotating(&clock, 1)
        .max_hint(Duration::ZERO)
        .build()
        .unwrap();
    without
        .try_acquire()
        .unwrap()
        .record(Verdict::throttled(SECOND));
    assert_eq!(state(&without, 0), NodeState::Available);
}

/// Parks so many nodes.
fn park(endpoints: &Endpoints<usize>, nodes: usize) {
    let permits: Vec<_> = (0..10_000)
        .map(|_| endpoints.try_acquire().unwrap())
        .collect();
    for permit in permits {
        let hint = match **permit.node() < nodes {
            true => Verdict::throttled(20 * SECOND),
            false => Verdict::success(),
        };
        permit.record(hint);
    }
}

#[test]
fn calls_go_to_all_nodes_when_too_few_are_available() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 10)
        .eject_after(0)
        .eject_failure_share(0.0, 0)
        .eject_below_mean(0.0, 0, 0)
        .observer(heard.observer());
    let endpoints = endpoints.build().unwrap();
    park(&endpoints, 5);
    assert_eq!(
        picks(&endpoints, 1000).len(),
        5,
        "half of them: no panic yet"
    );
    heard.take();
    park(&endpoints, 6);
    let started = "endpoints: too few endpoints of priority 0, calls go to all";
    assert_eq!(heard.take(), ["endpoints: parked node-5 for 20s", started]);
    assert!(endpoints.snapshot().priorities[0].panics);
    let permits: Vec<_> = (0..1000)
        .map(|_| endpoints.try_acquire().unwrap())
        .collect();
    assert!(permits.iter().any(|permit| **permit.node() < 6));
    drop(permits);
    clock.advance(20 * SECOND);
    drop(endpoints.try_acquire());
    assert_eq!(
        heard.take(),
        ["endpoints: enough endpoints of priority 0 again"]
    );
}

#[test]
fn without_a_panic_threshold_rejections_state_when_to_retry() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2)
        .panic_threshold(0.0)
        .eject_after(0)
        .build()
        .unwrap();
    let permits = [1, 2].map(|_| endpoints.try_acquire().unwrap());
    let hints = [20, 10].map(|seconds| Verdict::throttled(seconds * SECOND));
    for (permit, hint) in permits.into_iter().zip(hints) {
        permit.record(hint);
    }
    let rejected = endpoints.try_acquire().unwrap_err();
    assert_eq!(rejected.reason(), Reason::NoEndpoint);
    let expected = match endpoints
        .snapshot()
        .nodes
        .iter()
        .filter(|n| n.state == NodeState::Parked)
        .count()
    {
        2 => 10 * SECOND,
        _ => 20 * SECOND,
    };
    assert_eq!(rejected.retry_after(), Some(expected));
    assert_eq!(endpoints.snapshot().rejected, 1);
    clock.advance(expected);
    assert!(endpoints.try_acquire().is_ok());
}

#[test]
fn an_empty_set_rejects_and_says_so() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 0)
        .observer(heard.observer())
        .build()
        .unwrap();
    let error = clock
        .block_on(endpoints.call(|_| async { Ok::<_, &str>(()) }))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "rejected by endpoints: no endpoint available"
    );
    assert_eq!(
        heard.take(),
        ["endpoints: rejected a call: no endpoint available"]
    );
    endpoints.update([Endpoint::new(name(0), 0)]).unwrap();
    assert!(endpoints.try_acquire().is_ok());
}

#[test]
fn shadow_mode_reports_and_ejects_no_node() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 10)
        .shadow(true)
        .observer(heard.observer())
        .build()
        .unwrap();
    fail(&endpoints, 3, 5);
    assert_eq!(state(&endpoints, 3), NodeState::Available);
    assert_eq!(
        heard.take(),
        ["endpoints: did not eject node-3 (shadow): 5 failures in a row"]
    );
}

#[test]
fn events_are_numbered_in_the_order_of_the_changes() {
    let clock = ManualClock::new();
    let numbers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = numbers.clone();
    let observer = move |event: &backstop::Event| log.lock().unwrap().push(event.sequence());
    let endpoints = rotating(&clock, 10).observer(observer).build().unwrap();
    fail(&endpoints, 3, 5);
    fail(&endpoints, 4, 5);
    drop(endpoints.drain(&name(5)));
    clock.advance(30 * SECOND);
    endpoints.try_acquire().unwrap().success();
    assert_eq!(*numbers.lock().unwrap(), [1, 2, 3, 4].map(Some));
}

#[test]
fn as_many_nodes_are_ejected_as_the_largest_share_says() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).max_ejected(0.3).build().unwrap();
    (0..5).for_each(|node| fail(&endpoints, node, 5));
    let ejected = (0..5).filter(|node| state(&endpoints, *node) == NodeState::Ejected);
    assert_eq!(ejected.count(), 3);
}

#[test]
fn a_change_is_numbered_when_it_is_made_not_when_it_is_reported() {
    static SET: OnceLock<Endpoints<usize>> = OnceLock::new();
    let clock = ManualClock::new();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = heard.clone();
    let observer = move |event: &backstop::Event| {
        let number = event.sequence().unwrap();
        log.lock().unwrap().push((number, event.kind()));
        if number == 1 {
            // Before the second event of the same change is reported.
            drop(SET.get().unwrap().drain(&name(9)));
        }
    };
    let builder = rotating(&clock, 10).panic_threshold(1.0);
    let builder = builder.overprovisioning(1.0).observer(observer);
    let set = SET.get_or_init(|| builder.build().unwrap());
    fail(set, 3, 5);
    let expected = [
        (1, "endpoint_ejected"),
        (3, "endpoint_draining"),
        (2, "endpoint_panic_started"),
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[test]
fn slow_start_is_skipped_when_most_nodes_are_new() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2).build().unwrap();
    let nodes = |range: std::ops::Range<usize>| range.map(|node| Endpoint::new(name(node), node));
    endpoints.update(nodes(0..3)).unwrap();
    let third = picks(&endpoints, 3000)[&2];
    assert!(third < 300, "{third} of 3000 while it is one of three");
    endpoints.update(nodes(1..6)).unwrap();
    let third = picks(&endpoints, 5000)[&2];
    assert!(
        (700..1_300).contains(&third),
        "{third} of 5000 while four of five are new"
    );
}

#[test]
fn a_replaced_probe_that_is_cancelled_admits_no_third_one() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).build().unwrap();
    fail(&endpoints, 3, 5);
    clock.advance(30 * SECOND);
    let hanging = endpoints.try_acquire().unwrap();
    clock.advance(30 * SECOND);
    let second = endpoints.try_acquire().unwrap();
    assert_eq!((**hanging.node(), **second.node()), (3, 3));
    drop(hanging);
    assert!(!picks(&endpoints, 100).contains_key(&3));
    second.success();
    assert_eq!(state(&endpoints, 3), NodeState::Starting);
}

#[test]
fn calls_that_end_after_an_ejection_are_counted_and_change_nothing_else() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 2).build().unwrap();
    let mut held: Vec<_> = (0..8).map(|_| endpoints.try_acquire().unwrap()).collect();
    let mut late = held.extract(|permit| **permit.node() == 0);
    assert_eq!(late.len(), 4);
    drop(held);
    fail(&endpoints, 0, 5);
    let before = of(&endpoints.snapshot(), 0);
    late.pop().unwrap().success();
    late.pop().unwrap().failure();
    clock.advance(30 * SECOND);
    endpoints.try_acquire().unwrap().success();
    let returned = of(&endpoints.snapshot(), 0);
    late.pop().unwrap().failure();
    late.pop().unwrap().success();
    let after = of(&endpoints.snapshot(), 0);
    assert_eq!(
        (after.calls - before.calls, after.failures - before.failures),
        (5, 2)
    );
    assert_eq!(
        after.latency, returned.latency,
        "the latency of the node as it was"
    );
}

#[test]
fn a_node_that_is_left_alone_is_not_ejected() {
    let clock = ManualClock::new();
    for is_removed in [true, false] {
        let endpoints = rotating(&clock, 2).panic_threshold(0.0).build().unwrap();
        fail(&endpoints, 0, 5);
        assert_eq!(state(&endpoints, 0), NodeState::Ejected);
        if is_removed {
            endpoints.update([Endpoint::new(name(0), 0)]).unwrap();
        } else {
            drop(endpoints.drain(&name(1)));
        }
        assert!(endpoints.try_acquire().is_ok());
        assert_ne!(state(&endpoints, 0), NodeState::Ejected);
    }
}

#[test]
fn the_calls_that_a_new_node_does_not_take_are_spread_over_all_others() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 5).build().unwrap();
    let nodes = (0..6).map(|node| Endpoint::new(name(node), node));
    endpoints.update(nodes).unwrap();
    let picks = picks(&endpoints, 6000);
    assert!(picks[&5] < 200, "{picks:?}");
    for node in 0..5 {
        assert!((1_050..1_300).contains(&picks[&node]), "{picks:?}");
    }
}

#[test]
fn one_random_choice_follows_the_weights() {
    let clock = ManualClock::new();
    let nodes = [1.0, 2.0, 5.0].into_iter().enumerate();
    let nodes = nodes.map(|(node, weight)| Endpoint::new(name(node), node).weight(weight));
    let endpoints = Endpoints::builder()
        .nodes(nodes)
        .choices(1)
        .seed(1)
        .clock(clock);
    let picks = picks(&endpoints.build().unwrap(), 8000);
    for (node, fair) in [(0, 1000), (1, 2000), (2, 5000)] {
        assert!(picks[&node].abs_diff(fair) < 150, "{picks:?}");
    }
}
