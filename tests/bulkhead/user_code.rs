//! Algorithms, observers, and clocks are user code: they are slow, and they panic.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread;

use backstop::bulkhead::limit::{ConcurrencyLimit, Sample};
use backstop::{Bulkhead, Clock, Event, Instant, ManualClock, Observer, Pipeline, Policy, Sleep};

use super::{ms, on};

/// An algorithm that adds samples while it runs, like other threads during a slow update.
#[derive(Clone, Debug)]
struct Busy {
    bulkhead: Arc<Mutex<Option<Bulkhead>>>,
    samples: Arc<AtomicU32>,
}

impl ConcurrencyLimit for Busy {
    fn limit(&self) -> u32 {
        100
    }

    fn on_sample(&mut self, _: &Sample) {
        if self.samples.fetch_add(1, Ordering::Relaxed) > 1000 {
            return;
        }
        let bulkhead = self.bulkhead.lock().unwrap().clone().unwrap();
        for _ in 0..2 {
            bulkhead.try_acquire().unwrap().success();
        }
    }
}

#[test]
fn a_call_runs_a_bounded_number_of_samples() {
    let samples = Arc::<AtomicU32>::default();
    let itself = Arc::default();
    let busy = Busy {
        bulkhead: Arc::clone(&itself),
        samples: samples.clone(),
    };
    let bulkhead = Bulkhead::builder().adaptive(busy).build().unwrap();
    *itself.lock().unwrap() = Some(bulkhead.clone());
    for call in 1..20 {
        bulkhead.try_acquire().unwrap().success();
        let run = samples.load(Ordering::Relaxed);
        assert!((call..=2 * call).contains(&run), "{run} after {call} calls");
    }
    itself.lock().unwrap().take();
}

/// An algorithm during whose first sample 200 other calls end.
#[derive(Clone, Debug)]
struct Flooded(Busy);

impl ConcurrencyLimit for Flooded {
    fn limit(&self) -> u32 {
        100
    }

    fn on_sample(&mut self, _: &Sample) {
        if self.0.samples.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let bulkhead = self.0.bulkhead.lock().unwrap().clone().unwrap();
        for _ in 0..200 {
            bulkhead.try_acquire().unwrap().success();
        }
    }
}

#[test]
fn a_slow_algorithm_finds_no_more_than_64_samples_in_the_queue() {
    let samples = Arc::<AtomicU32>::default();
    let itself = Arc::default();
    let flooded = Flooded(Busy {
        bulkhead: Arc::clone(&itself),
        samples: samples.clone(),
    });
    let bulkhead = Bulkhead::builder().adaptive(flooded).build().unwrap();
    *itself.lock().unwrap() = Some(bulkhead.clone());
    bulkhead.try_acquire().unwrap().success();
    // Each call passes on its own sample and an older one.
    for _ in 0..300 {
        bulkhead.try_acquire().unwrap().success();
    }
    assert_eq!(samples.load(Ordering::Relaxed), 1 + 64 + 300);
    itself.lock().unwrap().take();
}

/// An algorithm that blocks its caller until the barrier opens.
#[derive(Clone, Debug)]
struct Stuck(Arc<Barrier>);

impl ConcurrencyLimit for Stuck {
    fn limit(&self) -> u32 {
        2
    }

    fn on_sample(&mut self, _: &Sample) {
        self.0.wait();
        self.0.wait();
    }
}

#[test]
fn no_call_waits_for_an_algorithm_that_another_call_runs() {
    let barrier = Arc::new(Barrier::new(2));
    let bulkhead = Bulkhead::builder()
        .adaptive(Stuck(barrier.clone()))
        .build()
        .unwrap();
    let other = bulkhead.clone();
    let stuck = thread::spawn(move || other.try_acquire().unwrap().success());
    barrier.wait();
    // More than the capacity of the queue: the rest is dropped.
    for _ in 0..200 {
        bulkhead.try_acquire().unwrap().success();
    }
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    barrier.wait();
    // The next sample of the queue, in the same call.
    barrier.wait();
    barrier.wait();
    stuck.join().unwrap();
}

/// An observer that panics at each event.
struct Fuse;

impl Observer for Fuse {
    fn on_event(&self, _: &Event) {
        resume_unwind(Box::new("part of the test"));
    }
}

#[test]
fn an_observer_that_panics_keeps_no_event_from_the_other_and_no_permit() {
    let clock = ManualClock::new();
    let heard = Arc::<AtomicU32>::default();
    let count = heard.clone();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .max_waiting(1)
        .observer(move |_: &Event| {
            count.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let pipeline = Pipeline::new(bulkhead.clone()).observer(Fuse);
    let call = || pipeline.call(async || Ok::<_, ()>(()));
    let mut task = TaskContext::from_waker(Waker::noop());
    {
        // Rejected: the queue is full.
        let permit = bulkhead.try_acquire().unwrap();
        let mut first = pin!(bulkhead.acquire());
        assert!(first.as_mut().poll(&mut task).is_pending());
        let mut second = pin!(call());
        assert!(catch_unwind(AssertUnwindSafe(|| second.as_mut().poll(&mut task))).is_err());
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        drop(permit);
    }
    // Admitted after a wait.
    let permit = bulkhead.try_acquire().unwrap();
    let mut waits = Box::pin(call());
    assert!(waits.as_mut().poll(&mut task).is_pending());
    drop(permit);
    assert!(catch_unwind(AssertUnwindSafe(|| waits.as_mut().poll(&mut task))).is_err());
    assert_eq!(heard.load(Ordering::Relaxed), 2);
    drop(waits);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    assert!(bulkhead.try_acquire().is_ok());
}

/// Panics while it is armed.
#[derive(Clone, Debug, Default)]
struct Faulty {
    inner: ManualClock,
    armed: Arc<AtomicBool>,
}

impl Clock for Faulty {
    fn now(&self) -> Instant {
        if self.armed.load(Ordering::Relaxed) {
            resume_unwind(Box::new("part of the test"));
        }
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn a_clock_that_panics_at_a_release_keeps_no_waiter_waiting() {
    let clock = Faulty::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(2)
        .codel(ms(5), ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let mut waits = pin!(bulkhead.acquire());
    let mut task = TaskContext::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut task).is_pending());
    clock.armed.store(true, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(permit))).is_err());
    clock.armed.store(false, Ordering::Relaxed);
    assert!(matches!(waits.as_mut().poll(&mut task), Poll::Ready(Ok(_))));
}

/// Panics when it wakes a task.
struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("part of the test"));
    }
}

