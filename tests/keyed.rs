//! `Keyed` with policies and keys whose code is hostile, and what becomes of keys without room.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::keyed::{Evictable, NoRoom, Overflow};
use backstop::{
    Bulkhead, CircuitBreaker, ConfigError, Keyed, ManualClock, Pipeline, Policy, Quota,
    RateLimiter, Retry, Timeout,
};
use proptest::prelude::*;

thread_local! {
    /// The operations on keys and policies until one panics; zero for never.
    static FUSE: Cell<u32> = const { Cell::new(0) };
    /// Runs in each operation, but not inside itself.
    static HOOK: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

fn operate() {
    let hook = HOOK.take();
    if let Some(hook) = hook {
        hook();
        HOOK.set(Some(hook));
    }
    let fuse = FUSE.get();
    FUSE.set(fuse.saturating_sub(1));
    if fuse == 1 && !thread::panicking() {
        panic!("a key or a policy panics");
    }
}

fn with_fuse<R>(fuse: u32, call: impl FnOnce() -> R) -> Option<R> {
    FUSE.set(fuse);
    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    FUSE.set(0);
    result
}

fn silence_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"a key or a policy panics") {
                default(info);
            }
        }));
    });
}

#[derive(Debug)]
struct Key(u64);

impl Clone for Key {
    fn clone(&self) -> Self {
        operate();
        Self(self.0)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        operate();
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        operate();
        // Few values, so that keys are compared.
        (self.0 % 3).hash(state);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        operate();
    }
}

/// A policy that knows whose it is. Its number is how long until it is like a new one.
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
    Keyed::new(template).max_keys(max_keys).overflow(overflow)
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

/// Fails instead of hanging.
fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
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
fn templates_may_be_any_stack_with_options_and_policies_without_state() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let make = {
        let clock = clock.clone();
        move || {
            let breaker = CircuitBreaker::builder()
                .trip_on(Trip::consecutive(1))
                .clock(clock.clone())
                .build()?;
            let limiter = RateLimiter::builder()
                .quota(Quota::per_second(1))
                .clock(clock.clone())
                .build()?;
            let attempt = Timeout::builder()
                .after(Duration::from_secs(1))
                .clock(clock.clone())
                .build()?;
            let retry = Retry::builder().clock(clock.clone()).build()?;
            let stack = (retry, breaker, Some(limiter), attempt, None::<Bulkhead>);
            Ok::<_, ConfigError>(Pipeline::new(stack))
        }
    };
    let hosts = Keyed::<String, _>::try_new(make)?;
    let call = || async { Ok::<_, ()>(7) };
    assert_eq!(clock.block_on(hosts.get("a").call(call)), Ok(7));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1, "a token is missing");
    clock.advance(Duration::from_secs(1));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);

    let failing = Keyed::<String, _>::try_new(|| Retry::builder().max_attempts(0).build());
    assert_eq!(failing.unwrap_err().setting(), "max_attempts");
    Ok(())
}

#[test]
fn in_a_small_set_every_thread_gets_the_policy_of_its_key() {
    let set: Keyed<u64, Of> = Keyed::new(|key: &u64| Of::new(*key)).max_keys(4);
    let set = set.overflow(Overflow::Evict);
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
