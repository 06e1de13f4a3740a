//! Wakers and observers of users that panic, or use the limiter, while they are called by it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use backstop::rate_limiter::{Acquire, Quota};
use backstop::{Event, ManualClock, Policy, RateLimiter};

use super::watchdog::within_a_minute;
use super::{SECOND, builder, drain, limiter, run};

type Waiter<'a> = Pin<Box<Acquire<'a>>>;

fn start<'a>(limiter: &'a RateLimiter, waker: &Waker) -> Waiter<'a> {
    let mut waiter = Box::pin(limiter.acquire());
    assert!(
        waiter
            .as_mut()
            .poll(&mut Context::from_waker(waker))
            .is_pending()
    );
    waiter
}

/// Panics when it is woken, or when it is dropped, while it is armed.
struct Bomb {
    armed: Arc<AtomicBool>,
    on_drop: bool,
}

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        if !self.on_drop && self.armed.load(Ordering::Relaxed) {
            panic!("woken");
        }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.on_drop && self.armed.load(Ordering::Relaxed) && !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_waker_that_panics_costs_the_others_neither_their_turn_nor_their_wake_up() {
    for on_drop in [false, true] {
        let clock = ManualClock::new();
        let limiter = limiter(&clock, Quota::new(10, 3600 * SECOND).burst(10));
        drain(&limiter);
        let armed = Arc::new(AtomicBool::new(false));
        let bomb = Bomb {
            armed: armed.clone(),
            on_drop,
        };
        let mut first = start(&limiter, &Waker::from(Arc::new(bomb)));
        let woken = Arc::new(Counter(AtomicU32::new(0)));
        let waker = Waker::from(woken.clone());
        let mut others: Vec<_> = (0..3).map(|_| start(&limiter, &waker)).collect();
        armed.store(true, Ordering::Relaxed);
        let added = catch_unwind(AssertUnwindSafe(|| limiter.add(3)));
        assert_eq!(added.is_err(), !on_drop, "a panic goes on to the caller");
        armed.store(false, Ordering::Relaxed);
        // Two of them have been served, and the third is the first now.
        assert!(woken.0.load(Ordering::Relaxed) >= 2);
        let mut task = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut task).is_ready());
        assert!(others[0].as_mut().poll(&mut task).is_ready());
        assert!(others[1].as_mut().poll(&mut task).is_ready());
        assert!(others[2].as_mut().poll(&mut task).is_pending());
        limiter.add(1);
        assert!(others[2].as_mut().poll(&mut task).is_ready());
    }
}

#[test]
fn a_waiter_that_panics_while_it_wakes_the_next_gives_its_tokens_back() {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(1));
    drain(&limiter);
    let armed = Arc::new(AtomicBool::new(true));
    let bomb = Bomb {
        armed: armed.clone(),
        on_drop: false,
    };
    let mut first = start(&limiter, Waker::noop());
    let mut second = start(&limiter, &Waker::from(Arc::new(bomb)));
    clock.advance(SECOND);
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let _ = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }));
    assert!(polled.is_err());
    armed.store(false, Ordering::Relaxed);
    drop(first);
    let poll = second
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(Ok(())));
}

#[test]
fn an_observer_that_panics_at_an_admission_costs_no_token() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1)).observer(|event: &Event| {
        assert!(!matches!(event, Event::Waited { .. }), "a panic on purpose");
    });
    let limiter = limiter.build().unwrap();
    drain(&limiter);
    let waited = catch_unwind(AssertUnwindSafe(|| run(&clock, limiter.acquire())));
    assert!(waited.is_err());
    assert_eq!(limiter.snapshot().available, [1]);
    assert_eq!(limiter.snapshot().waiting, 0);
}

/// A limiter with ten tokens a second that has one waiter, whose turn has come and whose waker panics.
fn with_a_bomb(act: impl FnOnce(&RateLimiter)) {
    let clock = ManualClock::new();
    let limiter = limiter(&clock, Quota::per_second(10));
    drain(&limiter);
    let armed = Arc::new(AtomicBool::new(false));
    let bomb = Bomb {
        armed: armed.clone(),
        on_drop: false,
    };
    let mut waiter = start(&limiter, &Waker::from(Arc::new(bomb)));
    clock.advance(SECOND);
    armed.store(true, Ordering::Relaxed);
    let acted = catch_unwind(AssertUnwindSafe(|| act(&limiter)));
    assert!(acted.is_err(), "the panic goes on");
    armed.store(false, Ordering::Relaxed);
    let poll = waiter
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(Ok(())), "it was served");
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.available, snapshot.waiting), (vec![9], 0));
}

