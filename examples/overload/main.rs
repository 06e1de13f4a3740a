//! What overload does to a server, and what each protection makes of it.
//!
//! A simulated server can do 2000 requests a second. Clients offer it half of that up to three times
//! that, and give up after 100 ms; the server does the work all the same. Everything happens in virtual
//! time. Printed are the goodput (answers in time, as a share of the capacity), the 99th percentile of
//! their latency, and how many of the important calls, one in four, were answered in time. The first two
//! go into an SVG plot too.
//!
//! ```text
//! cargo run --release --example overload [plot.svg]
//! ```

mod plot;
mod server;

use std::cell::Cell;
use std::error::Error;
use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, Correlated, Gradient, Gradient2, Probe, Vegas, Windowed};
use backstop::{
    Bulkhead, CallOptions, ConfigError, LoadShedder, ManualClock, Pipeline, Policy, Priority,
    Timeout,
};

use self::plot::Curve;
use self::server::{Server, open_loop};

const LOADS: [f64; 6] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0];
const WORKERS: u32 = 20;
const SERVICE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(10);

/// `None` passes every call through.
type Guard = (Option<Bulkhead>, Option<LoadShedder>);
/// A protection by its name.
type Protection = (&'static str, fn(&ManualClock) -> Result<Guard, ConfigError>);
/// One call in four is important.
const IMPORTANT: usize = 4;

const PROTECTIONS: &[Protection] = &[
    ("nothing", |_| Ok((None, None))),
    ("fixed 25", |clock| on(clock, Bulkhead::builder())),
    ("aimd", |clock| {
        let limit = Aimd::builder().timeout(Duration::from_millis(50));
        on(clock, Bulkhead::builder().adaptive(limit.build()?))
    }),
    ("vegas", |clock| {
        let limit = Vegas::builder().probe(probe());
        on(clock, Bulkhead::builder().adaptive(limit.build()?))
    }),
    ("gradient2", |clock| {
        let limit = window().around(Gradient2::builder().build()?)?;
        on(clock, Bulkhead::builder().adaptive(limit))
    }),
    ("gradient", |clock| {
        let limit = Gradient::builder().probe(probe());
        on(clock, Bulkhead::builder().adaptive(limit.build()?))
    }),
    ("correlated", |clock| {
        let limit = Correlated::builder().window(window());
        on(clock, Bulkhead::builder().adaptive(limit.build()?))
    }),
    ("fifo queue", |clock| {
        on(
            clock,
            Bulkhead::builder().max_concurrent(WORKERS).queue(1000),
        )
    }),
    ("codel queue", |clock| {
        let bulkhead = Bulkhead::builder().max_concurrent(WORKERS).queue(1000);
        on(clock, bulkhead.codel_defaults())
    }),
    ("shedder", |clock| {
        let queue = Bulkhead::builder().max_concurrent(WORKERS).queue(1000);
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
    let bulkhead = builder.clock(clock.clone()).seed(1).build()?;
    Ok((Some(bulkhead), None))
}

/// More often than the default of a minute: a run is ten seconds.
const fn probe() -> Probe {
    Probe::every(Duration::from_secs(5)).samples(20)
}

fn window() -> backstop::bulkhead::limit::WindowedBuilder {
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    Windowed::builder()
        .window(shortest, longest)
        .min_samples(20)
}

/// What came of a protection at a load.
struct Measured {
    /// As a share of the capacity.
    goodput: f64,
    p99: Duration,
    /// The share of the important calls that were answered in time.
    important: f64,
}

fn measure(protection: Protection, load: f64) -> Result<Measured, ConfigError> {
    let clock = ManualClock::new();
    let server = Server::new(&clock, WORKERS, SERVICE);
    // A client gives up in line as it does later on.
    let timeout = Timeout::builder().after(PATIENCE).clock(clock.clone());
    let stack = Pipeline::new((timeout.build()?, protection.1(&clock)?));
    let (answered, of) = (Cell::new(0), Cell::new(0));
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
        let (server, answered, of) = (&server, &answered, &of);
        async move {
            let request = || async {
                server.handle().await;
                Ok::<_, ()>(())
            };
            let good = call.call(request).await.is_ok();
            of.set(of.get() + u32::from(counts));
            answered.set(answered.get() + u32::from(good && counts));
            good
        }
    });
    let share = results.latencies.len() as f64 / results.offered as f64;
    Ok(Measured {
        goodput: share * load,
        p99: results.p99(),
        important: f64::from(answered.get()) / f64::from(of.get()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/overload.svg".to_owned());
    print!("{:<12}", "offered:");
    for load in LOADS {
        print!("{:>19}", format!("{load}x"));
    }
    println!();
    let mut curves = Vec::new();
    for &protection in PROTECTIONS {
        let mut curve = Curve::new(protection.0);
        print!("{:<12}", protection.0);
        for load in LOADS {
            let Measured {
                goodput,
                p99,
                important,
            } = measure(protection, load)?;
            let (all, high) = (goodput * 100.0, important * 100.0);
            let cell = format!("{all:.0} % {} ms {high:.0} %", p99.as_millis());
            print!("{cell:>19}");
            curve.add(load, goodput, p99);
        }
        println!();
        curves.push(curve);
    }
    std::fs::write(&path, plot::svg(&curves))?;
    println!("plot: {path}");
    Ok(())
}
