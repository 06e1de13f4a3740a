//! Convergence of limits after changes of the dependency or of the load. The server is an event loop that passes samples
//! to an algorithm, so an hour of calls takes little time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use backstop::Instant;
use backstop::bulkhead::limit::{
    Aimd, Calibration, ConcurrencyLimit, Correlated, Gradient, Gradient2, Sample, Vegas, Windowed,
    WindowedBuilder,
};

type Limit = Box<dyn ConcurrencyLimit>;

const MS: f64 = 1e6;

/// Reproducible random numbers, uniform in `[0, 1)`.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Distribution of service times.
type Work<'a> = dyn Fn(&mut Random) -> f64 + 'a;

/// A workload. Times are in nanoseconds.
struct Calls<'a> {
    per_second: f64,
    work: &'a Work<'a>,
    /// Network round trip.
    way: f64,
    /// Callers give up after this, and the server does not notice.
    patience: f64,
    /// Share of calls that never reach the server and time out after 100 ms.
    lost: f64,
}

/// 1.5 times the capacity of 20 workers, with calls of 10 ms.
const CALLS: Calls<'static> = Calls {
    per_second: 3000.0,
    work: &|_| 10.0 * MS,
    way: 0.0,
    patience: f64::MAX,
    lost: 0.0,
};

/// A call in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    at: u64,
    began: u64,
    in_flight: u32,
    overloaded: bool,
}

/// Results of a workload.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    good: f64,
    /// The mean limit.
    limit: f64,
    highest: u32,
}

struct World {
    now: f64,
    random: Random,
    free_at: BinaryHeap<Reverse<u64>>,
    running: BinaryHeap<Reverse<Ends>>,
    limit: Limit,
    good: u64,
}

impl World {
    fn new(workers: u32, limit: Limit) -> Self {
        Self {
            now: 0.0,
            random: Random(0x1234_5678),
            free_at: vec![Reverse(0); workers as usize].into(),
            running: BinaryHeap::new(),
            limit,
            good: 0,
        }
    }

    fn workers(&mut self, workers: usize) {
        let mut free_at = std::mem::take(&mut self.free_at).into_sorted_vec();
        free_at.resize(workers, Reverse(self.now as u64));
        self.free_at = free_at.into();
    }

    fn end_until(&mut self, now: u64) {
        while let Some(&Reverse(call)) = self.running.peek() {
            if call.at > now {
                return;
            }
            let full = self.running.len() >= self.limit.limit() as usize;
            self.running.pop();
            let latency = Duration::from_nanos(call.at - call.began);
            let now = Instant::from_nanos(call.at);
            let mut sample = Sample::new(now, latency, call.in_flight);
            sample.overloaded = call.overloaded;
            sample.full = full;
            sample.random = self.random.unit();
            self.limit.on_sample(&sample);
            self.good += u64::from(!call.overloaded);
        }
    }

    fn begin(&mut self, calls: &Calls<'_>) {
        let began = self.now as u64;
        let back = if self.random.unit() < calls.lost {
            None
        } else {
            let arrives = (self.now + calls.way / 2.0) as u64;
            let Reverse(free) = self.free_at.pop().unwrap();
            let done = free.max(arrives) + (calls.work)(&mut self.random) as u64;
            self.free_at.push(Reverse(done));
            let back = done + (calls.way / 2.0) as u64;
            ((back - began) as f64 <= calls.patience).then_some(back)
        };
        let patience = calls.patience.min(if calls.lost > 0.0 {
            100.0 * MS
        } else {
            f64::MAX
        });
        self.running.push(Reverse(Ends {
            at: back.unwrap_or(began.saturating_add(patience as u64)),
            began,
            in_flight: self.running.len() as u32 + 1,
            overloaded: back.is_none(),
        }));
    }

    /// Offers calls for this number of seconds.
    fn offer(&mut self, calls: &Calls<'_>, seconds: f64) -> Came {
        let end = self.now + seconds * 1e9;
        let (mut offered, mut limits, mut highest) = (0_u32, 0.0, 0);
        self.good = 0;
        while self.now < end {
            self.end_until(self.now as u64);
            let limit = self.limit.limit();
            (offered, limits) = (offered + 1, limits + f64::from(limit));
            highest = highest.max(limit);
            if self.running.len() < limit as usize {
                self.begin(calls);
            }
            self.now += 1e9 / calls.per_second * (0.5 + self.random.unit());
        }
        Came {
            good: self.good as f64 / seconds,
            limit: limits / f64::from(offered),
            highest,
        }
    }
}

