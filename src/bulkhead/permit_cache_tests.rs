//! Tests of the semaphore and the permit caches against plain counting.

use proptest::prelude::*;

use super::*;
use crate::bulkhead::state::MAX_PERMITS;
use crate::striped::set_thread_index;

/// Acquires one permit like a bulkhead: fast path, then slow path.
fn acquire(cache: &PermitCache) -> Result<Taken, PackedState> {
    cache
        .try_acquire_once()
        .map_or_else(|| cache.try_acquire_one(), Ok)
}

/// Returns the permits that the semaphore counts, and the permits in flight.
fn counts(cache: &PermitCache) -> (u32, u32) {
    (cache.read().in_flight(), cache.in_flight())
}

#[test]
fn fields_do_not_touch_each_other() {
    let cache = PermitCache::new(u32::MAX, true);
    assert_eq!(cache.read().limit(), MAX_PERMITS);
    assert_eq!(cache.force(u32::MAX).cost(), MAX_PERMITS);
    assert_eq!(cache.force(1).cost(), 0, "the count is full");
    cache.set_waiting();
    let old = cache.set_limit(1);
    assert!(old.limit() == MAX_PERMITS && old.is_waiting() && !old.is_cached());
    let state = cache.read();
    assert_eq!((state.limit(), state.in_flight()), (1, MAX_PERMITS));
    cache.clear_waiting();
    assert!(!cache.release(MAX_PERMITS).is_waiting());
    assert_eq!(cache.read().in_flight(), 0);
}

#[test]
fn no_call_overtakes_a_waiter() {
    let cache = PermitCache::new(2, true);
    cache.set_waiting();
    assert!(cache.try_acquire(1, false).is_err());
    assert!(acquire(&cache).is_err());
    assert!(cache.acquire_in_turn(1, false, false).is_ok());
    assert!(cache.acquire_in_turn(2, false, true).is_err());
    assert!(cache.read().is_waiting());
    assert!(cache.acquire_in_turn(1, false, true).is_ok());
    assert!(!cache.read().is_waiting(), "it was the last");
}

#[test]
fn permits_are_acquired_up_to_the_limit() {
    for limit in [1, 2, MAX_PERMITS] {
        let cache = PermitCache::new(limit, true);
        let forced = cache.force(limit - 1).cost();
        let (_, in_flight) = acquire(&cache).unwrap().into_words();
        assert_eq!((forced, in_flight), (limit - 1, u64::from(limit)));
        let state = acquire(&cache).unwrap_err();
        assert_eq!((state.in_flight(), state.limit()), (limit, limit));
    }
}

#[test]
fn a_clamped_cost_takes_all_permits() {
    let cache = PermitCache::new(3, true);
    assert!(cache.try_acquire(5, false).is_err());
    assert_eq!(cache.try_acquire(5, true).map(Taken::cost), Ok(3));
}

#[test]
fn a_released_permit_stays_with_its_thread_while_many_are_free() {
    let cache = PermitCache::with_two_caches(8);
    set_thread_index(0);
    acquire(&cache).unwrap();
    assert!(!cache.release_one());
    assert_eq!(counts(&cache), (1, 0));
    // A thread with another cache does not use it.
    set_thread_index(1);
    acquire(&cache).unwrap();
    assert_eq!(counts(&cache), (2, 1));
    set_thread_index(0);
    acquire(&cache).unwrap();
    assert_eq!(counts(&cache), (2, 2));
    // Both caches together hold half of the limit.
    cache.force(2);
    for released in 1..=4 {
        cache.release_one();
        let to_the_semaphore = released.max(2) - 2;
        assert_eq!(cache.read().in_flight(), 4 - to_the_semaphore);
    }
    assert_eq!(counts(&cache), (2, 0));
    cache.set_limit(16);
    assert!(cache.open_two_caches());
    cache.force(7);
    (0..7).for_each(|_| assert!(!cache.release_one()));
    assert_eq!(counts(&cache), (4, 0), "half of the new limit");
}

#[test]
fn the_caches_are_emptied_before_a_rejection_a_wait_and_a_new_limit() {
    type Act = fn(&PermitCache);
    let acts: [(Act, u32); 4] = [
        (|cache| assert!(cache.try_acquire(8, false).is_ok()), 8),
        (|cache| assert!(cache.try_acquire(9, false).is_err()), 0),
        (|cache| assert!(cache.set_waiting().in_flight() == 0), 0),
        (|cache| assert!(cache.set_limit(7).limit() == 8), 0),
    ];
    for (act, in_flight) in acts {
        let cache = PermitCache::with_two_caches(8);
        for home in [0, 1] {
            set_thread_index(home);
            acquire(&cache).unwrap();
            cache.release_one();
        }
        assert_eq!(counts(&cache), (2, 0));
        act(&cache);
        assert_eq!(counts(&cache), (in_flight, in_flight));
        // The caches stay empty until threads contend again.
        cache.force(1);
        cache.release_one();
        assert_eq!(counts(&cache), (in_flight, in_flight));
    }
}

