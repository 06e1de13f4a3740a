//! What overload does to a server, and what each protection makes of it.
//!
//! A simulated server can do 2000 requests a second. Clients offer it half of that up to three times
//! that, and give up after 100 ms; the server does the work all the same. Everything happens in virtual
//! time. Printed are the goodput (answers in time, as a share of the capacity) and the 99th percentile
//! of their latency; the same goes into an SVG plot.
//!
//! ```text
//! cargo run --release --example overload [plot.svg]
//! ```

mod plot;
mod server;

use std::error::Error;
use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, Correlated, Gradient, Gradient2, Probe, Vegas, Windowed};
use backstop::{Bulkhead, ConfigError, ManualClock, Policy, Timeout};

use self::plot::Curve;
use self::server::{Server, open_loop};

const LOADS: [f64; 6] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0];
const WORKERS: u32 = 20;
const SERVICE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(10);

/// A protection by its name; `None` is none.
type Protection = (
    &'static str,
    fn(&ManualClock) -> Result<Option<Bulkhead>, ConfigError>,
);

const PROTECTIONS: &[Protection] = &[
    ("nothing", |_| Ok(None)),
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
];

fn on(
    clock: &ManualClock,
    builder: backstop::bulkhead::BulkheadBuilder,
) -> Result<Option<Bulkhead>, ConfigError> {
    builder.clock(clock.clone()).seed(1).build().map(Some)
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

/// Goodput as a share of the capacity, and the 99th percentile of latency.
fn measure(protection: Protection, load: f64) -> Result<(f64, Duration), ConfigError> {
    let clock = ManualClock::new();
    let server = Server::new(&clock, WORKERS, SERVICE);
    // A client gives up in line as it does later on.
    let stack = (
        Timeout::builder()
            .after(PATIENCE)
            .clock(clock.clone())
            .build()?,
        protection.1(&clock)?,
    );
    let rate = load * server.capacity();
    let mut results = open_loop(&clock, rate, LENGTH, |_| async {
        let request = || async {
            server.handle().await;
            Ok::<_, ()>(())
        };
        stack.call(request).await.is_ok()
    });
    let share = results.latencies.len() as f64 / results.offered as f64;
    Ok((share * load, results.p99()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/overload.svg".to_owned());
    print!("{:<12}", "offered:");
    for load in LOADS {
        print!("{:>16}", format!("{load}x"));
    }
    println!();
    let mut curves = Vec::new();
    for &protection in PROTECTIONS {
        let mut curve = Curve::new(protection.0);
        print!("{:<12}", protection.0);
        for load in LOADS {
            let (goodput, p99) = measure(protection, load)?;
            print!("{:>9.0} % {:>2} ms", goodput * 100.0, p99.as_millis());
            curve.add(load, goodput, p99);
        }
        println!();
        curves.push(curve);
    }
    std::fs::write(&path, plot::svg(&curves))?;
    println!("plot: {path}");
    Ok(())
}