fn window() -> WindowedBuilder {
    let ms = Duration::from_millis;
    Windowed::builder()
        .window_between(ms(100), Duration::from_secs(30))
        .min_calls(20)
}

/// Returns all algorithms, configured for calls of this length in milliseconds.
fn algorithms(length: f64) -> Vec<(&'static str, Limit)> {
    let seconds = |millis: f64| Duration::from_secs_f64(millis / 1e3);
    let calibration = Calibration::every(seconds(5_000_f64.max(length * 200.0))).samples(20);
    let gradient2 = Gradient2::builder().build().unwrap();
    let aimd = Aimd::builder().timeout(seconds(5.0 * length));
    vec![
        ("aimd", Box::new(aimd.build().unwrap())),
        (
            "vegas",
            Box::new(Vegas::builder().calibration(calibration).build().unwrap()),
        ),
        ("gradient2", Box::new(window().around(gradient2).unwrap())),
        (
            "gradient",
            Box::new(
                Gradient::builder()
                    .calibration(calibration)
                    .build()
                    .unwrap(),
            ),
        ),
        ("correlated", correlated()),
    ]
}

fn correlated() -> Limit {
    Box::new(Correlated::builder().windowed(window()).build().unwrap())
}

#[test]
fn servers_of_any_size_and_round_trips_of_any_length_are_used() {
    for (workers, length) in [
        (1, 10.0),
        (5, 10.0),
        (100, 10.0),
        (20, 1.0),
        (20, 100.0),
        (20, 1_000.0),
        (20, 10_000.0),
    ] {
        for (name, limit) in algorithms(length) {
            let capacity = f64::from(workers) * 1e3 / length;
            let calls = Calls {
                per_second: 1.5 * capacity,
                work: &|_| length * MS,
                ..CALLS
            };
            let mut world = World::new(workers, limit);
            let seconds = 12_f64.max(length / 1e3 * 200.0);
            world.offer(&calls, seconds);
            let came = world.offer(&calls, seconds / 2.0);
            let goodput = came.good / capacity;
            println!("{workers} workers, {length} ms, {name}: {goodput:.3} {came:?}");
            assert!(
                goodput > 0.9,
                "{workers} workers, {length} ms, {name}: {came:?}"
            );
        }
    }
}

/// Callers that give up after ten round trips, at three times the capacity.
#[test]
fn overload_with_timeouts_leaves_the_capacity() {
    for (workers, length) in [(5, 10.0), (20, 10.0), (100, 10.0), (20, 100.0)] {
        for (name, limit) in algorithms(length) {
            let capacity = f64::from(workers) * 1e3 / length;
            let calls = Calls {
                per_second: 3.0 * capacity,
                work: &|_| length * MS,
                patience: 10.0 * length * MS,
                ..CALLS
            };
            let mut world = World::new(workers, limit);
            world.offer(&calls, 10.0);
            let came = world.offer(&calls, 12.0);
            let goodput = came.good / capacity;
            println!("{workers} workers, {length} ms, {name}: {goodput:.3} {came:?}");
            assert!(
                goodput > 0.9,
                "{workers} workers, {length} ms, {name}: {came:?}"
            );
        }
    }
}

/// One call in a hundred is lost for unrelated reasons, such as packet loss or a losing hedge, at any limit.
#[test]
fn calls_lost_for_reasons_of_their_own_do_not_close_the_limit() {
    for lost in [0.001, 0.01, 0.05] {
        for (name, limit) in algorithms(10.0) {
            let calls = Calls {
                per_second: 1800.0,
                lost,
                ..CALLS
            };
            let mut world = World::new(20, limit);
            world.offer(&calls, 20.0);
            let came = world.offer(&calls, 40.0);
            let share = came.good / calls.per_second / (1.0 - lost);
            println!("{lost} lost, {name}: {share:.3} {came:?}");
            assert!(share > 0.9, "{lost} lost, {name}: {came:?}");
        }
    }
}

