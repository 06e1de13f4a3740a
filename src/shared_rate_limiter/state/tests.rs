//! Tests of the lease with scripted answers of the store: when it sends a request, for how many tokens, and how it
//! uses the answer.

use std::time::Duration;

use super::lease::Lease;
use super::link::Contact;
use super::request::Waiting;
use super::rules::{Outage, Rules, SyncMode};
use crate::instant::Instant;
use crate::rate_limiter::Quota;
use crate::store::{StoreTime, Taken};

const UP: Contact = Contact::Up {
    pace_until: Instant::ORIGIN,
};
const EVERY: Duration = Duration::from_millis(50);

/// The first outage.
fn lost(probe_at: Instant) -> Contact {
    Contact::Lost {
        number: 1,
        probe_at,
    }
}

fn at(micros: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + micros * 1000)
}

fn lease(rate: u64, burst: u64, mode: SyncMode) -> Lease {
    let quota = Quota::per_second(rate).burst(burst);
    Lease::new(Rules::new(quota, mode, EVERY, Outage::OwnShare), at(0))
}

/// Sends the request planned for waiters that need `waiting` tokens, and answers it with a grant. Returns the tokens
/// requested.
fn trip(lease: &mut Lease, now: Instant, waiting: u64, granted: impl Fn(u64) -> u64) -> u64 {
    let first = waiting.min(1);
    let request = lease.plan(
        now,
        UP,
        Waiting {
            first,
            all: waiting,
        },
    );
    let request = request.expect("a request is due");
    let granted = granted(request.ask);
    let mut taken = Taken::new(granted, 1000, StoreTime::from_micros(now.as_nanos() / 1000));
    if granted < request.ask {
        taken.remaining = 0;
        taken.retry_after = Duration::from_millis(1);
    }
    lease.answered(now.after(200_000), &request, &taken, false, 0.5);
    request.ask
}

#[test]
fn the_time_of_a_lease_follows_the_burst() {
    let every =
        |rate, burst| Duration::from_nanos(lease(rate, burst, SyncMode::Leased).rules().every);
    assert_eq!(every(1000, 1000), EVERY);
    assert_eq!(every(1000, 100), EVERY);
    assert_eq!(every(1000, 10), Duration::from_millis(5));
    assert_eq!(every(1000, 1), Duration::from_millis(1));
    assert_eq!(lease(1000, 1000, SyncMode::Leased).rules().largest, 250);
    assert_eq!(lease(1000, 16, SyncMode::Leased).rules().largest, 4);
    assert_eq!(lease(1000, 15, SyncMode::Leased).rules().largest, 0);
    assert_eq!(lease(1000, 1000, SyncMode::Exact).rules().largest, 0);
}

#[test]
fn a_lease_that_is_used_up_too_soon_doubles_up_to_a_quarter_of_the_burst() {
    let mut lease = lease(1000, 1000, SyncMode::Leased);
    let mut asked = Vec::new();
    for call in 0..12 {
        let now = at(call * 1000);
        lease.arrive(1);
        asked.push(trip(&mut lease, now, 1, |ask| ask));
        while lease.admit(now, 1) {}
    }
    assert_eq!(asked, [1, 2, 4, 8, 16, 32, 64, 128, 250, 250, 250, 250]);
}

#[test]
fn in_exact_mode_a_request_covers_only_the_waiters() {
    let mut lease = lease(1000, 1000, SyncMode::Exact);
    for call in 0..20 {
        lease.arrive(3);
        assert_eq!(trip(&mut lease, at(call * 100), 3, |ask| ask), 3);
        assert!(lease.admit(at(call * 100), 3));
        assert_eq!(lease.held(), 0);
    }
}

