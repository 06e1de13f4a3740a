//! The store is lost, and comes back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::{Fault, MemoryStore, Reply, Store, StoreError, Take, Taken};
use backstop::{Event, ManualClock, Quota, Reason, SharedKeyedRateLimiter};

use crate::fleet::{Fleet, MILLISECOND, run};

const TRIP: Duration = Duration::from_micros(200);
const FAULTS: [Fault; 3] = [Fault::Fail, Fault::Stall, Fault::LoseReplies];

/// Runs 8 s at this load, of which the store is lost from 2 to 5. Returns the fleet, and how many calls were
/// admitted by then.
fn run_outage(quota: Quota, load: f64, outage: Outage, fault: Fault) -> (Fleet, [u64; 4]) {
    let mut fleet = Fleet::new(4, quota, |builder| builder.on_outage(outage));
    fleet.store.set_latency(TRIP);
    let mut admitted = [0; 4];
    run(&mut fleet, load, 8.0, |fleet, step| match step {
        20_000 => {
            admitted[0] = fleet.all_admitted();
            fleet.store.set_fault(Some(fault));
        }
        50_000 => {
            admitted[1] = fleet.all_admitted();
            fleet.store.set_fault(None);
        }
        65_000 => {
            admitted[2] = fleet.all_admitted();
            let nodes = fleet.nodes.iter();
            assert!(nodes.map(|node| node.snapshot()).all(|node| node.store_up));
        }
        _ => {}
    });
    admitted[3] = fleet.all_admitted();
    (fleet, admitted)
}

#[test]
fn without_the_store_the_fleet_keeps_to_about_the_rate() {
    for fault in FAULTS {
        for load in [1.5, 5.0] {
            let quota = Quota::per_second(1000).burst(100);
            let (fleet, [lost, back, agreed, end]) =
                run_outage(quota, load, Outage::OwnShare, fault);
            let case = format!("{fault:?} at load {load}: {lost} {back} {agreed} {end}");
            let during = (back - lost) as f64 / 3000.0;
            assert!(
                (0.9..=1.15).contains(&during),
                "{during} of the rate: {case}"
            );
            let after = (end - agreed) as f64 / 1500.0;
            assert!(
                (0.9..=1.05).contains(&after),
                "{after} of the rate afterwards: {case}"
            );
            let central = 8000.0 + 100.0;
            let extra = end as f64 - central;
            assert!(extra <= 100.0, "{extra} more than the limit: {case}");
            assert!(fleet.burst <= 300.0, "a burst of {}: {case}", fleet.burst);
        }
    }
}

#[test]
fn below_the_limit_an_outage_rejects_little() {
    let quota = Quota::per_second(1000).burst(1000);
    let (fleet, _) = run_outage(quota, 0.5, Outage::OwnShare, Fault::Fail);
    let share = fleet.all_rejected() as f64 / (fleet.all_rejected() + fleet.all_admitted()) as f64;
    assert!(share < 0.02, "{share} rejected");
}

#[test]
fn open_admits_all_and_closed_none() {
    let quota = Quota::per_second(1000).burst(100);
    let (_, [lost, back, ..]) = run_outage(quota, 2.0, Outage::Open, Fault::Fail);
    let during = (back - lost) as f64 / 6000.0;
    assert!((0.95..=1.05).contains(&during), "{during} of the demand");
    let (_, [lost, back, ..]) = run_outage(quota, 2.0, Outage::Closed, Fault::Fail);
    assert!(back - lost <= 100, "only what was leased: {}", back - lost);
}

