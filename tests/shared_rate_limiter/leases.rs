//! Leases: few trips, nothing rejected without need, nothing admitted beyond the limit.

use std::time::Duration;

use backstop::shared_rate_limiter::SyncMode;
use backstop::{Quota, Reason};

use crate::fleet::{Fleet, MILLISECOND, run, run_seeded};

const TRIP: Duration = Duration::from_micros(200);

fn fleet(rate: u64, burst: u64) -> Fleet {
    let fleet = Fleet::new(4, Quota::per_second(rate).burst(burst), |builder| builder);
    fleet.store.set_latency(TRIP);
    fleet
}

#[test]
fn below_the_limit_no_call_is_rejected_and_trips_are_few() {
    for (rate, burst) in [(1000, 1000), (1000, 100), (10_000, 1000)] {
        let mut fleet = fleet(rate, burst);
        run(&mut fleet, 0.5, 2.0, |_, _| ());
        assert_eq!(fleet.all_rejected(), 0, "{rate}/s, burst {burst}");
        // A first second to find the demand out.
        let trips = fleet.store.requests() as f64 / 2.0 / 4.0;
        assert!(
            trips <= 35.0,
            "{trips} trips/s and process at {rate}/s, burst {burst}"
        );
    }
}

#[test]
fn no_call_is_rejected_for_which_one_central_limiter_has_tokens_to_spare() {
    for (rate, burst, load) in [
        (1000, 1000, 1.0),
        (1000, 100, 0.9),
        (1000, 10, 0.5),
        (10_000, 1000, 0.95),
        (10_000, 100, 0.5),
    ] {
        for seed in 0..3 {
            let mut fleet = fleet(rate, burst);
            run_seeded(&mut fleet, load, 3.0, seed, |_, _| ());
            let case = format!("{rate}/s, burst {burst}, load {load}, seed {seed}");
            assert_eq!(fleet.falsely_rejected, 0, "{case}");
            assert_eq!(fleet.all_rejected(), 0, "{case}");
        }
    }
}

#[test]
fn where_the_limit_is_just_used_up_the_fleet_differs_from_a_central_limiter_by_a_lease_of_each() {
    let (rate, burst) = (1000, 100);
    // A process holds at most a quarter of the burst.
    let leases = 4 * burst / 4;
    let (mut lost, mut trips) = (0, 0.0);
    for seed in 0..12 {
        let mut fleet = fleet(rate, burst);
        run_seeded(&mut fleet, 1.0, 10.0, seed, |_, _| ());
        let (admitted, central) = (fleet.all_admitted(), fleet.centrally_admitted);
        let case = format!("{admitted}, central {central}, seed {seed}");
        assert!(admitted.abs_diff(central) <= leases, "{case}");
        assert!(fleet.burst <= (burst + leases) as f64, "{case}");
        lost += central.saturating_sub(admitted);
        trips += fleet.store.requests() as f64 / 10.0 / 4.0 / 12.0;
    }
    assert!(lost <= 12 * leases / 4, "{lost} of 120 000 calls");
    assert!(trips <= 25.0, "{trips} trips/s and process");
}

#[test]
fn above_the_limit_nearly_all_of_it_is_used_but_no_more() {
    for (rate, burst) in [(1000, 1000), (1000, 100), (1000, 10), (10_000, 1000)] {
        for load in [1.5, 5.0] {
            let mut fleet = fleet(rate, burst);
            run(&mut fleet, load, 3.0, |_, _| ());
            let case = format!("{rate}/s, burst {burst}, load {load}");
            let central = 3.0 * rate as f64 + burst as f64;
            let admitted = fleet.all_admitted() as f64;
            assert!(
                admitted >= 0.985 * central,
                "{admitted} of {central}: {case}"
            );
            assert!(admitted <= central + 1.0, "{admitted} of {central}: {case}");
            let explained = fleet.burst / burst as f64;
            assert!(
                explained <= 1.01 + 1.0 / burst as f64,
                "a burst of {explained}: {case}"
            );
        }
    }
}