#[test]
fn the_waker_of_another_task_that_panics_costs_the_caller_no_tokens() {
    with_a_bomb(|limiter| {
        let _ = limiter.try_acquire();
    });
    with_a_bomb(|limiter| {
        let _ = limiter.try_acquire_n(5);
    });
    with_a_bomb(|limiter| {
        let _ = limiter.decide(3);
    });
    with_a_bomb(|limiter| drop(limiter.reserve(5)));
    with_a_bomb(|limiter| drop(start_any(limiter, 2)));
}

#[test]
fn the_waker_of_another_task_that_panics_leaves_no_waiter_that_is_not_polled() {
    // It needs more than there is, and has a place in the queue when the waker panics.
    with_a_bomb(|limiter| drop(start_any(limiter, 10)));
}

fn start_any(limiter: &RateLimiter, cost: u64) -> Waiter<'_> {
    let mut waiter = Box::pin(limiter.acquire_n(cost));
    let _ = waiter
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    waiter
}

/// Uses the limiter while it is woken, cloned and dropped.
struct Reentrant(RateLimiter);

impl Wake for Reentrant {
    fn wake(self: Arc<Self>) {
        let _ = self.0.try_acquire();
        self.0.add(0);
        let _ = self.0.snapshot();
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let _ = self.0.snapshot();
        self.0.add(1);
    }
}

#[test]
fn wakers_and_observers_may_use_the_limiter() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let slot: Arc<std::sync::OnceLock<RateLimiter>> = Arc::default();
        let inside = slot.clone();
        let limiter = builder(&clock, Quota::per_second(1)).observer(move |_: &Event| {
            if let Some(limiter) = inside.get() {
                let _ = (limiter.peek(), limiter.snapshot());
                limiter.add(0);
            }
        });
        let limiter = limiter.build().unwrap();
        assert!(slot.set(limiter.clone()).is_ok());
        drain(&limiter);
        let waker = || Waker::from(Arc::new(Reentrant(limiter.clone())));
        let mut waiters: Vec<_> = (0..4).map(|_| start(&limiter, &waker())).collect();
        for waiter in &mut waiters {
            let waker = waker();
            let _ = waiter.as_mut().poll(&mut Context::from_waker(&waker));
        }
        limiter.add(1);
        drop(waiters.pop());
        clock.advance(SECOND);
        drop(waiters);
        assert_eq!(limiter.snapshot().waiting, 0);
    });
}

/// Looks at the limiter when it is dropped.
struct Looking(RateLimiter, Arc<AtomicU32>);

impl Wake for Looking {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Looking {
    fn drop(&mut self) {
        let _ = self.0.snapshot();
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn wakers_that_are_replaced_or_leave_with_their_call_are_dropped_outside_the_lock() {
    within_a_minute(|| {
        let clock = ManualClock::new();
        let limiter = limiter(&clock, Quota::per_second(1));
        drain(&limiter);
        let dropped = Arc::new(AtomicU32::new(0));
        let waker = || Waker::from(Arc::new(Looking(limiter.clone(), dropped.clone())));
        // Watches the clock. The one behind it has no timer, so the queue has the only handle of its waker.
        let first = start(&limiter, Waker::noop());
        let mut second = start(&limiter, &waker());
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        let next = waker();
        let mut task = Context::from_waker(&next);
        assert!(second.as_mut().poll(&mut task).is_pending());
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        drop(next);
        drop(second);
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        drop(first);
    });
}

#[test]
fn a_call_that_waited_says_for_how_long() {
    let clock = ManualClock::new();
    let heard: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let limiter = builder(&clock, Quota::per_second(2).burst(1))
        .max_wait(SECOND)
        .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
        .build()
        .unwrap();
    let call = || async { Ok::<_, ()>(()) };
    run(&clock, limiter.call(call)).unwrap();
    run(&clock, limiter.call(call)).unwrap();
    let line = "rate_limiter: admitted a call after it waited 500ms";
    assert_eq!(*heard.lock().unwrap(), [line]);
}
