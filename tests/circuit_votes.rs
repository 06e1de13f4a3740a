//! Circuits of several processes that learn from each other.
#![cfg(feature = "tokio")]

use std::time::Duration;

use backstop::circuit_breaker::{State, Trip};
use backstop::circuit_votes::Follow;
use backstop::store::{Fault, MemoryStore};
use backstop::{CircuitBreaker, CircuitVotes, Standard, TokioClock};

struct Fleet {
    store: MemoryStore,
    breakers: Vec<CircuitBreaker>,
    votes: Vec<CircuitVotes>,
}

fn fleet(processes: usize, follow: Follow) -> Fleet {
    let store = MemoryStore::new(TokioClock);
    let breakers: Vec<_> = (0..processes)
        .map(|_| CircuitBreaker::builder().build().unwrap())
        .collect();
    let votes = breakers.iter().map(|breaker| {
        let votes = CircuitVotes::builder()
            .store(store.clone())
            .key("dependency")
            .breaker(breaker.clone())
            .follow(follow)
            .build()
            .unwrap();
        let run = votes.clone();
        tokio::spawn(async move { run.run().await });
        votes
    });
    let votes = votes.collect();
    Fleet {
        store,
        breakers,
        votes,
    }
}

fn calls(breaker: &CircuitBreaker, good: u32, bad: u32) {
    for _ in 0..good {
        breaker.try_acquire().unwrap().success();
    }
    for _ in 0..bad {
        breaker.try_acquire().unwrap().failure();
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn with_a_quorum_half_of_the_evidence_opens() {
    let fleet = fleet(4, Follow::Sooner);
    // Too few calls, and too few failures, for its own rules.
    calls(&fleet.breakers[2], 8, 4);
    calls(&fleet.breakers[3], 100, 1);
    seconds(2).await;
    assert_eq!(fleet.breakers[2].state(), State::Closed);
    fleet.breakers[0].trip();
    seconds(2).await;
    assert_eq!(
        fleet.breakers[2].state(),
        State::Closed,
        "one vote is no quorum"
    );
    fleet.breakers[0].trip_for(Duration::from_secs(60));
    fleet.breakers[1].trip_for(Duration::from_secs(60));
    seconds(2).await;
    assert_eq!(fleet.breakers[2].state(), State::Open);
    assert_eq!(
        fleet.breakers[3].state(),
        State::Closed,
        "its calls succeed"
    );
    let snapshot = fleet.votes[2].snapshot();
    assert_eq!((snapshot.followed, snapshot.tally.open), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn at_once_means_without_evidence() {
    let fleet = fleet(3, Follow::AtOnce);
    calls(&fleet.breakers[2], 100, 0);
    fleet.breakers[0].trip_for(Duration::from_secs(60));
    fleet.breakers[1].trip_for(Duration::from_secs(60));
    seconds(2).await;
    assert_eq!(fleet.breakers[2].state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn votes_expire_and_without_a_store_breakers_are_on_their_own() {
    let fleet = fleet(3, Follow::AtOnce);
    fleet.breakers[0].trip_for(Duration::from_secs(600));
    fleet.store.set_fault(Some(Fault::Stall));
    fleet.breakers[1].trip_for(Duration::from_secs(600));
    seconds(10).await;
    assert_eq!(fleet.breakers[2].state(), State::Closed);
    assert!(!fleet.votes[2].snapshot().store_up);
    fleet.store.set_fault(None);
    seconds(2).await;
    assert!(fleet.votes[2].snapshot().store_up);
    assert_eq!(fleet.breakers[2].state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_opened_together_closes_again() {
    let fleet = fleet(4, Follow::AtOnce);
    for breaker in &fleet.breakers {
        calls(breaker, 20, 0);
    }
    // The dependency fails for two of them, and is well afterwards.
    fleet.breakers[0].trip();
    fleet.breakers[1].trip();
    seconds(2).await;
    assert_eq!(fleet.breakers[3].state(), State::Open);
    for _ in 0..3000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for breaker in &fleet.breakers {
            if let Ok(permit) = breaker.try_acquire() {
                permit.success();
            }
        }
    }
    let states: Vec<State> = fleet.breakers.iter().map(CircuitBreaker::state).collect();
    assert_eq!(states, [State::Closed; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_only_follows_does_not_vote_until_its_own_probes_fail() {
    let fleet = fleet(3, Follow::AtOnce);
    calls(&fleet.breakers[2], 20, 0);
    fleet.breakers[0].trip_for(Duration::from_secs(600));
    fleet.breakers[1].trip_for(Duration::from_secs(600));
    seconds(2).await;
    assert_eq!(fleet.breakers[2].state(), State::Open);
    assert_eq!(
        fleet.votes[0].snapshot().tally.open,
        1,
        "that of the second"
    );
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Ok(permit) = fleet.breakers[2].try_acquire() {
            permit.failure();
        }
    }
    assert_eq!(fleet.votes[0].snapshot().tally.open, 2);
}

#[tokio::test(start_paused = true)]
async fn settings_without_meaning_are_errors_that_name_them() {
    let builder = || {
        let builder = CircuitVotes::builder()
            .store(MemoryStore::new(TokioClock))
            .key("key");
        builder.breaker(CircuitBreaker::builder().build().unwrap())
    };
    let without_window = CircuitBreaker::builder().trip_on(Trip::consecutive(5));
    let without_window = without_window.build().unwrap();
    let cases = [
        (builder().every(Duration::ZERO), "every"),
        (builder().quorum(1.0), "quorum"),
        (builder().quorum(f64::NAN), "quorum"),
        (builder().min_votes(0), "min_votes"),
        (builder().failure_rate(0.0), "failure_rate"),
        // Its window says whether calls were made.
        (builder().breaker(without_window), "breaker"),
        (CircuitVotes::builder(), "store"),
    ];
    for (builder, setting) in cases {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(setting), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_follows_the_breaker_that_replaces_its_own() {
    let standard = Standard::builder().name("api").build().unwrap();
    let store = MemoryStore::new(TokioClock);
    let voters = [standard.breaker().unwrap(), CircuitBreaker::default()];
    let voters = voters.map(|breaker| {
        let votes = CircuitVotes::builder().store(store.clone()).key("api");
        let votes = votes.breaker(breaker).build().unwrap();
        let run = votes.clone();
        tokio::spawn(async move { run.run().await });
        votes
    });
    seconds(2).await;
    let other = CircuitBreaker::builder().measure_durations(true);
    standard
        .reconfigure(standard.config().breaker(other))
        .unwrap();
    standard
        .breaker()
        .unwrap()
        .trip_for(Duration::from_secs(60));
    seconds(2).await;
    assert_eq!(voters[1].snapshot().tally.open, 1);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_was_disabled_while_it_followed_votes_for_itself() {
    let fleet = fleet(3, Follow::AtOnce);
    fleet.breakers[0].trip_for(Duration::from_secs(3));
    fleet.breakers[1].trip_for(Duration::from_secs(3));
    seconds(2).await;
    assert_eq!(fleet.breakers[2].state(), State::Open, "it follows");
    fleet.breakers[2].disable();
    fleet.breakers[0].reset();
    fleet.breakers[1].reset();
    seconds(5).await;
    fleet.breakers[2].trip_for(Duration::from_secs(60));
    seconds(2).await;
    assert_eq!(fleet.votes[0].snapshot().tally.open, 1);
}
