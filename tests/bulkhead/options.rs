//! Bypass, events, utilization, the cooperative budget, and contradictions.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Fixed, Gradient, Gradient2, Sample, Vegas,
};
use backstop::{Bulkhead, Context, Event, Instant, ManualClock, Policy};
use futures::future::join;

use super::guards::Jumping;
use super::{ms, on, run};

#[test]
fn a_bypass_admits_although_the_bulkhead_is_full_and_counts_nowhere() {
    let clock = ManualClock::new();
    let aimd = Aimd::builder().initial(1).build().unwrap();
    for bulkhead in [
        on(&clock).max_concurrent(1).build().unwrap(),
        on(&clock)
            .max_concurrent(1)
            .partition("a", 1.0)
            .build()
            .unwrap(),
        on(&clock).adaptive(aimd).build().unwrap(),
    ] {
        let permit = bulkhead.try_acquire().unwrap();
        let before = bulkhead.snapshot();
        let health_check = bulkhead.bypass();
        assert_eq!(
            clock.block_on(health_check.call(async || Ok::<_, ()>("well"))),
            Ok("well")
        );
        let large = Context::new().with_cost(99);
        for permit in [
            health_check.try_acquire().unwrap(),
            health_check.try_acquire_with(large).unwrap(),
            clock.block_on(health_check.acquire()).unwrap(),
        ] {
            assert_eq!(permit.cost(), 0);
            // A counted overload would lower the limit.
            permit.overloaded();
        }
        let owned = health_check.clone().acquire_owned(large);
        clock.block_on(owned).unwrap().success();
        assert_eq!(bulkhead.snapshot(), before);
        drop(permit);
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
}

/// Returns a bulkhead and its events.
fn observed(clock: &ManualClock) -> (Bulkhead, Arc<Mutex<Vec<String>>>) {
    let events = Arc::<Mutex<Vec<_>>>::default();
    let log = events.clone();
    let bulkhead = on(clock)
        .max_concurrent(1)
        .max_waiting(2)
        .observer(move |event: &Event| {
            log.lock()
                .unwrap()
                .push(format!("{} {event}", event.kind()));
        })
        .build()
        .unwrap();
    (bulkhead, events)
}

#[test]
fn an_event_says_how_long_a_call_waited_for_its_permit() {
    let clock = ManualClock::new();
    let (bulkhead, events) = observed(&clock);
    let work = async || {
        clock.sleep(ms(30)).await;
        Ok::<_, ()>(())
    };
    let call = async || assert!(bulkhead.call(work).await.is_ok());
    run(&clock, join(call(), call()));
    let expected = "waited bulkhead: admitted a call after it waited 30ms";
    assert_eq!(*events.lock().unwrap(), [expected]);
    // The same for a permit without a policy.
    events.lock().unwrap().clear();
    let permit = bulkhead.try_acquire().unwrap();
    let release = async {
        clock.sleep(ms(30)).await;
        drop(permit);
    };
    let (waited, ()) = run(&clock, join(bulkhead.acquire(), release));
    assert!(waited.is_ok());
    assert_eq!(*events.lock().unwrap(), [expected]);
}

/// Returns the limit after many successful round trips with this number of calls in flight.
fn grown(mut limit: impl ConcurrencyLimit, in_flight: u32) -> u32 {
    for trip in 1..2000_u64 {
        let now = Instant::ORIGIN + ms(100 * trip);
        limit.on_sample(&Sample::new(now, ms(10), in_flight));
    }
    limit.limit()
}

#[test]
fn a_limit_grows_only_while_it_is_used_above_a_share() {
    let aimd = |share| {
        Aimd::builder()
            .initial(5)
            .utilization(share)
            .build()
            .unwrap()
    };
    // The first limit of which nine permits are less than the share.
    assert_eq!(grown(aimd(0.5), 9), 19);
    assert_eq!(grown(aimd(0.8), 9), 12);
    assert_eq!(grown(aimd(1.0), 9), 10);
    let vegas = |share| {
        let vegas = Vegas::builder().initial(5).calibration(None);
        vegas.utilization(share).build().unwrap()
    };
    let gradient2 = |share| {
        let gradient2 = Gradient2::builder().initial(5);
        gradient2.utilization(share).build().unwrap()
    };
    let gradient = |share| Gradient::builder().utilization(share).build().unwrap();
    for (strict, loose) in [
        (grown(vegas(0.9), 9), grown(vegas(0.3), 9)),
        (grown(gradient2(0.9), 9), grown(gradient2(0.3), 9)),
        (grown(gradient(0.9), 9), grown(gradient(0.3), 9)),
    ] {
        assert!((10..=16).contains(&strict), "{strict}");
        assert!(loose >= 30, "{loose}");
    }
    for share in [-0.1, 1.1, f64::NAN] {
        let error = Aimd::builder().utilization(share).build().unwrap_err();
        assert_eq!(error.setting(), "utilization");
    }
}

#[test]
fn contradictions_are_errors() {
    let fixed = || Bulkhead::builder().adaptive(Fixed::new(3));
    for (setting, builder) in [
        ("max_concurrent", fixed().max_concurrent(3)),
        (
            "cancel_is_overload",
            Bulkhead::builder().cancel_is_overload(false),
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    assert!(fixed().cancel_is_overload(false).build().is_ok());
}

#[tokio::test]
async fn a_loop_of_acquisitions_lets_other_tasks_run() {
    let bulkhead = Bulkhead::new(1);
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move { stop.send(()) });
    for acquired in 0_u32.. {
        drop(bulkhead.acquire().await.unwrap());
        drop(
            bulkhead
                .clone()
                .acquire_owned(Context::new())
                .await
                .unwrap(),
        );
        if stopped.try_recv().is_ok() {
            return;
        }
        assert!(acquired < 10_000, "the other task starves");
    }
}

/// A clock handle never goes backwards, so after a backward jump an interval of CoDel still ends on time.
#[test]
fn a_clock_that_jumps_back_by_an_hour_prolongs_no_overload() {
    let clock = Jumping::at(Duration::from_secs(7200));
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(9)
        .codel(ms(5), ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    // Three calls wait for this long, then permits are free for all. Returns the number of dropped calls.
    let serve = |wait: Duration| {
        let before = bulkhead.snapshot().timed_out;
        let permit = bulkhead.try_acquire().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(bulkhead.acquire())).collect();
        let mut task = TaskContext::from_waker(Waker::noop());
        for waits in &mut waiting {
            assert!(waits.as_mut().poll(&mut task).is_pending());
        }
        clock.advance(wait);
        drop(permit);
        while !waiting.is_empty() {
            waiting.retain_mut(|waits| waits.as_mut().poll(&mut task).is_pending());
        }
        bulkhead.snapshot().timed_out - before
    };
    assert!(serve(ms(150)) > 0);
    clock.jump_back(Duration::from_secs(3600));
    for _ in 0..30 {
        serve(ms(1));
        clock.advance(ms(9));
    }
    assert_eq!(serve(ms(20)), 0, "the queue is short by now");
}
