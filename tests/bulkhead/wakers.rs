//! Wakers are user code: they panic, and they use the bulkhead.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use backstop::bulkhead::{OwnedPermit, Permit, QueueOrder};
use backstop::{Bulkhead, Context, Rejected};

use super::guards::Releasing;
use super::ms;
use super::watchdog::within_a_minute;

type Acquiring<'a> = Pin<Box<dyn Future<Output = Result<Permit<'a>, Rejected>> + 'a>>;

fn of(limit: u32) -> Bulkhead {
    Bulkhead::builder()
        .max_concurrent(limit)
        .max_waiting(9)
        .build()
        .unwrap()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut TaskContext::from_waker(waker))
}

/// Returns whether `act` panics.
fn panics(act: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(act)).is_err()
}

/// Panics when it is woken.
struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("part of the test"));
    }
}

/// Panics when it is dropped.
struct Mine;

impl Wake for Mine {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Mine {
    fn drop(&mut self) {
        resume_unwind(Box::new("part of the test"));
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns a waiter for permits of this cost.
fn waiter<'a>(bulkhead: &'a Bulkhead, cost: u32, waker: &Waker) -> Acquiring<'a> {
    let cx = Context::new().with_cost(cost);
    let mut future: Acquiring<'a> = Box::pin(bulkhead.acquire_with(cx));
    assert!(poll(future.as_mut(), waker).is_pending());
    future
}

#[test]
fn a_waker_that_panics_costs_no_other_waiter_its_turn() {
    for bombs in [&[0][..], &[1], &[0, 1], &[0, 2, 3]] {
        let bulkhead = of(4);
        let all = bulkhead
            .try_acquire_with(Context::new().with_cost(4))
            .unwrap();
        let others: Vec<_> = (0..4).map(|_| Arc::new(Woken::default())).collect();
        let mut line: Vec<_> = others
            .iter()
            .enumerate()
            .map(|(place, other)| {
                let waker = if bombs.contains(&place) {
                    Waker::from(Arc::new(Bomb))
                } else {
                    Waker::from(other.clone())
                };
                waiter(&bulkhead, 1, &waker)
            })
            .collect();
        assert!(panics(|| drop(all)));
        let snapshot = bulkhead.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.waiting), (4, 0));
        for (place, (waits, other)) in line.iter_mut().zip(&others).enumerate() {
            assert_ne!(other.0.load(Ordering::Relaxed), bombs.contains(&place));
            assert!(poll(waits.as_mut(), Waker::noop()).is_ready());
        }
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
}

#[test]
fn a_panic_while_a_call_joins_the_queue_leaves_no_waiter() {
    // The permit is released before the call has joined the queue, so it is woken immediately.
    let clock = Releasing::default();
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(1)
        .max_wait(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.gives(bulkhead.try_acquire_owned(Context::new()).unwrap());
    let bomb = Waker::from(Arc::new(Bomb));
    assert!(panics(|| drop(poll(pin!(bulkhead.acquire()), &bomb))));
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    assert!(bulkhead.try_acquire().is_ok());
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_blocks_no_waiter() {
    let bulkhead = of(2);
    let one = bulkhead.try_acquire().unwrap();
    let large = waiter(&bulkhead, 2, &Waker::from(Arc::new(Mine)));
    let woken = Arc::new(Woken::default());
    let mut small = waiter(&bulkhead, 1, &Waker::from(woken.clone()));
    assert!(panics(|| drop(large)));
    assert!(woken.0.load(Ordering::Relaxed));
    assert!(poll(small.as_mut(), Waker::noop()).is_ready());
    drop((small, one));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

/// Uses the bulkhead that wakes it, in every way.
struct Meddler {
    bulkhead: Bulkhead,
    calls: AtomicU32,
    kept: Mutex<Option<OwnedPermit>>,
}

impl Meddler {
    fn meddle(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let kept = self.kept.lock().unwrap().take();
        drop(kept);
        self.bulkhead.set_limit(2).unwrap();
        self.bulkhead.set_limit(1).unwrap();
        let _ = self.bulkhead.snapshot();
        let _ = format!("{:?}", self.bulkhead);
        let mut another = pin!(self.bulkhead.acquire());
        let _ = poll(another.as_mut(), Waker::noop());
    }
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        self.meddle();
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

#[test]
fn a_waker_may_use_the_bulkhead() {
    within_a_minute(|| {
        for order in [QueueOrder::Fifo, QueueOrder::Lifo, QueueOrder::Priority] {
            let bulkhead = Bulkhead::builder()
                .max_concurrent(1)
                .max_waiting(9)
                .order(order)
                .build()
                .unwrap();
            let meddler = |kept| {
                Waker::from(Arc::new(Meddler {
                    bulkhead: bulkhead.clone(),
                    calls: AtomicU32::new(0),
                    kept: Mutex::new(kept),
                }))
            };
            let permit = bulkhead.try_acquire_owned(Context::new()).unwrap();
            let mut line: Vec<_> = (0..3)
                .map(|_| waiter(&bulkhead, 1, &meddler(None)))
                .collect();
            // Another waker takes its place, and the old one is dropped.
            assert!(poll(line[0].as_mut(), &meddler(None)).is_pending());
            drop(line.remove(1));
            let last = waiter(&bulkhead, 1, &meddler(Some(permit)));
            drop(last);
            // Each woken waiter takes its permit or releases it.
            while let Some(mut next) = line.pop() {
                let _ = poll(next.as_mut(), Waker::noop());
            }
            let snapshot = bulkhead.snapshot();
            assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
        }
    });
}

#[test]
fn dropping_a_finished_future_removes_no_other_waiter() {
    let bulkhead = of(1);
    let permit = bulkhead.try_acquire().unwrap();
    let mut over = waiter(&bulkhead, 1, Waker::noop());
    drop(permit);
    let Poll::Ready(Ok(permit)) = poll(over.as_mut(), Waker::noop()) else {
        panic!("it was its turn");
    };
    let mut next = waiter(&bulkhead, 1, Waker::noop());
    drop(over);
    assert_eq!(bulkhead.snapshot().waiting, 1);
    drop(permit);
    assert!(poll(next.as_mut(), Waker::noop()).is_ready());
}

#[test]
fn a_waiter_that_moves_to_another_task_wakes_that_task() {
    let bulkhead = of(1);
    let permit = bulkhead.try_acquire().unwrap();
    let [before, now] = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut waits = waiter(&bulkhead, 1, &Waker::from(before.clone()));
    assert!(poll(waits.as_mut(), &Waker::from(now.clone())).is_pending());
    drop(permit);
    assert!(now.0.load(Ordering::Relaxed) && !before.0.load(Ordering::Relaxed));
}