#[test]
fn permits_are_cached_only_while_many_are_free_and_no_call_waits() {
    let cache = PermitCache::new(8, false);
    cache.force(2);
    assert!(!cache.open_two_caches(), "a quarter is in flight");
    cache.release(1);
    cache.set_waiting();
    assert!(!cache.open_two_caches(), "a call waits");
    cache.clear_waiting();
    assert!(cache.open_two_caches());
}

#[test]
fn a_limit_with_less_than_one_permit_per_cache_keeps_them_closed() {
    let cache = PermitCache::with_two_caches(8);
    cache.set_limit(3);
    assert!(!cache.open_two_caches());
    cache.set_limit(4);
    assert!(cache.open_two_caches());
}

#[test]
fn contention_opens_the_cache_except_where_counts_must_be_exact() {
    for (exact, limit, opens) in [(false, 4, true), (false, 3, false), (true, 4, false)] {
        let cache = PermitCache::new(limit, exact);
        // The state after a failed compare-and-swap.
        assert!(cache.try_acquire_one().is_ok());
        assert_eq!(cache.read().is_cached(), opens, "{limit}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire { home: usize, cost: u32 },
    Release { home: usize, which: usize },
    Resize(u32),
    Wait,
    Contend,
    ClearWaiting,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, prop_oneof![5 => Just(1), 1 => 2..9_u32])
            .prop_map(|(home, cost)| Step::Acquire { home, cost }),
        6 => (0..3_usize, any::<usize>())
            .prop_map(|(home, which)| Step::Release { home, which }),
        1 => (1..24_u32).prop_map(Step::Resize),
        1 => Just(Step::Wait),
        1 => Just(Step::ClearWaiting),
        2 => Just(Step::Contend),
    ]
}

/// Compares with a model of an in-flight count, a limit, and a flag.
fn check(limit: u32, steps: &[Step]) -> Result<(), TestCaseError> {
    let cache = PermitCache::with_two_caches(limit);
    let (mut limit, mut out, mut waiting) = (limit, Vec::new(), false);
    for &step in steps {
        let sum = out.iter().sum::<u32>();
        match step {
            Step::Acquire { home, cost } => {
                set_thread_index(home);
                let taken = match cost {
                    1 => acquire(&cache).ok(),
                    _ => cache.try_acquire(cost, false).ok(),
                };
                prop_assert_eq!(taken.is_some(), !waiting && sum + cost <= limit);
                out.extend(taken.map(Taken::cost));
            }
            Step::Release { home, which } if !out.is_empty() => {
                set_thread_index(home);
                match out.swap_remove(which % out.len()) {
                    1 => prop_assert_eq!(cache.release_one(), waiting),
                    cost => prop_assert_eq!(cache.release(cost).is_waiting(), waiting),
                }
            }
            Step::Release { .. } => {}
            Step::Resize(to) => {
                let before = cache.set_limit(to);
                prop_assert_eq!((before.limit(), before.is_waiting()), (limit, waiting));
                limit = to;
            }
            Step::Wait => {
                prop_assert_eq!(cache.set_waiting().in_flight(), sum);
                waiting = true;
            }
            Step::Contend => {
                cache.open_two_caches();
            }
            Step::ClearWaiting => {
                cache.clear_waiting();
                waiting = false;
            }
        }
        prop_assert_eq!(cache.in_flight(), out.iter().sum::<u32>());
        prop_assert_eq!(cache.read().limit(), limit);
        prop_assert_eq!(cache.read().is_waiting(), waiting);
    }
    Ok(())
}

proptest! {
    #[test]
    fn caches_change_no_result(
        limit in 1..24_u32,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        check(limit, &steps)?;
    }
}

#[test]
fn a_new_limit_and_permits_released_elsewhere_agree_with_the_count() {
    let acquire = |home, cost| Step::Acquire { home, cost };
    let release = |home| Step::Release { home, which: 0 };
    let grown = [
        Step::Resize(10),
        acquire(0, 1),
        acquire(0, 1),
        release(0),
        acquire(0, 8),
        acquire(0, 1),
    ];
    check(1, &grown).unwrap();
    let shrunk = [
        acquire(0, 1),
        release(2),
        acquire(1, 1),
        Step::Resize(1),
        acquire(2, 1),
    ];
    check(4, &shrunk).unwrap();
}
