//! `Keyed` from outside: templates, keys without room, and keys and policies that panic or call back.

mod overflow;
mod templates;
mod user_code;

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use backstop::Keyed;
use backstop::keyed::{Evictable, Overflow};

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