/// A second panic would abort the program.
#[test]
fn a_waker_that_panics_while_another_panic_releases_the_permit_is_survived() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(2)
        .build()
        .unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let mut waits = Box::pin(bulkhead.acquire());
    let waker = Waker::from(Arc::new(Bomb));
    assert!(
        waits
            .as_mut()
            .poll(&mut TaskContext::from_waker(&waker))
            .is_pending()
    );
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _permit = permit;
        resume_unwind(Box::new("the operation"));
    }));
    let panic = result.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the operation"));
    drop(waits);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

/// Panics when it is woken.
struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("on purpose");
    }
}

#[test]
fn a_waker_that_panics_when_the_limit_grows_keeps_no_observer_from_the_change() {
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let log = heard.clone();
    let bulkhead = on(&ManualClock::new())
        .max_concurrent(1)
        .max_waiting(10)
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let mut waiter = pin!(bulkhead.acquire());
    let waker = Waker::from(Arc::new(Panicking));
    assert!(
        waiter
            .as_mut()
            .poll(&mut TaskContext::from_waker(&waker))
            .is_pending()
    );
    let grown = catch_unwind(AssertUnwindSafe(|| bulkhead.set_limit(2).unwrap()));
    assert!(grown.is_err(), "the panic goes on");
    assert_eq!(
        *heard.lock().unwrap(),
        ["bulkhead: limit changed from 1 to 2"]
    );
    let poll = waiter.poll(&mut TaskContext::from_waker(Waker::noop()));
    assert!(poll.is_ready());
}

/// A waker that sets the limit to 5.
struct SetsTheLimit(Bulkhead);

impl Wake for SetsTheLimit {
    fn wake(self: Arc<Self>) {
        self.0.set_limit(5).unwrap();
    }
}

#[test]
fn a_change_is_numbered_when_it_is_made_not_when_it_is_reported() {
    let heard = Arc::<Mutex<Vec<_>>>::default();
    let log = heard.clone();
    let bulkhead = on(&ManualClock::new())
        .max_concurrent(1)
        .max_waiting(10)
        .observer(move |event: &Event| {
            if let Event::LimitChanged { from, to, .. } = *event {
                log.lock().unwrap().push((event.sequence(), from, to));
            }
        })
        .build()
        .unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let mut waiter = pin!(bulkhead.acquire());
    let waker = Waker::from(Arc::new(SetsTheLimit(bulkhead.clone())));
    let mut task = TaskContext::from_waker(&waker);
    assert!(waiter.as_mut().poll(&mut task).is_pending());
    // Waiters are woken before observers hear of the change, and this one changes the limit again.
    bulkhead.set_limit(2).unwrap();
    assert_eq!(bulkhead.limit(), 5);
    assert_eq!(*heard.lock().unwrap(), [(Some(2), 2, 5), (Some(1), 1, 2)]);
}

/// Two threads change the limit concurrently. Observers may get the changes in any order.
#[test]
fn the_change_with_the_largest_number_is_the_current_limit() {
    for round in 0..200 {
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let log = heard.clone();
        let bulkhead = on(&ManualClock::new())
            .max_concurrent(1000)
            .observer(move |event: &Event| {
                if let Event::LimitChanged { from, to, .. } = *event {
                    log.lock()
                        .unwrap()
                        .push((event.sequence().unwrap(), from, to));
                }
            })
            .build()
            .unwrap();
        thread::scope(|scope| {
            for number in 1..3 {
                let bulkhead = &bulkhead;
                scope.spawn(move || {
                    (1..20).for_each(|step| bulkhead.set_limit(100 * number + step).unwrap())
                });
            }
        });
        let mut heard = std::mem::take(&mut *heard.lock().unwrap());
        heard.sort_unstable();
        assert_eq!(heard.last().unwrap().2, bulkhead.limit(), "round {round}");
        for pair in heard.windows(2) {
            assert_eq!(pair[0].0 + 1, pair[1].0);
            assert_eq!(pair[0].2, pair[1].1, "round {round}: {heard:?}");
        }
    }
}

#[test]
fn a_panic_of_an_algorithm_reaches_the_caller_that_drops_a_call() {
    #[derive(Clone, Debug)]
    struct Panics;
    impl ConcurrencyLimit for Panics {
        fn limit(&self) -> u32 {
            1
        }
        fn on_sample(&mut self, _: &Sample) {
            panic!("on purpose");
        }
    }
    let bulkhead = on(&ManualClock::new())
        .adaptive(Panics)
        .cancel_is_overload(true)
        .build()
        .unwrap();
    let mut call = Box::pin(bulkhead.call(std::future::pending::<Result<(), ()>>));
    let mut task = TaskContext::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut task).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(call))).is_err());
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}
