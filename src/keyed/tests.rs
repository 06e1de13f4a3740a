use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use super::entries::FEW;
use super::*;

/// A policy that is evictable on command, and counts the checks.
#[derive(Clone)]
struct Asked(Arc<(AtomicBool, AtomicU64)>);

impl Evictable for Asked {
    fn evictable_in(&self) -> Option<Duration> {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        let leaves = self.0.0.load(Ordering::Relaxed);
        leaves.then_some(Duration::ZERO)
    }
}

#[test]
fn no_key_checks_all_entries_in_vain() {
    const KEYS: u64 = 1000;
    let asked = Asked(Arc::default());
    let made = Arc::new(AtomicU64::new(0));
    let template = {
        let (asked, made) = (asked.clone(), made.clone());
        move |_: &u64| {
            made.fetch_add(1, Ordering::Relaxed);
            asked.clone()
        }
    };
    let keyed = Keyed::builder(template).max_keys(KEYS as usize);
    let keyed = keyed.build().unwrap();
    for key in 0..2 * KEYS {
        keyed.get(&key);
    }
    assert_eq!(keyed.len() as u64, KEYS);
    let asked_so_far = asked.0.1.swap(0, Ordering::Relaxed);
    assert!(asked_so_far > 2 * KEYS, "each new key looks at some");
    // One for each key, and the shared one.
    assert_eq!(made.load(Ordering::Relaxed), KEYS + 1);

    for key in 2 * KEYS..12 * KEYS {
        keyed.get(&key);
    }
    let each = asked.0.1.load(Ordering::Relaxed) / (10 * KEYS);
    assert!(each < 10, "{each} entries looked at for each key");

    // Evictable entries are evicted soon.
    asked.0.0.store(true, Ordering::Relaxed);
    keyed.get(&u64::MAX);
    keyed.get(&(u64::MAX - 1));
    assert!((keyed.len() as u64) < KEYS);
}

#[test]
fn in_a_small_shard_the_evictable_entry_is_found_at_once() {
    let made = Arc::new(Mutex::new(Vec::new()));
    let keep = made.clone();
    let keyed = Keyed::builder(move |_: &u64| {
        let policy = Asked(Arc::default());
        lock(&keep).push(policy.clone());
        policy
    });
    let keyed = keyed.max_keys(FEW).build().unwrap();
    for key in 0..70 {
        keyed.get(&key);
    }
    let entries = lock(&made).len() - 1;
    assert_eq!((entries, keyed.len()), (64, 64));
    // Far from the entry that would be checked next.
    lock(&made)[30].0.0.store(true, Ordering::Relaxed);
    keyed.get(&100);
    assert_eq!(lock(&made).len(), 66, "it has one of its own");
}

#[test]
fn a_tuple_is_evictable_when_all_its_policies_are() {
    let policy = |leaves: bool| {
        let asked = Asked(Arc::default());
        asked.0.0.store(leaves, Ordering::Relaxed);
        asked
    };
    assert!((policy(true), policy(true)).is_evictable());
    assert!(!(policy(true), policy(false)).is_evictable());
    assert!(!(policy(false), policy(true), policy(true)).is_evictable());
}

/// A policy that is evictable in this many seconds.
#[derive(Clone)]
struct In(u64);

impl Evictable for In {
    fn evictable_in(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.0))
    }
}

#[test]
fn in_a_small_shard_the_nearest_entry_is_evicted_at_any_position() {
    for near in 0..FEW {
        let made = Arc::new(AtomicU64::new(0));
        let count = made.clone();
        let keyed = Keyed::builder(move |key: &usize| {
            count.fetch_add(1, Ordering::Relaxed);
            In(if *key == near { 1 } else { 9 })
        });
        let keyed = keyed
            .max_keys(FEW)
            .overflow(Overflow::Evict)
            .build()
            .unwrap();
        assert!(keyed.is_empty());
        for key in 0..=FEW {
            keyed.get(&key);
        }
        assert_eq!(keyed.len(), FEW);
        assert!(!keyed.is_empty());
        assert_eq!(made.swap(0, Ordering::Relaxed), FEW as u64 + 1);
        for key in (0..=FEW).filter(|key| *key != near) {
            keyed.get(&key);
        }
        assert_eq!(made.load(Ordering::Relaxed), 0, "{near}");
    }
}
