//! Model checks of the permit caches.

use super::*;
use crate::striped::set_thread_index;

/// Returns a queue over two open caches with `taken` permits in flight. The model has no contention, so tests open the
/// caches.
fn cached(limit: u32, taken: u32) -> Arc<PermitQueue> {
    let queue = over(PermitCache::with_two_caches(limit));
    if taken > 0 {
        queue.try_admit(many(taken)).unwrap();
    }
    queue
}

const fn many(cost: u32) -> Entrant {
    Entrant { cost, ..ONE }
}

/// Checks only interleavings with a bounded number of preemptions, because all of them take hours.
fn preempted(most: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(most);
    model.check(check);
}

/// Runs `act` on a thread of the model that uses the cache `home`.
fn other<T: 'static>(
    queue: &Arc<PermitQueue>,
    home: usize,
    act: impl FnOnce(&PermitQueue) -> T + 'static,
) -> thread::JoinHandle<T> {
    let queue = queue.clone();
    thread::spawn(move || {
        set_thread_index(home);
        act(&queue)
    })
}

/// Acquires a permit and releases it into the thread's cache.
fn cache_one(queue: &PermitQueue) {
    let in_flight = queue.in_flight();
    queue.try_admit(ONE).unwrap();
    queue.release(1, 0);
    assert!(queue.read().in_flight() > in_flight && queue.in_flight() == in_flight);
}

#[test]
fn loom_with_a_cache_each_call_is_served_and_the_bound_holds() {
    preempted(4, || {
        let queue = cached(4, 3);
        let inside = std::sync::Arc::new(AtomicU32::new(0));
        let visit = |queue: &PermitQueue, inside: &AtomicU32| {
            acquire(queue);
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            inside.fetch_sub(1, Ordering::SeqCst);
            queue.release(1, 0);
        };
        let other = {
            let inside = inside.clone();
            other(&queue, 1, move |queue| visit(queue, &inside))
        };
        visit(&queue, &inside);
        other.join().unwrap();
        assert_eq!((queue.in_flight(), queue.waiting()), (3, 0));
        assert!(!queue.read().is_waiting());
    });
}

#[test]
fn loom_exactly_one_of_two_racing_calls_gets_a_cached_permit() {
    for home in [0, 1] {
        loom::model(move || {
            let queue = cached(4, 3);
            cache_one(&queue);
            let other = other(&queue, home, |queue| {
                u32::from(queue.try_admit(ONE).is_ok())
            });
            let admitted = u32::from(queue.try_admit(ONE).is_ok()) + other.join().unwrap();
            assert_eq!((admitted, queue.in_flight()), (1, 4));
        });
    }
}

#[test]
fn loom_no_call_is_rejected_for_the_permit_it_has_released() {
    preempted(4, || {
        let queue = cached(4, 2);
        let other = other(&queue, 0, |queue| {
            queue.try_admit(ONE).unwrap();
            queue.release(1, 0);
        });
        for _ in 0..2 {
            queue.try_admit(ONE).unwrap();
            queue.release(1, 0);
        }
        other.join().unwrap();
        assert_eq!(queue.in_flight(), 2);
    });
}

#[test]
fn loom_no_call_is_rejected_while_another_empties_the_cache() {
    loom::model(|| {
        let queue = cached(4, 3);
        cache_one(&queue);
        let other = other(&queue, 0, |queue| queue.try_admit(many(5)).unwrap_err());
        set_thread_index(1);
        queue.try_admit(ONE).unwrap();
        other.join().unwrap();
        assert_eq!(queue.in_flight(), 4);
    });
}

#[test]
fn loom_no_cached_permit_is_acquired_above_a_limit_that_has_shrunk() {
    loom::model(|| {
        let queue = cached(4, 1);
        cache_one(&queue);
        let shrink = other(&queue, 1, |queue| {
            queue.set_limit(1, || 0);
            queue.serve_waiting();
            // From here on, a second call is only in flight if it was admitted before.
            queue.read().in_flight()
        });
        let admitted = queue.try_admit(ONE).is_ok();
        let seen = shrink.join().unwrap();
        assert!(seen > 1 || !admitted);
        assert_eq!(queue.in_flight(), 1 + u32::from(admitted));
    });
}

#[test]
fn loom_a_permit_released_while_caches_close_is_not_lost() {
    preempted(4, || {
        let queue = cached(4, 0);
        queue.try_admit(ONE).unwrap();
        let releases = other(&queue, 0, |queue| queue.release(1, 0));
        queue.try_admit(many(5)).unwrap_err();
        releases.join().unwrap();
        assert_eq!(queue.in_flight(), 0);
        queue.try_admit(many(4)).unwrap();
    });
}

#[test]
fn loom_a_permit_released_while_caches_open_is_not_lost() {
    preempted(4, || {
        let queue = cached(8, 1);
        queue.try_admit(many(9)).unwrap_err();
        let releases = other(&queue, 0, |queue| queue.release(1, 0));
        queue.permits().open_two_caches();
        queue.try_admit(ONE).unwrap();
        releases.join().unwrap();
        assert_eq!(queue.in_flight(), 1);
        queue.try_admit(many(7)).unwrap();
    });
}

#[test]
fn loom_a_waiter_is_not_forgotten_while_caches_open() {
    preempted(3, || {
        let queue = cached(4, 0);
        queue.try_admit(many(5)).unwrap_err();
        let other = other(&queue, 1, |queue| {
            for _ in 0..2 {
                if queue.try_admit(ONE).is_ok() {
                    queue.permits().open_two_caches();
                    queue.release(1, 0);
                }
                queue.permits().open_two_caches();
            }
        });
        acquire_as(&queue, many(4));
        queue.release(4, 0);
        other.join().unwrap();
        assert_eq!((queue.in_flight(), queue.waiting()), (0, 0));
    });
}

#[test]
fn loom_a_waiter_is_not_forgotten_while_another_call_empties_the_cache() {
    preempted(3, || {
        let queue = cached(4, 0);
        queue.try_admit(ONE).unwrap();
        let releases = other(&queue, 0, |queue| queue.release(1, 0));
        let passes_by = other(&queue, 1, |queue| {
            if queue.try_admit(many(4)).is_ok() {
                queue.release(4, 0);
            }
        });
        acquire_as(&queue, many(4));
        queue.release(4, 0);
        releases.join().unwrap();
        passes_by.join().unwrap();
        assert_eq!((queue.in_flight(), queue.waiting()), (0, 0));
    });
}

#[test]
fn loom_caches_do_not_open_under_a_limit_that_has_shrunk() {
    preempted(4, || {
        let queue = cached(24, 5);
        queue.try_admit(many(25)).unwrap_err();
        let shrunk = std::sync::Arc::new(AtomicU32::new(0));
        let shrink = {
            let shrunk = shrunk.clone();
            other(&queue, 1, move |queue| {
                queue.set_limit(4, || 0);
                queue.serve_waiting();
                shrunk.store(1, Ordering::SeqCst);
            })
        };
        queue.permits().open_two_caches();
        if queue.try_admit(ONE).is_ok() {
            queue.release(1, 0);
        }
        let late = shrunk.load(Ordering::SeqCst) == 1;
        assert!(!(queue.try_admit(ONE).is_ok() && late), "six of four");
        shrink.join().unwrap();
    });
}
