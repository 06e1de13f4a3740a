//! Stores, observers and wakers are code of the user: they may panic, and use the limiter they belong to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use backstop::shared_rate_limiter::SyncMode;
use backstop::store::{MemoryStore, Reply, Store, StoreError, Take, Taken};
use backstop::{Event, ManualClock, Quota, SharedRateLimiter};

use super::watchdog::within_a_minute;

/// A store that does what it is told before it answers.
struct Hostile<F>(MemoryStore, F);

impl<F: Fn(&[Take]) + Send + Sync> Store for Hostile<F> {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        (self.1)(&takes);
        self.0.take(takes, reply);
    }
}

fn limiter(clock: &ManualClock, store: impl Store + 'static) -> SharedRateLimiter {
    let builder = SharedRateLimiter::builder().store(store).key("key");
    builder
        .quota(Quota::per_second(100))
        .clock(clock.clone())
        .build()
        .unwrap()
}

#[test]
fn a_store_that_panics_loses_the_store_and_nothing_else() {
    let clock = ManualClock::new();
    let requests = AtomicU32::new(0);
    let limiter = limiter(
        &clock,
        Hostile(MemoryStore::new(clock.clone()), move |_: &[Take]| {
            assert!(requests.fetch_add(1, Ordering::Relaxed) != 1, "on purpose");
        }),
    );
    let call = || clock.block_on(limiter.try_acquire());
    assert!(call().is_ok());
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert!(!limiter.snapshot().store_up);
    assert!(call().is_ok(), "by its own share");
    clock.advance(std::time::Duration::from_secs(2));
    let _ = call();
    assert!(limiter.snapshot().store_up);
}

#[test]
fn a_store_may_use_the_limiter() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let cell: Arc<OnceLock<SharedRateLimiter>> = Arc::default();
        let own = cell.clone();
        let depth = AtomicU32::new(0);
        let limiter = limiter(
            &clock,
            Hostile(MemoryStore::new(clock.clone()), move |_: &[Take]| {
                if depth.fetch_add(1, Ordering::Relaxed) < 5 {
                    let limiter = own.get().unwrap();
                    let _ = limiter.try_acquire_held();
                    let _ = limiter.snapshot();
                }
            }),
        );
        cell.set(limiter.clone()).unwrap();
        for _ in 0..10 {
            assert!(clock.block_on(limiter.try_acquire()).is_ok());
        }
    });
}

#[test]
fn an_answer_of_the_wrong_shape_is_a_lost_store() {
    struct Wrong;
    impl Store for Wrong {
        fn take(&self, _: Vec<Take>, reply: Reply<Vec<Taken>>) {
            reply.send(Ok(Vec::new()));
        }
    }
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Wrong);
    assert!(clock.block_on(limiter.try_acquire()).is_ok());
    assert_eq!(
        limiter.snapshot().last_error.unwrap(),
        "the answer is about another number of buckets"
    );
}

/// A store whose answers `then` changes.
struct Wrong<F>(MemoryStore, F);

impl<F: Fn(&mut Vec<Taken>) + Clone + Send + Sync + 'static> Store for Wrong<F> {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        let then = self.1.clone();
        let changed = Reply::new(move |mut answer: Result<Vec<Taken>, StoreError>| {
            if let Ok(taken) = &mut answer {
                then(taken);
            }
            reply.send(answer);
        });
        self.0.take(takes, changed);
    }
}

#[test]
fn a_store_that_grants_more_than_it_was_asked_for_is_not_trusted() {
    let clock = ManualClock::new();
    let wrong = |taken: &mut Vec<Taken>| {
        taken[0].granted = u64::MAX;
        taken[0].total = u64::MAX;
        taken[0].remaining = u64::MAX;
    };
    let limiter = limiter(&clock, Wrong(MemoryStore::new(clock.clone()), wrong));
    for _ in 0..20 {
        assert!(clock.block_on(limiter.try_acquire()).is_ok());
        clock.advance(std::time::Duration::from_millis(10));
    }
    assert!(limiter.snapshot().held <= 100);
}

#[test]
fn a_rejection_without_a_time_ends_the_call() {
    let clock = ManualClock::new();
    let wrong = |taken: &mut Vec<Taken>| {
        taken[0].granted = 0;
        taken[0].remaining = 50;
        taken[0].retry_after = std::time::Duration::ZERO;
    };
    for mode in [SyncMode::Leased, SyncMode::Exact] {
        let store = MemoryStore::new(clock.clone());
        let limiter = SharedRateLimiter::builder()
            .store(Wrong(store.clone(), wrong))
            .key("key")
            .quota(Quota::per_second(100))
            .sync(mode)
            .clock(clock.clone())
            .build()
            .unwrap();
        let error = clock.block_on(limiter.try_acquire()).unwrap_err();
        assert!(error.retry_after().is_some_and(|after| !after.is_zero()));
        assert_eq!(store.requests(), 1);
    }
}

