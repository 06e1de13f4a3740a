//! Keys whose code panics or calls back into the limiter.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use backstop::ManualClock;
use backstop::rate_limiter::{KeyedRateLimiter, Overflow, Quota};
use proptest::prelude::*;

use super::user_keys::{HOOK, Key, operate, silence_panics, with_fuse};
use super::watchdog::within_a_minute;
use super::{SECOND, ms};

/// Each key has a quota that tells whose it is.
fn quota(key: u64) -> Quota {
    Quota::per_second(1).burst(100 + key)
}

fn limits(clock: &ManualClock, overflow: Overflow) -> KeyedRateLimiter<Key> {
    KeyedRateLimiter::builder()
        .quota(quota(0))
        .quota_for(|key: &Key| {
            operate();
            (key.0 % 3 > 0).then(|| quota(key.0))
        })
        .max_keys(10)
        .overflow(overflow)
        .clock(clock.clone())
        .build()
        .unwrap()
}

#[test]
fn a_panic_in_the_code_of_a_key_costs_no_place() {
    silence_panics();
    for fuse in 1..12 {
        let clock = ManualClock::new();
        let limits = limits(&clock, Overflow::Reject);
        for key in 0..20 {
            with_fuse(fuse, || limits.try_acquire(&Key(key)));
        }
        assert_eq!(limits.len(), count_keys(&limits), "fuse {fuse}");
        clock.advance(200 * SECOND);
        limits.evict_idle();
        assert_eq!(limits.len(), 0, "fuse {fuse}");
        let admitted = (0..10).filter(|key| limits.try_acquire(&Key(*key)).is_ok());
        assert_eq!(admitted.count(), 10, "fuse {fuse}");
    }
}

#[test]
fn a_key_that_panics_when_it_makes_room_leaves_its_place_to_others() {
    silence_panics();
    for fuse in 1..12 {
        let limits = limits(&ManualClock::new(), Overflow::Evict);
        for key in 0..10 {
            limits.try_acquire(&Key(key)).unwrap();
        }
        for key in 10..20 {
            with_fuse(fuse, || limits.try_acquire(&Key(key)));
            assert_eq!(limits.len(), count_keys(&limits), "fuse {fuse}");
        }
        for key in 20..30 {
            limits.try_acquire(&Key(key)).unwrap();
        }
        assert_eq!(limits.len(), 10, "fuse {fuse}");
    }
}

#[test]
fn a_key_that_panics_when_it_is_evicted_costs_the_caller_no_tokens() {
    silence_panics();
    let mut panicked = 0;
    // Calls look for idle keys of their shard now and then: at one of these calls, and with one of these
    // fuses, a key panics when it is dropped. Ten keys in a few shards: some key shares its shard.
    let cases = (0..10)
        .flat_map(|id| (40..70).flat_map(move |calls| (2..20).map(move |fuse| (id, calls, fuse))));
    for (id, calls, fuse) in cases {
        let clock = ManualClock::new();
        let limits = limits(&clock, Overflow::Reject);
        let key = Key(id);
        for other in 0..10 {
            limits.try_acquire(&Key(other)).unwrap();
        }
        clock.advance(200 * SECOND);
        for _ in 0..calls {
            limits.try_acquire(&key).unwrap();
        }
        let known = limits.len();
        let call = with_fuse(fuse, || limits.try_acquire(&key));
        panicked += u32::from(call.is_none() && limits.len() < known);
        let taken = calls + u64::from(call.is_some());
        let remaining = limits.peek(&key).unwrap().remaining;
        let burst = 100 + if id % 3 > 0 { id } else { 0 };
        assert_eq!(
            remaining,
            burst - taken,
            "key {id}, call {calls}, fuse {fuse}"
        );
    }
    assert!(panicked > 0, "no key was dropped with a panic");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Against a model that knows between how many tokens each key can have taken: a call that panics
    /// may have taken its own or not.
    #[test]
    fn keys_that_panic_leave_every_key_its_own_limit(
        steps in prop::collection::vec((0_u8..10, 0_u64..16, 0_u32..12), 1..200),
    ) {
        silence_panics();
        let clock = ManualClock::new();
        let limits = limits(&clock, Overflow::Reject);
        let mut taken: HashMap<u64, (u64, u64)> = HashMap::new();
        for (step, key, fuse) in steps {
            match step {
                0..=5 => {
                    let decision = with_fuse(fuse, || limits.decide(&Key(key), 1));
                    let (least, most) = taken.entry(key).or_default();
                    match decision {
                        Some(decision) if decision.allowed => {
                            *least += 1;
                            *most += 1;
                            let burst = if key % 3 > 0 { 100 + key } else { 100 };
                            prop_assert_eq!(decision.limit, burst, "another's limit");
                            let used = burst - decision.remaining;
                            prop_assert!((*least..=*most).contains(&used), "{least} {most} {used}");
                            (*least, *most) = (used, used);
                        }
                        Some(decision) => {
                            prop_assert_eq!(decision.limit, 0, "there is no room");
                            prop_assert_eq!((*least, limits.len()), (0, 10));
                        }
                        None => *most += 1,
                    }
                }
                6 => {
                    with_fuse(fuse, || limits.evict_idle());
                }
                7 => {
                    let forgotten = with_fuse(fuse, || limits.forget(&Key(key)));
                    let (least, most) = taken.entry(key).or_default();
                    *least = 0;
                    if forgotten.is_some() {
                        *most = 0;
                    }
                }
                8 => {
                    with_fuse(fuse, || count_keys(&limits));
                }
                _ => {
                    with_fuse(fuse, || limits.pause_key_for(&Key(key), Duration::ZERO));
                }
            }
            let mut entries = Vec::new();
            limits.for_each(|key, _| entries.push(key.0));
            prop_assert_eq!(entries.len(), limits.len());
            entries.sort_unstable();
            entries.dedup();
            prop_assert_eq!(entries.len(), limits.len(), "a key is there twice");
            prop_assert!(limits.len() <= 10);
        }
        clock.advance(500 * SECOND);
        limits.evict_idle();
        prop_assert_eq!(limits.len(), 0);
    }
}

