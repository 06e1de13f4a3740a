//! Where the limits settle, against a simulated server in virtual time.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Correlated, Fixed, Gradient, Gradient2, Probe, Sample, Vegas, Windowed,
};
use backstop::{Bulkhead, Event, Instant, ManualClock, Policy, Timeout, Verdict};

use super::server::{Server, open_loop};
use super::{ms, on};

mod convergence;

type Limit = Box<dyn ConcurrencyLimit>;

const WORKERS: u32 = 20;

fn algorithms() -> Vec<(&'static str, Limit)> {
    let probe = Probe::every(Duration::from_secs(5)).samples(20);
    let window = Windowed::builder()
        .window(ms(100), ms(1000))
        .min_samples(20);
    vec![
        (
            "aimd",
            Box::new(Aimd::builder().timeout(ms(20)).build().unwrap()),
        ),
        (
            "vegas",
            Box::new(Vegas::builder().probe(probe).build().unwrap()),
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
            Box::new(Gradient::builder().probe(probe).build().unwrap()),
        ),
        (
            "correlated",
            Box::new(Correlated::builder().window(window).build().unwrap()),
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
        assert!(results.p99() <= ms(100), "{name}");
        assert_eq!(results.offered, 24_000, "without the first second");
        let goodput = results.latencies.len() as f64 / 4.0 / server.capacity();
        println!("{name}: goodput {goodput:.3} of the capacity");
        assert!(goodput > 0.9, "{name}: {goodput:.3}");
    }
}

/// The way to the server gets longer, and its capacity stays. As many calls as before in flight are then
/// too few, and more are no sign of a queue.
#[test]
fn a_round_trip_that_doubles_for_good_costs_no_capacity_in_the_long_run() {
    let window = Windowed::builder()
        .window(ms(100), ms(1000))
        .min_samples(20);
    let mut limits = algorithms();
    // A longest latency, and a long average, that fit what may happen.
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
        // 2000 calls a second of 20 ms each are 40 in flight.
        assert!(far_limit > 36, "{name}: {limit} to {far_limit}");
    }
}