#[test]
fn under_overload_the_processes_share_about_equally() {
    let mut fleet = fleet(10_000, 1000);
    run(&mut fleet, 5.0, 3.0, |_, _| ());
    let most = *fleet.admitted.iter().max().unwrap() as f64;
    let least = *fleet.admitted.iter().min().unwrap() as f64;
    assert!(most <= 1.4 * least, "{:?}", fleet.admitted);
}

#[test]
fn under_overload_rejections_cost_no_trips() {
    let mut fleet = fleet(1000, 1000);
    run(&mut fleet, 10.0, 2.0, |_, _| ());
    let trips = fleet.store.requests() as f64 / 2.0 / 4.0;
    assert!(trips <= 25.0, "{trips} trips/s and process");
    assert!(fleet.all_rejected() > 15_000);
}

#[test]
fn a_lone_call_costs_a_trip_and_leaves_nothing_behind() {
    let mut fleet = fleet(10, 10);
    for calls in 1..=5 {
        fleet.call(0, 1);
        fleet.advance(MILLISECOND);
        assert_eq!((fleet.waiting(), fleet.all_admitted()), (0, calls));
        assert_eq!(fleet.store.requests(), calls);
        assert_eq!(fleet.nodes[0].snapshot().held, 0);
        fleet.advance(Duration::from_secs(1));
    }
}

#[test]
fn calls_far_apart_and_small_bursts_take_a_trip_each() {
    let trips = |burst, gap| {
        let mut fleet = Fleet::new(1, Quota::per_second(1000).burst(burst), |builder| builder);
        for _ in 0..100 {
            fleet.call(0, 1);
            fleet.advance(Duration::from_micros(gap));
        }
        assert_eq!(fleet.all_admitted(), 100);
        fleet.store.requests()
    };
    assert_eq!(trips(15, 1100), 100);
    assert!(trips(16, 1100) < 40);
    // A lease lasts 50 ms.
    assert_eq!(trips(1000, 51_000), 100);
    assert!(trips(1000, 49_000) < 80);
}

#[test]
fn tokens_that_are_not_needed_go_back() {
    let quota = Quota::per_second(10).burst(100);
    let mut fleet = Fleet::new(2, quota, |builder| builder);
    // A burst of calls makes the lease grow.
    for _ in 0..40 {
        fleet.call(0, 1);
    }
    let held = fleet.nodes[0].snapshot().held;
    assert!(held > 5, "{held} held");
    // A call after the life of the lease gives them back, and takes one of them.
    fleet.advance(Duration::from_millis(250));
    fleet.call(0, 1);
    fleet.advance(Duration::from_millis(250));
    // 100 at first, 41 used, 5 earned; of those that went back, as many as have refilled since they were taken
    // count for nothing, and the last call took a few in advance.
    for _ in 0..80 {
        fleet.call(1, 1);
    }
    let admitted = fleet.admitted[1];
    assert!(
        (52..=64).contains(&admitted),
        "{admitted}, and {held} went back"
    );
}

#[test]
fn a_call_that_costs_more_than_there_is_debits_nothing() {
    for mode in [SyncMode::Leased, SyncMode::Exact] {
        let quota = Quota::per_second(1).burst(20);
        let mut fleet = Fleet::new(2, quota, |builder| builder.sync(mode));
        fleet.call(0, 19);
        assert_eq!(fleet.admitted[0], 19);
        for _ in 0..5 {
            fleet.call(1, 10);
        }
        assert_eq!(fleet.rejected[1], 50, "{mode:?}");
        fleet.call(0, 1);
        fleet.call(1, 1);
        assert_eq!(fleet.all_admitted(), 20, "one token was left: {mode:?}");
    }
}