#[test]
fn a_local_quota_counts_across_outages() {
    let local = Outage::Local(Quota::per_hour(1).burst(5));
    let mut fleet = Fleet::new(1, Quota::per_second(1000), |builder| {
        builder.sync(SyncMode::Exact).on_outage(local)
    });
    for expected in [5, 0, 0] {
        let before = fleet.all_admitted();
        fleet.store.set_fault(Some(Fault::Fail));
        for _ in 0..20 {
            fleet.call(0, 1);
            fleet.advance_slowly(5 * MILLISECOND);
        }
        assert_eq!(fleet.all_admitted() - before, expected);
        fleet.store.set_fault(None);
        // One call finds the store, another one comes when the processes agree again.
        for _ in 0..2 {
            fleet.advance_slowly(Duration::from_secs(2));
            fleet.call(0, 1);
        }
        assert!(fleet.nodes[0].snapshot().store_up);
        let before = fleet.all_admitted();
        fleet.call(0, 1);
        assert_eq!(fleet.all_admitted() - before, 1, "by the store");
    }
}

#[test]
fn a_call_never_waits_longer_than_the_timeout() {
    let mut fleet = Fleet::new(1, Quota::per_second(10), |builder| builder);
    fleet.call(0, 1);
    fleet.advance_slowly(Duration::from_secs(1));
    fleet.store.set_fault(Some(Fault::Stall));
    fleet.call(0, 1);
    fleet.advance_slowly(24 * MILLISECOND);
    assert_eq!(fleet.waiting(), 1);
    fleet.advance(MILLISECOND);
    assert_eq!((fleet.waiting(), fleet.all_admitted()), (0, 2));
    // From then on none waits at all.
    for _ in 0..20 {
        fleet.call(0, 1);
        assert_eq!(fleet.waiting(), 0);
        fleet.advance_slowly(10 * MILLISECOND);
    }
}

#[test]
fn a_slow_store_that_answers_is_busy_and_not_lost() {
    let mut fleet = Fleet::new(1, Quota::per_second(1000), |builder| builder);
    fleet.store.set_latency(20 * MILLISECOND);
    fleet.call(0, 1);
    fleet.advance_slowly(30 * MILLISECOND);
    assert_eq!(fleet.all_admitted(), 1);
    fleet.store.set_latency(40 * MILLISECOND);
    fleet.call(0, 1);
    fleet.advance_slowly(30 * MILLISECOND);
    // No other request was answered meanwhile.
    assert!(!fleet.nodes[0].snapshot().store_up);
    fleet.advance_slowly(20 * MILLISECOND);
    assert!(fleet.nodes[0].snapshot().store_up, "the late answer counts");
}

#[test]
fn a_process_that_starts_without_the_store_has_a_hundredth_of_the_rate() {
    let mut fleet = Fleet::new(1, Quota::per_second(1000), |builder| builder);
    fleet.store.set_fault(Some(Fault::Fail));
    for _ in 0..10_000 {
        fleet.call(0, 1);
        fleet.advance(MILLISECOND);
    }
    // A hundredth of the burst at first, and then of the rate.
    assert!((108..=111).contains(&fleet.all_admitted()));
}

#[test]
fn probes_come_within_a_quarter_of_their_times() {
    let waits = [50, 100, 200, 400, 800, 1000, 1000].map(|millis| millis * MILLISECOND);
    for seed in 0..50 {
        let mut fleet = Fleet::new(1, Quota::per_second(10), |builder| builder.seed(seed));
        fleet.store.set_fault(Some(Fault::Fail));
        fleet.call(0, 1);
        for expected in waits {
            let (before, mut wait) = (fleet.store.requests(), Duration::ZERO);
            while fleet.store.requests() == before {
                fleet.advance(MILLISECOND);
                wait += MILLISECOND;
                fleet.call(0, 1);
            }
            let bounds = expected.mul_f64(0.75)..=expected.mul_f64(1.25) + MILLISECOND;
            assert!(bounds.contains(&wait), "{wait:?} instead of {expected:?}");
        }
    }
}