#[test]
fn correlated_keeps_the_capacity_when_round_trips_change() {
    let mut world = World::new(20, correlated());
    let far = Calls {
        way: 10.0 * MS,
        ..CALLS
    };
    let mut offer = |calls, seconds, least| {
        let came = world.offer(calls, seconds);
        println!("{:.3} {came:?}", came.good / 2000.0);
        assert!(came.good > least * 2000.0, "{came:?}");
        // The limit does not grow without load: 20 calls are at the server, and as many in the network.
        assert!(came.highest < 70, "{came:?}");
    };
    offer(&CALLS, 20.0, 0.95);
    // Time for the averages to forget earlier latencies.
    offer(&far, 10.0, 0.8);
    for _ in 0..5 {
        offer(&far, 10.0, 0.93);
    }
    for _ in 0..3 {
        offer(&CALLS, 10.0, 0.9);
    }
    // The server becomes slower step by step.
    for step in 1..10 {
        let work = (10.0 + 2.0 * f64::from(step)) * MS;
        let capacity = 20.0 * 1e9 / work;
        let calls = Calls {
            per_second: 1.5 * capacity,
            work: &|_| work,
            ..CALLS
        };
        let came = world.offer(&calls, 3.0);
        println!("{:.3} {came:?}", came.good / capacity);
        assert!(came.good > 0.93 * capacity, "{came:?}");
    }
}

#[test]
fn latencies_that_vary_are_tolerated() {
    // One call in ten takes 25 times as long as the others, then exponential lengths with a mean of 10 ms.
    let bimodal = |random: &mut Random| {
        if random.unit() < 0.1 {
            50.0 * MS
        } else {
            2.0 * MS
        }
    };
    let any = |random: &mut Random| -10.0 * MS * (1.0 - random.unit()).ln();
    let works: [(&str, &Work<'_>, f64); 2] = [
        ("bimodal", &bimodal, 20.0 / 0.0068),
        ("exponential", &any, 2000.0),
    ];
    for (work_name, work, capacity) in works {
        for (name, limit) in algorithms(10.0) {
            let calls = Calls {
                per_second: 1.5 * capacity,
                work,
                ..CALLS
            };
            let mut world = World::new(20, limit);
            world.offer(&calls, 20.0);
            let came = world.offer(&calls, 40.0);
            let goodput = came.good / capacity;
            println!("{work_name}, {name}: {goodput:.3} {came:?}");
            let least = match (work_name, name) {
                // The fastest call is its baseline, see its page.
                ("exponential", "vegas") => continue,
                // A quantile between the two kinds jumps from one to the other.
                ("bimodal", "gradient2") => 0.7,
                // The median of so few calls differs between calibrations.
                ("exponential", "gradient") => 0.85,
                _ => 0.9,
            };
            assert!(goodput > least, "{work_name}, {name}: {came:?}");
        }
    }
}

/// Returns the seconds until nine tenths of a tripled capacity are used under a tripled load.
#[test]
fn new_room_is_found() {
    for (name, limit) in algorithms(10.0) {
        let mut world = World::new(20, limit);
        world.offer(&CALLS, 20.0);
        world.workers(60);
        let calls = Calls {
            per_second: 9000.0,
            ..CALLS
        };
        let found = (1..30).find(|_| world.offer(&calls, 1.0).good > 0.9 * 6000.0);
        println!("{name}: {found:?}");
        assert!(
            found.is_some_and(|seconds| seconds <= 6),
            "{name}: {found:?}"
        );
        // Then a sixth of the workers is left.
        world.workers(10);
        world.offer(&calls, 5.0);
        let came = world.offer(&calls, 10.0);
        println!("{name}: {came:?}");
        assert!(came.good > 0.9 * 1000.0, "{name}: {came:?}");
    }
}

#[test]
fn a_burst_after_a_long_pause_finds_room() {
    for (name, limit) in algorithms(10.0) {
        let mut world = World::new(20, limit);
        let before = world.offer(&CALLS, 20.0);
        let few = Calls {
            per_second: 50.0,
            ..CALLS
        };
        world.offer(&few, 600.0);
        let idle = world.limit.limit();
        // `Correlated` is bounded by five times the number in flight, and grows back by one step per window.
        let (least, seconds) = if name == "correlated" {
            (5, 2.0)
        } else {
            (20, 0.2)
        };
        assert!(
            idle >= least && f64::from(idle) < 2.0 * before.limit,
            "{name}: {idle}"
        );
        world.offer(&CALLS, seconds);
        let came = world.offer(&CALLS, 3.0);
        println!("{name}: {idle}, {came:?}");
        assert!(came.good > 0.9 * 2000.0, "{name}: {idle}, {came:?}");
    }
}
