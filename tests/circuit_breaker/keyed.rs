use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use backstop::circuit_breaker::{State, Trip};
use backstop::keyed::KeyedBuilder;
use backstop::{CircuitBreaker, Keyed, ManualClock};

use super::{builder, feed, secs};

fn hosts_builder(clock: &ManualClock) -> KeyedBuilder<u32, CircuitBreaker> {
    let template = builder(clock).trip_on(Trip::failures(1).of_last(5));
    Keyed::builder(move |_| template.clone().build().unwrap())
}

fn hosts(clock: &ManualClock) -> Keyed<u32, CircuitBreaker> {
    hosts_builder(clock).build().unwrap()
}

#[test]
fn each_key_has_a_policy_of_its_own() {
    let clock = ManualClock::new();
    let hosts = hosts(&clock);
    feed(&hosts.get(&1), &clock, "x");
    assert_eq!(hosts.get(&1).state(), State::Open);
    assert_eq!(hosts.get(&2).state(), State::Closed);
    assert_eq!(hosts.len(), 2);
    assert!(!hosts.is_empty());
    let mut seen = Vec::new();
    hosts.for_each(|key, breaker| seen.push((*key, breaker.state())));
    seen.sort_by_key(|(key, _)| *key);
    assert_eq!(seen, [(1, State::Open), (2, State::Closed)]);
}

#[test]
fn idle_entries_are_evicted_before_the_bound_is_reached() {
    let clock = ManualClock::new();
    let hosts = hosts_builder(&clock).max_keys(1000).build().unwrap();
    feed(&hosts.get(&0), &clock, "x");
    for key in 1..20_000 {
        feed(&hosts.get(&key), &clock, "..");
        assert!(hosts.len() <= 1000);
    }
    // Idle entries have been evicted; the open one has not.
    assert!(hosts.len() < 20, "{}", hosts.len());
    assert_eq!(hosts.get(&0).state(), State::Open);
}

#[test]
fn only_idle_entries_without_history_are_evicted() {
    let clock = ManualClock::new();
    let hosts = hosts_builder(&clock).max_keys(3).build().unwrap();
    let held = hosts.get(&1);
    feed(&hosts.get(&2), &clock, "x");
    let watched = hosts.get(&3).subscribe();
    hosts.evict_idle();
    assert_eq!(hosts.len(), 3);

    // The map is full: new keys share one policy, and no entry is evicted.
    feed(&hosts.get(&4), &clock, "x");
    assert_eq!(hosts.get(&4).state(), State::Open);
    assert_eq!(hosts.get(&5).state(), State::Open);
    assert_eq!(hosts.get(&2).state(), State::Open);
    assert_eq!(hosts.len(), 3);

    drop((held, watched));
    clock.advance(secs(5));
    feed(&hosts.get(&2), &clock, ".");
    feed(&hosts.get(&2), &clock, ".");
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);
    assert_eq!(hosts.get(&5).state(), State::Closed);
    let isolated = hosts.get(&5).isolate();
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    drop(isolated);
}

#[test]
fn entries_are_found_after_others_were_evicted() {
    let clock = ManualClock::new();
    let hosts = hosts(&clock);
    // Held, so that no entry is evicted before all exist.
    let held: Vec<_> = (0..100).map(|key| hosts.get(&key)).collect();
    assert_eq!(hosts.len(), 100);
    drop(held);
    for key in 0..100 {
        feed(
            &hosts.get(&key),
            &clock,
            if key % 3 == 0 { "x" } else { "." },
        );
    }
    hosts.evict_idle();
    assert_eq!(hosts.len(), 34);
    for key in 0..100 {
        let expected = if key % 3 == 0 {
            State::Open
        } else {
            State::Closed
        };
        assert_eq!(hosts.get(&key).state(), expected, "{key}");
    }
    hosts.for_each(|key, breaker| assert_eq!(breaker.state() == State::Open, key % 3 == 0));
}

#[test]
fn a_failure_in_the_window_keeps_an_entry() {
    let clock = ManualClock::new();
    let template = builder(&clock).trip_on(Trip::failures(2).within(secs(10)));
    let hosts = Keyed::new(move |_: &String| template.clone().build().unwrap());
    feed(&hosts.get("a"), &clock, "x");
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    clock.advance(secs(10));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);
}

