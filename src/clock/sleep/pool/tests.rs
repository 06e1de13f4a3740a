//! Every test runs on its own thread, and so has its own pool. None waits for real time: a timer fires because its
//! runtime shuts down, or because the test does what the runtime would.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::thread;

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::clock::sleep::fast::Timer;
use crate::{FastClock, Policy, Timeout};

const HOUR: Duration = Duration::from_secs(3600);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn in_an_hour() -> Instant {
    counter::now() + HOUR
}

fn parked() -> usize {
    PARKED.with_borrow(Vec::len)
}

/// Takes a timer and parks it again. Returns its waiter.
fn take_and_park(deadline: Instant) -> Arc<Waiter> {
    let armed = Armed::take(deadline);
    let waiter = armed.0.waiter.clone();
    armed.park();
    waiter
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Task {
    woken: AtomicU32,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_next_call_takes_the_timer_of_the_last_one() {
    runtime().block_on(async {
        let first = take_and_park(in_an_hour());
        let second = take_and_park(in_an_hour() + HOUR);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(parked(), 1);
    });
}

#[test]
fn a_timer_of_another_runtime_is_not_used() {
    let (one, two) = (runtime(), runtime());
    let first = one.block_on(async { take_and_park(in_an_hour()) });
    let other = two.block_on(async { take_and_park(in_an_hour()) });
    assert!(!Arc::ptr_eq(&first, &other));
    let again = one.block_on(async { take_and_park(in_an_hour()) });
    assert!(Arc::ptr_eq(&first, &again));
}

#[test]
fn a_timer_of_a_dead_runtime_is_not_used() {
    let dead = runtime().block_on(async { take_and_park(in_an_hour()) });
    let alive = runtime().block_on(async { take_and_park(in_an_hour()) });
    assert!(!Arc::ptr_eq(&dead, &alive));
}

#[test]
fn a_timer_may_outlive_its_runtime_and_its_thread() {
    let armed = runtime().block_on(async { Armed::take(in_an_hour()) });
    armed.park();
    let armed = runtime().block_on(async { Armed::take(in_an_hour()) });
    thread::spawn(move || armed.park()).join().unwrap();
}

#[test]
fn a_parked_timer_neither_keeps_nor_wakes_a_finished_task() {
    let runtime = runtime();
    let task = Arc::new(Task::default());
    let waker = Waker::from(task.clone());
    runtime.block_on(async {
        let armed = Armed::take(in_an_hour());
        assert!(!armed.has_fired(&waker));
        assert_eq!(Arc::strong_count(&task), 3);
        armed.park();
    });
    assert_eq!(Arc::strong_count(&task), 2);
    drop(runtime);
    assert_eq!(task.woken.load(Ordering::Relaxed), 0);
}

#[test]
fn a_timer_wakes_the_task_that_asked_last() {
    let runtime = runtime();
    let (first, last) = (Arc::new(Task::default()), Arc::new(Task::default()));
    let armed = runtime.block_on(async {
        let armed = Armed::take(in_an_hour());
        assert!(!armed.has_fired(&first.clone().into()));
        assert!(!armed.has_fired(&last.clone().into()));
        armed
    });
    drop(runtime);
    assert!(armed.has_fired(Waker::noop()));
    assert_eq!(first.woken.load(Ordering::Relaxed), 0);
    assert_eq!(last.woken.load(Ordering::Relaxed), 1);
}

#[test]
fn a_shorter_timeout_gets_a_timer_of_its_own() {
    runtime().block_on(async {
        let long = take_and_park(in_an_hour());
        let soon = counter::now() + HOUR / 2;
        let short = Armed::take(soon);
        assert!(!Arc::ptr_eq(&long, &short.0.waiter));
        assert_eq!(short.0.at, soon);
    });
}

#[test]
fn a_timer_that_fires_too_early_is_moved_on() {
    runtime().block_on(async {
        let past = take_and_park(counter::now());
        Waker::from(past.clone()).wake();
        let mut sleep = Box::pin(Timer::new(in_an_hour()).unwrap());
        let task = &mut Context::from_waker(Waker::noop());
        assert_eq!(sleep.as_mut().poll(task), Poll::Pending);
        drop(sleep);
        let again = Armed::take(in_an_hour() + HOUR);
        assert!(Arc::ptr_eq(&past, &again.0.waiter));
        assert!(!again.has_fired(Waker::noop()));
        assert!(again.0.at > counter::now() + HOUR / 2);
    });
}

#[test]
fn a_sleep_past_its_deadline_is_ready() {
    runtime().block_on(async {
        let past = take_and_park(counter::now());
        Waker::from(past.clone()).wake();
        let mut sleep = pin!(Timer::new(counter::now()).unwrap());
        let task = &mut Context::from_waker(Waker::noop());
        assert_eq!(sleep.as_mut().poll(task), Poll::Ready(()));
    });
}

#[test]
fn many_runtimes_on_one_thread_do_not_fill_the_pool() {
    for _ in 0..3 * POOL {
        runtime().block_on(async {
            let first = take_and_park(in_an_hour());
            let second = take_and_park(in_an_hour());
            assert!(Arc::ptr_eq(&first, &second));
        });
        assert!(parked() <= POOL);
    }
}

#[test]
fn many_sleeps_at_once_leave_a_full_pool_and_no_more() {
    runtime().block_on(async {
        let many: Vec<Armed> = (0..2 * POOL).map(|_| Armed::take(in_an_hour())).collect();
        assert_eq!(parked(), 0);
        many.into_iter().for_each(Armed::park);
        assert_eq!(parked(), POOL);
    });
}

#[test]
fn nested_timeouts_use_a_timer_each_and_the_same_ones_again() {
    let timeout = |limit| {
        let builder = Timeout::builder().after(limit).clock(FastClock::new());
        builder.build().unwrap()
    };
    let nested = (timeout(2 * HOUR), timeout(HOUR));
    runtime().block_on(async {
        for _ in 0..5 {
            let result = nested
                .call(|| async {
                    tokio::task::yield_now().await;
                    Ok::<_, ()>(())
                })
                .await;
            assert_eq!(result, Ok(()));
            assert_eq!(parked(), 2);
        }
    });
}

#[test]
fn a_used_up_cooperation_budget_does_not_keep_a_timer_from_registering() {
    runtime().block_on(async {
        tokio::spawn(async {
            while coop::has_budget_remaining() {
                tokio::task::consume_budget().await;
            }
            let armed = Armed::take(in_an_hour());
            assert!(!armed.has_fired(Waker::noop()));
        })
        .await
        .unwrap();
    });
}
