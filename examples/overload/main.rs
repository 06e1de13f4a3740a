//! A server under overload, and the effect of each protection.
//!
//! A simulated server has a capacity of 2000 requests per second. Clients offer from half of that to three times as
//! much, and give up after 100 ms. The server does their work nevertheless. One call in four is important. Everything
//! runs in virtual time. For each protection and load, the table has:
//!
//! * `good`: goodput, the answers in time, in percent of the capacity;
//! * `p99`: the 99th percentile of their latency in ms, or `-` if no answer was in time;
//! * `imp`: the important calls that were answered in time, in percent.
//!
//! The plot has one panel per protection, with the other curves in gray.
//!
//! ```text
//! cargo run --release --example overload [plot.svg]
//! ```

mod plot;
// The tests run against the same server.
#[path = "../../tests/simulated_server/mod.rs"]
mod server;

use std::cell::Cell;
use std::error::Error;
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, Calibration, Correlated, Gradient, Gradient2, Vegas, Windowed,
};
use backstop::{
    Bulkhead, CallOptions, ConfigError, LoadShedder, ManualClock, Pipeline, Policy, Priority,
    Timeout,
};

use self::plot::{Curve, Point};
use self::server::{Server, open_loop};

const LOADS: [f64; 6] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0];
const WORKERS: u32 = 20;
const SERVICE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(10);

/// `None` admits every call.
type Guard = (Option<Bulkhead>, Option<LoadShedder>);
/// A name and a builder of a protection.
type Protection = (&'static str, fn(&ManualClock) -> Result<Guard, ConfigError>);
/// One call in four is important.
const IMPORTANT: usize = 4;

const PROTECTIONS: &[Protection] = &[
    ("nothing", |_| Ok((None, None))),
    ("fixed 25", |clock| on(clock, Bulkhead::builder())),
    ("aimd", |clock| {
        let limit = Aimd::builder().timeout(Duration::from_millis(50));
        on(clock, Bulkhead::builder().adaptive(limit.build()?).seed(1))
    }),
    ("vegas", |clock| {
        let limit = Vegas::builder().calibration(calibration());
        on(clock, Bulkhead::builder().adaptive(limit.build()?).seed(1))
    }),
    ("gradient2", |clock| {
        let limit = window().around(Gradient2::builder().build()?)?;
        on(clock, Bulkhead::builder().adaptive(limit).seed(1))
    }),
    ("gradient", |clock| {
        let limit = Gradient::builder().calibration(calibration());
        on(clock, Bulkhead::builder().adaptive(limit.build()?).seed(1))
    }),
    ("correlated", |clock| {
        let limit = Correlated::builder().windowed(window());
        on(clock, Bulkhead::builder().adaptive(limit.build()?).seed(1))
    }),
    ("fifo queue", |clock| {
        on(
            clock,
            Bulkhead::builder()
                .max_concurrent(WORKERS)
                .max_waiting(1000),
        )
    }),
    ("codel queue", |clock| {
        let bulkhead = Bulkhead::builder()
            .max_concurrent(WORKERS)
            .max_waiting(1000);
        on(clock, bulkhead.codel_default())
    }),
    ("shedder", |clock| {
        let queue = Bulkhead::builder()
            .max_concurrent(WORKERS)
            .max_waiting(1000);
        let (queue, _) = on(clock, queue)?;
        let shedder = LoadShedder::builder()
            .cool_off(Duration::from_millis(200))
            .update_interval(Duration::from_millis(50))
            .clock(clock.clone())
            .seed(1);
        Ok((queue, Some(shedder.build()?)))
    }),
];

fn on(
    clock: &ManualClock,
    builder: backstop::bulkhead::BulkheadBuilder,
) -> Result<Guard, ConfigError> {
    Ok((Some(builder.clock(clock.clone()).build()?), None))
}

/// More frequent than the default of a minute, because a run lasts ten seconds.
const fn calibration() -> Calibration {
    Calibration::every(Duration::from_secs(5)).samples(20)
}

fn window() -> backstop::bulkhead::limit::WindowedBuilder {
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    Windowed::builder()
        .window_between(shortest, longest)
        .min_calls(20)
}

/// Results of a protection at one load.
struct Measured {
    /// Share of the capacity.
    goodput: f64,
    /// `None` if no call was answered in time.
    p99: Option<Duration>,
    /// Share of the important calls that were answered in time.
    important: f64,
}

fn measure(protection: Protection, load: f64) -> Result<Measured, ConfigError> {
    let clock = ManualClock::new();
    let server = Server::new(&clock, WORKERS, SERVICE);
    // Outermost, because a client gives up in the wait queue too.
    let timeout = Timeout::builder().after(PATIENCE).clock(clock.clone());
    let stack = Pipeline::new((timeout.build()?, protection.1(&clock)?));
    let (answered, offered) = (Cell::new(0), Cell::new(0));
    let rate = load * server.capacity();
    let warm_up = rate * LENGTH.as_secs_f64() / 5.0;
    let mut results = open_loop(&clock, rate, LENGTH, |number| {
        let important = number % IMPORTANT == 0;
        let priority = if important {
            Priority::HIGH
        } else {
            Priority::LOW
        };
        let call = stack.with(CallOptions::new().priority(priority));
        let counts = important && number as f64 >= warm_up;
        let (server, answered, offered) = (&server, &answered, &offered);
        async move {
            let request = || async {
                server.handle().await;
                Ok::<_, ()>(())
            };
            let good = call.call(request).await.is_ok();
            offered.set(offered.get() + u32::from(counts));
            answered.set(answered.get() + u32::from(good && counts));
            good
        }
    });
    let share = results.latencies.len() as f64 / results.offered as f64;
    Ok(Measured {
        goodput: share * load,
        p99: results.p99(),
        important: f64::from(answered.get()) / f64::from(offered.get()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/overload.svg".to_owned());
    print!("{:<12}", "load:");
    for load in LOADS {
        print!(" |{:^14}", format!("{load} x capacity"));
    }
    print!("\n{:<12}", "");
    for _ in LOADS {
        print!(" |{:>4} {:>4} {:>4}", "good", "p99", "imp");
    }
    println!("\n{:<12}{}", "", " |   %   ms    %".repeat(LOADS.len()));
    let mut curves = Vec::new();
    for &protection in PROTECTIONS {
        let mut curve = Curve::new(protection.0);
        print!("{:<12}", protection.0);
        for load in LOADS {
            let measured = measure(protection, load)?;
            let p99 = match measured.p99 {
                Some(p99) => p99.as_millis().to_string(),
                None => "-".to_owned(),
            };
            let (goodput, important) = (measured.goodput * 100.0, measured.important * 100.0);
            print!(" |{goodput:>4.0} {p99:>4} {important:>4.0}");
            curve.add(Point {
                load,
                goodput: measured.goodput,
                important: measured.important,
                p99: measured.p99,
            });
        }
        println!();
        curves.push(curve);
    }
    if let Some(folder) = std::path::Path::new(&path).parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&path, plot::svg(&curves))?;
    println!("plot: {path}");
    Ok(())
}
