//! Attempts of one call: each goes to another node.

use std::cell::RefCell;
use std::collections::HashSet;

use backstop::{
    Backoff, BoxPolicy, CallOptions, Endpoints, Hedge, ManualClock, Pipeline, Policy, Reason, Retry,
};

use crate::{builder, ms, name};

fn retry(clock: &ManualClock, attempts: u32) -> Retry {
    let retry = Retry::builder()
        .max_attempts(attempts)
        .backoff(Backoff::NONE);
    retry.clock(clock.clone()).build().unwrap()
}

#[test]
fn a_retry_goes_to_each_node_once_before_it_repeats_one() {
    let clock = ManualClock::new();
    for nodes in [1, 2, 3, 7, 64, 65, 200] {
        let endpoints = builder(&clock, nodes).eject_after(0).build().unwrap();
        let attempts = nodes.min(16) as u32 + 1;
        let stack = (retry(&clock, attempts), endpoints.clone());
        for _ in 0..20 {
            let seen = RefCell::new(Vec::new());
            let seen = &seen;
            let call = stack.call_with(endpoints.each(|node| async move {
                seen.borrow_mut().push(*node);
                Err::<(), _>("down")
            }));
            assert!(clock.block_on(call).is_err());
            let seen = seen.borrow();
            assert_eq!(seen.len(), attempts as usize);
            let fresh = nodes.min(seen.len());
            let distinct: HashSet<_> = seen[..fresh].iter().collect();
            assert_eq!(distinct.len(), fresh, "{nodes} nodes: {seen:?}");
        }
    }
}

#[test]
fn an_attempt_goes_to_another_priority_before_it_repeats_a_node() {
    let clock = ManualClock::new();
    let nodes = [("near", 0), ("far", 1), ("farther", 2)];
    let nodes = nodes
        .map(|(name, priority)| backstop::endpoints::Endpoint::new(name, name).priority(priority));
    let endpoints = Endpoints::builder()
        .nodes(nodes)
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (retry(&clock, 4), endpoints.clone());
    let seen = RefCell::new(Vec::new());
    let seen = &seen;
    let call = stack.call_with(endpoints.each(|node| async move {
        seen.borrow_mut().push(*node);
        Err::<(), _>("down")
    }));
    assert!(clock.block_on(call).is_err());
    assert_eq!(*seen.borrow(), ["near", "far", "farther", "near"]);
}

#[test]
fn the_copies_of_a_hedge_go_to_different_nodes() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 4).eject_after(0).build().unwrap();
    let hedge = Hedge::builder()
        .after(ms(10))
        .max_hedges(2)
        .clock(clock.clone());
    let stack = (retry(&clock, 1), hedge.build().unwrap(), endpoints.clone());
    for _ in 0..50 {
        let seen = RefCell::new(Vec::new());
        let (seen, clock) = (&seen, &clock);
        let call = stack.call_with(endpoints.each(|node| async move {
            seen.borrow_mut().push(*node);
            // Slow but for the last copy.
            let millis = if seen.borrow().len() == 3 { 1 } else { 1000 };
            clock.sleep(ms(millis)).await;
            Ok::<_, ()>(*node)
        }));
        let answer = clock.block_on(call).unwrap();
        let seen = seen.borrow();
        assert_eq!((seen.len(), seen[2]), (3, answer));
        let distinct: HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), 3, "{seen:?}");
    }
    let in_flight = endpoints
        .snapshot()
        .nodes
        .iter()
        .map(|node| node.in_flight)
        .sum::<u32>();
    assert_eq!(in_flight, 0, "copies that lost are dropped");
}

#[test]
fn every_way_to_call_spreads_its_attempts() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).eject_after(0).build().unwrap();
    let stack = (retry(&clock, 2), endpoints.clone());
    let seen = RefCell::new(Vec::new());
    let check = |way: &str| {
        let seen = seen.take();
        assert_eq!(seen.len(), 2, "{way}");
        assert_ne!(seen[0], seen[1], "{way}");
    };
    let visit = |node: usize| {
        seen.borrow_mut().push(node);
        async { Err::<(), _>("down") }
    };
    let each = || endpoints.each(|node| visit(*node));
    for _ in 0..20 {
        let _ = clock.block_on(stack.call_with(each()));
        check("call_with");
        let pipeline = Pipeline::new(&stack).observer(|_: &backstop::Event| {});
        let _ = clock.block_on(pipeline.call_with(each()));
        check("an observed pipeline");
        let _ = clock.block_on(pipeline.with(CallOptions::new()).call_with(each()));
        check("options");
        let _ = clock.block_on(endpoints.sticky("key").call_with(each()));
        assert_eq!(seen.take().len(), 1);
        let sticky = (retry(&clock, 2), endpoints.sticky("key"));
        let _ = clock.block_on(sticky.call_with(each()));
        check("sticky");
    }
    // Operations without a node are spread too: the failures go to both.
    let before = endpoints.snapshot();
    for _ in 0..10 {
        let report = clock.block_on(stack.call_reported(|| async { Err::<(), _>("down") }));
        assert_eq!(report.attempts, 2);
    }
    let after = endpoints.snapshot();
    let failures = |at: usize| after.nodes[at].failures - before.nodes[at].failures;
    assert_eq!([failures(0), failures(1)], [10, 10]);
}

