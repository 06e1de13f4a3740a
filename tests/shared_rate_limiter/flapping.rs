//! What was spent without the store counts, however often the store is lost and found again, and the quota replaced.

use std::time::Duration;

use backstop::shared_rate_limiter::Outage;
use backstop::store::{Fault, MemoryStore, Reply, Store, StoreError, Take, Taken};
use backstop::{ManualClock, Quota, SharedRateLimiter};
use futures::FutureExt;

use crate::fleet::{Fleet, run, run_seeded};

fn limiter(quota: Quota, outage: Outage) -> (ManualClock, MemoryStore, SharedRateLimiter) {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limiter = SharedRateLimiter::builder()
        .store(store.clone())
        .key("key")
        .quota(quota)
        .on_outage(outage)
        .clock(clock.clone())
        .seed(1)
        .build()
        .unwrap();
    (clock, store, limiter)
}

fn is_admitted(limiter: &SharedRateLimiter) -> bool {
    let decided = limiter.try_acquire().now_or_never();
    decided.is_some_and(|decided| decided.is_ok())
}

#[test]
fn a_store_that_is_lost_again_and_again_admits_one_burst_and_not_one_in_each_outage() {
    for fault in [Fault::Fail, Fault::Stall, Fault::LoseReplies] {
        for (up, down) in [
            (20, 60),
            (60, 60),
            (200, 200),
            (400, 50),
            (1000, 100),
            (2000, 300),
        ] {
            let quota = Quota::per_second(100).burst(100);
            let (clock, store, limiter) = limiter(quota, Outage::OwnShare);
            let (mut used, mut burst) = (0.0_f64, 0.0_f64);
            for now in 0..20_000 {
                match now % (up + down) {
                    0 => store.set_fault(None),
                    at if at == up => store.set_fault(Some(fault)),
                    _ => {}
                }
                used = (used - 0.1).max(0.0);
                let admitted = (0..2).filter(|_| is_admitted(&limiter)).count();
                used += admitted as f64;
                burst = burst.max(used);
                clock.advance(Duration::from_millis(1));
            }
            assert!(
                burst <= 110.0,
                "{fault:?} for {down} of {} ms: a burst of {burst:.0}",
                up + down
            );
        }
    }
}

#[test]
fn a_quota_that_is_set_without_the_store_gives_no_further_burst() {
    let local = Outage::Local(Quota::per_hour(1).burst(5));
    for outage in [Outage::OwnShare, local] {
        let quota = Quota::per_hour(100).burst(100);
        let (_clock, store, limiter) = limiter(quota, outage);
        assert!(is_admitted(&limiter));
        store.set_fault(Some(Fault::Fail));
        while is_admitted(&limiter) {}
        for next in [quota, Quota::per_hour(200).burst(200), quota] {
            limiter.set_quota(next).unwrap();
            let admitted = (0..300).filter(|_| is_admitted(&limiter)).count();
            assert_eq!(admitted, 0, "{outage:?}: after {next:?}");
        }
    }
}

#[test]
fn a_quota_that_is_lowered_without_the_store_applies_at_once() {
    let (clock, store, limiter) = limiter(Quota::per_second(1000), Outage::OwnShare);
    for _ in 0..1000 {
        is_admitted(&limiter);
        clock.advance(Duration::from_millis(2));
    }
    store.set_fault(Some(Fault::Fail));
    // The lease and the local bucket are spent, so the loss is known.
    while is_admitted(&limiter) {}
    assert!(!limiter.snapshot().store_up);
    limiter.set_quota(Quota::per_second(10).burst(10)).unwrap();
    clock.advance(Duration::from_millis(250));
    let admitted = (0..300).filter(|_| is_admitted(&limiter)).count();
    assert!((1..=3).contains(&admitted), "in 250 ms: {admitted}");
    clock.advance(Duration::from_secs(1));
    let admitted = (0..300).filter(|_| is_admitted(&limiter)).count();
    assert!((5..=10).contains(&admitted), "in a second: {admitted}");
}

#[test]
fn a_fleet_whose_store_is_lost_again_and_again_admits_no_more_than_one_burst_too_many() {
    for fault in [Fault::Fail, Fault::Stall] {
        for (up, down) in [(20, 60), (60, 60), (200, 200), (400, 50)] {
            let quota = Quota::per_second(1000).burst(1000);
            let mut fleet = Fleet::new(4, quota, |builder| builder);
            fleet.store.set_latency(Duration::from_micros(200));
            run(&mut fleet, 10.0, 8.0, |fleet, step| {
                let at = step % (10 * (up + down));
                match step {
                    ..20_000 => {}
                    _ if at == 0 => fleet.store.set_fault(None),
                    _ if at == 10 * up => fleet.store.set_fault(Some(fault)),
                    _ => {}
                }
            });
            let used = fleet.all_admitted() as f64 / (8000.0 + 1000.0);
            assert!(
                used >= 0.9 && fleet.burst <= 2000.0,
                "{fault:?} for {down} of {} ms: {used:.3} of the limit, a burst of {:.0}",
                up + down,
                fleet.burst
            );
        }
    }
}