#[test]
fn an_answer_about_two_buckets_is_a_lost_store() {
    let clock = ManualClock::new();
    let wrong = |taken: &mut Vec<Taken>| taken.push(taken[0]);
    let limiter = limiter(&clock, Wrong(MemoryStore::new(clock.clone()), wrong));
    let _ = clock.block_on(limiter.try_acquire());
    assert!(!limiter.snapshot().store_up);
}

#[test]
fn a_request_that_a_store_drops_is_an_error() {
    struct Silent(Mutex<Vec<Reply<Vec<Taken>>>>);
    impl Store for Silent {
        fn take(&self, _: Vec<Take>, reply: Reply<Vec<Taken>>) {
            drop(reply);
            self.0.lock().unwrap().clear();
        }
    }
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Silent(Mutex::default()));
    assert!(clock.block_on(limiter.try_acquire()).is_ok());
    let error = StoreError::new("the store dropped the request").to_string();
    assert_eq!(limiter.snapshot().last_error, Some(error));
}

#[test]
fn an_observer_may_use_the_limiter_and_panic() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let cell: Arc<OnceLock<SharedRateLimiter>> = Arc::default();
        let own = cell.clone();
        let limiter = SharedRateLimiter::builder()
            .store(store.clone())
            .key("key")
            .quota(Quota::per_second(1))
            .clock(clock.clone())
            .observer(move |_: &Event| {
                let _ = own.get().unwrap().snapshot();
                let _ = own.get().unwrap().try_acquire_held_n(0);
                panic!("on purpose");
            })
            .build()
            .unwrap();
        cell.set(limiter.clone()).unwrap();
        let call = || clock.block_on(limiter.try_acquire());
        assert!(call().is_ok());
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "a rejection");
        clock.advance(std::time::Duration::from_secs(1));
        assert!(call().is_ok());
    });
}

#[test]
fn threads_together_spend_each_token_once() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let limiter = limiter(&clock, store);
    let admitted = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Not `ManualClock::block_on`: a thread that waits for another one's request must not let time pass.
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                let runtime = runtime.unwrap();
                for _ in 0..200 {
                    if runtime.block_on(limiter.try_acquire()).is_ok() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 100);
}

#[test]
fn a_store_that_panics_costs_no_token_and_no_place_in_the_queue() {
    let clock = ManualClock::new();
    let panics = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = panics.clone();
    let store = Hostile(MemoryStore::new(clock.clone()), move |_: &[Take]| {
        assert!(!told.load(Ordering::Relaxed), "on purpose");
    });
    let builder = SharedRateLimiter::builder().store(store).key("key");
    let builder = builder.quota(Quota::per_second(10_000)).seed(1);
    let builder = builder.on_outage(backstop::shared_rate_limiter::Outage::Closed);
    let limiter = builder.clock(clock.clone()).build().unwrap();
    let panic = |code: &dyn Fn()| {
        panics.store(true, Ordering::Relaxed);
        let panic = catch_unwind(AssertUnwindSafe(code));
        panics.store(false, Ordering::Relaxed);
        let text = panic.map_err(|panic| panic.downcast_ref().copied());
        assert!(matches!(text, Ok(()) | Err(Some("on purpose"))), "{text:?}");
        text.is_err()
    };
    // The call waits for an answer.
    let wait = std::time::Duration::from_secs(1);
    let call = || assert!(clock.block_on(limiter.acquire_within(2, wait)).is_ok());
    assert!(panic(&call));
    assert_eq!(limiter.snapshot().waiting, 0);
    clock.advance(wait);
    let _ = clock.block_on(limiter.try_acquire());
    clock.advance(3 * wait);
    // With such a demand, tokens are requested before the last ones are spent.
    let pause = || clock.advance(std::time::Duration::from_micros(500));
    for _ in 0..1000 {
        pause();
        clock.block_on(limiter.try_acquire()).unwrap();
    }
    let calls: [&dyn Fn(); 2] = [&|| clock.block_on(limiter.try_acquire()).unwrap(), &|| {
        limiter.try_acquire_held().unwrap()
    }];
    for call in calls {
        let mut held = limiter.snapshot().held;
        while !panic(call) {
            pause();
            held = limiter.snapshot().held;
            assert!(held > 1, "no tokens are requested early");
        }
        assert_eq!(limiter.snapshot().held, held);
        clock.advance(5 * wait);
        // It keeps to its share, which is nothing, for 1.25 s.
        for _ in 0..3000 {
            pause();
            let _ = clock.block_on(limiter.try_acquire());
        }
    }
}
