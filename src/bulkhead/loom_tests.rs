//! Model checks of the semaphore and its wait queue.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use loom::sync::Arc;
use loom::sync::Notify;
use loom::thread;

use super::permit_cache::PermitCache;
use super::permit_queue::{Entrant, PermitQueue, Rules};
use super::ticket::Ticket;
use crate::clock::ManualClock;
use crate::instant::Instant;
use crate::priority::Priority;

mod cache;

const ONE: Entrant = Entrant {
    cost: 1,
    partition: 0,
    priority: Priority::NORMAL,
};

fn exact(limit: u32) -> Arc<PermitQueue> {
    over(PermitCache::new(limit, true))
}

fn over(permits: PermitCache) -> Arc<PermitQueue> {
    let rules = Rules {
        capacity: 8,
        ..Rules::default()
    };
    let clock = ManualClock::new().into();
    Arc::new(PermitQueue::new(
        permits,
        rules,
        Box::default(),
        None,
        clock,
    ))
}

/// Wakes a thread of the model.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

/// Acquires a permit, after a wait if necessary. Loom reports a wait that never ends as a deadlock.
fn acquire(queue: &PermitQueue) {
    acquire_as(queue, ONE);
}

fn acquire_as(queue: &PermitQueue, entrant: Entrant) {
    let bell = std::sync::Arc::new(Bell(Notify::new()));
    let waker = Waker::from(bell.clone());
    let mut ticket = match queue.try_admit(entrant) {
        Ok(_) => return,
        Err(_) => enqueue(queue, entrant, &waker),
    };
    while ticket
        .poll(&mut TaskContext::from_waker(&waker))
        .is_pending()
    {
        bell.0.wait();
    }
}

fn enqueue<'a>(queue: &'a PermitQueue, entrant: Entrant, waker: &Waker) -> Ticket<'a> {
    let (ticket, _) =
        Ticket::new(queue, entrant, Instant::ORIGIN, waker).expect("the queue has room");
    ticket
}

#[test]
fn loom_each_call_is_served_and_the_bound_holds() {
    loom::model(|| {
        let queue = exact(1);
        let inside = std::sync::Arc::new(AtomicU32::new(0));
        let visit = |queue: &PermitQueue, inside: &AtomicU32| {
            acquire(queue);
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            inside.fetch_sub(1, Ordering::SeqCst);
            queue.release(1, 0);
        };
        let other = {
            let (queue, inside) = (queue.clone(), inside.clone());
            thread::spawn(move || visit(&queue, &inside))
        };
        visit(&queue, &inside);
        other.join().unwrap();
        assert_eq!((queue.read().in_flight(), queue.waiting()), (0, 0));
        assert!(!queue.read().is_waiting());
    });
}

#[test]
fn loom_a_waiter_that_leaves_passes_the_permit_on() {
    loom::model(|| {
        let queue = exact(1);
        queue.try_admit(ONE).unwrap();
        let mut leaves = enqueue(&queue, ONE, Waker::noop());
        let release = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.release(1, 0);
            })
        };
        let polled = leaves.poll(&mut TaskContext::from_waker(Waker::noop()));
        let served = matches!(polled, Poll::Ready(Ok(_)));
        drop(leaves);
        if served {
            queue.release(1, 0);
        }
        release.join().unwrap();
        assert_eq!((queue.read().in_flight(), queue.waiting()), (0, 0));
        assert!(!queue.read().is_waiting());
        assert!(queue.try_admit(ONE).is_ok());
    });
}

#[test]
fn loom_a_larger_limit_serves_waiters() {
    loom::model(|| {
        let queue = exact(1);
        queue.try_admit(ONE).unwrap();
        let grow = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.set_limit(2, || 0);
                queue.serve_waiting();
            })
        };
        acquire(&queue);
        grow.join().unwrap();
        assert_eq!(queue.read().in_flight(), 2);
    });
}

#[test]
fn loom_no_call_is_admitted_above_a_limit_that_has_shrunk() {
    loom::model(|| {
        let queue = exact(2);
        queue.try_admit(ONE).unwrap();
        let shrink = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.set_limit(1, || 0);
                queue.serve_waiting();
                // From here on, a second call is only in flight if it was admitted before.
                queue.read().in_flight()
            })
        };
        let admitted = queue.try_admit(ONE).is_ok();
        let seen = shrink.join().unwrap();
        if seen == 1 {
            assert!(!admitted);
        }
        assert_eq!(queue.read().in_flight(), 1 + u32::from(admitted));
    });
}

#[test]
fn loom_exactly_one_of_two_racing_calls_gets_the_last_permit() {
    loom::model(|| {
        let queue = exact(2);
        queue.try_admit(ONE).unwrap();
        let racer = || {
            let queue = queue.clone();
            thread::spawn(move || u32::from(queue.try_admit(ONE).is_ok()))
        };
        let racers = [racer(), racer()];
        let admitted: u32 = racers.map(|racer| racer.join().unwrap()).iter().sum();
        assert_eq!((admitted, queue.read().in_flight()), (1, 2));
    });
}

#[test]
fn loom_a_rejection_during_a_release_leaks_no_permit() {
    loom::model(|| {
        let queue = exact(1);
        queue.try_admit(ONE).unwrap();
        let tries = {
            let queue = queue.clone();
            thread::spawn(move || u32::from(queue.try_admit(ONE).is_ok()))
        };
        queue.release(1, 0);
        let again = u32::from(queue.try_admit(ONE).is_ok());
        let admitted = again + tries.join().unwrap();
        assert_eq!((admitted, queue.read().in_flight()), (1, 1));
    });
}

#[test]
fn loom_a_call_that_does_not_wait_cannot_starve_a_waiter() {
    // Bounded, because three threads have too many interleavings.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let queue = exact(1);
        queue.try_admit(ONE).unwrap();
        let passes_by = {
            let queue = queue.clone();
            thread::spawn(move || {
                if queue.try_admit(ONE).is_ok() {
                    queue.release(1, 0);
                }
            })
        };
        let release = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.release(1, 0);
            })
        };
        acquire(&queue);
        queue.release(1, 0);
        passes_by.join().unwrap();
        release.join().unwrap();
        assert_eq!((queue.read().in_flight(), queue.waiting()), (0, 0));
        assert!(!queue.read().is_waiting());
    });
}

#[test]
fn loom_of_two_changes_of_the_limit_the_one_with_the_larger_number_is_in_force() {
    use crate::sync::AtomicU64;

    loom::model(|| {
        let queue = exact(1);
        let numbers = Arc::new(AtomicU64::new(0));
        let other = {
            let (queue, numbers) = (queue.clone(), numbers.clone());
            thread::spawn(move || {
                let number = || numbers.fetch_add(1, Ordering::Relaxed);
                queue.set_limit(2, number).map(|(_, number)| number)
            })
        };
        let number = || numbers.fetch_add(1, Ordering::Relaxed);
        let own = queue.set_limit(3, number).map(|(_, number)| number);
        let last = match own > other.join().unwrap() {
            true => 3,
            false => 2,
        };
        assert_eq!(queue.read().limit(), last);
    });
}
