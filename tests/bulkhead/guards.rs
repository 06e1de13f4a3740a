//! Edge cases of CoDel, races with releases, clock readings, and panicking clocks.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use backstop::bulkhead::OwnedPermit;
use backstop::bulkhead::limit::{ConcurrencyLimit, Fixed, Sample, Vegas};
use backstop::{Bulkhead, Clock, Context, Instant, Keyed, LoadShedder, ManualClock, Policy, Sleep};
use futures::future::join;

use super::{ms, on, run};

#[test]
fn a_queue_that_empties_each_time_is_not_an_overload() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(5)
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
            // It waits ten times the target, but the queue is empty behind it.
            let (served, ()) = join(bulkhead.acquire(), release).await;
            assert!(served.is_ok());
            clock.sleep(ms(7)).await;
        }
    });
}

/// A clock that releases a permit when it is read. That is after the caller has found no free permit, and before it
/// joins the wait queue.
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
fn a_permit_released_while_a_caller_joins_the_queue_is_handed_to_it() {
    let clock = Releasing::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(1)
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

#[test]
fn a_call_above_an_adaptive_limit_is_not_left_waiting_for_permits_that_came_back() {
    let clock = Releasing::default();
    let bulkhead = Bulkhead::builder()
        .adaptive(Fixed::new(2))
        .max_waiting(1)
        .max_wait(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.gives(bulkhead.try_acquire_owned(Context::new()).unwrap());
    let began = clock.inner.now();
    let large = bulkhead.acquire_with(Context::new().with_cost(9));
    let permit = run(&clock.inner, large).unwrap();
    assert_eq!((permit.cost(), clock.inner.now()), (2, began));
}

/// A clock that makes a call when the bulkhead reads it while serving waiters.
#[derive(Clone, Debug, Default)]
struct Calling {
    inner: ManualClock,
    bulkhead: Arc<Mutex<Option<Bulkhead>>>,
    admitted: Arc<AtomicBool>,
}

impl Clock for Calling {
    fn now(&self) -> Instant {
        let bulkhead = self.bulkhead.lock().unwrap().take();
        if let Some(bulkhead) = bulkhead {
            let permit = bulkhead.try_acquire();
            self.admitted.store(permit.is_ok(), Ordering::Relaxed);
        }
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn a_call_that_comes_before_waiters_are_served_gets_what_they_leave() {
    let clock = Calling::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(2)
        .max_waiting(1)
        .codel_default()
        .clock(clock.clone())
        .build()
        .unwrap();
    let both = Context::new().with_cost(2);
    let permit = bulkhead.try_acquire_with(both).unwrap();
    let mut waits = pin!(bulkhead.acquire());
    let mut task = TaskContext::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut task).is_pending());
    *clock.bulkhead.lock().unwrap() = Some(bulkhead.clone());
    drop(permit);
    assert!(clock.admitted.load(Ordering::Relaxed));
    assert!(waits.as_mut().poll(&mut task).is_ready());
}

#[test]
fn codel_drops_no_waiter_before_its_turn_could_have_come() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(9)
        .codel(ms(5), ms(100))
        .build()
        .unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let mut task = TaskContext::from_waker(Waker::noop());
    let mut waits = pin!(bulkhead.acquire());
    assert!(waits.as_mut().poll(&mut task).is_pending());
    // A waiter that leaves makes the queue serve the next one.
    for _ in 0..9 {
        let mut gives_up = Box::pin(bulkhead.acquire());
        assert!(gives_up.as_mut().poll(&mut task).is_pending());
        clock.advance(ms(50));
        drop(gives_up);
        assert!(waits.as_mut().poll(&mut task).is_pending());
    }
    assert_eq!(bulkhead.snapshot().timed_out, 0);
    drop(permit);
    assert!(run(&clock, waits).is_ok());
}

#[test]
fn vegas_tells_the_latency_that_it_compares_with() {
    let mut vegas = Vegas::builder().build().unwrap();
    assert_eq!(vegas.baseline(), None);
    for millis in [9, 7, 8] {
        let now = Instant::ORIGIN + ms(100);
        vegas.on_sample(&Sample::new(now, ms(millis), 20));
    }
    assert_eq!(vegas.baseline(), Some(ms(7)));
}

/// An algorithm that records samples.
#[derive(Clone, Debug, Default)]
struct Samples(Arc<Mutex<Vec<Sample>>>);

impl ConcurrencyLimit for Samples {
    fn limit(&self) -> u32 {
        2
    }

    fn on_sample(&mut self, sample: &Sample) {
        self.0.lock().unwrap().push(*sample);
    }
}

#[test]
fn a_sample_says_whether_all_permits_were_out_when_the_call_ended() {
    let clock = ManualClock::new();
    let samples = Samples::default();
    let seen = samples.0.clone();
    let bulkhead = on(&clock).adaptive(samples).build().unwrap();
    let permits = [(); 2].map(|()| bulkhead.try_acquire().unwrap());
    permits.into_iter().for_each(|permit| permit.success());
    let full: Vec<_> = seen.lock().unwrap().iter().map(|s| s.full).collect();
    assert_eq!(full, [true, false]);
}

#[test]
fn half_of_a_limit_is_use_enough_for_it_to_grow() {
    let sample = Sample::new(Instant::ORIGIN, ms(1), 5);
    assert!(sample.uses(10) && !sample.uses(11));
}

/// A clock that counts readings.
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
fn a_wait_reads_the_clock_only_for_operations_that_read_the_time() {
    let clock = Counting::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(1)
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

    // A shedder inside sees how long the call has waited.
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
fn bulkheads_of_keys_are_evicted_once_they_equal_new_ones() {
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
    assert!(!leave(2), "a call is in forever");

    hosts.get(&3).set_limit(5).unwrap();
    assert!(!leave(3), "its limit is its own");
    hosts.get(&3).set_limit(2).unwrap();
    assert!(leave(3));
}

/// A clock that panics when it is read while it is broken.
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
    let builder = Bulkhead::builder().adaptive(Fixed::new(1)).max_waiting(1);
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

    // The same after a wait.
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

/// A clock that can jump backward.
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
