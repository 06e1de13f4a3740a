//! Adaptive limits against a simulated server in virtual time.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, Calibration, ConcurrencyLimit, Correlated, Gradient, Gradient2, Sample, Vegas, Windowed,
};
use backstop::{Bulkhead, Classify, Event, Health, ManualClock, Policy, Timeout, Verdict};

use super::server::{Server, open_loop};
use super::watchdog::within_a_minute;
use super::{ms, on};

mod algorithms;
mod convergence;

type Limit = Box<dyn ConcurrencyLimit>;

const WORKERS: u32 = 20;

fn algorithms() -> Vec<(&'static str, Limit)> {
    let calibration = Calibration::every(Duration::from_secs(5)).samples(20);
    let window = Windowed::builder()
        .window_between(ms(100), ms(1000))
        .min_calls(20);
    vec![
        (
            "aimd",
            Box::new(Aimd::builder().timeout(ms(20)).build().unwrap()),
        ),
        (
            "vegas",
            Box::new(Vegas::builder().calibration(calibration).build().unwrap()),
        ),
        (
            "gradient2",
            Box::new(
                window
                    .around(Gradient2::builder().build().unwrap())
                    .unwrap(),
            ),
        ),
        (
            "gradient",
            Box::new(
                Gradient::builder()
                    .calibration(calibration)
                    .build()
                    .unwrap(),
            ),
        ),
        (
            "correlated",
            Box::new(Correlated::builder().windowed(window).build().unwrap()),
        ),
    ]
}

#[test]
fn limits_settle_near_the_capacity() {
    for (name, algorithm) in algorithms() {
        let clock = ManualClock::new();
        let server = Server::new(&clock, WORKERS, ms(10));
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let (sum, seen) = (Cell::new(0.0), Cell::new(0.0));
        let rate = 1.5 * server.capacity();
        let length = Duration::from_secs(6);
        open_loop(&clock, rate, length, |number| {
            if number > (rate * 3.0) as usize {
                sum.set(sum.get() + f64::from(bulkhead.limit()));
                seen.set(seen.get() + 1.0);
            }
            let work = || async {
                server.handle().await;
                Ok::<_, ()>(())
            };
            let bulkhead = &bulkhead;
            async move { bulkhead.call(work).await.is_ok() }
        });
        let mean: f64 = sum.get() / seen.get();
        println!("{name}: settles at {mean:.1}");
        assert!((16.0..=44.0).contains(&mean), "{name} settles at {mean:.1}");
    }
}

#[test]
fn threefold_overload_keeps_nine_tenths_of_the_capacity() {
    for (name, algorithm) in algorithms() {
        let clock = ManualClock::new();
        let server = Server::new(&clock, WORKERS, ms(10));
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let timeout = Timeout::builder()
            .after(ms(100))
            .clock(clock.clone())
            .build()
            .unwrap();
        let stack = (timeout, bulkhead);
        let mut results = open_loop(
            &clock,
            3.0 * server.capacity(),
            Duration::from_secs(5),
            |_| async {
                let work = || async {
                    server.handle().await;
                    Ok::<_, ()>(())
                };
                stack.call(work).await.is_ok()
            },
        );
        assert!(results.p99().unwrap_or_default() <= ms(100), "{name}");
        assert_eq!(results.offered, 24_000, "without the first second");
        let goodput = results.latencies.len() as f64 / 4.0 / server.capacity();
        println!("{name}: goodput {goodput:.3} of the capacity");
        assert!(goodput > 0.9, "{name}: {goodput:.3}");
    }
}

/// The network becomes slower while the capacity stays. The same number of calls in flight is then too low, and more
/// of them are no sign of a queue.
#[test]
fn a_round_trip_that_doubles_permanently_costs_no_capacity_in_the_long_run() {
    let window = Windowed::builder()
        .window_between(ms(100), ms(1000))
        .min_calls(20);
    let mut limits = algorithms();
    // A timeout and a long-term window for the longer round trip.
    limits[0].1 = Box::new(Aimd::builder().timeout(ms(50)).build().unwrap());
    let gradient2 = Gradient2::builder().long_window(200).build().unwrap();
    limits[2].1 = Box::new(window.around(gradient2).unwrap());
    for (name, algorithm) in limits {
        let clock = ManualClock::new();
        let server = Server::new(&clock, WORKERS, ms(10));
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let goodput = |way: Duration, seconds| {
            let length = Duration::from_secs(seconds);
            let rate = 1.5 * server.capacity();
            let results = open_loop(&clock, rate, length, |_| async {
                let work = || async {
                    clock.sleep(way).await;
                    server.handle().await;
                    Ok::<_, ()>(())
                };
                bulkhead.call(work).await.is_ok()
            });
            results.latencies.len() as f64 / results.offered as f64 * 1.5
        };
        let near = goodput(ms(0), 3);
        let limit = bulkhead.limit();
        goodput(ms(10), 10);
        let far = goodput(ms(10), 3);
        let far_limit = bulkhead.limit();
        goodput(ms(0), 8);
        let again = goodput(ms(0), 3);
        println!(
            "{name}: {near:.3} at {limit}, {far:.3} at {far_limit}, {again:.3} at {}",
            bulkhead.limit()
        );
        for goodput in [near, far, again] {
            assert!(goodput > 0.9, "{name}: {goodput:.3} of the capacity");
        }
        // 2000 calls per second of 20 ms each are 40 in flight.
        assert!(far_limit > 36, "{name}: {limit} to {far_limit}");
    }
}