#[test]
fn many_keys_at_once_have_more_time_than_one() {
    let (clock, latency) = (ManualClock::new(), 100 * MILLISECOND);
    let limits = |keys: u64| {
        let store = MemoryStore::new(clock.clone());
        store.set_latency(latency);
        let limits = SharedKeyedRateLimiter::<u64>::builder()
            .store(store)
            .key_by(u64::to_string)
            .quota(Quota::per_second(10))
            .clock(clock.clone())
            .build()
            .unwrap();
        let calls = (0..keys).map(|key| {
            let limits = limits.clone();
            Box::pin(async move { limits.try_acquire(&key).await.is_ok() })
        });
        let admitted = clock.block_on(futures::future::join_all(calls));
        let is_lost = limits.snapshot().last_error.is_some();
        (admitted.iter().all(|admitted| *admitted), is_lost)
    };
    assert_eq!(limits(1), (false, true), "a trip longer than the timeout");
    // 25 ms, and 50 µs for each other request.
    assert_eq!(limits(1500), (false, true));
    assert_eq!(limits(1502), (true, false));
}

#[test]
fn losing_and_finding_the_store_is_one_event_each() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let mut fleet = Fleet::new(1, Quota::per_second(1000), |builder| {
        let heard = heard.clone();
        builder.observer(move |event: &Event| {
            if !matches!(event, Event::Rejected { .. }) {
                heard.lock().unwrap().push(event.to_string());
            }
        })
    });
    let calls = |fleet: &mut Fleet| {
        for _ in 0..100 {
            fleet.call(0, 1);
            fleet.advance(MILLISECOND);
        }
    };
    calls(&mut fleet);
    fleet.store.set_fault(Some(Fault::Fail));
    calls(&mut fleet);
    calls(&mut fleet);
    let snapshot = fleet.nodes[0].snapshot();
    assert!(!snapshot.store_up && snapshot.lost_for > Duration::from_millis(100));
    assert_eq!(snapshot.last_error.as_deref(), Some("the store is down"));
    fleet.store.set_fault(None);
    for _ in 0..20 {
        calls(&mut fleet);
    }
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0], "shared_rate_limiter: lost its store");
    assert!(
        events[1].starts_with("shared_rate_limiter: has its store back after"),
        "{events:?}"
    );
}

#[test]
fn a_rejection_without_the_store_states_when_to_retry() {
    let mut fleet = Fleet::new(1, Quota::per_second(10).burst(1), |builder| {
        builder.on_outage(Outage::Closed)
    });
    fleet.store.set_fault(Some(Fault::Fail));
    fleet.call(0, 1);
    let (node, clock) = (&fleet.nodes[0], &fleet.clocks[0]);
    let rejected = clock.block_on(node.try_acquire()).unwrap_err();
    assert_eq!(rejected.reason(), Reason::RateLimited);
    let wait = rejected.retry_after().unwrap();
    assert!(
        wait >= 30 * MILLISECOND && wait <= 70 * MILLISECOND,
        "the next probe: {wait:?}"
    );
    fleet.store.set_fault(None);
    fleet.clocks[0].advance(wait);
    let _ = fleet.clocks[0].block_on(fleet.nodes[0].try_acquire());
    assert!(fleet.nodes[0].snapshot().store_up);
}

#[test]
fn a_process_without_a_share_asks_the_store_as_soon_as_it_is_back() {
    for outage in [
        Outage::Closed,
        Outage::Open,
        Outage::Local(Quota::per_hour(1)),
    ] {
        for mode in [SyncMode::Leased, SyncMode::Exact] {
            let mut fleet = Fleet::new(1, Quota::per_hour(10), |builder| {
                builder.sync(mode).on_outage(outage)
            });
            fleet.store.set_fault(Some(Fault::Fail));
            for _ in 0..100 {
                fleet.call(0, 1);
                fleet.advance(50 * MILLISECOND);
            }
            fleet.store.set_fault(None);
            while !fleet.nodes[0].snapshot().store_up {
                fleet.advance(MILLISECOND);
                fleet.call(0, 1);
            }
            let before = fleet.all_admitted();
            (0..20).for_each(|_| fleet.call(0, 1));
            let admitted = fleet.all_admitted() - before;
            // What was admitted without the store is debited.
            let expected = match outage {
                Outage::Open => 0,
                Outage::Local(_) => 9,
                _ => 10,
            };
            assert_eq!(admitted, expected, "{outage:?}, {mode:?}");
        }
    }
}