#[test]
fn a_boxed_policy_spreads_its_attempts() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).eject_after(0).build().unwrap();
    let boxed = BoxPolicy::<(), usize>::new((retry(&clock, 2), endpoints.clone()));
    for _ in 0..20 {
        let seen = std::sync::Mutex::new(Vec::new());
        let call = boxed.call_with(endpoints.each(|node| {
            seen.lock().unwrap().push(*node);
            async move { Err(*node) }
        }));
        assert!(clock.block_on(call).is_err());
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 2);
        assert_ne!(seen[0], seen[1]);
    }
}

#[test]
fn calls_of_a_key_go_to_one_node_while_it_is_available() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 10).build().unwrap();
    let node_of = |user: u32| {
        let call = endpoints.sticky(&user);
        clock.block_on(async {
            let each = endpoints.each(|node| async move { Ok::<_, ()>(*node) });
            call.call_with(each).await.unwrap()
        })
    };
    let before: Vec<usize> = (0..200).map(node_of).collect();
    assert!((0..10).all(|node| before.contains(&node)));
    assert_eq!(before, (0..200).map(node_of).collect::<Vec<_>>());
    drop(endpoints.drain(&name(4)));
    for (user, node) in before.iter().enumerate() {
        match node {
            4 => assert_ne!(node_of(user as u32), 4),
            node => assert_eq!(node_of(user as u32), *node),
        }
    }
    endpoints.resume(&name(4));
    assert_eq!(before, (0..200).map(node_of).collect::<Vec<_>>());
}

#[test]
fn a_node_is_found_only_through_its_own_set() {
    let clock = ManualClock::new();
    let (ours, other) = (
        builder(&clock, 2).build().unwrap(),
        builder(&clock, 2).build().unwrap(),
    );
    let call = ours.call_with(|attempt| {
        let found = (
            ours.node(&attempt).is_some(),
            other.node(&attempt).is_some(),
        );
        async move { Ok::<_, ()>(found) }
    });
    assert_eq!(clock.block_on(call), Ok((true, false)));
    let without = retry(&clock, 1);
    let call = without.call_with(|attempt| {
        let found = ours.node(&attempt).is_some();
        async move { Ok::<_, ()>(found) }
    });
    assert_eq!(clock.block_on(call), Ok(false));
}

#[test]
#[should_panic(expected = "the stack of this call does not contain `endpoints`")]
fn an_operation_for_each_node_needs_the_set_in_its_stack() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).build().unwrap();
    let call = retry(&clock, 1);
    let _ = clock.block_on(call.call_with(endpoints.each(|_| async { Ok::<_, ()>(()) })));
}

#[test]
fn an_operation_that_runs_once_gets_a_node() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 2).build().unwrap();
    let body = vec![1, 2, 3];
    assert_eq!(
        clock.block_on(endpoints.call_once(|| async move { Ok::<_, ()>(body) })),
        Ok(vec![1, 2, 3])
    );
    let empty = Endpoints::<()>::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let error = clock
        .block_on(empty.call(|_| async { Ok::<_, ()>(()) }))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NoEndpoint));
}

#[test]
fn nodes_of_a_large_set_are_told_apart() {
    // Whatever the two nodes are that take calls: the second attempt goes to the other one.
    let clock = ManualClock::new();
    for other in [1, 63, 64, 128, 129] {
        let endpoints = builder(&clock, 130).eject_after(0).build().unwrap();
        let left = [0, other].map(|node| backstop::endpoints::Endpoint::new(name(node), node));
        endpoints.update(left).unwrap();
        let stack = (retry(&clock, 2), endpoints.clone());
        for _ in 0..20 {
            let seen = RefCell::new(Vec::new());
            let seen = &seen;
            let call = stack.call_with(endpoints.each(|node| async move {
                seen.borrow_mut().push(*node);
                Err::<(), _>("down")
            }));
            assert!(clock.block_on(call).is_err());
            let seen = seen.borrow();
            assert_ne!(seen[0], seen[1], "node 0 and node {other}");
        }
    }
}

#[test]
fn a_probe_takes_no_call_of_a_key_from_its_node() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 10).build().unwrap();
    let sticky = |user: u32, is_good: bool| {
        let call = endpoints.sticky(&user);
        let each =
            endpoints.each(|node| async move { if is_good { Ok(*node) } else { Err(*node) } });
        match clock.block_on(call.call_with(each)) {
            Ok(node) => node,
            Err(error) => error.into_operation().unwrap(),
        }
    };
    let before: Vec<usize> = (0..200).map(|user| sticky(user, true)).collect();
    let of_node_3 = before.iter().position(|node| *node == 3).unwrap() as u32;
    for _ in 0..5 {
        sticky(of_node_3, false);
    }
    let state = || crate::state(&endpoints, 3);
    assert_eq!(state(), backstop::endpoints::NodeState::Ejected);
    clock.advance(std::time::Duration::from_secs(30));
    for (user, node) in before.iter().enumerate().filter(|(_, node)| **node != 3) {
        assert_eq!(sticky(user as u32, true), *node);
    }
    assert_eq!(state(), backstop::endpoints::NodeState::Returning);
    assert_eq!(
        sticky(of_node_3, true),
        3,
        "the probe is a call of a key of the node"
    );
    assert_eq!(state(), backstop::endpoints::NodeState::Starting);
}
