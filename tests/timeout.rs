//! Timeouts and deadlines, seen from outside, in virtual time.
#![cfg(feature = "tokio")]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::{
    CallOptions, Clock, Error, Instant, ManualClock, Pipeline, Policy, Reason, TimedOut, Timeout,
    deadline,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn timeout(clock: &ManualClock, limit: Duration) -> Timeout {
    let timeout = Timeout::builder().after(limit).clock(clock.clone());
    timeout.build().unwrap()
}

/// What a call through a policy has left when its operation asks.
macro_rules! left {
    ($policy:expr) => {
        async {
            let policy = $policy;
            let call = policy.call_with(|attempt| ready(Ok::<_, ()>(attempt.remaining())));
            call.await.unwrap()
        }
    };
}

#[test]
fn cuts_off_what_takes_too_long_and_nothing_else() {
    let clock = ManualClock::new();
    let timeout = timeout(&clock, ms(100));
    let sleep = |time| {
        let sleep = clock.sleep(time);
        async move {
            sleep.await;
            Ok::<_, ()>("done")
        }
    };
    let run = |time| clock.block_on(timeout.call(|| sleep(time)));
    assert_eq!(run(ms(99)), Ok("done"));
    let cut = Err(TimedOut::new("timeout", ms(100)).into());
    assert_eq!(run(ms(101)), cut);
    // Both ready at one instant: the operation is asked first.
    assert_eq!(run(ms(100)), Ok("done"));
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_ready_operation_costs_no_timer() {
    let clock = ManualClock::new();
    let timeout = timeout(&clock, ms(100));
    let mut call = pin!(timeout.call(|| async {
        // Polled inside the call: a timer would be registered by now.
        Ok::<_, ()>(clock.sleepers())
    }));
    let poll = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(Ok(0)));
}

#[test]
fn zero_admits_only_an_operation_that_is_ready_at_once() {
    let clock = ManualClock::new();
    let zero = timeout(&clock, Duration::ZERO);
    assert_eq!(clock.block_on(zero.call(|| ready(Ok::<_, ()>(1)))), Ok(1));
    let result = clock.block_on(zero.call(pending::<Result<(), ()>>));
    assert!(result.unwrap_err().is_timeout());
}

#[test]
fn the_longest_limit_never_fires() {
    let clock = ManualClock::new();
    let never = timeout(&clock, Duration::MAX);
    let mut call = pin!(never.call(pending::<Result<(), ()>>));
    let mut task = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut task).is_pending());
    clock.advance(Duration::MAX);
    assert!(call.as_mut().poll(&mut task).is_pending());
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn nested_timeouts_take_the_minimum() {
    let clock = ManualClock::new();
    let (short, long) = (timeout(&clock, ms(10)), timeout(&clock, ms(1000)));
    clock.block_on(async {
        assert_eq!(left!(&(&short, &long)).await, Some(ms(10)));
        assert_eq!(left!(&(&long, &short)).await, Some(ms(10)));
        assert_eq!(left!(&(&long, &long)).await, Some(ms(1000)));
    });
}

#[test]
fn a_limit_can_be_computed_for_each_call() {
    let clock = ManualClock::new();
    let growing = Timeout::builder()
        .after_with(|cx| ms(100) * cx.cost())
        .clock(clock.clone())
        .build()
        .unwrap();
    let pipeline = Pipeline::new(growing);
    clock.block_on(async {
        assert_eq!(left!(&pipeline).await, Some(ms(100)));
        let large = pipeline.with(CallOptions::new().cost(7));
        assert_eq!(left!(&large).await, Some(ms(700)));
    });
}

#[test]
fn two_limits_contradict_each_other() {
    let limit = Duration::from_secs(1);
    for both in [
        Timeout::builder().after(limit).after_with(move |_| limit),
        Timeout::builder().after_with(move |_| limit).after(limit),
    ] {
        let error = both.build().unwrap_err();
        let text = "timeout: after_with contradicts `after`: both set the limit";
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn an_attempt_that_cannot_start_in_time_is_not_started() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new(timeout(&clock, ms(100)));
    let started = Cell::new(false);
    let no_time = pipeline.with(CallOptions::new().deadline(Duration::ZERO));
    let result = clock.block_on(no_time.call(|| {
        started.set(true);
        ready(Ok::<_, ()>(()))
    }));
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DeadlineTooClose));
    assert!(!started.get());
}

#[test]
fn nested_calls_inherit_the_deadline() {
    let clock = ManualClock::new();
    let outer = timeout(&clock, ms(100));
    let inner = timeout(&clock, ms(5000));
    let seen = RefCell::new(Vec::new());
    let result = clock.block_on(outer.call(|| async {
        let at_first = left!(&inner).await;
        clock.sleep(ms(30)).await;
        let later = left!(&inner).await;
        seen.borrow_mut().extend([at_first, later]);
        Ok::<_, ()>(())
    }));
    assert_eq!(result, Ok(()));
    assert_eq!(*seen.borrow(), [Some(ms(100)), Some(ms(70))]);
    // Nothing is left behind for the next call.
    assert_eq!(clock.block_on(left!(&inner)), Some(ms(5000)));
}