#[test]
fn racing_threads_get_one_policy() {
    let made = std::sync::Arc::new(AtomicU32::new(0));
    let clock = ManualClock::new();
    let keyed = {
        let made = made.clone();
        let template = builder(&clock).trip_on(Trip::consecutive(1_000_000));
        Keyed::new(move |_: &u64| {
            made.fetch_add(1, Ordering::SeqCst);
            template.clone().build().unwrap()
        })
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for key in 0..50 {
                    for _ in 0..20 {
                        feed(&keyed.get(&key), &clock, "x");
                    }
                }
            });
        }
    });
    for key in 0..50 {
        assert_eq!(keyed.get(&key).snapshot().consecutive_failures, 160);
    }
    assert!(made.load(Ordering::SeqCst) >= 50);
}

#[test]
fn an_entry_is_evicted_once_no_rule_sees_its_history() {
    let day = secs(24 * 3600);
    for (trip, sees) in [
        (Trip::failures(3).within(secs(60)), secs(60)),
        (Trip::consecutive(3), secs(3600)),
        (Trip::failures(3).of_last(10), secs(3600)),
    ] {
        // Opened, failed once, or left half-open, and not used since.
        for calls in ["xxx", "x", "half-open"] {
            let clock = ManualClock::new();
            clock.advance(day);
            let template = builder(&clock).trip_on(trip.clone());
            let hosts = Keyed::new(move |_: &u32| template.clone().build().unwrap());
            match calls {
                "half-open" => {
                    hosts.get(&1).half_open();
                    drop(hosts.get(&1).try_acquire());
                }
                calls => feed(&hosts.get(&1), &clock, calls),
            }
            hosts.evict_idle();
            clock.advance(sees - secs(1));
            hosts.evict_idle();
            assert_eq!(hosts.len(), 1, "{trip:?} {calls}: a rule may see it");
            clock.advance(secs(7));
            hosts.evict_idle();
            assert_eq!(hosts.len(), 0, "{trip:?} {calls}: no rule sees it");
        }
    }
}

#[test]
fn an_entry_is_kept_until_its_break_is_over() {
    let clock = ManualClock::new();
    let hosts = hosts(&clock);
    hosts.get(&1).trip_for(secs(100_000));
    hosts.get(&2).metrics_only();
    clock.advance(secs(99_999));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 2);
    clock.advance(secs(1));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
}

#[test]
fn entries_that_opened_long_ago_are_evicted() {
    let clock = ManualClock::new();
    let template = builder(&clock)
        .trip_on(Trip::failure_rate(0.5).within(secs(30)).min_calls(1))
        .ramp_up(secs(7));
    let hosts = Keyed::builder(move |_: &u32| template.clone().build().unwrap());
    let hosts = hosts.max_keys(100).build().unwrap();
    for key in 0..100 {
        feed(&hosts.get(&key), &clock, "x");
        assert_eq!(hosts.get(&key).state(), State::Open);
    }
    hosts.evict_idle();
    assert_eq!(hosts.len(), 100);
    // The break is over, so the next call would be a probe.
    clock.advance(secs(6));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 100);
    clock.advance(secs(30));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);

    // Thirty days later, two new keys get entries of their own.
    for key in 0..100 {
        feed(&hosts.get(&key), &clock, "x");
    }
    clock.advance(secs(30 * 86_400));
    feed(&hosts.get(&1000), &clock, "x");
    assert_eq!(hosts.get(&1001).state(), State::Closed);
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
}

#[test]
fn manually_changed_entries_are_kept() {
    let clock = ManualClock::new();
    let hosts = hosts(&clock);
    hosts.get(&1).disable();
    let watched = hosts.get(&2);
    clock.advance(secs(30 * 86_400));
    hosts.evict_idle();
    drop(watched);
    assert_eq!(hosts.len(), 2);
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts.get(&1).state(), State::Disabled);
}

#[test]
fn a_slow_failure_keeps_its_entry_until_it_leaves_the_window() {
    let clock = ManualClock::new();
    let template = builder(&clock)
        .trip_on(Trip::failures(9).within(secs(60)))
        .slow_call(secs(1));
    let hosts = Keyed::new(move |_: &u32| template.clone().build().unwrap());
    feed(&hosts.get(&1), &clock, "S");
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    clock.advance(secs(130));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);
}
