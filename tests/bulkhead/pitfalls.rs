//! Known faults of other bulkheads and adaptive limits.

use std::cell::Cell;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, Calibration, ConcurrencyLimit, Correlated, Gradient, Gradient2, Sample, Vegas, Windowed,
};
use backstop::{
    Backoff, Bulkhead, Clock, Context, Instant, ManualClock, Policy, Reason, Retry, Timeout,
};
use futures::future::join_all;

use super::{ms, on, run};

type Limit = Box<dyn ConcurrencyLimit>;

/// Returns each algorithm with its name and its minimum.
fn algorithms() -> Vec<(&'static str, u32, Limit)> {
    let calibration = Calibration::every(Duration::from_secs(5)).samples(10);
    let window = Windowed::builder()
        .window_between(ms(100), ms(1000))
        .min_calls(10);
    vec![
        ("aimd", 1, Box::new(Aimd::builder().build().unwrap())),
        (
            "vegas",
            1,
            Box::new(Vegas::builder().calibration(calibration).build().unwrap()),
        ),
        (
            "gradient2",
            1,
            Box::new(Gradient2::builder().build().unwrap()),
        ),
        (
            "gradient",
            3,
            Box::new(
                Gradient::builder()
                    .calibration(calibration)
                    .build()
                    .unwrap(),
            ),
        ),
        (
            "correlated",
            1,
            Box::new(Correlated::builder().windowed(window).build().unwrap()),
        ),
        (
            "windowed aimd",
            1,
            Box::new(window.around(Aimd::builder().build().unwrap()).unwrap()),
        ),
    ]
}

