//! Keys and policies whose code panics, or uses the set it is in.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use backstop::keyed::{NoRoom, Overflow};
use proptest::prelude::*;

use super::hostile_keys::{HOOK, Key, operate, silence_panics, with_fuse};
use super::watchdog::within_a_minute;
use super::{keys, set};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Against a model that knows which keys have history, and so must keep their policies.
    #[test]
    fn keys_and_policies_that_panic_leave_every_key_its_own_policy(
        steps in prop::collection::vec((0_u8..8, 0_u64..12, 0_u32..14), 1..150),
    ) {
        silence_panics();
        let set = set(8, Overflow::Reject);
        // Each with a number of its own, by which to tell a policy from another one of the same key.
        let mut history: HashMap<u64, u64> = HashMap::new();
        for (number, (step, key, fuse)) in steps.into_iter().enumerate() {
            match step {
                0..=4 => {
                    let name = Key(key);
                    let got = with_fuse(fuse, || set.try_get(&name));
                    if let Some(Ok(of)) = &got {
                        prop_assert_eq!(of.0, key, "another's policy");
                        let number = number as u64 + 1;
                        let before = of.1.swap(if step < 3 { number } else { 0 }, Ordering::Relaxed);
                        prop_assert_eq!(before, history.remove(&key).unwrap_or(0), "history");
                        if step < 3 {
                            history.insert(key, number);
                        }
                    }
                    if let Some(Err(NoRoom)) = &got {
                        prop_assert!(set.len() == 8 && !history.contains_key(&key));
                    }
                }
                5 | 6 => {
                    with_fuse(fuse, || set.evict_idle());
                }
                _ => {
                    with_fuse(fuse, || set.for_each(|_, _| operate()));
                }
            }
            let keys = keys(&set);
            prop_assert_eq!(keys.len(), set.len());
            prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "a key is there twice");
            prop_assert!(history.keys().all(|key| keys.contains(key)));
        }
        set.for_each(|_, of| of.1.store(0, Ordering::Relaxed));
        set.evict_idle();
        prop_assert_eq!(set.len(), 0);
    }
}

#[test]
fn after_a_panic_at_any_moment_all_places_can_be_had_again() {
    silence_panics();
    for fuse in 1..20 {
        let set = set(10, Overflow::Reject);
        for key in 0..20 {
            // Outside: a temporary that panics when it is dropped leaks the value beside it.
            let key = Key(key);
            drop(with_fuse(fuse, || set.try_get(&key)));
        }
        set.evict_idle();
        assert_eq!(set.len(), 0, "fuse {fuse}");
        let held: Vec<_> = (0..10).map(|key| set.try_get(&Key(key)).unwrap()).collect();
        assert_eq!(keys(&set), (0..10).collect::<Vec<_>>(), "fuse {fuse}");
        drop(held);
    }
}

#[test]
fn all_code_of_keys_and_policies_may_use_the_set_it_is_in() {
    within_a_minute(|| {
        for overflow in [Overflow::Reject, Overflow::Shared, Overflow::Evict] {
            let set = set(5, overflow);
            let inner = set.clone();
            let calls = Rc::new(Cell::new(0_u64));
            let count = calls.clone();
            HOOK.set(Some(Rc::new(move || {
                count.set(count.get() + 1);
                for key in 0..7 {
                    let _ = inner.try_get(&Key(key));
                    let _ = inner.get(&Key(key));
                }
                inner.for_each(|_, of| of.1.store(of.0, Ordering::Relaxed));
                inner.evict_idle();
                let _ = format!("{inner:?} {}", inner.len());
            })));
            for key in 0..20 {
                let _ = set.get(&Key(key));
            }
            set.for_each(|_, _| {
                set.evict_idle();
                let _ = set.get(&Key(100));
            });
            HOOK.set(None);
            assert!(calls.get() > 50);
            assert_eq!(keys(&set).len(), set.len());
        }
    });
}

#[test]
fn keys_and_policies_are_compared_judged_and_dropped_outside_the_lock() {
    within_a_minute(|| {
        for overflow in [Overflow::Reject, Overflow::Shared, Overflow::Evict] {
            // `in_use`: no policy is like a new one, so keys make room only where the overflow is `Evict`.
            for in_use in [0, 1] {
                let set = set(5, overflow);
                let inner = set.clone();
                let calls = Rc::new(Cell::new(0_u64));
                let count = calls.clone();
                // Locks each shard, and changes nothing.
                HOOK.set(Some(Rc::new(move || {
                    count.set(count.get() + inner.len() as u64);
                })));
                for key in 0..20 {
                    for _ in 0..2 {
                        if let Ok(of) = set.try_get(&Key(key)) {
                            of.1.store(in_use, Ordering::Relaxed);
                        }
                    }
                }
                let evicts = in_use == 0 || overflow == Overflow::Evict;
                let latest = if evicts { 19 } else { 4 };
                assert!(keys(&set).contains(&latest));
                set.evict_idle();
                HOOK.set(None);
                assert!(calls.get() > 50);
                assert_eq!(set.len(), 5 * in_use as usize);
            }
        }
    });
}