#[test]
fn concurrent_parts_do_not_see_each_others_deadlines() {
    let clock = ManualClock::new();
    let (short, long) = (timeout(&clock, ms(10)), timeout(&clock, ms(1000)));
    let nested = |outer: Timeout| {
        let (clock, long) = (&clock, &long);
        async move {
            let call = outer.call(|| async {
                clock.sleep(ms(5)).await;
                Ok::<_, ()>(left!(long).await)
            });
            call.await.unwrap()
        }
    };
    let (first, second) =
        clock.block_on(async { futures::join!(nested(short), nested(long.clone())) });
    assert_eq!((first, second), (Some(ms(5)), Some(ms(995))));
}

#[test]
fn a_panic_leaves_no_deadline_behind() {
    let clock = ManualClock::new();
    let short = timeout(&clock, ms(10));
    let panics = || -> std::future::Ready<Result<(), ()>> { panic!("boom") };
    for policy in [short.clone(), timeout(&clock, ms(20))] {
        let call = std::panic::AssertUnwindSafe(|| {
            clock.block_on(policy.call(|| async { panics().await }))
        });
        assert!(std::panic::catch_unwind(call).is_err());
    }
    assert_eq!(deadline::current(), None);
    let long = timeout(&clock, ms(1000));
    assert_eq!(clock.block_on(left!(&long)), Some(ms(1000)));
}

#[tokio::test(start_paused = true)]
async fn a_scope_carries_a_deadline_that_came_from_elsewhere() {
    assert_eq!(deadline::current(), None);
    let stack = Timeout::after(ms(5000));
    let handler = deadline::scope(ms(300), async {
        assert_eq!(deadline::current(), Some(ms(300)));
        tokio::time::sleep(ms(100)).await;
        let left_now = left!(&stack).await;
        // A longer scope inside changes nothing.
        let inner = deadline::scope(ms(9000), left!(&stack)).await;
        let result = stack.call(pending::<Result<(), ()>>).await;
        (left_now, inner, result)
    });
    let (left_now, inner, result) = handler.await;
    assert_eq!((left_now, inner), (Some(ms(200)), Some(ms(200))));
    // No policy of the stack set it.
    assert_eq!(result, Err(TimedOut::by_deadline(ms(200)).into()));
    assert_eq!(deadline::current(), None);
}

#[tokio::test(start_paused = true)]
async fn obeys_tokios_paused_time() {
    let start = tokio::time::Instant::now();
    let result = Timeout::after(ms(3_600_000))
        .call(pending::<Result<(), ()>>)
        .await;
    assert!(matches!(result, Err(Error::TimedOut(_))));
    assert_eq!(start.elapsed(), ms(3_600_000));
}

#[tokio::test(start_paused = true)]
async fn fires_although_the_operation_uses_up_its_tasks_budget() {
    let time_passes = tokio::spawn(async {
        loop {
            tokio::time::advance(ms(1)).await;
        }
    });
    // Always ready, so that every poll runs until tokio's cooperation budget is used up.
    let greedy = || async {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..100_000 {
            send.send(()).unwrap();
            receive.recv().await;
        }
        Ok::<_, ()>("was never cut off")
    };
    let result = Timeout::after(ms(10)).call(greedy).await;
    assert!(result.unwrap_err().is_timeout());
    time_passes.abort();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_is_not_a_timeout() {
    let task = || {
        tokio::spawn(async {
            if deadline::current().is_none() {
                panic!("boom")
            }
        })
    };
    let result = Timeout::after(ms(10_000)).call(task).await;
    assert!(result.unwrap_err().into_operation().unwrap().is_panic());
}

/// A clock that can jump backwards.
#[derive(Debug, Clone)]
struct Skewed {
    inner: ManualClock,
    back: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Clock for Skewed {
    fn now(&self) -> Instant {
        let back = self.back.load(std::sync::atomic::Ordering::Relaxed);
        Instant::from_nanos(self.inner.now().as_nanos().saturating_sub(back))
    }

    fn sleep_until(&self, deadline: Instant) -> backstop::Sleep {
        let wait = deadline.saturating_duration_since(self.now());
        self.inner.sleep_until(self.inner.now() + wait)
    }
}

#[test]
fn a_clock_that_goes_back_neither_panics_nor_hangs() {
    let inner = ManualClock::new();
    inner.advance(ms(10_000));
    let clock = Skewed {
        inner: inner.clone(),
        back: Default::default(),
    };
    let timeout = Timeout::builder()
        .after(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut first = true;
    let result = inner.block_on(timeout.call(|| {
        let back = clock.back.clone();
        poll_fn(move |_| {
            if std::mem::take(&mut first) {
                back.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
            }
            Poll::<Result<(), ()>>::Pending
        })
    }));
    assert!(result.unwrap_err().is_timeout());
}