/// Runs `clients` clients that call in a loop for `length`. After a rejection a client pauses.
macro_rules! closed_loop {
    ($clock:expr, $policy:expr, $clients:expr, $length:expr, $work:expr) => {{
        let (clock, policy): (&ManualClock, _) = ($clock, $policy);
        let (work, end) = (&$work, clock.now() + $length);
        run(
            clock,
            join_all((0..$clients).map(|_| async move {
                while clock.now() < end {
                    let operation = || async move {
                        clock.sleep(work()).await;
                        Ok::<_, ()>(())
                    };
                    if policy.call(operation).await.is_err() {
                        clock.sleep(ms(10)).await;
                    }
                }
            })),
        );
    }};
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_sequential_client_cannot_raise_the_limit() {
    for (name, _, algorithm) in algorithms() {
        let clock = ManualClock::new();
        let initial = algorithm.limit();
        let bulkhead = on(&clock).adaptive(algorithm).build().unwrap();
        let highest = Cell::new(0);
        closed_loop!(&clock, &bulkhead, 1, secs(20), || {
            highest.set(highest.get().max(bulkhead.limit()));
            ms(10)
        });
        assert!(highest.get() <= initial.max(5), "{name}: {}", highest.get());
    }
}

#[test]
fn calls_cut_by_an_outer_timeout_shrink_the_limit() {
    for (name, min, algorithm) in algorithms() {
        let clock = ManualClock::new();
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let timeout = Timeout::builder()
            .after(ms(100))
            .clock(clock.clone())
            .build()
            .unwrap();
        let stack = (timeout, bulkhead.clone());
        closed_loop!(&clock, &stack, 50, secs(3), || ms(10));
        assert!(bulkhead.limit() > min, "{name}: {}", bulkhead.limit());
        closed_loop!(&clock, &stack, 50, secs(30), || secs(3600));
        assert_eq!(bulkhead.limit(), min, "{name}");
        assert_eq!(bulkhead.snapshot().in_flight, 0, "{name}");
    }
}

#[test]
fn a_limit_never_reaches_zero() {
    assert_eq!(Aimd::builder().min(0).build().unwrap_err().setting(), "min");
    assert_eq!(
        Vegas::builder().min(0).build().unwrap_err().setting(),
        "min"
    );
    assert_eq!(
        Gradient2::builder().min(0).build().unwrap_err().setting(),
        "min"
    );
    assert_eq!(
        Gradient::builder().min(0).build().unwrap_err().setting(),
        "min"
    );
    assert_eq!(
        Correlated::builder().min(0).build().unwrap_err().setting(),
        "min"
    );
    let falls: [Limit; 3] = [
        Box::new(Aimd::builder().decrease_factor(0.0).build().unwrap()),
        Box::new(Gradient2::builder().decrease_factor(0.0).build().unwrap()),
        Box::new(
            Vegas::builder()
                .decrease(|_| f64::NEG_INFINITY)
                .build()
                .unwrap(),
        ),
    ];
    for mut algorithm in falls {
        for second in 0..100 {
            let now = Instant::ORIGIN + Duration::from_secs(second);
            algorithm.on_sample(&Sample::new(now, ms(1), u32::MAX).overloaded());
            assert_eq!(algorithm.limit(), 1, "{algorithm:?}");
        }
    }

    /// An algorithm that always returns a limit of 0.
    #[derive(Clone, Debug)]
    struct Zero;
    impl ConcurrencyLimit for Zero {
        fn limit(&self) -> u32 {
            0
        }
        fn on_sample(&mut self, _: &Sample) {}
    }
    let clock = ManualClock::new();
    let bulkhead = on(&clock).adaptive(Zero).build().unwrap();
    for _ in 0..3 {
        bulkhead.try_acquire().unwrap().success();
        assert_eq!(bulkhead.limit(), 1);
    }
}

#[test]
fn a_latency_that_doubles_for_good_does_not_starve_the_limit() {
    let calibration = Calibration::every(secs(10)).jitter(0.0).samples(10);
    let recover: [(&str, Limit); 3] = [
        (
            "vegas, calibrated",
            Box::new(
                Vegas::builder()
                    .calibration(calibration)
                    .max(50)
                    .build()
                    .unwrap(),
            ),
        ),
        (
            "vegas, decaying",
            Box::new(
                Vegas::builder()
                    .calibration(None)
                    .max_baseline_age(secs(10))
                    .max(50)
                    .build()
                    .unwrap(),
            ),
        ),
        (
            "gradient",
            Box::new(
                Gradient::builder()
                    .calibration(calibration)
                    .max(50)
                    .build()
                    .unwrap(),
            ),
        ),
    ];
    for (name, algorithm) in recover {
        let clock = ManualClock::new();
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let latency = Cell::new(ms(10));
        closed_loop!(&clock, &bulkhead, 60, secs(5), || latency.get());
        let before = bulkhead.limit();
        latency.set(ms(20));
        let lowest = Cell::new(u32::MAX);
        closed_loop!(&clock, &bulkhead, 60, secs(25), || {
            lowest.set(lowest.get().min(bulkhead.limit()));
            latency.get()
        });
        let after = bulkhead.limit();
        assert!(
            lowest.get() < before,
            "{name}: it was taken for a queue at first"
        );
        assert!(
            after >= before,
            "{name}: {before} to {} to {after}",
            lowest.get()
        );
    }
}

/// An algorithm that records samples.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Sample>>>);

impl ConcurrencyLimit for Recorder {
    fn limit(&self) -> u32 {
        1
    }

    fn on_sample(&mut self, sample: &Sample) {
        self.0.lock().unwrap().push(*sample);
    }
}

#[test]
fn latency_is_that_of_an_attempt_and_not_of_the_wait_queue() {
    let clock = ManualClock::new();
    let recorder = Recorder::default();
    let bulkhead = on(&clock)
        .adaptive(recorder.clone())
        .max_waiting(5)
        .build()
        .unwrap();
    let retry = Retry::builder()
        .backoff(Backoff::fixed(secs(1)))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (retry, bulkhead.clone());
    let call = || async {
        let attempts = Cell::new(0);
        let operation = || async {
            clock.sleep(ms(10)).await;
            attempts.set(attempts.get() + 1);
            if attempts.get() == 3 { Ok(()) } else { Err(()) }
        };
        stack.call(operation).await
    };
    let results = run(&clock, join_all([call(), call()]));
    assert_eq!(results, [Ok(()), Ok(())]);
    let latencies: Vec<_> = recorder
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|s| s.latency)
        .collect();
    assert_eq!(
        latencies,
        [ms(10), ms(10)],
        "one success each, of one attempt"
    );

    // The second call waits for the first. Its latency does not include the wait.
    recorder.0.lock().unwrap().clear();
    let work = || async {
        clock.sleep(ms(10)).await;
        Ok::<_, ()>(())
    };
    run(&clock, join_all([bulkhead.call(work), bulkhead.call(work)]));
    let latencies: Vec<_> = recorder
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|s| s.latency)
        .collect();
    assert_eq!(latencies, [ms(10), ms(10)]);
}