/// Counts the keys one by one.
fn count_keys(limits: &KeyedRateLimiter<Key>) -> usize {
    let mut count = 0;
    limits.for_each(|_, _| count += 1);
    count
}

#[test]
fn keys_may_call_back_into_the_limiter_from_all_of_their_code() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        for overflow in [Overflow::Reject, Overflow::Shared, Overflow::Evict] {
            let limits = limits(&clock, overflow);
            let inner = limits.clone();
            let calls = Rc::new(Cell::new(0_u64));
            let count = calls.clone();
            HOOK.set(Some(Rc::new(move || {
                count.set(count.get() + 1);
                for key in 0..20 {
                    let _ = inner.try_acquire(&Key(key));
                    let _ = inner.peek(&Key(key));
                }
                inner.evict_idle();
                let _ = inner.forget(&Key(count.get() % 20));
                let _ = count_keys(&inner);
                let _ = inner.pause_key_for(&Key(3), Duration::ZERO);
                let _ = inner.set_quota(quota(0), Default::default());
                let _ = inner.snapshot();
            })));
            for key in 0..20 {
                let _ = limits.try_acquire(&Key(key));
                clock.advance(ms(10));
            }
            limits.evict_idle();
            limits.for_each(|_, _| limits.evict_idle());
            HOOK.set(None);
            assert!(calls.get() > 100);
            assert_eq!(count_keys(&limits), limits.len());
        }
    });
}

#[test]
fn threads_whose_keys_call_back_from_their_comparison_do_not_wait_for_each_other() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let limits = limits(&clock, Overflow::Shared);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let inner = limits.clone();
                    HOOK.set(Some(Rc::new(move || {
                        let _ = inner.try_acquire(&Key(7));
                        let _ = inner.try_acquire(&Key(8));
                    })));
                    for call in 0..2_000 {
                        let _ = limits.try_acquire(&Key(call % 12));
                    }
                    HOOK.set(None);
                });
            }
        });
        assert_eq!(count_keys(&limits), limits.len());
    });
}

#[test]
fn snapshots_and_calls_that_get_a_wait_queue_do_not_wait_for_each_other() {
    within_a_minute(|| {
        let limits = KeyedRateLimiter::builder()
            .quota(Quota::per_hour(1))
            .clock(ManualClock::new());
        let limits = limits.build().unwrap();
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let limits = &limits;
                scope.spawn(move || {
                    for call in 0..1_000 {
                        match thread % 2 {
                            0 => drop(limits.snapshot()),
                            // The bucket of a key with a debt becomes a limiter, under the lock of its shard.
                            _ => drop(limits.reserve(&(thread << 32 | call), 2)),
                        }
                    }
                });
            }
        });
        assert_eq!(limits.snapshot().waiting, 0);
    });
}

/// A key of which only `Clone` and `Drop` are operations.
#[derive(Debug, PartialEq, Eq)]
struct Loud(u64);

impl Clone for Loud {
    fn clone(&self) -> Self {
        operate();
        Self(self.0)
    }
}

impl Hash for Loud {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 % 3).hash(state);
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        operate();
    }
}

#[test]
fn keys_are_cloned_and_dropped_outside_all_locks() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let limits = KeyedRateLimiter::builder()
            .quota(quota(0))
            .quota_for(|_: &Loud| {
                operate();
                None
            })
            .overflow(Overflow::Reject)
            .clock(clock.clone())
            .build()
            .unwrap();
        let inner = limits.clone();
        let calls = Rc::new(Cell::new(0_u64));
        let count = calls.clone();
        HOOK.set(Some(Rc::new(move || {
            count.set(count.get() + 1);
            // In each shard in use. Under the lock of one there would be no room, which is a limit of 0.
            for key in 0..6 {
                assert_eq!(inner.decide(&Loud(key), 1).limit, 100);
            }
        })));
        for _ in 0..20 {
            for key in 0..20 {
                let _ = limits.try_acquire(&Loud(key));
                let _ = limits.reserve(&Loud(key), 1);
            }
            let _ = limits.forget(&Loud(3));
            clock.advance(1000 * SECOND);
            // Calls with a known key sweep now and then, and drop the idle keys beside it.
            let key = std::mem::ManuallyDrop::new(Loud(1));
            for _ in 0..70 {
                let _ = limits.try_acquire(&*key);
            }
        }
        limits.evict_idle();
        HOOK.set(None);
        assert!(calls.get() > 100);
    });
}

#[test]
fn keys_that_make_room_for_others_are_dropped_outside_all_locks() {
    within_a_minute(|| {
        let limits = KeyedRateLimiter::builder()
            .quota(quota(0))
            .max_keys(8)
            .overflow(Overflow::Evict)
            .clock(ManualClock::new())
            .build()
            .unwrap();
        let inner = limits.clone();
        let calls = Rc::new(Cell::new(0_u64));
        let count = calls.clone();
        HOOK.set(Some(Rc::new(move || {
            count.set(count.get() + 1);
            for key in 0..6 {
                assert_eq!(inner.decide(&Loud(key), 1).limit, 100);
            }
        })));
        for key in 0..100 {
            // Keys in use, so that none is idle.
            let _ = limits.try_acquire_n(&Loud(key), 50);
        }
        HOOK.set(None);
        assert!(calls.get() > 100);
    });
}