#[test]
fn a_rejection_that_comes_with_a_probe_is_not_retried_at_once() {
    for outage in [Outage::Closed, Outage::OwnShare] {
        let mut fleet = Fleet::new(1, Quota::per_second(10).burst(2), |builder| {
            builder.on_outage(outage)
        });
        fleet.store.set_fault(Some(Fault::Fail));
        fleet.call(0, 2);
        for _ in 0..20 {
            fleet.advance(Duration::from_secs(2));
            let probes = fleet.store.requests();
            let call = fleet.nodes[0].try_acquire_n(2);
            let rejected = fleet.clocks[0].block_on(call).unwrap_err();
            assert_eq!(fleet.store.requests(), probes + 1);
            assert!(!rejected.retry_after().unwrap().is_zero(), "{outage:?}");
        }
    }
}

#[test]
fn without_calls_maintenance_finds_the_store_again_and_gives_back() {
    use futures::future::{Either, select};
    use std::pin::pin;

    let fleet = Fleet::new(1, Quota::per_second(1000), |builder| builder);
    let (node, clock) = (&fleet.nodes[0], &fleet.clocks[0]);
    for _ in 0..20 {
        clock.block_on(node.try_acquire()).unwrap();
    }
    assert!(node.snapshot().held > 0);
    let run = |time: Duration| {
        let sleep = clock.sleep(time);
        match clock.block_on(select(pin!(node.maintain()), pin!(sleep))) {
            Either::Left(((), _)) => unreachable!("it never ends"),
            Either::Right(_) => {}
        }
    };
    run(Duration::from_secs(1));
    assert_eq!(node.snapshot().held, 0);
    fleet.store.set_fault(Some(Fault::Fail));
    let _ = clock.block_on(node.try_acquire());
    assert!(!node.snapshot().store_up);
    fleet.store.set_fault(None);
    run(Duration::from_secs(2));
    assert!(node.snapshot().store_up);
}

#[test]
fn a_process_that_was_stopped_itself_reads_the_answer_first() {
    let mut fleet = Fleet::new(1, Quota::per_second(10), |builder| builder);
    fleet.store.set_latency(MILLISECOND);
    fleet.call(0, 1);
    // The process, or its runtime, does not run for a second, in which the answer comes.
    fleet.clocks[0].advance(Duration::from_secs(1));
    fleet.poll();
    assert!(fleet.nodes[0].snapshot().store_up);
    fleet.time.advance(MILLISECOND);
    fleet.poll();
    assert_eq!(fleet.all_admitted(), 1);
    // If none has come, the store is lost a moment later.
    fleet.store.set_fault(Some(Fault::Stall));
    fleet.advance(Duration::from_secs(1));
    fleet.call(0, 1);
    fleet.clocks[0].advance(Duration::from_secs(1));
    fleet.poll();
    fleet.clocks[0].advance(24 * MILLISECOND);
    fleet.poll();
    assert_eq!(fleet.waiting(), 1);
    fleet.clocks[0].advance(MILLISECOND);
    fleet.poll();
    assert_eq!(fleet.waiting(), 0);
    assert!(!fleet.nodes[0].snapshot().store_up);
}

#[test]
fn a_busy_process_whose_timers_are_late_reads_the_answer_first() {
    let mut fleet = Fleet::new(1, Quota::per_second(10), |builder| builder);
    fleet.store.set_fault(Some(Fault::Stall));
    fleet.call(0, 1);
    // Each look comes 20 ms late, so an answer may be as late.
    let mut due = 25 * MILLISECOND;
    for _ in 0..10 {
        fleet.clocks[0].advance(due + 20 * MILLISECOND);
        fleet.poll();
        assert_eq!(fleet.waiting(), 1);
        due = 20 * MILLISECOND;
    }
    fleet.store.set_fault(None);
    fleet.poll();
    assert_eq!((fleet.waiting(), fleet.all_admitted()), (0, 1));
    assert!(fleet.nodes[0].snapshot().store_up);
}

