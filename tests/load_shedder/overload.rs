//! Goodput, stability, and fairness of shedding under a simulated overload.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use backstop::load_shedder::LoadShedderBuilder;
use backstop::{
    Bulkhead, CallOptions, LoadShedder, ManualClock, Pipeline, Policy, Priority, Timeout,
};
use futures::future::join_all;

use super::server::{Server, open_loop};
use super::{ms, on};

/// A server for 2000 calls per second behind a wait queue and a shedder. One call in four is important, and callers
/// give up after 100 ms.
pub(crate) struct Overload {
    pub(crate) clock: ManualClock,
    pub(crate) server: Server,
    shedder: LoadShedder,
    pub(crate) stack: Pipeline<(Timeout, Bulkhead, LoadShedder)>,
}

/// Results of one load.
struct Results {
    /// As a share of the capacity.
    goodput: f64,
    /// The share of the important calls that were answered in time.
    important: f64,
    /// The share to shed, every 50 ms.
    rates: Vec<f64>,
    p99: Duration,
}

impl Overload {
    pub(crate) fn new(builder: impl Fn(LoadShedderBuilder) -> LoadShedderBuilder) -> Self {
        let clock = ManualClock::new();
        let server = Server::new(&clock, 20, ms(10));
        let shedder = builder(on(&clock)).build().unwrap();
        let bulkhead = Bulkhead::builder().max_concurrent(20).max_waiting(10_000);
        let timeout = Timeout::builder().after(ms(100)).clock(clock.clone());
        let stack = Pipeline::new((
            timeout.build().unwrap(),
            bulkhead.clock(clock.clone()).build().unwrap(),
            shedder.clone(),
        ));
        Self {
            clock,
            server,
            shedder,
            stack,
        }
    }

    /// Offers a multiple of the capacity. The first fifth is warm-up.
    fn offer(&self, load: f64, seconds: u64) -> Results {
        let rate = load * self.server.capacity();
        let length = Duration::from_secs(seconds);
        let (good_ones, all) = (Cell::new(0_u32), Cell::new(0_u32));
        let rates = RefCell::new(Vec::new());
        let warm_up = (rate * length.as_secs_f64() / 5.0) as usize;
        let every = (rate / 20.0) as usize;
        let mut run = open_loop(&self.clock, rate, length, |number| {
            if number % every == 0 {
                rates.borrow_mut().push(self.shedder.snapshot().shed_rate);
            }
            let high = number % 4 == 0;
            let priority = if high { Priority::HIGH } else { Priority::LOW };
            let call = self.stack.with(CallOptions::new().priority(priority));
            let counts = u32::from(high && number >= warm_up);
            let (good_ones, all) = (&good_ones, &all);
            async move {
                let work = || async {
                    self.server.handle().await;
                    Ok::<_, ()>(())
                };
                let good = call.call(work).await.is_ok();
                all.set(all.get() + counts);
                good_ones.set(good_ones.get() + if good { counts } else { 0 });
                good
            }
        });
        Results {
            goodput: run.latencies.len() as f64 / run.offered as f64 * load,
            important: f64::from(good_ones.get()) / f64::from(all.get()),
            rates: rates.into_inner(),
            p99: run.p99().unwrap_or_default(),
        }
    }
}

#[test]
fn overload_sheds_unimportant_calls_and_wastes_no_capacity() {
    type Settings = fn(LoadShedderBuilder) -> LoadShedderBuilder;
    let settings: [(&str, &[f64], Settings); 3] = [
        ("defaults", &[1.2, 2.0, 3.0], |builder| builder),
        ("quick", &[2.0, 3.0], |builder| {
            builder.cool_off(ms(200)).update_interval(ms(50))
        }),
        // At three times the capacity it takes seconds to work off the queue from before the first update.
        ("seldom", &[1.2, 2.0], |builder| {
            builder.update_interval(ms(200))
        }),
    ];
    for (name, loads, builder) in settings {
        for &load in loads {
            let results = Overload::new(builder).offer(load, 10);
            let Results {
                goodput, important, ..
            } = results;
            // Without a shedder every caller waits until it gives up, and the goodput is near zero.
            assert!(goodput > 0.9, "{name}, {load}: {goodput} of the capacity");
            assert!(
                important > 0.98,
                "{name}, {load}: {important} of the important"
            );
            assert!(results.p99 <= ms(100));
        }
    }
}