#[test]
fn tokens_are_requested_shortly_before_the_lease_is_used_up() {
    let mut lease = lease(10_000, 10_000, SyncMode::Leased);
    let mut now = at(0);
    // 10 calls per millisecond, long enough to measure the demand.
    for step in 0..400 {
        now = at(step * 1000);
        for _ in 0..10 {
            lease.arrive(1);
            if !lease.admit(now, 1) {
                trip(&mut lease, now, 1, |ask| ask);
                assert!(lease.admit(now, 1));
            }
        }
        if lease.plan(now, UP, Waiting::default()).is_some() {
            lease.failed();
        }
    }
    // About 500 in 50 ms, and about 14 in two round trips and a millisecond.
    let contents = lease.contents(now, UP, now);
    assert!((10..=30).contains(&contents.low), "{contents:?}");
    while lease.held() > contents.low {
        assert_eq!(
            lease.plan(now, UP, Waiting::default()),
            None,
            "{} held",
            lease.held()
        );
        lease.admit(now, 1);
    }
    let request = lease.plan(now, UP, Waiting::default()).expect("it is due");
    // A lease that is used up too soon doubles, up to a quarter of the burst.
    assert!((400..=2500).contains(&request.ask), "{request:?}");
    assert_eq!(
        lease.plan(now, UP, Waiting { first: 1, all: 1 }),
        None,
        "one at a time"
    );
}

#[test]
fn a_grant_that_fell_short_rejects_locally_for_about_the_time_of_a_lease() {
    let mut lease = lease(1000, 1000, SyncMode::Leased);
    for call in 0..6 {
        trip(&mut lease, at(call * 1000), 1, |ask| ask);
        while lease.admit(at(call * 1000), 1) {}
    }
    // A first shortage may be over soon. After several, the pause lasts as long as a lease: 0.5 + the random number,
    // times 50 ms.
    for (shortages, pause) in [(1, 7), (2, 13), (4, 23), (8, 36), (24, 48)] {
        let mut lease = lease.clone();
        let mut now = at(6000);
        for _ in 0..shortages {
            now = now.after(60_000_000);
            lease.arrive(50);
            trip(&mut lease, now, 1, |ask| ask / 2);
            while lease.admit(now, 1) {}
        }
        let dry = |millis: u64| lease.is_dry(now.after(millis * 1_000_000), 1);
        assert!(dry(pause - 1) && !dry(pause + 2), "{shortages} shortages");
    }
}

#[test]
fn a_process_with_few_calls_pauses_less_because_it_asks_with_its_next_call() {
    let quota = Quota::per_second(1000).burst(100);
    let rules = Rules::new(quota, SyncMode::Leased, EVERY, Outage::OwnShare);
    let pause = |gap| rules.pause(1e6, false, gap, 0.5);
    assert_eq!(pause(0.0), 50e6);
    assert_eq!(pause(2e6), 48e6);
    assert_eq!(pause(1e9), 25e6);
    // The pause does not end before there is a token.
    assert_eq!(rules.pause(40e6, false, 1e9, 0.0), 40e6);
}

#[test]
fn leased_tokens_go_back_when_their_time_is_over() {
    let mut lease = lease(1000, 1000, SyncMode::Leased);
    for call in 0..5 {
        trip(&mut lease, at(call), 1, |ask| ask);
        while call < 4 && lease.admit(at(call), 1) {}
    }
    assert_eq!(lease.held(), 16);
    lease.sync(at(199_000), UP);
    assert_eq!(lease.held(), 16);
    let late = at(201_000);
    lease.sync(late, UP);
    assert_eq!(lease.held(), 0);
    let request = lease.plan(late, UP, Waiting::default()).unwrap();
    let (tokens, granted) = request.give_back.unwrap();
    assert_eq!((request.ask, tokens), (0, 16));
    assert_eq!(granted.as_micros(), 1_000_004);
}

/// Returns a lease of four tokens whose store is lost, with that contact and the time.
fn lost_with_four_tokens() -> (Lease, Contact, Instant) {
    let mut lease = lease(1000, 100, SyncMode::Leased);
    for call in 0..3 {
        trip(&mut lease, at(call), 1, |ask| ask);
        while call < 2 && lease.admit(at(call), 1) {}
    }
    assert_eq!(lease.held(), 4);
    let lost = lost(at(60_000));
    let now = at(10_000);
    lease.sync(now, lost);
    (lease, lost, now)
}