#[test]
fn the_time_of_a_rejection_is_exact() {
    for mode in [SyncMode::Leased, SyncMode::Exact] {
        let quota = Quota::per_second(8).burst(2);
        let fleet = Fleet::new(1, quota, |builder| builder.sync(mode));
        let (node, clock) = (&fleet.nodes[0], &fleet.clocks[0]);
        let call = || clock.block_on(node.try_acquire());
        let advance = |time| {
            fleet.time.advance(time);
            clock.advance(time);
        };
        call().unwrap();
        call().unwrap();
        for _ in 0..3 {
            let rejected = call().unwrap_err();
            assert_eq!(rejected.reason(), Reason::RateLimited);
            let wait = rejected.retry_after().unwrap();
            assert_eq!(wait, Duration::from_millis(125), "{mode:?}");
            let trips = fleet.store.requests();
            assert!(call().is_err());
            assert_eq!(fleet.store.requests(), trips, "answered without the store");
            advance(wait);
            assert!(call().is_ok(), "{mode:?}");
        }
    }
}

#[test]
fn exact_decisions_are_those_of_one_central_limit() {
    let quota = Quota::per_second(100).burst(10);
    let mut fleet = Fleet::new(4, quota, |builder| builder.sync(SyncMode::Exact));
    for round in 0..10 {
        for node in 0..4 {
            fleet.call((node + round) % 4, 1);
        }
    }
    assert_eq!((fleet.all_admitted(), fleet.all_rejected()), (10, 30));
    fleet.advance(10 * MILLISECOND);
    fleet.call(3, 1);
    fleet.call(2, 1);
    assert_eq!((fleet.all_admitted(), fleet.all_rejected()), (11, 31));
}

#[test]
fn a_lowered_quota_locks_no_key_for_longer_than_it_takes_to_fill() {
    let mut fleet = Fleet::new(2, Quota::per_second(1000), |builder| builder);
    for _ in 0..1000 {
        fleet.call(0, 1);
    }
    let lowered = Quota::per_second(10).burst(10);
    for node in &fleet.nodes {
        node.set_quota(lowered).unwrap();
    }
    fleet.advance_slowly(Duration::from_millis(1100));
    let before = fleet.all_admitted();
    for _ in 0..30 {
        fleet.call(0, 1);
        fleet.call(1, 1);
        fleet.advance(MILLISECOND);
    }
    let admitted = fleet.all_admitted() - before;
    assert!((9..=12).contains(&admitted), "{admitted} admitted");
}

#[test]
fn callers_that_do_not_wait_at_all_find_a_token_once_they_are_known() {
    let fleet = Fleet::new(1, Quota::per_second(10), |builder| builder);
    let node = &fleet.nodes[0];
    assert!(node.try_acquire_held().is_err(), "nothing is held yet");
    for _ in 0..5 {
        assert!(node.try_acquire_held().is_ok());
    }
}

#[test]
fn a_trip_that_takes_longer_than_a_lease_lasts_serves_the_calls_that_wait() {
    // A burst of one is leased for a millisecond.
    let quota = Quota::per_second(250).burst(1);
    let mut fleet = Fleet::new(1, quota, |builder| builder);
    fleet.store.set_latency(8 * MILLISECOND);
    for calls in 1..=20 {
        fleet.call(0, 1);
        fleet.advance_slowly(20 * MILLISECOND);
        assert_eq!((fleet.waiting(), fleet.all_admitted()), (0, calls));
    }
}

#[test]
fn calls_that_need_more_than_a_burst_together_are_decided_by_one_trip() {
    let quota = Quota::per_second(215).burst(3);
    let mut fleet = Fleet::new(1, quota, |builder| builder);
    fleet.store.set_latency(14 * MILLISECOND);
    for _ in 0..22 {
        fleet.call(0, 2);
    }
    // The first call sends a request for itself, the others share the next one.
    fleet.advance_slowly(28 * MILLISECOND);
    assert_eq!(fleet.waiting(), 0);
    assert!(fleet.all_admitted() >= 4);
}