#[test]
fn without_a_bulkhead_the_same_overload_kills_the_server() {
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
fn what_an_ending_says_about_the_load() {
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
        bulkhead.set_limit(2);
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
    #[derive(Debug)]
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

/// Nor does anybody hear of limits that there never are, again with each call.
#[test]
fn an_algorithm_that_asks_for_none_or_too_many_gets_what_there_can_be() {
    #[derive(Debug)]
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
        bulkhead.set_limit(7);
        bulkhead.try_acquire().unwrap().success();
        assert_eq!(bulkhead.limit(), expected);
        let last = changes.lock().unwrap().last().cloned().unwrap();
        assert!(last.ends_with(&format!("to {expected}")), "{last}");
    }
}

/// A long average that is more than twice the latency comes down by 5 % a sample, and not only by its
/// six-hundredth.
#[test]
fn gradient2_forgets_an_overload_quickly() {
    let mut limit = Gradient2::builder().build().unwrap();
    let mut feed = |range: std::ops::Range<u64>, latency| {
        for tenth in range {
            limit.on_sample(&after(tenth * 100, ms(latency), limit.limit()));
        }
        limit.limit()
    };
    feed(0..20, 100);
    let before = feed(20..60, 10);
    // Four times what it is by now, and less than half of what it was.
    assert!(feed(60..62, 40) < before);
}

#[test]
fn vegas_shrinks_once_for_calls_that_time_out_together() {
    let ten_time_out = |every| {
        let vegas = Vegas::builder().every_sample(every);
        let mut limit = vegas.initial(50).build().unwrap();
        for _ in 0..10 {
            limit.on_sample(&after(100, ms(50), 50).overloaded());
        }
        let together = limit.limit();
        // One that began after that is news.
        limit.on_sample(&after(150, ms(50), 50).overloaded());
        (together, limit.limit())
    };
    assert_eq!(ten_time_out(false), (49, 48));
    assert_eq!(ten_time_out(true), (40, 39));
}

#[test]
fn a_curve_that_is_no_number_moves_nothing() {
    let nan = |_: f64| f64::NAN;
    let vegas = Vegas::builder().increase(nan).decrease(nan).beta(nan);
    let mut limit = vegas.threshold(|_| 10.0).build().unwrap();
    for millis in 1..100 {
        let sample = after(millis * 100, ms(10 + millis), 20);
        limit.on_sample(&sample);
        limit.on_sample(&sample.overloaded());
        assert_eq!(limit.limit(), 20);
    }
}

#[test]
fn an_algorithm_may_use_its_own_bulkhead() {
    use std::sync::OnceLock;

    #[derive(Debug)]
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
}

#[test]
fn algorithms_survive_any_sample() {
    let times = [0, 1, 1_000_000_000, u64::MAX / 2, u64::MAX, 0];
    for (name, mut algorithm) in algorithms() {
        for round in 0..200_u64 {
            for now in times.map(Instant::from_nanos) {
                for latency in [Duration::ZERO, ms(1), Duration::MAX] {
                    for in_flight in [0, 1, u32::MAX] {
                        let mut sample = Sample::new(now, latency, in_flight);
                        sample.overloaded = round % 3 == 0;
                        sample.full = round % 2 == 0;
                        sample.random = [0.0, 0.999_999, f64::NAN][(round % 3) as usize];
                        algorithm.on_sample(&sample);
                        assert!((1..=1000).contains(&algorithm.limit()), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn algorithms_refuse_settings_without_meaning() {
    let numbers = [f64::NAN, f64::INFINITY, -1.0];
    for bad in numbers {
        assert_eq!(
            Aimd::builder().backoff(bad).build().unwrap_err().setting(),
            "backoff"
        );
        assert_eq!(
            Vegas::builder()
                .smoothing(bad)
                .build()
                .unwrap_err()
                .setting(),
            "smoothing"
        );
        let gradient2 = Gradient2::builder();
        assert_eq!(
            gradient2.smoothing(bad).build().unwrap_err().setting(),
            "smoothing"
        );
        assert_eq!(
            gradient2.tolerance(bad).build().unwrap_err().setting(),
            "tolerance"
        );
        assert_eq!(
            gradient2.backoff(bad).build().unwrap_err().setting(),
            "backoff"
        );
        let gradient = Gradient::builder();
        assert_eq!(
            gradient.buffer(bad).build().unwrap_err().setting(),
            "buffer"
        );
        assert_eq!(
            gradient.quantile(bad).build().unwrap_err().setting(),
            "quantile"
        );
        let probe = Probe::default().jitter(bad);
        assert_eq!(
            gradient.probe(probe).build().unwrap_err().setting(),
            "probe"
        );
        let correlated = Correlated::builder().max_limit_factor(bad, 0.0, 1.2);
        assert_eq!(
            correlated.build().unwrap_err().setting(),
            "max_limit_factor"
        );
    }
    for bad in [f64::NAN, -0.1, 1.1] {
        let window = Windowed::builder()
            .overload_share(bad)
            .around(Fixed::new(1));
        assert_eq!(window.unwrap_err().setting(), "overload_share");
        let gradient = Gradient::builder().overload_share(bad).build();
        assert_eq!(gradient.unwrap_err().setting(), "overload_share");
    }
    for probe in [
        Probe::default().samples(0),
        Probe::default().concurrency(0),
        Probe::default().quantile(1.1),
    ] {
        let vegas = Vegas::builder().probe(probe).build();
        assert_eq!(vegas.unwrap_err().setting(), "probe");
        let gradient = Gradient::builder().probe(probe).build();
        assert_eq!(gradient.unwrap_err().setting(), "probe");
    }
    assert_eq!(
        Aimd::builder().min(9).max(8).build().unwrap_err().setting(),
        "max"
    );
    assert_eq!(
        Aimd::builder().initial(0).build().unwrap_err().setting(),
        "initial"
    );
    let huge = Aimd::builder()
        .initial(u32::MAX)
        .max(u32::MAX)
        .timeout(Duration::MAX)
        .build();
    let bulkhead = Bulkhead::builder().adaptive(huge.unwrap()).build().unwrap();
    bulkhead.try_acquire().unwrap().success();
    assert_eq!(bulkhead.limit(), (1 << 31) - 1);
    let _ = (
        Probe::every(Duration::MAX),
        Probe::default().samples(u32::MAX),
    );
}

fn after(millis: u64, latency: Duration, in_flight: u32) -> Sample {
    Sample::new(Instant::ORIGIN + ms(millis), latency, in_flight)
}

#[test]
fn correlated_reaches_its_cap_and_comes_down_to_it_step_by_step() {
    let window = Windowed::builder().window(ms(1), ms(1)).min_samples(1);
    let builder = Correlated::builder().window(window).initial(18);
    let mut limit = builder.max_limit_factor(5.0, 0.0, 1.2).build().unwrap();
    // Five times four are allowed.
    for (second, expected) in [(1, 19), (2, 20), (3, 20), (4, 20)] {
        limit.on_sample(&after(second * 1000, ms(10), 4));
        assert_eq!(limit.limit(), expected);
    }
    for expected in (10..20).rev().chain([10]) {
        let second = 5 + u64::from(20 - expected);
        limit.on_sample(&after(second * 1000, ms(10), 2));
        assert_eq!(limit.limit(), expected);
    }
}

/// Nine calls and one that timed out are no overload, eight and two are one.
#[test]
fn a_window_is_an_overload_by_the_share_of_its_calls() {
    for (share, fine, too_many) in [(0.1, 1, 2), (0.0, 0, 1), (0.5, 5, 6), (1.0, 10, 11)] {
        let window = Windowed::builder()
            .window(ms(1), ms(1))
            .min_samples(10)
            .overload_share(share);
        let aimd = Aimd::builder().every_sample(true).build().unwrap();
        let gradient2 = Gradient2::builder().backoff(0.5).build().unwrap();
        let probe = Probe::default().samples(1);
        let gradient = Gradient::builder().min(10).probe(probe);
        let gradient = gradient.overload_share(share).build().unwrap();
        let limits: [(&str, Limit); 4] = [
            ("aimd", Box::new(window.around(aimd).unwrap())),
            ("gradient2", Box::new(window.around(gradient2).unwrap())),
            (
                "correlated",
                Box::new(Correlated::builder().window(window).build().unwrap()),
            ),
            ("gradient", Box::new(gradient)),
        ];
        for (name, mut limit) in limits {
            // What a window of ten calls makes of the limit.
            let mut feed = |second: u64, overloads: u64| {
                let mut before = 0;
                for call in 0..10 {
                    let mut sample = after(second * 1000 + call, ms(10), limit.limit());
                    sample.overloaded = call < overloads;
                    limit.on_sample(&sample);
                    // The gradient ends a window with the first call after it.
                    before = if call == 0 { limit.limit() } else { before };
                }
                limit.on_sample(&after(second * 1000 + 500, ms(10), limit.limit()));
                (before, limit.limit())
            };
            for second in 1..4 {
                feed(second, 0);
            }
            let (before, good) = feed(4, fine);
            assert!(good >= before, "{name}, {share}: {before} to {good}");
            if too_many <= 10 {
                let (before, bad) = feed(5, too_many);
                assert!(bad < before, "{name}, {share}: {before} to {bad}");
            }
        }
    }
}

/// A limit that moves several times before a move shows would swing.
#[test]
fn gradient_waits_for_two_round_trips() {
    let probe = Probe::default().samples(1);
    let mut limit = Gradient::builder().probe(probe).build().unwrap();
    limit.on_sample(&after(1000, ms(300), 3));
    assert_eq!(limit.baseline(), Some(ms(300)));
    for (millis, expected) in [(1300, 3), (1599, 3), (1600, 5), (2199, 5), (2200, 8)] {
        limit.on_sample(&after(millis, ms(300), limit.limit()));
        assert_eq!(limit.limit(), expected, "{millis}");
    }
}

/// While a probe is under way the limit may be at its smallest for more than five windows.
#[test]
fn gradient_goes_on_with_a_probe_that_sees_overloads() {
    let probe = Probe::every(Duration::from_secs(1)).samples(10).jitter(0.0);
    let mut limit = Gradient::builder().probe(probe).build().unwrap();
    for millis in (1..11).map(|call| call * 10) {
        limit.on_sample(&after(millis, ms(10), 3));
    }
    assert_eq!(limit.baseline(), Some(ms(10)));
    limit.on_sample(&after(1100, ms(10), 3));
    for millis in (2..13).map(|round| round * 1000) {
        assert!(limit.is_probing());
        limit.on_sample(&after(millis, ms(20), 3));
        for later in [10, 250, 500] {
            limit.on_sample(&after(millis + later, ms(20), 3).overloaded());
        }
    }
    assert_eq!(limit.baseline(), Some(ms(20)));
}

#[test]
fn gradient_probes_after_five_windows_at_its_smallest_limit() {
    let probe = Probe::every(Duration::from_secs(60)).samples(1);
    let mut limit = Gradient::builder().probe(probe).build().unwrap();
    let mut millis = 0;
    let mut window = |limit: &mut Gradient, latency: u64| {
        millis += 101;
        limit.on_sample(&after(millis, ms(latency), limit.limit()));
        limit.tick(Instant::ORIGIN + ms(millis + 101));
    };
    window(&mut limit, 10);
    assert_eq!(limit.baseline(), Some(ms(10)));
    window(&mut limit, 10);
    assert!(limit.limit() > 3);
    // The window that brings the limit down is not one of the five.
    while limit.limit() > 3 {
        window(&mut limit, 100);
    }
    for _ in 0..5 {
        assert!(!limit.is_probing());
        window(&mut limit, 100);
    }
    assert!(limit.is_probing());
    assert_eq!(limit.limit(), 3);
}