#[test]
fn without_the_store_a_cost_above_the_lease_spends_all_of_it() {
    let (mut lease, _, now) = lost_with_four_tokens();
    assert!(lease.admit(now, 5));
    assert_eq!(lease.held(), 0);
}

#[test]
fn without_the_store_the_lease_is_spent_and_then_the_share() {
    let (mut lease, lost, now) = lost_with_four_tokens();
    let mut admitted = 0;
    while lease.admit(now, 1) {
        admitted += 1;
    }
    // 7 of 107 tokens are its own, so it gets about a fifteenth of the rate and of the full bucket.
    assert!((8..=12).contains(&admitted), "{admitted}");
    assert_eq!(lease.plan(now, lost, Waiting { first: 1, all: 1 }), None);
    let ready = lease.ready_at(now, lost, 1);
    assert!(
        ready > now.after(5_000_000) && ready < now.after(30_000_000),
        "{ready:?}"
    );
    // When the store is back, what was spent is paid for, and the share is kept for a while.
    let back = Contact::Up {
        pace_until: at(110_000),
    };
    let early = lease.clone().plan(at(15_000), back, Waiting::default());
    assert_eq!(early, None, "requests come a lease apart");
    let request = lease.plan(at(60_000), back, Waiting::default()).unwrap();
    assert_eq!((request.ask, request.at_least), (admitted - 4, 1));
    let taken = Taken::new(request.ask - 1, 0, StoreTime::from_micros(1));
    lease.answered(at(60_200), &request, &taken, false, 0.5);
    assert_eq!(lease.held(), 0);
    assert!(lease.is_local());
    lease.sync(at(110_000), back);
    assert!(!lease.is_local());
}

#[test]
fn what_was_spent_is_paid_for_even_if_no_call_comes_after_the_outage() {
    let (mut lease, _, now) = lost_with_four_tokens();
    let mut admitted = 0;
    while lease.admit(now, 1) {
        admitted += 1;
    }
    let back = Contact::Up {
        pace_until: at(20_000),
    };
    lease.sync(at(20_000), back);
    assert!(!lease.is_local());
    let request = lease.plan(at(60_000), back, Waiting::default());
    assert_eq!(request.map(|request| request.ask), Some(admitted - 4));
    lease.failed();
    assert_eq!(lease.idle_at(), None, "an evicted key forgets it");
}

/// Returns a process just after an outage in which it has spent a third of a bucket of 100 tokens, at 1000/s, and the
/// contact with its store.
fn back_with_a_debt() -> (Lease, Contact) {
    let mut lease = lease(1000, 100, SyncMode::Leased);
    trip(&mut lease, at(0), 50, |ask| ask);
    let lost = lost(at(50_000));
    lease.sync(at(0), lost);
    while lease.admit(at(100), 1) {}
    let back = Contact::Up {
        pace_until: at(1000),
    };
    lease.sync(at(1000), back);
    (lease, back)
}

#[test]
fn grants_pay_for_what_was_spent_before_calls_get_them() {
    let (mut lease, back) = back_with_a_debt();
    let owed = lease.owed();
    assert!((25..=100).contains(&owed), "{owed}");
    let waiting = Waiting { first: 2, all: 3 };
    let request = lease.plan(at(60_000), back, waiting).unwrap();
    assert!(request.ask >= owed + 3, "{request:?}");
    assert_eq!(request.at_least, 1, "in parts");
    // Ten tokens, of which calls get none.
    let mut taken = Taken::new(10, 0, StoreTime::from_micros(1));
    taken.retry_after = Duration::from_millis(1);
    lease.answered(at(60_200), &request, &taken, false, 0.5);
    assert_eq!((lease.held(), lease.owed()), (0, owed - 10));
    assert_eq!(
        lease.ready_at(at(60_200), back, 2),
        at(60_200 + 1000 * (owed - 10 + 2)),
        "after those that are owed"
    );
    let request = lease.plan(at(160_000), back, waiting).unwrap();
    let taken = Taken::new(request.ask, 0, StoreTime::from_micros(2));
    lease.answered(at(160_200), &request, &taken, false, 0.5);
    assert_eq!((lease.owed(), lease.held()), (0, request.ask - (owed - 10)));
}