#[test]
fn without_a_bulkhead_the_same_overload_ends_all_goodput() {
    let clock = ManualClock::new();
    let server = Server::new(&clock, WORKERS, ms(10));
    let timeout = Timeout::builder()
        .after(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let results = open_loop(
        &clock,
        3.0 * server.capacity(),
        Duration::from_secs(5),
        |_| async {
            let work = || async {
                server.handle().await;
                Ok::<_, ()>(())
            };
            timeout.call(work).await.is_ok()
        },
    );
    assert!(results.latencies.is_empty(), "{}", results.latencies.len());
}

#[test]
fn an_idle_client_does_not_grow_the_limit() {
    for (name, algorithm) in algorithms() {
        let clock = ManualClock::new();
        let server = Server::new(&clock, WORKERS, ms(10));
        let bulkhead = on(&clock).adaptive(algorithm).seed(1).build().unwrap();
        let load = |per_second: f64, seconds| {
            let length = Duration::from_secs(seconds);
            open_loop(&clock, per_second, length, |_| async {
                let work = || async {
                    server.handle().await;
                    Ok::<_, ()>(())
                };
                bulkhead.call(work).await.is_ok()
            })
        };
        load(server.capacity(), 3);
        let loaded = bulkhead.limit();
        load(50.0, 20);
        assert!(
            bulkhead.limit() <= loaded,
            "{name}: {loaded} to {}",
            bulkhead.limit()
        );
    }
}

#[test]
fn each_ending_gives_the_documented_sample() {
    let grow = || {
        let aimd = Aimd::builder().initial(1).build().unwrap();
        Bulkhead::builder()
            .adaptive(aimd)
            .clock(ManualClock::new())
            .build()
            .unwrap()
    };
    let bulkhead = grow();
    bulkhead.try_acquire().unwrap().success();
    assert_eq!(bulkhead.limit(), 2);
    drop(bulkhead.try_acquire().unwrap());
    assert_eq!(bulkhead.limit(), 2, "a drop says nothing");
    for (verdict, limit) in [
        (Verdict::success(), 3),
        (Verdict::permanent(), 3),
        (Verdict::transient(), 2),
        (Verdict::ignore(), 2),
        (Verdict::throttled(None), 1),
        (Verdict::timed_out(), 1),
    ] {
        let bulkhead = grow();
        bulkhead.set_limit(2).unwrap();
        bulkhead.try_acquire().unwrap().success();
        let permits = [
            bulkhead.try_acquire().unwrap(),
            bulkhead.try_acquire().unwrap(),
        ];
        let [_other, permit] = permits;
        permit.record(&verdict);
        assert_eq!(bulkhead.limit(), limit, "{verdict:?}");
    }
}

#[test]
fn a_panicking_algorithm_costs_a_sample_and_nothing_else() {
    #[derive(Clone, Debug)]
    struct Moody(u32);
    impl ConcurrencyLimit for Moody {
        fn limit(&self) -> u32 {
            self.0
        }
        fn on_sample(&mut self, _: &Sample) {
            self.0 += 1;
            assert!(self.0 != 3, "in a bad mood");
        }
    }
    let bulkhead = Bulkhead::builder()
        .adaptive(Moody(1))
        .clock(ManualClock::new())
        .build()
        .unwrap();
    bulkhead.try_acquire().unwrap().success();
    let permit = bulkhead.try_acquire().unwrap();
    let sample = std::panic::AssertUnwindSafe(|| permit.success());
    assert!(std::panic::catch_unwind(sample).is_err());
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    bulkhead.try_acquire().unwrap().success();
    assert_eq!(bulkhead.limit(), 4);
}

/// Observers do not get the unclamped limit.
#[test]
fn a_limit_outside_the_range_is_clamped() {
    #[derive(Clone, Debug)]
    struct Wants(u32);
    impl ConcurrencyLimit for Wants {
        fn limit(&self) -> u32 {
            self.0
        }
        fn on_sample(&mut self, _: &Sample) {}
    }
    for (wanted, expected) in [(0, 1), (u32::MAX, (1 << 31) - 1), (1 << 31, (1 << 31) - 1)] {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let log = changes.clone();
        let bulkhead = Bulkhead::builder()
            .adaptive(Wants(wanted))
            .clock(ManualClock::new())
            .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()))
            .build()
            .unwrap();
        assert_eq!(bulkhead.limit(), expected);
        for _ in 0..3 {
            bulkhead.try_acquire().unwrap().success();
            assert_eq!(bulkhead.limit(), expected);
        }
        assert_eq!(*changes.lock().unwrap(), [""; 0], "{wanted}");
        bulkhead.set_limit(7).unwrap();
        bulkhead.try_acquire().unwrap().success();
        assert_eq!(bulkhead.limit(), expected);
        let last = changes.lock().unwrap().last().cloned().unwrap();
        assert!(last.ends_with(&format!("to {expected}")), "{last}");
    }
}

