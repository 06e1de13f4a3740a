//! A fleet of four processes with one limit, and a store that is killed in the middle.
//!
//! ```text
//! cargo run --release -p backstop-redis --example fleet -- [--rate 1000] [--burst 1000] [--load 1.5]
//!     [--seconds 10] [--outage kill|stop|flush|empty|clock|none] [--exact] [--seed 0]
//! cargo run --release -p backstop-redis --example fleet -- grid|small|faults [--seconds 10] [--exact] [--seed 0]
//! ```
//!
//! Starts a `redis-server` of its own on a free port, and four copies of itself. They ask for 48, 24, 16, and 12 % of
//! `load` times the rate, as calls that arrive independently of each other. After 40 % of the time the store fails; a
//! store that was killed or stopped returns after another 30 %. Prints the admitted calls of each half second, and at
//! the end compares them with those of one central limiter.
//!
//! With `grid` it measures two rates, two bursts, and five loads, with `small` small bursts, and with `faults` each kind
//! of failure. It prints a row for each run, marks the figures that miss their bound, and exits with 1 if there are any.
//! The machine needs to be idle otherwise.

mod check;
mod node;
mod report;
mod run;
mod server;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use server::Server;

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) rate: u64,
    pub(crate) burst: u64,
    pub(crate) load: f64,
    pub(crate) seconds: f64,
    pub(crate) outage: String,
    pub(crate) exact: bool,
    /// Whether to print a row for each half second.
    pub(crate) rows: bool,
    pub(crate) seed: u64,
}

/// The shares of the demand.
pub(crate) const SHARES: [f64; 4] = [0.48, 0.24, 0.16, 0.12];
/// Interval between the reports of a process.
pub(crate) const REPORT_EVERY: Duration = Duration::from_millis(500);

impl Settings {
    fn from_args(args: &[String]) -> Self {
        let value = |name: &str| {
            let at = args.iter().position(|arg| arg == name)?;
            args.get(at + 1).cloned()
        };
        let number = |name: &str, default: f64| {
            let text = value(name);
            text.map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name} {text}?"))
            })
        };
        let rate = number("--rate", 1000.0) as u64;
        Self {
            rate,
            burst: number("--burst", rate as f64) as u64,
            load: number("--load", 1.5),
            seconds: number("--seconds", 10.0),
            outage: value("--outage").unwrap_or_else(|| "kill".to_owned()),
            exact: args.iter().any(|arg| arg == "--exact"),
            rows: true,
            seed: number("--seed", 0.0) as u64,
        }
    }

    /// Returns the arguments that describe them.
    pub(crate) fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            ("--rate", self.rate.to_string()),
            ("--burst", self.burst.to_string()),
            ("--load", self.load.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--outage", self.outage.clone()),
            ("--seed", self.seed.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if self.exact {
            args.push("--exact".to_owned());
        }
        args
    }
}

pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let settings = Settings::from_args(&args);
    if let Ok(number) = env::var("FLEET_NODE") {
        node::run(number.parse().expect("a number"), &settings);
        return ExitCode::SUCCESS;
    }
    let Some(mut server) = Server::start() else {
        println!("SKIPPED: this example needs `redis-server`, which is not installed");
        return ExitCode::SUCCESS;
    };
    if let Some(cells) = args.get(1).and_then(|word| check::cells(word, &settings)) {
        return check::run(&mut server, &cells);
    }
    run::run(&mut server, &settings).print(&settings);
    ExitCode::SUCCESS
}