#[test]
fn what_is_owed_refills_while_no_calls_come() {
    let (mut lease, back) = back_with_a_debt();
    let owed = lease.owed();
    lease.sync(at(1_000_000), back);
    assert_eq!(lease.owed(), owed, "calls may pause that long");
    lease.sync(at(60_000_000), back);
    assert_eq!(lease.owed(), 0);
}

#[test]
fn a_call_that_no_local_bucket_can_serve_is_ready_when_the_store_can() {
    let mut lease = lease(1000, 100, SyncMode::Leased);
    let waiting = Waiting { first: 1, all: 50 };
    let request = lease.plan(at(0), UP, waiting).unwrap();
    let taken = Taken::new(50, 50, StoreTime::from_micros(1));
    lease.answered(at(0), &request, &taken, false, 0.5);
    let probe_at = at(1000);
    let lost = lost(probe_at);
    lease.sync(at(0), lost);
    lease.admit(at(0), lease.held());
    while lease.admit(at(100), 1) {}
    let in_store = |lease: &Lease, cost: u64| at(1000 * (cost + lease.owed()).saturating_sub(50));
    assert_eq!(lease.ready_at(at(200), lost, 80), in_store(&lease, 80));
    // The answer to a probe that is due takes some time.
    assert!(lease.ready_at(at(5_000_000), lost, 80) > at(5_000_000));
    let back = Contact::Up {
        pace_until: at(2000),
    };
    assert_eq!(lease.ready_at(at(1000), back, 80), in_store(&lease, 80));
    assert_eq!(
        lease.ready_at(at(1000), back, 5),
        at(2000).max(in_store(&lease, 5)),
        "the local limit ends before it has five tokens"
    );
}

#[test]
fn what_is_owed_refills_once_however_often_the_time_is_read() {
    let mut lease = lease(1, 100, SyncMode::Leased);
    trip(&mut lease, at(0), 50, |ask| ask);
    let lost = lost(at(0));
    lease.sync(at(0), lost);
    while lease.admit(at(100), 1) {}
    let back = Contact::Up {
        pace_until: at(1000),
    };
    lease.sync(at(1000), back);
    let owed = lease.owed();
    let refilled = (lease.share() * 10.0) as u64;
    assert!(refilled > 0 && owed > 3 * refilled, "{refilled} of {owed}");
    for micros in 0..10 {
        lease.sync(at(10_001_000 + micros), back);
    }
    assert_eq!(lease.owed(), owed - refilled);
}

#[test]
fn what_is_owed_refills_once_during_an_outage() {
    let mut lease = lease(1, 100, SyncMode::Leased);
    trip(&mut lease, at(0), 50, |ask| ask);
    let lost = lost(at(0));
    lease.sync(at(0), lost);
    while lease.admit(at(100), 1) {}
    let owed = lease.owed();
    let refilled = lease.share() * 10.0;
    for micros in 0..10 {
        lease.sync(at(10_001_000 + micros), lost);
    }
    let back = Contact::Up {
        pace_until: at(10_002_000),
    };
    lease.sync(at(10_001_100), back);
    let left = owed as f64 - refilled;
    assert!(
        (left..left + 1.0).contains(&(lease.owed() as f64)),
        "{} of {owed}",
        lease.owed()
    );
}

