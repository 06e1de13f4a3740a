use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};

use backstop::policy::Health;
use backstop::{Classify, ManualClock, Policy, Reason, Rejected, Timeout, Verdict};

use super::{SECOND, builder, counts, fail, strict};

#[test]
fn verdicts_say_how_a_call_counts() {
    let clock = ManualClock::new();
    for (verdict, expected) in [
        (Verdict::success(), (1, 1, 0, 0)),
        (Verdict::permanent(), (1, 1, 0, 0)),
        (Verdict::transient(), (1, 0, 1, 0)),
        (Verdict::throttled(SECOND), (1, 0, 1, 0)),
        (Verdict::timed_out(), (1, 0, 1, 0)),
        (Verdict::failure(), (1, 0, 1, 0)),
        (Verdict::ignore(), (0, 0, 0, 0)),
    ] {
        let stack = (
            builder(&clock).build().unwrap(),
            Classify::errors(move |()| verdict),
        );
        let result = clock.block_on(stack.call(|| ready(Err::<(), _>(()))));
        assert!(result.is_err());
        assert_eq!(counts(&stack.0), expected, "{verdict:?}");

        let throttle = builder(&clock).build().unwrap();
        throttle.try_acquire().unwrap().record(verdict);
        assert_eq!(counts(&throttle), expected, "{verdict:?}");
        throttle.reset();
        throttle.record(verdict);
        assert_eq!(counts(&throttle), expected, "{verdict:?}");
    }
}

#[test]
fn rejections_of_inner_layers_do_not_count() {
    let clock = ManualClock::new();
    let inner = strict(&clock).name("inner").build().unwrap();
    fail(&inner, 100_000);
    let stack = (builder(&clock).build().unwrap(), &inner);
    // The first call of the inner throttle is a probe.
    for _ in 0..50 {
        let result = clock.block_on(stack.call(|| ready(Ok::<_, ()>(()))));
        let rejected = Rejected::new("inner", Reason::Throttled);
        assert_eq!(result.unwrap_err(), rejected.into());
    }
    assert_eq!(counts(&stack.0), (0, 0, 0, 0));
}

#[test]
fn timeouts_inside_are_failures() {
    let clock = ManualClock::new();
    let timeout = Timeout::builder().after(SECOND).clock(clock.clone());
    let stack = (builder(&clock).build().unwrap(), timeout.build().unwrap());
    let result = clock.block_on(stack.call(pending::<Result<(), ()>>));
    assert!(result.unwrap_err().is_timeout());
    assert_eq!(counts(&stack.0), (1, 0, 1, 0));
}

#[test]
fn a_cancelled_call_counts_as_configured() {
    let clock = ManualClock::new();
    for (health, expected) in [
        (Health::Neutral, (0, 0, 0, 0)),
        (Health::Healthy, (1, 1, 0, 0)),
        (Health::Unhealthy, (1, 0, 1, 0)),
    ] {
        let throttle = builder(&clock).cancelled_as(health).build().unwrap();
        {
            let mut call = pin!(throttle.call(pending::<Result<(), ()>>));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert_eq!(counts(&throttle), (1, 0, 0, 1));
        }
        assert_eq!(counts(&throttle), expected);
        throttle.reset();
        drop(throttle.try_acquire().unwrap());
        assert_eq!(counts(&throttle), expected);
    }
}

#[test]
fn a_panic_counts_as_configured() {
    let clock = ManualClock::new();
    for (health, expected) in [
        (Health::Unhealthy, (1, 0, 1, 0)),
        (Health::Neutral, (0, 0, 0, 0)),
        (Health::Healthy, (1, 1, 0, 0)),
    ] {
        let throttle = builder(&clock).panicked_as(health).build().unwrap();
        let when_polled = throttle.call(|| async { panic!("boom") as Result<(), ()> });
        let ended = catch_unwind(AssertUnwindSafe(|| clock.block_on(when_polled)));
        assert!(ended.is_err());
        assert_eq!(counts(&throttle), expected);

        throttle.reset();
        let when_made = throttle.call(|| -> std::future::Ready<Result<(), ()>> { panic!("boom") });
        let ended = catch_unwind(AssertUnwindSafe(|| clock.block_on(when_made)));
        assert!(ended.is_err());
        assert_eq!(counts(&throttle), expected);

        throttle.reset();
        let holding = || {
            let _permit = throttle.try_acquire().unwrap();
            panic!("boom")
        };
        assert!(catch_unwind(AssertUnwindSafe(holding)).is_err());
        assert_eq!(counts(&throttle), expected);
    }
    assert_eq!(
        counts(&{
            let throttle = builder(&clock).build().unwrap();
            let held = throttle.try_acquire().unwrap();
            held.success();
            throttle.clone()
        }),
        (1, 1, 0, 0)
    );
}

#[test]
fn a_result_counts_once_although_its_permit_is_dropped_afterwards() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let running = throttle.try_acquire().unwrap();
    throttle.try_acquire().unwrap().success();
    assert_eq!(counts(&throttle), (2, 1, 0, 1));
    throttle.try_acquire().unwrap().failure();
    assert_eq!(counts(&throttle), (3, 1, 1, 1));
    drop(running);
}
