//! `Keyed` from outside: templates, keys without room, and keys and policies that panic or call back.

#[path = "../hostile_keys/mod.rs"]
mod hostile_keys;
mod overflow;
mod templates;
mod user_code;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::Keyed;
use backstop::keyed::{Evictable, Overflow};

use self::hostile_keys::{Key, operate};

/// A policy that records its key. Its number is the time in seconds until it is like a new one.
#[derive(Debug)]
struct Of(u64, Arc<AtomicU64>);

impl Of {
    fn new(key: u64) -> Self {
        Self(key, Arc::default())
    }
}

impl Clone for Of {
    fn clone(&self) -> Self {
        operate();
        Self(self.0, self.1.clone())
    }
}

impl Drop for Of {
    fn drop(&mut self) {
        operate();
    }
}

impl Evictable for Of {
    fn evictable_in(&self) -> Option<Duration> {
        operate();
        let wait = Duration::from_secs(self.1.load(Ordering::Relaxed));
        (Arc::strong_count(&self.1) == 1).then_some(wait)
    }
}

fn set(max_keys: usize, overflow: Overflow) -> Keyed<Key, Of> {
    let template = |key: &Key| {
        operate();
        Of::new(key.0)
    };
    let set = Keyed::builder(template).max_keys(max_keys);
    set.overflow(overflow).build().unwrap()
}

fn keys(set: &Keyed<Key, Of>) -> Vec<u64> {
    let mut keys = Vec::new();
    set.for_each(|key, of| {
        assert_eq!(key.0, of.0, "another's policy");
        keys.push(key.0);
    });
    keys.sort_unstable();
    keys
}
