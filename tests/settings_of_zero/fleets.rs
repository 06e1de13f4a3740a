//! What zero means to endpoints, and to limits that a fleet shares.

use backstop::circuit_votes::Follow;
use backstop::endpoints::{Endpoint, EndpointsBuilder, NodeSnapshot, NodeState};
use backstop::store::MemoryStore;
use backstop::{
    CircuitBreaker, CircuitVotes, Clock, Endpoints, Instant, ManualClock, Policy, Quota, Reason,
    SharedBulkhead, SharedKeyedRateLimiter, SharedRateLimiter, Verdict,
};
use futures::future::{join3, select};

use super::{SECOND, ZERO};

/// Ten nodes that take turns, without rules that eject them.
fn nodes(clock: &ManualClock) -> EndpointsBuilder<u8> {
    let nodes = (0..10).map(|node| Endpoint::new(format!("{node}"), node));
    let builder = Endpoints::builder().nodes(nodes).round_robin().seed(1);
    let builder = builder.eject_after(0).eject_below_mean(0.0, 0, 0);
    let builder = builder.eject_failure_share(0.0, 0).ejection_jitter(0.0);
    builder
        .max_ejected(1.0)
        .panic_threshold(0.0)
        .clock(clock.clone())
}

/// Sends each node so many calls, of which those to nodes below `bad` get a verdict. Returns the nodes afterwards.
fn send(endpoints: &Endpoints<u8>, calls: usize, bad: u8, verdict: Verdict) -> Vec<NodeSnapshot> {
    for _ in 0..10 * calls {
        let Ok(permit) = endpoints.try_acquire() else {
            break;
        };
        match **permit.node() < bad {
            true => permit.record(verdict),
            false => permit.success(),
        }
    }
    endpoints.snapshot().nodes
}

fn ejected(nodes: &[NodeSnapshot]) -> usize {
    let ejected = |node: &&NodeSnapshot| node.state == NodeState::Ejected;
    nodes.iter().filter(ejected).count()
}

pub(super) fn failures_count_as_fast_as_they_are() {
    let latency = |penalty| {
        let endpoints = nodes(&ManualClock::new()).failure_penalty(penalty);
        let endpoints = endpoints.build().unwrap();
        send(&endpoints, 1, 1, Verdict::transient())[0]
            .latency
            .unwrap()
    };
    assert!(latency(ZERO) < SECOND);
    assert!(latency(SECOND * 5) >= SECOND);
}

/// Returns the number of nodes that are ejected in an interval in which one node fails.
fn ejected_by(rule: impl FnOnce(EndpointsBuilder<u8>) -> EndpointsBuilder<u8>) -> usize {
    let clock = ManualClock::new();
    let endpoints = rule(nodes(&clock)).build().unwrap();
    send(&endpoints, 20, 1, Verdict::transient());
    clock.advance(SECOND * 10);
    ejected(&send(&endpoints, 1, 0, Verdict::transient()))
}

pub(super) fn the_rules_are_off() {
    assert_eq!(ejected_by(|builder| builder.eject_after(0)), 0);
    assert_eq!(ejected_by(|builder| builder.eject_after(5)), 1);
    assert_eq!(ejected_by(|builder| builder.eject_below_mean(0.0, 0, 0)), 0);
    assert_eq!(
        ejected_by(|builder| builder.eject_below_mean(1.9, 10, 5)),
        1
    );
    assert_eq!(ejected_by(|builder| builder.eject_failure_share(0.0, 0)), 0);
    assert_eq!(
        ejected_by(|builder| builder.eject_failure_share(0.85, 10)),
        1
    );
}

pub(super) fn ejections_have_no_jitter() {
    let length = |jitter| {
        let endpoints = nodes(&ManualClock::new())
            .eject_after(5)
            .ejection_jitter(jitter);
        let endpoints = endpoints.build().unwrap();
        send(&endpoints, 5, 1, Verdict::transient())[0].retry_after
    };
    assert_eq!(length(0.0), Some(SECOND * 30));
    assert!(length(1.0) > Some(SECOND * 30));
}

pub(super) fn no_node_is_ejected() {
    let ejected = |share| {
        let endpoints = nodes(&ManualClock::new()).eject_after(5).max_ejected(share);
        let endpoints = endpoints.build().unwrap();
        ejected(&send(&endpoints, 10, 3, Verdict::transient()))
    };
    assert_eq!((ejected(0.0), ejected(1.0)), (0, 3));
}

pub(super) fn nodes_are_not_parked() {
    let state = |max_hint| {
        let endpoints = nodes(&ManualClock::new())
            .max_hint(max_hint)
            .build()
            .unwrap();
        send(&endpoints, 1, 1, Verdict::throttled(SECOND))[0].state
    };
    assert_eq!(state(ZERO), NodeState::Available);
    assert_eq!(state(SECOND * 300), NodeState::Parked);
}

pub(super) fn there_is_no_panic() {
    let reason = |threshold| {
        let endpoints = nodes(&ManualClock::new()).panic_threshold(threshold);
        let endpoints = endpoints.build().unwrap();
        send(&endpoints, 1, 10, Verdict::throttled(SECOND));
        endpoints
            .try_acquire()
            .err()
            .map(|rejected| rejected.reason())
    };
    assert_eq!(reason(0.0), Some(Reason::NoEndpoint));
    assert_eq!(reason(0.5), None);
}

