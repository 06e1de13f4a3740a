//! Calls without a runtime: outside one, inside one, around one, and one in another.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backstop::{
    Backoff, BlockingClock, Bulkhead, Clock, Error, Jitter, ManualClock, Policy, Retry, Timeout,
    deadline,
};

use super::{Fault, ms};

/// Runs `test` on a thread of its own and fails when that never ends.
#[cfg(feature = "tokio")]
fn ends<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(test()));
    ended
        .recv_timeout(Duration::from_secs(60))
        .expect("hangs or panics")
}

fn hour(clock: impl Into<backstop::ClockHandle>) -> Timeout {
    let timeout = Timeout::builder().after(ms(3_600_000)).clock(clock);
    timeout.build().unwrap()
}

#[test]
fn a_blocking_operation_inherits_the_deadline() {
    let stack = hour(BlockingClock);
    let seen = stack.call_blocking(|| {
        // Two levels down, where another stack has more time of its own.
        let longer = Timeout::builder().after(Duration::MAX).clock(BlockingClock);
        longer
            .build()
            .unwrap()
            .call_blocking(|| Ok::<_, Fault>(deadline::current().expect("the outer timeout's")))
            .map_err(|_| Fault::Down)
    });
    assert!(seen.unwrap() <= ms(3_600_000));
    assert_eq!(deadline::current(), None);
}

#[test]
fn a_nested_call_is_rejected_once_the_deadline_of_the_outer_one_has_passed() {
    let clock = ManualClock::new();
    let (outer, inner) = (hour(clock.clone()), hour(clock.clone()));
    let started = Cell::new(false);
    let result = outer.call_blocking(|| {
        clock.advance(ms(3_600_000));
        inner
            .call_blocking(|| {
                started.set(true);
                Ok::<_, Fault>(())
            })
            .map_err(|error| error.reason())
    });
    let too_late = Some(backstop::Reason::DeadlineTooClose);
    assert_eq!(result, Err(Error::Operation(too_late)));
    assert!(!started.get());
}

#[test]
fn nested_calls_wait_for_themselves() {
    let quick = Retry::builder()
        .backoff(Backoff::fixed(Duration::from_nanos(1)).jitter(Jitter::None))
        .clock(BlockingClock)
        .build()
        .unwrap();
    let tries = Cell::new(0);
    let result = quick.call_blocking(|| {
        let inner = quick.call_blocking(|| {
            tries.set(tries.get() + 1);
            Err::<(), _>(Fault::Down)
        });
        inner.map_err(|_| Fault::Down)
    });
    assert_eq!(result, Err(Error::Operation(Fault::Down)));
    assert_eq!(tries.get(), 9);
}

#[test]
fn a_panic_in_a_nested_call_leaves_the_outer_one_working() {
    let places = Bulkhead::builder().max_concurrent(1).clock(BlockingClock);
    let places = places.build().unwrap();
    let result = hour(BlockingClock).call_blocking(|| {
        let panicking =
            AssertUnwindSafe(|| places.call_blocking(|| -> Result<(), Fault> { panic!("boom") }));
        assert!(catch_unwind(panicking).is_err());
        // Its place came back, and so did the outer deadline.
        assert!(deadline::current().is_some());
        places
            .call_blocking(|| Ok::<_, Fault>(7))
            .map_err(|_| Fault::Down)
    });
    assert_eq!(result, Ok(7));
}

#[test]
fn a_manual_clock_may_be_shared_by_nested_loops() {
    let clock = ManualClock::new();
    let (inner, outer) = clock.block_on(async {
        let inner = async {
            clock.sleep(ms(1)).await;
            clock.block_on(clock.sleep(ms(5)));
            clock.now().as_nanos()
        };
        let outer = async {
            clock.sleep(ms(3)).await;
            clock.now().as_nanos()
        };
        futures::join!(inner, outer)
    });
    // The outer sleep came due while the inner loop had the thread, and was not lost.
    assert_eq!((inner, outer), (6_000_000, 6_000_000));
    assert_eq!(clock.sleepers(), 0);
}

#[cfg(feature = "tokio")]
#[test]
fn a_runtime_inside_a_blocking_operation_has_its_own_timers() {
    let result = ends(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let attempt = Timeout::after(ms(50));
        let hangs = std::future::pending::<Result<(), Fault>>;
        hour(BlockingClock).call_blocking(|| {
            let inside = runtime.block_on(attempt.call(hangs));
            Ok::<_, Fault>(inside.unwrap_err().is_timeout())
        })
    });
    assert_eq!(result, Ok(true));
}

#[cfg(feature = "tokio")]
#[test]
fn waits_do_not_grow_with_the_time_a_paused_clock_is_ahead() {
    let attempts = ends(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::advance(ms(3_600_000)).await;
            let retry = Retry::builder()
                .backoff(Backoff::fixed(Duration::from_nanos(1)).jitter(Jitter::None))
                .build()
                .unwrap();
            let attempts = Cell::new(0);
            let result = retry.call_blocking(|| {
                attempts.set(attempts.get() + 1);
                Err::<(), _>(Fault::Down)
            });
            assert!(result.is_err());
            attempts.get()
        })
    });
    assert_eq!(attempts, 3);
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_a_runtimes_threads_too() {
    let stack = (
        Timeout::after(ms(3_600_000)),
        Retry::builder()
            .backoff(Backoff::fixed(Duration::from_nanos(1)).jitter(Jitter::None))
            .build()
            .unwrap(),
    );
    let on_a_worker = tokio::spawn({
        let stack = stack.clone();
        async move { stack.call_blocking(|| Err::<(), _>(Fault::Down)).is_err() }
    });
    let on_a_blocking_thread =
        tokio::task::spawn_blocking(move || stack.call_blocking(|| Ok::<_, Fault>(7)));
    assert!(on_a_worker.await.unwrap());
    assert_eq!(on_a_blocking_thread.await.unwrap(), Ok(7));
}