#[test]
fn a_clock_that_jumps_by_an_hour_admits_nothing_beyond_the_limit() {
    for (rate, burst, load) in [(1000, 1000, 1.5), (10_000, 1000, 5.0), (1000, 10, 5.0)] {
        let quota = Quota::per_second(rate).burst(burst);
        let mut fleet = Fleet::new(4, quota, |builder| builder);
        fleet.store.set_latency(Duration::from_micros(200));
        run(&mut fleet, load, 6.0, |fleet, step| {
            if step % 10_000 == 5_000 {
                fleet.clocks[(step / 10_000) as usize % 4].advance(Duration::from_secs(3600));
            }
        });
        let case = format!("{rate}/s, burst {burst}, load {load}");
        let (admitted, central) = (fleet.all_admitted(), fleet.centrally_admitted);
        assert!(
            fleet.burst <= burst as f64 * 1.01 + 1.0,
            "{}: {case}",
            fleet.burst
        );
        let used = admitted as f64 / central as f64;
        assert!(used >= 0.985, "{used}: {case}");
        assert!(
            fleet.nodes.iter().all(|node| node.snapshot().store_up),
            "{case}"
        );
    }
}

#[test]
fn a_process_that_alone_is_cut_off_exceeds_the_limit_by_no_more_than_its_share() {
    let quota = Quota::per_second(1000).burst(200);
    let mut fleet = Fleet::new(4, quota, |builder| builder);
    fleet.store.set_latency(TRIP);
    run(&mut fleet, 5.0, 6.0, |fleet, step| {
        // 100 ms of each second but the first.
        let cut = step > 10_000 && step % 10_000 < 1000;
        fleet.cut[1].store(cut, Ordering::Relaxed);
    });
    // About a quarter of the rate, while it is cut off, until it finds out that it is not, and for as long again:
    // up to 300 ms, five times.
    let extra = fleet.all_admitted() as f64 - (6000.0 + 200.0);
    assert!(extra <= 400.0, "{extra} more than the limit");
    assert!(extra >= -100.0, "{extra}");
}

/// A store that fails for one key, such as one of another type.
struct FailsFor(MemoryStore, &'static str);

impl Store for FailsFor {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        match takes.iter().any(|take| *take.key == *self.1) {
            true => reply.send(Err(StoreError::new("WRONGTYPE"))),
            false => self.0.take(takes, reply),
        }
    }
}

#[test]
fn a_key_whose_requests_fail_does_not_take_the_store_from_the_others() {
    let clock = ManualClock::new();
    let events = Arc::new(Mutex::new(0));
    let heard = events.clone();
    let limits = SharedKeyedRateLimiter::<String>::builder()
        .store(FailsFor(MemoryStore::new(clock.clone()), "bad"))
        .key_by(String::clone)
        .quota(Quota::per_second(1000).burst(10))
        .sync(SyncMode::Exact)
        .observer(move |event: &Event| {
            *heard.lock().unwrap() += u32::from(matches!(event, Event::Store { .. }));
        })
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut admitted = (0, 0);
    for _ in 0..200 {
        clock.advance(5 * MILLISECOND);
        admitted.0 += u32::from(clock.block_on(limits.try_acquire("good")).is_ok());
        admitted.1 += u32::from(clock.block_on(limits.try_acquire("bad")).is_ok());
    }
    assert_eq!(admitted.0, 200);
    // By the share of a process that was never granted anything: a hundredth of the rate, and a burst of one.
    assert!((8..=12).contains(&admitted.1), "{admitted:?}");
    assert_eq!(*events.lock().unwrap(), 0);
    assert!(limits.snapshot().store_up);
    assert!(limits.snapshot().last_error.is_some());
    assert!(limits.get("good").snapshot().store_up);
    let bad = limits.get("bad").snapshot();
    assert!(!bad.store_up && bad.lost_for > Duration::from_millis(900));
    // Without the others' answers it is the store that is lost.
    clock.advance(Duration::from_secs(2));
    let _ = clock.block_on(limits.try_acquire("bad"));
    assert!(!limits.snapshot().store_up);
}
