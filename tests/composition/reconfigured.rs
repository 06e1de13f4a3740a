//! Stacks in use by many tasks while their handles are changed by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Transition};
use backstop::rate_limiter::Inherit;
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Error, Policy, Quota, RateLimiter, Retry, Timeout,
};

use super::{Fault, ms};

const TASKS: u32 = 100;
const CALLS: u32 = 100;
/// The largest of the limits that the bulkhead is given.
const MOST: u32 = 20;

type Stack = (Retry, CircuitBreaker, RateLimiter, Bulkhead, Timeout);

fn stack() -> Stack {
    let retry = Retry::builder().max_attempts(2).backoff(Backoff::NONE);
    let breaker = CircuitBreaker::builder()
        .break_with(|_, _| Duration::from_nanos(1))
        .half_open(HalfOpen::successes(2).of(3));
    let quota = Quota::new(1_000_000, ms(1));
    (
        retry.build().unwrap(),
        breaker.build().unwrap(),
        RateLimiter::builder().quota(quota).build().unwrap(),
        Bulkhead::builder()
            .max_concurrent(MOST)
            .max_waiting(200)
            .build()
            .unwrap(),
        Timeout::after(ms(3_600_000)),
    )
}

/// Does everything to the handles that can be done to them.
fn reconfigure((_, breaker, limiter, bulkhead, _): &Stack, turn: u32) {
    match turn % 12 {
        0 => breaker.trip(),
        1 => breaker.half_open(),
        2 => breaker.close(),
        3 => breaker.trip_for(Duration::ZERO),
        4 => breaker.disable(),
        5 => breaker.metrics_only(),
        6 => breaker.reset(),
        7 => {
            let nested = (breaker.isolate(), breaker.isolate());
            drop(nested);
        }
        8 => {
            let quota = Quota::new(1 + u64::from(turn % 1000) * 1000, ms(1));
            limiter.set_quota(quota, Inherit::AsIs).unwrap();
        }
        9 => bulkhead.set_limit(1 + turn % MOST).unwrap(),
        10 => drop((breaker.snapshot(), limiter.snapshot(), bulkhead.snapshot())),
        _ => drop((breaker.peek(), breaker.subscribe())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_may_be_changed_while_a_hundred_tasks_use_them() {
    let stack = Arc::new(stack());
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let counts = Arc::new((inside, most));
    let mut transitions = stack.1.subscribe();
    let stop = Arc::new(AtomicBool::new(false));

    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (stack, counts) = (stack.clone(), counts.clone());
            tokio::spawn(async move {
                let mut ended = 0;
                for number in 0..CALLS {
                    let result = stack
                        .call(|| async {
                            let (inside, most) = &*counts;
                            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            if (task + number) % 7 == 0 {
                                Err(Fault::Down)
                            } else {
                                Ok(())
                            }
                        })
                        .await;
                    assert!(!matches!(result, Err(Error::TimedOut(_))));
                    ended += 1;
                }
                ended
            })
        })
        .collect();
    let changes = std::thread::spawn({
        let (stack, stop) = (stack.clone(), stop.clone());
        move || {
            let mut turn = 0;
            while !stop.load(Ordering::SeqCst) {
                reconfigure(&stack, turn);
                turn += 1;
                std::thread::yield_now();
            }
            turn
        }
    });
    let mut ended = 0;
    for task in tasks {
        ended += task.await.expect("no call panics");
    }
    stop.store(true, Ordering::SeqCst);
    assert!(changes.join().expect("no change panics") > 0);

    assert_eq!(ended, TASKS * CALLS, "every call ended");
    let (inside, most) = &*counts;
    assert_eq!(inside.load(Ordering::SeqCst), 0);
    assert!(most.load(Ordering::SeqCst) <= MOST, "{most:?} at once");

    // Nothing is left of it, and what was changed can be set right.
    let (_, breaker, limiter, bulkhead, _) = &*stack;
    let left = bulkhead.snapshot();
    assert_eq!((left.in_flight, left.waiting), (0, 0));
    assert_eq!(limiter.snapshot().waiting, 0);
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    breaker.reset();
    bulkhead.set_limit(MOST).unwrap();
    limiter
        .set_quota(Quota::new(1_000_000, ms(1)), Inherit::Reset)
        .unwrap();
    assert_eq!(stack.call(|| async { Ok::<_, Fault>(7) }).await, Ok(7));

    // Each transition begins in the state in which the one before ended.
    let mut told: Vec<Transition> = Vec::new();
    while let Some(transition) = transitions.try_next() {
        told.push(transition);
    }
    for pair in told.windows(2) {
        assert_eq!(pair[0].to, pair[1].from, "{pair:?}");
        assert!(pair[0].generation < pair[1].generation, "{pair:?}");
    }
}
