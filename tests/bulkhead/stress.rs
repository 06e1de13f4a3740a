//! Two threads that acquire, cancel, panic and resize.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use backstop::{Bulkhead, Policy};

/// Operations in total: 10 million in a release build.
const OPERATIONS: u64 = if cfg!(debug_assertions) {
    400_000
} else {
    10_000_000
};
const LARGEST: u32 = 4;

/// Counts who is inside, as the operation itself sees it.
#[derive(Default)]
struct Inside {
    now: AtomicU32,
    most: AtomicU32,
}

struct Visit<'a>(&'a Inside);

impl Inside {
    fn visit(&self) -> Visit<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Visit(self)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn acquire_cancel_panic_and_resize_from_two_threads() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(2)
        .queue(8)
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
                    operate(bulkhead, inside, served, random);
                }
            });
        }
    });
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
    assert_eq!(inside.now.load(Ordering::SeqCst), 0);
    assert!(inside.most.load(Ordering::SeqCst) <= LARGEST);
    assert!(served.load(Ordering::SeqCst) > OPERATIONS / 4);
}

fn operate(bulkhead: &Bulkhead, inside: &Inside, served: &AtomicU64, random: u64) {
    let work = || async {
        let _visit = inside.visit();
        Ok::<_, ()>(())
    };
    let mut noop = TaskContext::from_waker(Waker::noop());
    match random % 64 {
        0 => bulkhead.set_limit((random >> 32) as u32 % LARGEST + 1),
        1 => {
            let panics = || async {
                let _visit = inside.visit();
                if random != 0 {
                    // As a panic, but nothing is printed.
                    std::panic::resume_unwind(Box::new("part of the test"));
                }
                Ok::<(), ()>(())
            };
            let _ = catch_unwind(AssertUnwindSafe(|| until_done(bulkhead.call(panics))));
        }
        // Cancelled in line, or while it runs.
        2..=15 => {
            let pending = || async {
                let _visit = inside.visit();
                std::future::pending::<Result<(), ()>>().await
            };
            let mut call = Box::pin(bulkhead.call(pending));
            let _ = call.as_mut().poll(&mut noop);
        }
        16..=31 => {
            if let Ok(_permit) = bulkhead.try_acquire() {
                let _visit = inside.visit();
            }
        }
        // Holds one permit and waits for another: the other thread gives it.
        32..=39 => {
            let mut first = Box::pin(bulkhead.acquire());
            if let Poll::Ready(Ok(_permit)) = first.as_mut().poll(&mut noop) {
                let _visit = inside.visit();
                let mut second = Box::pin(bulkhead.acquire());
                let _ = second.as_mut().poll(&mut noop);
            }
        }
        _ => {
            if until_done(bulkhead.call(work)).is_ok() {
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Says whether somebody has woken the task.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How often a task looks whether it is woken: seconds, and what it waits for takes microseconds.
const LOOKS: u32 = 20_000_000;

/// Runs a future whenever it is woken, and fails when nobody wakes it.
fn until_done<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            return output;
        }
        let wakes = (0..LOOKS).any(|_| {
            std::thread::yield_now();
            woken.0.swap(false, Ordering::SeqCst)
        });
        assert!(wakes, "nobody wakes it");
    }
}
