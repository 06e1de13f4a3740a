//! A store is code of the user, which may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::store::{Held, Hold, MemoryStore, PermitStore, Reply};
use backstop::{ManualClock, SharedBulkhead};

use super::{Finish, TTL};

/// A store that panics while it is told to.
#[derive(Clone)]
struct Panicking {
    store: MemoryStore,
    panics: Arc<AtomicBool>,
}

impl PermitStore for Panicking {
    fn hold(&self, hold: Hold, reply: Reply<Held>) {
        assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
        self.store.hold(hold, reply);
    }
}

#[test]
fn a_store_that_panics_costs_no_permit_and_no_place_in_the_queue() {
    let clock = ManualClock::new();
    let store = Panicking {
        store: MemoryStore::new(clock.clone()),
        panics: Arc::default(),
    };
    let builder = SharedBulkhead::builder().store(store.clone()).key("key");
    let builder = builder.max_concurrent(1).ttl(TTL).clock(clock.clone());
    let bulkhead = builder.build().unwrap();
    let during = |code: &dyn Fn()| {
        store.panics.store(true, Ordering::Relaxed);
        let panic = catch_unwind(AssertUnwindSafe(code));
        store.panics.store(false, Ordering::Relaxed);
        panic.expect_err("the store was asked");
        let seen = bulkhead.snapshot();
        assert_eq!((seen.in_flight, seen.waiting), (0, 0));
        clock.advance(Duration::from_secs(1));
        drop(clock.finish(bulkhead.try_acquire()).unwrap());
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    };
    // The call waits for an answer, or for a permit.
    during(&|| drop(clock.finish(bulkhead.try_acquire())));
    clock.advance(2 * TTL);
    during(&|| drop(clock.finish(bulkhead.acquire())));
    // It is admitted, and it is time to renew the permits.
    clock.advance(TTL / 3);
    during(&|| drop(clock.finish(bulkhead.acquire())));
    clock.advance(TTL / 3);
    during(&|| drop(bulkhead.try_acquire_held()));
}
