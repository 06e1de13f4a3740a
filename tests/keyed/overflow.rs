//! Keys without room, and keys that are forgotten.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::thread;

use backstop::keyed::NoRoom;

use super::*;

#[test]
fn keys_without_room_are_rejected_share_or_replace_the_nearest_to_new() {
    for overflow in [Overflow::Reject, Overflow::Shared, Overflow::Evict] {
        let set = set(3, overflow);
        for key in 0..3 {
            set.get(&Key(key)).1.store(10 - key, Ordering::Relaxed);
        }
        match overflow {
            Overflow::Reject => {
                assert_eq!(set.try_get(&Key(7)).unwrap_err(), NoRoom);
                assert_eq!(NoRoom.to_string(), "no room for another key");
                assert_eq!(set.get(&Key(7)).0, 7, "shared, as it has to return one");
                assert_eq!(set.get(&Key(8)).0, 7);
                assert_eq!(keys(&set), [0, 1, 2]);
            }
            Overflow::Evict => {
                assert_eq!(set.try_get(&Key(7)).unwrap().0, 7);
                assert_eq!(keys(&set), [0, 1, 7], "2 was the nearest");
                // What is held stays.
                let held: Vec<_> = [0, 1, 7].map(|key| set.get(&Key(key))).into();
                assert_eq!(set.get(&Key(8)).0, 8, "the shared one, made for it");
                assert_eq!(keys(&set), [0, 1, 7]);
                drop(held);
            }
            _ => {
                assert_eq!(set.try_get(&Key(7)).unwrap().0, 7);
                assert_eq!(set.try_get(&Key(8)).unwrap().0, 7);
                assert_eq!(keys(&set), [0, 1, 2]);
            }
        }
    }
}

#[test]
fn in_a_small_set_every_thread_gets_the_policy_of_its_key() {
    let set = Keyed::builder(|key: &u64| Of::new(*key)).max_keys(4);
    let set = set.overflow(Overflow::Evict).build().unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let set = &set;
            scope.spawn(move || {
                for call in 0..5_000 {
                    let key = (call * 7 + thread) % 9;
                    if let Ok(of) = set.try_get(&key) {
                        of.1.store(call % 3, Ordering::Relaxed);
                    }
                    assert!(set.len() <= 4);
                }
            });
        }
    });
    set.for_each(|key, of| assert_eq!(*key, of.0));
}

#[test]
fn a_forgotten_key_gets_a_new_policy_and_handles_of_the_old_one_still_work() {
    let set = set(4, Overflow::Reject);
    let held = set.get(&Key(1));
    held.1.store(7, Ordering::Relaxed);
    set.get(&Key(2)).1.store(7, Ordering::Relaxed);
    assert!(set.forget(&Key(1)));
    assert!(!set.forget(&Key(1)));
    assert_eq!(keys(&set), [2]);
    assert_eq!(set.get(&Key(1)).1.load(Ordering::Relaxed), 0);
    assert_eq!(held.1.load(Ordering::Relaxed), 7);
}

#[test]
fn a_snapshot_has_the_name_the_bound_and_the_keys_without_room() {
    let set = Keyed::builder(|key: &u64| Of::new(*key)).max_keys(2);
    let set = set
        .name("hosts")
        .overflow(Overflow::Reject)
        .build()
        .unwrap();
    let held: Vec<_> = [1, 2].map(|key| set.get(&key)).into();
    assert!(set.try_get(&3).is_err());
    let _ = set.get(&4);
    let snapshot = set.snapshot();
    assert_eq!((snapshot.name, set.name()), ("hosts", "hosts"));
    assert_eq!(
        (snapshot.keys, snapshot.max_keys, snapshot.overflowed),
        (2, 2, 2)
    );
    drop(held);
}

#[test]
fn a_set_for_no_keys_is_an_error() {
    let builder = Keyed::builder(|key: &u64| Of::new(*key)).max_keys(0);
    assert_eq!(builder.clone().build().unwrap_err().setting(), "max_keys");
    assert!(format!("{builder:?}").contains("max_keys: 0"));
}

/// A policy that is used again while it is checked, after which the result of the check is out of date.
#[derive(Clone)]
struct UsedMeanwhile {
    set: Arc<OnceLock<Keyed<u64, Self>>>,
    used: Arc<AtomicBool>,
}

impl Evictable for UsedMeanwhile {
    fn evictable_in(&self) -> Option<Duration> {
        if self.used.load(Ordering::Relaxed) {
            return None;
        }
        let again = self.set.get()?.get(&1);
        again.used.store(true, Ordering::Relaxed);
        Some(Duration::ZERO)
    }
}

#[test]
fn an_entry_that_is_used_while_it_is_checked_stays() {
    let shared = Arc::new(OnceLock::new());
    let of_template = shared.clone();
    let set = Keyed::new(move |_: &u64| UsedMeanwhile {
        set: of_template.clone(),
        used: Arc::default(),
    });
    assert!(shared.set(set.clone()).is_ok());
    drop(set.get(&1));
    set.evict_idle();
    assert_eq!(set.len(), 1);
    assert!(set.get(&1).used.load(Ordering::Relaxed));
}

/// The template of a key makes the policy of another one, which takes the last place.
#[test]
fn a_place_that_is_taken_while_a_policy_is_made_is_made_free_again() {
    static SET: OnceLock<Keyed<u64, Of>> = OnceLock::new();
    let template = |key: &u64| {
        if let (1, Some(set)) = (*key, SET.get()) {
            assert_eq!(set.get(&2).0, 2);
        }
        Of::new(*key)
    };
    let set = Keyed::builder(template).max_keys(1);
    let set = SET.get_or_init(|| set.overflow(Overflow::Evict).build().unwrap());
    assert_eq!(set.try_get(&1).unwrap().0, 1);
    assert_eq!((set.len(), set.snapshot().overflowed), (1, 0));
}
