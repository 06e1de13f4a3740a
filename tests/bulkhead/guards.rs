//! What keeps a bulkhead right where a slip would go unnoticed.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use backstop::bulkhead::OwnedPermit;
use backstop::bulkhead::limit::Fixed;
use backstop::{Bulkhead, Clock, Context, Instant, Keyed, LoadShedder, ManualClock, Policy, Sleep};
use futures::future::join;

use super::{ms, on, run};

#[test]
fn a_line_that_empties_each_time_is_no_overload() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(5)
        .codel(ms(5), ms(100))
        .build()
        .unwrap();
    run(&clock, async {
        for _ in 0..20 {
            let permit = bulkhead.try_acquire().unwrap();
            let release = async {
                clock.sleep(ms(50)).await;
                drop(permit);
            };
            // It waits ten times the target, but nobody is left in line behind it.
            let (served, ()) = join(bulkhead.acquire(), release).await;
            assert!(served.is_ok());
            clock.sleep(ms(7)).await;
        }
    });
}

/// A clock that gives a permit back when it is read: that is after the caller has found no room, and
/// before it gets in line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Releasing {
    inner: ManualClock,
    permit: Arc<Mutex<Option<OwnedPermit>>>,
}

impl Releasing {
    pub(crate) fn gives(&self, permit: OwnedPermit) {
        *self.permit.lock().unwrap() = Some(permit);
    }
}

impl Clock for Releasing {
    fn now(&self) -> Instant {
        let permit = self.permit.lock().unwrap().take();
        drop(permit);
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn a_permit_that_comes_back_while_a_caller_gets_in_line_is_its_own() {
    let clock = Releasing::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .queue(1)
        .max_wait(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let permit = bulkhead.try_acquire_owned(Context::new()).unwrap();
    clock.gives(permit);
    let began = clock.inner.now();
    assert!(run(&clock.inner, bulkhead.acquire()).is_ok());
    assert_eq!(clock.inner.now(), began);
}

/// A clock that counts how often it is read.
#[derive(Clone, Debug, Default)]
struct Counting {
    inner: ManualClock,
    reads: Arc<AtomicU32>,
}

impl Clock for Counting {
    fn now(&self) -> Instant {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn a_wait_reads_the_clock_for_those_who_ask_what_time_it_is() {
    let clock = Counting::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .queue(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let work = || async {
        clock.inner.sleep(ms(50)).await;
        Ok::<_, ()>(())
    };
    let results = run(&clock.inner, join(bulkhead.call(work), bulkhead.call(work)));
    assert_eq!(results, (Ok(()), Ok(())));
    assert_eq!(clock.reads.load(Ordering::Relaxed), 0);

    // A shedder inside hears how long the call has waited.
    let shedder = LoadShedder::builder().clock(clock.clone()).build().unwrap();
    let stack = (bulkhead.clone(), shedder.clone());
    let permit = bulkhead.try_acquire().unwrap();
    let release = async {
        clock.inner.sleep(ms(50)).await;
        drop(permit);
    };
    let (result, ()) = run(&clock.inner, join(stack.call(work), release));
    assert_eq!(result, Ok(()));
    assert_eq!(shedder.snapshot().load, 1.0);
}

#[test]
fn of_a_bulkhead_for_each_key_those_leave_that_are_as_new() {
    let clock = ManualClock::new();
    let hosts = Keyed::new(move |_: &u32| {
        let builder = Bulkhead::builder().max_concurrent(2);
        builder.clock(clock.clone()).build().unwrap()
    });
    let leave = |key| {
        hosts.evict_idle();
        let mut keys = Vec::new();
        hosts.for_each(|key, _| keys.push(*key));
        !keys.contains(&key)
    };
    let permit = hosts.get(&1).try_acquire_owned(Context::new()).unwrap();
    assert!(!leave(1), "a call is in");
    drop(permit);
    assert!(leave(1));

    std::mem::forget(hosts.get(&2).try_acquire());
    assert!(!leave(2), "a call is in for ever");

    hosts.get(&3).set_limit(5);
    assert!(!leave(3), "its limit is its own");
    hosts.get(&3).set_limit(2);
    assert!(leave(3));
}

/// A clock that panics when it is read, as long as it is told to.
#[derive(Clone, Debug, Default)]
struct Broken {
    inner: ManualClock,
    is_broken: Arc<AtomicBool>,
}

impl Clock for Broken {
    fn now(&self) -> Instant {
        if self.is_broken.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("part of the test"));
        }
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn a_clock_that_panics_costs_no_permit() {
    let clock = Broken::default();
    let builder = Bulkhead::builder().adaptive(Fixed::new(1)).queue(1);
    let bulkhead = builder.clock(clock.clone()).build().unwrap();
    let panics = |act: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(act)).is_err();
    let mut task = TaskContext::from_waker(Waker::noop());
    let call = || bulkhead.call(|| async { Ok::<_, ()>(()) });

    clock.is_broken.store(true, Ordering::Relaxed);
    assert!(panics(&mut || drop(bulkhead.try_acquire())));
    assert!(panics(&mut || drop(
        pin!(bulkhead.acquire()).poll(&mut task)
    )));
    assert!(panics(&mut || _ = pin!(call()).poll(&mut task)));
    assert_eq!(bulkhead.snapshot().in_flight, 0);

    // And when its turn comes in line.
    for by_hand in [true, false] {
        clock.is_broken.store(false, Ordering::Relaxed);
        let holds = bulkhead.try_acquire().unwrap();
        let mut acquires = Box::pin(bulkhead.acquire());
        let mut calls = Box::pin(call());
        let mut poll = |task: &mut TaskContext<'_>| match by_hand {
            true => acquires.as_mut().poll(task).map(drop),
            false => calls.as_mut().poll(task).map(drop),
        };
        assert!(poll(&mut task).is_pending());
        drop(holds);
        clock.is_broken.store(true, Ordering::Relaxed);
        assert!(panics(&mut || _ = poll(&mut task)));
        clock.is_broken.store(false, Ordering::Relaxed);
        drop((acquires, calls));
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
}

/// A clock that can jump back.
#[derive(Clone, Debug)]
pub(crate) struct Jumping(Arc<AtomicU64>);

impl Jumping {
    pub(crate) fn at(start: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(start.as_nanos() as u64)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    pub(crate) fn jump_back(&self, by: Duration) {
        self.0.fetch_sub(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}