pub(super) fn new_nodes_start_at_once() {
    let state = |slow_start| {
        let clock = ManualClock::new();
        let endpoints = nodes(&clock).slow_start(slow_start).build().unwrap();
        for _ in 0..3 {
            send(&endpoints, 100, 0, Verdict::transient());
            clock.advance(SECOND * 10);
        }
        let nodes = (0..11).map(|node| Endpoint::new(format!("{node}"), node));
        endpoints.update(nodes).unwrap();
        let new = endpoints
            .snapshot()
            .nodes
            .into_iter()
            .find(|node| &*node.name == "10");
        new.unwrap().state
    };
    assert_eq!(state(ZERO), NodeState::Available);
    assert_eq!(state(SECOND * 30), NodeState::Starting);
}

const QUOTA: Quota = Quota::per_second(10);

/// Checks that calls through a policy whose tokens or permits are taken are rejected without passing time.
macro_rules! rejects_at_once {
    ($clock:expr, $policy:expr, $reason:expr) => {
        let error = $clock.block_on($policy.call(|| async { Ok::<_, ()>(()) }));
        assert_eq!(error.unwrap_err().reason(), Some($reason));
        assert_eq!($clock.now(), Instant::ORIGIN);
    };
}

pub(super) fn no_call_waits_for_the_fleet() {
    let clock = ManualClock::new();
    let builder = || {
        let builder = SharedRateLimiter::builder().store(MemoryStore::new(clock.clone()));
        builder.key("k").quota(QUOTA).clock(clock.clone())
    };
    for builder in [builder().max_waiting(0), builder().max_wait(ZERO)] {
        let limiter = builder.build().unwrap();
        clock.block_on(limiter.try_acquire_n(10)).unwrap();
        rejects_at_once!(clock, limiter, Reason::RateLimited);
    }
    let limiter = builder().max_waiting(0).build().unwrap();
    clock.block_on(limiter.try_acquire_n(10)).unwrap();
    assert!(clock.block_on(limiter.acquire()).is_err());
}

pub(super) fn no_call_of_a_key_waits_for_the_fleet() {
    let clock = ManualClock::new();
    let builder = || {
        let store = MemoryStore::new(clock.clone());
        let builder = SharedKeyedRateLimiter::<u8>::builder().store(store);
        let builder = builder.key_by(|key| key.to_string()).quota(QUOTA);
        builder.clock(clock.clone())
    };
    for builder in [builder().max_waiting(0), builder().max_wait(ZERO)] {
        let limiter = builder.build().unwrap();
        clock.block_on(limiter.try_acquire_n(&1, 10)).unwrap();
        let limited = limiter.get(&1);
        rejects_at_once!(clock, limited, Reason::RateLimited);
    }
}

pub(super) fn no_call_waits_for_permits_of_the_fleet() {
    let clock = ManualClock::new();
    let builder = || {
        let builder = SharedBulkhead::builder().store(MemoryStore::new(clock.clone()));
        builder
            .key("k")
            .instance("i")
            .max_concurrent(1)
            .clock(clock.clone())
    };
    for builder in [
        builder().max_waiting(0),
        builder().max_wait(ZERO),
        builder().max_waiting(1).max_wait(ZERO),
    ] {
        let bulkhead = builder.build().unwrap();
        let _permit = clock.block_on(bulkhead.try_acquire()).unwrap();
        rejects_at_once!(clock, bulkhead, Reason::BulkheadFull);
    }
    let bulkhead = builder().max_waiting(0).build().unwrap();
    let _permit = clock.block_on(bulkhead.try_acquire()).unwrap();
    assert!(clock.block_on(bulkhead.acquire()).is_err());
}

pub(super) fn any_open_circuit_is_a_quorum() {
    let opens = |quorum| {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let breaker = || {
            let breaker = CircuitBreaker::builder()
                .clock(clock.clone())
                .build()
                .unwrap();
            breaker.try_acquire().unwrap().success();
            breaker
        };
        let voter = |instance: &str, breaker: &CircuitBreaker| {
            let builder = CircuitVotes::builder().store(store.clone()).key("k");
            let builder = builder.instance(instance).breaker(breaker.clone());
            let builder = builder.follow(Follow::AtOnce).min_votes(1).quorum(quorum);
            builder.clock(clock.clone()).build().unwrap()
        };
        let breakers = [breaker(), breaker(), breaker()];
        let [open, one, other] = ["a", "b", "c"].map(str::to_owned);
        let voters = [
            voter(&open, &breakers[0]),
            voter(&one, &breakers[1]),
            voter(&other, &breakers[2]),
        ];
        let runs = join3(voters[0].run(), voters[1].run(), voters[2].run());
        let script = async {
            // All have voted when one of the three opens.
            clock.sleep(SECOND * 3).await;
            breakers[0].trip_for(SECOND * 3600);
            clock.sleep(SECOND * 3).await;
        };
        clock.block_on(select(Box::pin(runs), Box::pin(script)));
        voters[1].snapshot().followed > 0
    };
    assert!(opens(0.0));
    assert!(!opens(0.5));
}