#[test]
fn no_call_is_shed_without_overload() {
    for load in [0.1, 0.5, 0.9, 1.0] {
        let overload = Overload::new(|builder| builder);
        let results = overload.offer(load, 5);
        assert_eq!(overload.shedder.snapshot().rejected, 0, "{load}");
        assert!(results.rates.iter().all(|rate| *rate == 0.0));
        assert!(
            (results.goodput - load).abs() < 0.01,
            "{load}: {}",
            results.goodput
        );
    }
}

#[test]
fn the_share_settles_without_oscillation() {
    for load in [1.2, 2.0, 3.0] {
        let results = Overload::new(|builder| builder).offer(load, 15);
        // After three seconds.
        let rates = &results.rates[60..];
        let fits = 1.0 - 1.0 / load;
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        assert!((mean - fits).abs() < 0.03, "{load}: {mean}, not {fits}");
        for rate in rates {
            assert!((rate - fits).abs() < 0.12, "{load}: {rate}, not {fits}");
        }
        let way: f64 = rates.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum();
        let updates = rates.len() as f64 / 2.0;
        assert!(way / updates < 0.03, "{load}: {} an update", way / updates);
    }
}

#[test]
fn shedding_ends_with_the_overload_and_starts_again_with_the_next() {
    let overload = Overload::new(|builder| builder);
    for load in [2.0, 3.0] {
        assert!(overload.offer(load, 5).goodput > 0.9);
        assert!(overload.shedder.snapshot().shed_rate > 0.4);
        // Three cool-offs.
        overload.offer(0.5, 3);
        assert_eq!(overload.shedder.snapshot().shed_rate, 0.0);
        let shed = overload.shedder.snapshot().rejected;
        let calm = overload.offer(0.9, 3);
        assert!((calm.goodput - 0.9).abs() < 0.01);
        assert_eq!(overload.shedder.snapshot().rejected, shed);
    }
}

#[test]
fn a_burst_that_drains_sheds_no_call() {
    let overload = Overload::new(|builder| builder);
    for _ in 0..20 {
        // 100 calls at once are 50 ms of work.
        let work = || async {
            overload.server.handle().await;
            Ok::<_, ()>(())
        };
        let calls = (0..100).map(|_| overload.stack.call(work));
        let results = overload.clock.block_on(join_all(calls));
        assert!(results.iter().all(Result::is_ok));
        overload.clock.advance(ms(150));
    }
    assert_eq!(overload.shedder.snapshot().rejected, 0);
}

#[test]
fn a_seed_makes_runs_reproducible() {
    let run = |seed| {
        let overload = Overload::new(|builder| builder.seed(seed));
        let results = overload.offer(2.0, 3);
        (overload.shedder.snapshot().rejected, results.rates)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// The delay includes the wait even if the shedder is the first layer that reads the clock.
#[test]
fn the_wait_in_a_bulkhead_outside_is_the_queue_delay() {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(1);
    let shedder = on(&clock).build().unwrap();
    let stack = (bulkhead.clock(clock.clone()).build().unwrap(), &shedder);
    let work = || async {
        clock.sleep(ms(8)).await;
        Ok::<_, ()>(())
    };
    let calls = join_all((0..2).map(|_| stack.call(work)));
    assert!(clock.block_on(calls).iter().all(Result::is_ok));
    // The second waited for 8 ms, and 10 ms are tolerated.
    assert_eq!(shedder.snapshot().load, 0.8);
}