#[test]
fn a_shrink_below_what_is_in_flight_admits_no_call() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(10)
        .max_waiting(10)
        .build()
        .unwrap();
    let mut permits: Vec<_> = (0..10).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let mut large = Box::pin(bulkhead.acquire_with(Context::new().with_cost(5)));
    let mut small = Box::pin(bulkhead.acquire());
    let mut poll = TaskContext::from_waker(Waker::noop());
    assert!(large.as_mut().poll(&mut poll).is_pending());
    assert!(small.as_mut().poll(&mut poll).is_pending());

    bulkhead.set_limit(2).unwrap();
    assert_eq!(bulkhead.snapshot().in_flight, 10, "running calls go on");
    while bulkhead.snapshot().in_flight > 2 {
        permits.pop();
        assert!(bulkhead.try_acquire().is_err());
        assert!(small.as_mut().poll(&mut poll).is_pending());
        assert!(bulkhead.snapshot().in_flight <= 10);
    }
    // The large waiter can never be admitted. It does not block the one behind it.
    permits.pop();
    assert!(small.as_mut().poll(&mut poll).is_ready());
    let std::task::Poll::Ready(Err(rejected)) = large.as_mut().poll(&mut poll) else {
        panic!("it waits forever");
    };
    assert_eq!(rejected.reason(), Reason::CostExceedsLimit);
    drop((permits, small));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[test]
fn the_window_follows_the_smallest_latency() {
    for (latency, window) in [
        (ms(10), ms(1000)),
        (ms(800), ms(1600)),
        (ms(9000), ms(3000)),
    ] {
        let recorder = Recorder::default();
        let builder = Windowed::builder()
            .window_between(ms(1000), ms(3000))
            .min_calls(1);
        let mut windowed = builder.around(recorder.clone()).unwrap();
        for tenth in 0..300 {
            let now = Instant::ORIGIN + tenth * ms(100);
            windowed.on_sample(&Sample::new(now, latency, 1));
        }
        let ends: Vec<_> = recorder.0.lock().unwrap().iter().map(|s| s.now).collect();
        assert!(ends.len() > 5);
        for pair in ends.windows(2) {
            assert_eq!(pair[1], pair[0] + window, "{latency:?}");
        }
    }
}

#[test]
fn nothing_is_in_flight_after_a_thousand_cancels() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock).max_concurrent(3).max_waiting(5).build().unwrap();
    let mut poll = TaskContext::from_waker(Waker::noop());
    for round in 0..1000 {
        let pending = || std::future::pending::<Result<(), ()>>();
        let mut calls: Vec<_> = (0..8).map(|_| Box::pin(bulkhead.call(pending))).collect();
        for call in &mut calls {
            assert!(call.as_mut().poll(&mut poll).is_pending());
        }
        let snapshot = bulkhead.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.waiting), (3, 5));
        // In a different order each time.
        calls.rotate_left(round % 8);
        while calls.len() > 1 {
            drop(calls.swap_remove(round % calls.len()));
        }
    }
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    let _: Bulkhead = bulkhead;
}