#[test]
fn the_shares_add_up_to_one_in_the_next_outage_too() {
    for seed in 0..5 {
        let quota = Quota::per_second(1000).burst(100);
        let mut fleet = Fleet::new(4, quota, |builder| builder.seed(seed));
        fleet.store.set_latency(Duration::from_micros(200));
        let mut before = 0;
        let mut outages = Vec::new();
        // Up for half a second after each outage of three: not all processes have found the store by then.
        run_seeded(&mut fleet, 10.0, 13.0, seed, |fleet, step| {
            let at = step % 35_000;
            if at == 25_000 {
                fleet.store.set_fault(Some(Fault::Fail));
                before = fleet.all_admitted();
            } else if at == 20_000 && step > 20_000 {
                outages.push((fleet.all_admitted() - before) as f64 / 3000.0);
                fleet.store.set_fault(None);
            }
        });
        let within = |rate: &f64| (0.9..=1.1).contains(rate);
        assert!(outages.iter().all(within), "of the rate: {outages:?}");
    }
}

#[test]
fn a_quota_that_is_lowered_after_an_outage_stops_calls_no_longer_than_it_takes_to_fill() {
    for after in [0, 200, 2000] {
        let (clock, store, limiter) = limiter(Quota::per_second(1000), Outage::OwnShare);
        let call_for = |millis: u64| {
            let mut admitted = 0;
            for _ in 0..millis {
                admitted += (0..5).filter(|_| is_admitted(&limiter)).count();
                clock.advance(Duration::from_millis(1));
            }
            admitted
        };
        call_for(3000);
        store.set_fault(Some(Fault::Fail));
        call_for(2000);
        store.set_fault(None);
        call_for(after);
        limiter.set_quota(Quota::per_second(10).burst(10)).unwrap();
        call_for(3000);
        let admitted = call_for(1000);
        assert!((9..=11).contains(&admitted), "after {after} ms: {admitted}");
    }
}

#[test]
fn a_quota_that_is_raised_without_the_store_is_used_in_whole() {
    for (before, after) in [(10, 1000), (100, 10_000), (1000, 10)] {
        let quota = Quota::per_second(before).burst(before);
        let mut fleet = Fleet::new(4, quota, |builder| builder);
        fleet.store.set_latency(Duration::from_micros(200));
        let load = 3.0 * after.max(before) as f64 / before as f64;
        let mut admitted = Vec::new();
        run(&mut fleet, load, 8.0, |fleet, step| {
            match step {
                40_000 => fleet.store.set_fault(Some(Fault::Fail)),
                50_000 => {
                    let quota = Quota::per_second(after).burst(after);
                    let set = |node: &SharedRateLimiter| node.set_quota(quota).unwrap();
                    fleet.nodes.iter().for_each(set);
                }
                _ => {}
            }
            if step >= 60_000 && step % 10_000 == 0 {
                admitted.push(fleet.all_admitted());
            }
        });
        let rate = (fleet.all_admitted() - admitted[0]) as f64 / 2.0 / after as f64;
        let case = format!("{before} to {after}: {rate} of the new rate");
        // At 10 a second, a process holds less than a token for each of the others that it does not know.
        assert!((0.85..=1.15).contains(&rate), "{case}");
    }
}

#[test]
fn a_total_that_no_bucket_can_have_granted_takes_no_share() {
    let clock = ManualClock::new();
    let store = Exaggerates(MemoryStore::new(clock.clone()), 500.into());
    let limiter = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_second(1000))
        .clock(clock.clone())
        .seed(1)
        .build()
        .unwrap();
    for _ in 0..20_000 {
        is_admitted(&limiter);
        clock.advance(Duration::from_millis(1));
    }
    assert!(limiter.snapshot().share > 0.8, "{:?}", limiter.snapshot());
}

/// A store whose total of all grants is far too large, once.
struct Exaggerates(MemoryStore, std::sync::atomic::AtomicI64);

impl Store for Exaggerates {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        let left = self.1.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        self.0.take(
            takes,
            Reply::new(move |answer: Result<Vec<Taken>, StoreError>| {
                reply.send(answer.map(|mut taken| {
                    for taken in &mut taken {
                        taken.total = if left == 450 { u64::MAX } else { taken.total };
                    }
                    taken
                }));
            }),
        );
    }
}