#[test]
fn an_algorithm_may_use_its_own_bulkhead() {
    within_a_minute(|| {
        use std::sync::OnceLock;

        #[derive(Clone, Debug)]
        struct Meddler(Arc<OnceLock<Bulkhead>>);
        impl ConcurrencyLimit for Meddler {
            fn limit(&self) -> u32 {
                5
            }
            fn on_sample(&mut self, sample: &Sample) {
                if sample.in_flight < 3 {
                    let bulkhead = self.0.get().unwrap();
                    let _one = bulkhead.try_acquire().unwrap();
                    let _two = bulkhead.try_acquire().unwrap();
                    bulkhead.try_acquire().unwrap().success();
                }
            }
        }
        let own = Arc::new(OnceLock::new());
        let bulkhead = Bulkhead::builder()
            .adaptive(Meddler(own.clone()))
            .clock(ManualClock::new());
        let bulkhead = bulkhead.build().unwrap();
        own.set(bulkhead.clone()).unwrap();
        bulkhead.try_acquire().unwrap().success();
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    });
}

/// Records what each sample says: whether it is an overload, and the latency.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<(bool, Duration)>>>);

impl ConcurrencyLimit for Recorder {
    fn limit(&self) -> u32 {
        5
    }

    fn on_sample(&mut self, sample: &Sample) {
        let seen = (sample.overloaded, sample.latency);
        self.0.lock().unwrap().push(seen);
    }
}

#[test]
fn each_result_of_a_call_gives_the_documented_sample() {
    let clock = &ManualClock::new();
    let recorder = Recorder::default();
    let bulkhead = &on(clock).adaptive(recorder.clone()).build().unwrap();
    let samples = || std::mem::take(&mut *recorder.0.lock().unwrap());
    let slow = || async {
        clock.sleep(ms(10)).await;
        Ok::<_, Verdict>(())
    };
    let (good, overload) = ([(false, ms(10))], [(true, ms(5))]);
    for (verdict, samples_of_it) in [
        (Verdict::success(), &good[..]),
        (Verdict::permanent(), &good),
        (Verdict::transient(), &[]),
        (Verdict::throttled(None), &[(true, ms(10))]),
        (Verdict::throttled(None).with_health(Health::Neutral), &[]),
    ] {
        let fails = || async { slow().await.and(Err::<(), _>(verdict)) };
        let stack = (bulkhead, Classify::errors(|verdict: &Verdict| *verdict));
        assert!(clock.block_on(stack.call(fails)).is_err());
        assert_eq!(samples(), samples_of_it, "{verdict:?}");
    }
    let timeout = Timeout::builder().after(ms(5)).clock(clock.clone());
    let timeout = &timeout.build().unwrap();
    assert!(clock.block_on((bulkhead, timeout).call(slow)).is_err());
    assert_eq!(samples(), overload, "a timeout inside");
    assert!(clock.block_on((timeout, bulkhead).call(slow)).is_err());
    assert_eq!(samples(), overload, "a timeout outside");
    let ignores = on(clock).adaptive(recorder.clone());
    let ignores = ignores.cancel_is_overload(false).build().unwrap();
    assert!(clock.block_on((timeout, &ignores).call(slow)).is_err());
    let full = Bulkhead::builder().max_concurrent(1).build().unwrap();
    let _permit = full.try_acquire().unwrap();
    assert!(clock.block_on((bulkhead, &full).call(slow)).is_err());
    let panics = || async { panic!("a bug") as Result<(), ()> };
    let call = std::panic::AssertUnwindSafe(|| clock.block_on(bulkhead.call(panics)));
    assert!(std::panic::catch_unwind(call).is_err());
    assert_eq!(samples(), [], "no signs of overload");
}
