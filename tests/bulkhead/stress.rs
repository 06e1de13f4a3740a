//! Two threads that acquire, cancel, panic and resize.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::yield_now;

use backstop::{Bulkhead, CallOptions, Context, Pipeline, Policy};

/// Operations in total: 10 million in a release build.
const OPERATIONS: u64 = if cfg!(debug_assertions) {
    400_000
} else {
    10_000_000
};

/// The initial and the largest limit.
#[derive(Clone, Copy)]
struct Size {
    first: u32,
    largest: u32,
}

/// One permit, so every other call waits.
const SMALL: Size = Size {
    first: 2,
    largest: 4,
};
/// Permits are cached, and calls of high cost empty the caches.
const LARGE: Size = Size {
    first: 8,
    largest: 16,
};

/// Counts running operations.
#[derive(Default)]
pub(super) struct Inside {
    now: AtomicU32,
    most: AtomicU32,
}

pub(super) struct Visit<'a> {
    inside: &'a Inside,
    cost: u32,
}

impl Inside {
    pub(super) fn visit(&self, cost: u32) -> Visit<'_> {
        let now = self.now.fetch_add(cost, Ordering::SeqCst) + cost;
        self.most.fetch_max(now, Ordering::SeqCst);
        Visit { inside: self, cost }
    }

    pub(super) fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.inside.now.fetch_sub(self.cost, Ordering::SeqCst);
    }
}

#[test]
fn acquire_cancel_panic_and_resize_from_two_threads() {
    run(SMALL);
}

#[test]
fn acquire_cancel_panic_and_resize_from_two_threads_where_there_is_room() {
    run(LARGE);
}

fn run(size: Size) {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(size.first)
        .max_waiting(8)
        .build()
        .unwrap();
    let inside = Inside::default();
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (bulkhead, inside, served) = (&bulkhead, &inside, &served);
            scope.spawn(move || {
                let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(thread + 1);
                for _ in 0..OPERATIONS / 2 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    operate(bulkhead, size, inside, served, random);
                }
            });
        }
    });
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    assert_eq!(inside.now.load(Ordering::SeqCst), 0);
    assert!(inside.most() <= size.largest);
    assert!(served.load(Ordering::SeqCst) > OPERATIONS / 4);
}

fn operate(bulkhead: &Bulkhead, size: Size, inside: &Inside, served: &AtomicU64, random: u64) {
    let resized = (random >> 32) as u32 % size.largest + 1;
    // One call in four costs more than one, in a large bulkhead.
    let cost = match random >> 24 & 3 {
        0 => resized.min(size.largest / SMALL.largest),
        _ => 1,
    };
    let cx = Context::new().with_cost(cost);
    let pipeline = Pipeline::new(bulkhead);
    let policy = pipeline.with(CallOptions::new().cost(cost));
    let work = || async {
        let _visit = inside.visit(cost);
        Ok::<_, ()>(())
    };
    let mut noop = TaskContext::from_waker(Waker::noop());
    match random % 64 {
        0 => bulkhead.set_limit(resized).unwrap(),
        1 => {
            let panics = || async {
                let _visit = inside.visit(cost);
                if random != 0 {
                    // Unwinds like a panic without a message.
                    std::panic::resume_unwind(Box::new("part of the test"));
                }
                Ok::<(), ()>(())
            };
            let _ = catch_unwind(AssertUnwindSafe(|| {
                until_done(policy.call(panics), yield_now)
            }));
        }
        // Cancelled in the wait queue, or while it runs.
        2..=15 => {
            let pending = || async {
                let _visit = inside.visit(cost);
                std::future::pending::<Result<(), ()>>().await
            };
            let mut call = Box::pin(policy.call(pending));
            let _ = call.as_mut().poll(&mut noop);
        }
        16..=31 => {
            if let Ok(_permit) = bulkhead.try_acquire_with(cx) {
                let _visit = inside.visit(cost);
            }
        }
        // Holds one permit and waits for another, which the other thread releases.
        32..=39 => {
            let mut first = Box::pin(bulkhead.acquire_with(cx));
            if let Poll::Ready(Ok(_permit)) = first.as_mut().poll(&mut noop) {
                let _visit = inside.visit(cost);
                let mut second = Box::pin(bulkhead.acquire_with(cx));
                let _ = second.as_mut().poll(&mut noop);
            }
        }
        _ => {
            if until_done(policy.call(work), yield_now).is_ok() {
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Records whether the task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Number of checks before a wake-up counts as lost. They take seconds, and a wake-up takes microseconds.
const LOOKS: u32 = 20_000_000;

/// Runs a future whenever it is woken, with `idle` in between. Fails if a wake-up is lost.
pub(super) fn until_done<F: Future>(future: F, idle: impl Fn()) -> F::Output {
    let mut future = pin!(future);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            return output;
        }
        let wakes = (0..LOOKS).any(|_| {
            idle();
            woken.0.swap(false, Ordering::SeqCst)
        });
        assert!(wakes, "a wake-up was lost");
    }
}

/// Permits in the cache of one thread are available to all threads.
#[test]
fn no_call_is_rejected_while_permits_are_free() {
    const THREADS: u32 = 15;
    let bulkhead = Bulkhead::builder()
        .max_concurrent(2 * THREADS + 16)
        .build()
        .unwrap();
    let rounds = if cfg!(debug_assertions) {
        2_000
    } else {
        100_000
    };
    std::thread::scope(|scope| {
        for thread in 0..=THREADS {
            let bulkhead = &bulkhead;
            scope.spawn(move || {
                for _ in 0..rounds {
                    // One thread needs so many permits that the caches must be emptied.
                    let cost = if thread == 0 { 16 } else { 1 };
                    let cx = Context::new().with_cost(cost);
                    let _first = bulkhead.try_acquire_with(cx).unwrap();
                    if cost == 1 {
                        let _second = bulkhead.try_acquire().unwrap();
                        yield_now();
                    }
                }
            });
        }
    });
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}