#[test]
fn a_long_outage_leaves_no_larger_debt_than_the_part_of_the_bucket() {
    let mut lease = lease(1000, 100, SyncMode::Leased);
    trip(&mut lease, at(0), 50, |ask| ask);
    let lost = lost(at(9_000_000));
    let mut admitted = 0;
    for millis in 0..3000 {
        lease.sync(at(1000 * millis), lost);
        while lease.admit(at(1000 * millis), 1) {
            admitted += 1;
        }
    }
    assert!(admitted > 900, "a third of the rate: {admitted}");
    assert!((30..=35).contains(&lease.owed()), "{}", lease.owed());
}

#[test]
fn a_lowered_quota_lowers_what_is_owed() {
    let (mut lease, _) = back_with_a_debt();
    let quota = Quota::per_second(10).burst(10);
    let rules = Rules::new(quota, SyncMode::Leased, EVERY, Outage::OwnShare);
    lease.set_rules(at(2000), rules);
    assert!(lease.owed() <= 10, "{}", lease.owed());
}

#[test]
fn what_was_spent_is_paid_for_again_if_the_answer_is_lost() {
    let mut lease = lease(1000, 100, SyncMode::Leased);
    trip(&mut lease, at(0), 50, |ask| ask);
    let lost = lost(at(50_000));
    lease.sync(at(0), lost);
    while lease.admit(at(50_000), 1) {}
    let probe = lease.probe(at(50_000)).unwrap();
    assert_eq!(
        (probe.ask, probe.spent),
        (0, 0),
        "a stopped store executes all probes in the end"
    );
    lease.failed();
    let back = Contact::Up {
        pace_until: at(900_000),
    };
    let request = lease.plan(at(110_000), back, Waiting::default()).unwrap();
    assert!(request.ask > 0);
    lease.failed();
    while lease.admit(at(170_000), 1) {}
    let again = lease.plan(at(170_000), back, Waiting::default()).unwrap();
    assert!(again.ask >= request.ask, "{again:?} {request:?}");
}

#[test]
fn without_the_store_calls_spend_the_local_limit_without_the_lock() {
    let local = Outage::Local(Quota::per_second(1000).burst(80));
    let quota = Quota::per_second(1000);
    let rules = Rules::new(quota, SyncMode::Leased, EVERY, local);
    let mut lease = Lease::new(rules, at(0));
    let lost = lost(at(60_000));
    lease.sync(at(0), lost);
    // Lends an eighth of the bucket at a time, until the probe is due.
    let spend_all = |lease: &mut Lease, now: Instant| {
        let mut admitted = 0;
        loop {
            let contents = lease.contents(now, lost, now);
            assert_eq!(contents.expires, at(60_000));
            assert!(contents.tokens <= 10, "{contents:?}");
            if contents.tokens == 0 {
                return (admitted, contents.closed_until);
            }
            assert_eq!(contents.closed_until, Instant::ORIGIN);
            admitted += contents.tokens;
            lease.reclaim(now, contents.tokens, 0);
        }
    };
    // Then calls are rejected without the lock, until there is a token.
    assert_eq!(spend_all(&mut lease, at(0)), (80, at(1000)));
    // The bucket is full again, and earns nothing for tokens that it lends.
    let lent = lease.contents(at(80_000), lost, at(0)).tokens;
    lease.reclaim(at(160_000), lent, 0);
    assert_eq!(spend_all(&mut lease, at(160_000)).0, 80 - lent);
    let back = Contact::Up {
        pace_until: at(900_000),
    };
    let request = lease.plan(at(160_000), back, Waiting::default());
    assert_eq!(
        request.map(|request| request.spent),
        Some(160),
        "all is debited"
    );
}

#[test]
fn while_a_probe_is_in_flight_calls_wait_for_its_timeout() {
    let mut lease = lease(1000, 1000, SyncMode::Leased);
    let lost = lost(at(60_000));
    lease.sync(at(0), lost);
    lease.probe(at(0)).expect("a probe");
    let contents = lease.contents(at(0), lost, at(25_000));
    assert_eq!(contents.expires, at(25_000));
}
