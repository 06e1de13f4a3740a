//! Policies that know whether they can be evicted.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Ordering, fence};

/// A policy that knows whether it is indistinguishable from a new one.
///
/// All policies of the crate implement it, and so do tuples, `Option`s, and `Arc`s of them. A policy without state is
/// always evictable.
pub trait Evictable {
    /// Returns how long until the policy is indistinguishable from a new one, if it is not used meanwhile. `None` if
    /// that cannot be foreseen: another handle exists, a call is in flight, or a setting was changed.
    ///
    /// History that the rules of the policy no longer see does not count. Called outside all locks.
    fn evictable_in(&self) -> Option<Duration>;

    /// Returns whether the policy is indistinguishable from a new one.
    fn is_evictable(&self) -> bool {
        self.evictable_in() == Some(Duration::ZERO)
    }

    /// Prepares the policy for use by all keys that find a set full. A policy that passes results from one call to
    /// another must no longer do so: a key would get the result of another one. [`Stale`](crate::Stale) and
    /// [`Coalesce`](crate::Coalesce) obey, unless the template kept a handle. By default, does nothing.
    ///
    /// Called before the first use, and outside all locks.
    fn share_among_keys(&self) {}
}

impl<P: Evictable> Evictable for Option<P> {
    fn evictable_in(&self) -> Option<Duration> {
        match self {
            Some(policy) => policy.evictable_in(),
            None => Some(Duration::ZERO),
        }
    }

    fn share_among_keys(&self) {
        if let Some(policy) = self {
            policy.share_among_keys();
        }
    }
}

/// An `Arc` is evictable if it is the only handle and its policy is evictable. If a template returns the same `Arc`
/// for several keys, they share its state, and their entries are not evicted.
impl<P: Evictable + ?Sized> Evictable for Arc<P> {
    fn evictable_in(&self) -> Option<Duration> {
        match is_unshared(self) {
            true => (**self).evictable_in(),
            false => None,
        }
    }

    fn share_among_keys(&self) {
        if is_unshared(self) {
            (**self).share_among_keys();
        }
    }
}

/// Implements [`Evictable`] for policies without state.
macro_rules! stateless {
    ($policy:ident $(<$f:ident>)?) => {
        impl $(<$f>)? $crate::keyed::Evictable for $policy $(<$f>)? {
            fn evictable_in(&self) -> Option<std::time::Duration> {
                Some(std::time::Duration::ZERO)
            }
        }
    };
}
pub(crate) use stateless;

/// Returns whether this is the only handle. If so, the caller sees everything done through earlier handles.
pub(crate) fn is_unshared<T: ?Sized>(handle: &Arc<T>) -> bool {
    is_last(Arc::strong_count(handle))
}

/// Returns whether a count of handles, loaded Relaxed, is that of the last one.
fn is_last(handles: usize) -> bool {
    if handles != 1 {
        return false;
    }
    // Acquire pairs with the Release decrement when the last other handle was dropped.
    fence(Ordering::Acquire);
    true
}

#[cfg(all(test, backstop_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::{AtomicU64, AtomicUsize};

    /// An `Arc` whose count loom checks. Loom's own `Arc` has no Relaxed `strong_count`.
    struct Counted {
        handles: AtomicUsize,
        failures: AtomicU64,
    }

    #[test]
    fn loom_the_last_handle_observes_the_changes_of_the_others() {
        loom::model(|| {
            let policy = Arc::new(Counted {
                handles: AtomicUsize::new(2),
                failures: AtomicU64::new(0),
            });
            let other = policy.clone();
            let call = thread::spawn(move || {
                // Relaxed, as for counters in windows and buckets.
                other.failures.fetch_add(1, Ordering::Relaxed);
                // Drops the handle.
                other.handles.fetch_sub(1, Ordering::Release);
            });
            if is_last(policy.handles.load(Ordering::Relaxed)) {
                assert_eq!(policy.failures.load(Ordering::Relaxed), 1, "evicted");
            }
            call.join().unwrap();
        });
    }
}
