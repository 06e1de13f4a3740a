//! Code of users that panics, or that uses the policy it is called by.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::flights::Strict;
use super::watchdog::within_a_minute;
use super::*;

#[test]
fn a_panic_while_the_operation_is_made_releases_the_key() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let one = coalesce.get(&1);
    let boom = || -> std::future::Ready<Result<u64, &'static str>> { panic!("boom") };
    let caught = catch_unwind(AssertUnwindSafe(|| clock.block_on(one.call(boom))));
    assert!(caught.is_err());
    assert_eq!(coalesce.snapshot().flights, 0);
    assert_eq!(clock.block_on(one.call(|| async { Ok(7) })), Ok(7));
}

#[test]
fn a_panic_of_the_leader_promotes_a_waiting_call() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let one = coalesce.get(&1);
    let mut leader = Box::pin(one.call(|| async {
        clock.sleep(ms(10)).await;
        panic!("boom")
    }));
    let mut waiting = Box::pin(one.call(|| async { Ok(7) }));
    assert!(poll(leader.as_mut()).is_pending());
    assert!(poll(waiting.as_mut()).is_pending());
    clock.advance(ms(10));
    let caught = catch_unwind(AssertUnwindSafe(|| poll(leader.as_mut())));
    assert!(caught.is_err());
    drop(leader);
    assert_eq!(clock.block_on(waiting), Ok(7));
    assert_eq!(coalesce.snapshot().flights, 0);
}

/// Uses the policy in everything that it is asked.
struct Curious {
    key: u64,
    policy: Arc<Mutex<Option<Coalesce<Self, Self, ()>>>>,
}

impl Curious {
    fn look(&self) {
        let policy = self.policy.lock().unwrap().clone();
        if let Some(policy) = policy {
            let _ = policy.snapshot();
        }
    }
}

impl Clone for Curious {
    fn clone(&self) -> Self {
        self.look();
        Self {
            key: self.key,
            policy: self.policy.clone(),
        }
    }
}
impl Drop for Curious {
    fn drop(&mut self) {
        self.look();
    }
}
impl PartialEq for Curious {
    fn eq(&self, other: &Self) -> bool {
        self.look();
        self.key == other.key
    }
}
impl Eq for Curious {}
impl Hash for Curious {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.look();
        // All keys have one hash.
        0.hash(state);
    }
}

#[test]
fn keys_and_results_may_use_the_policy() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let policy = Coalesce::builder().clock(clock.clone()).build().unwrap();
        let curious = |key| Curious {
            key,
            policy: Arc::new(Mutex::new(Some(policy.clone()))),
        };
        let (one, two) = (curious(1), curious(2));
        let load = |key| {
            let clock = &clock;
            let curious = &curious;
            move || async move {
                clock.sleep(ms(10)).await;
                Ok(curious(key))
            }
        };
        let all = clock.block_on(async {
            let (first, second) = (policy.get(&one), policy.get(&two));
            futures::join!(
                first.call(load(1)),
                second.call(load(2)),
                first.call(load(3)),
                second.call(load(4)),
            )
        });
        let keys = [all.0, all.1, all.2, all.3].map(|result| result.ok().unwrap().key);
        assert_eq!(keys, [1, 2, 1, 2]);
        assert_eq!(policy.snapshot().executed, 2);
        // No other call waits for this one.
        let three = curious(3);
        assert!(clock.block_on(policy.get(&three).call(load(5))).is_ok());
    });
}

#[test]
fn a_clone_of_a_result_that_panics_leaves_it_to_the_next_call() {
    #[derive(Debug)]
    struct Once(Arc<AtomicU32>);
    impl Clone for Once {
        fn clone(&self) -> Self {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "boom");
            Self(self.0.clone())
        }
    }
    let (clock, clones) = (ManualClock::new(), Arc::new(AtomicU32::new(0)));
    let coalesce = Coalesce::<u64, Once, ()>::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    let load = || async {
        clock.sleep(ms(10)).await;
        Ok(Once(clones.clone()))
    };
    let one = coalesce.get(&1);
    let (mut leader, mut waiting) = (Box::pin(one.call(load)), Box::pin(one.call(load)));
    assert!(poll(leader.as_mut()).is_pending());
    assert!(poll(waiting.as_mut()).is_pending());
    clock.advance(ms(10));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(leader.as_mut()))).is_err());
    drop(leader);
    assert!(clock.block_on(waiting).is_ok());
    assert_eq!(
        (coalesce.snapshot().flights, coalesce.snapshot().executed),
        (0, 2)
    );
}

/// Uses the policy when it is woken, and panics then.
struct Nosy(Shared, AtomicU32);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        let _ = self.0.snapshot();
        panic!("boom");
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _ = self.0.snapshot();
    }
}

#[test]
fn a_waker_may_use_the_policy_and_its_panic_does_not_keep_others_from_being_woken() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let coalesce = coalesce(&clock);
        let load = || async {
            clock.sleep(ms(10)).await;
            Ok(7)
        };
        let one = coalesce.get(&1);
        let mut leader = Box::pin(one.call(load));
        assert!(poll(leader.as_mut()).is_pending());
        let nosy: Vec<_> = (0..3)
            .map(|_| Arc::new(Nosy(coalesce.clone(), AtomicU32::new(0))))
            .collect();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(one.call(load))).collect();
        for (call, nosy) in waiting.iter_mut().zip(&nosy) {
            let waker = Waker::from(nosy.clone());
            assert!(
                call.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        clock.advance(ms(10));
        assert!(catch_unwind(AssertUnwindSafe(|| poll(leader.as_mut()))).is_err());
        assert!(nosy.iter().all(|nosy| nosy.1.load(Ordering::Relaxed) == 1));
        for mut call in waiting {
            assert_eq!(poll(call.as_mut()), Poll::Ready(Ok(7)));
        }
        assert_eq!(coalesce.snapshot().waiting, 0);
    });
}

#[test]
fn a_waker_may_use_the_policy_when_its_call_takes_over_from_a_rejected_leader() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let coalesce = coalesce(&clock);
        let bulkhead = backstop::Bulkhead::builder()
            .max_concurrent(1)
            .max_waiting(9)
            .clock(clock.clone())
            .build()
            .unwrap();
        let held = bulkhead.try_acquire().unwrap();
        let stack = Pipeline::new((coalesce.get(&1), &bulkhead, Guarded(Strict)));
        let [low, high] = [Priority::LOW, Priority::HIGH]
            .map(|priority| stack.with(CallOptions::new().priority(priority)));
        let mut leader = Box::pin(low.call(|| async { Ok(7) }));
        let mut waiting = Box::pin(high.call(|| async { Ok(7) }));
        assert!(poll(leader.as_mut()).is_pending());
        let nosy = Arc::new(Nosy(coalesce.clone(), AtomicU32::new(0)));
        let waker = Waker::from(nosy.clone());
        let mut task = Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut task).is_pending());
        drop(held);
        assert!(catch_unwind(AssertUnwindSafe(|| poll(leader.as_mut()))).is_err());
        assert_eq!(nosy.1.load(Ordering::Relaxed), 1);
        drop(leader);
        assert_eq!(clock.block_on(waiting), Ok(7));
    });
}

/// Uses the policy when it is woken, and when it is dropped.
struct Caller {
    policy: Coalesce<Curious, Curious, ()>,
    woken: Arc<AtomicU32>,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        let _ = self.policy.snapshot();
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.policy.snapshot();
    }
}

#[test]
fn calls_that_are_dropped_wake_others_and_drop_their_keys_outside_the_lock() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let policy = Coalesce::builder().clock(clock.clone()).build().unwrap();
        let key = Curious {
            key: 1,
            policy: Arc::new(Mutex::new(Some(policy.clone()))),
        };
        let one = policy.get(&key);
        let hang = std::future::pending::<Result<Curious, ()>>;
        let [mut leader, mut first, mut second] = [(); 3].map(|()| Box::pin(one.call(hang)));
        // The policy has the only handle of each waker.
        let woken = || Arc::<AtomicU32>::default();
        let waker = |woken: &Arc<AtomicU32>| {
            Waker::from(Arc::new(Caller {
                policy: policy.clone(),
                woken: woken.clone(),
            }))
        };
        let (replaced, of_first, of_second) = (woken(), woken(), woken());
        assert!(poll(leader.as_mut()).is_pending());
        let mut waits = |call: usize, woken: &Arc<AtomicU32>| {
            let waker = waker(woken);
            let mut task = Context::from_waker(&waker);
            [&mut first, &mut second][call]
                .as_mut()
                .poll(&mut task)
                .is_pending()
        };
        assert!(waits(0, &replaced) && waits(0, &of_first) && waits(1, &of_second));
        let counts =
            || [&replaced, &of_first, &of_second].map(|woken| woken.load(Ordering::Relaxed));
        drop(leader);
        assert_eq!(counts(), [0, 1, 0]);
        drop(first);
        assert_eq!(counts(), [0, 1, 1]);
        drop(second);
        assert_eq!(
            (policy.snapshot().flights, policy.snapshot().waiting),
            (0, 0)
        );
        assert_eq!(policy.snapshot().promoted, 2);
    });
}
