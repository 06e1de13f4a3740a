//! A fleet of four processes with one limit, and a store that is killed in the middle.
//!
//! ```text
//! cargo run --release -p backstop-redis --example fleet -- [--rate 1000] [--burst 1000] [--load 1.5]
//!     [--seconds 10] [--outage kill|stop|flush|empty|none] [--exact] [--ping] [--summary] [--seed 0]
//! ```
//!
//! Starts a `redis-server` of its own on a free port, and four copies of itself. They ask for 48, 24, 16, and 12 % of
//! `load` times the rate, as calls that arrive independently of each other. After 40 % of the time the store fails; a
//! store that was killed or stopped returns after another 30 %. Prints the admitted calls of each half second, and at
//! the end compares them with those of one central limiter. `--ping` measures how long the same processes wait for a
//! `PING` meanwhile.

mod node;
mod report;
mod server;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use report::Report;
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
    pub(crate) ping: bool,
    pub(crate) summary: bool,
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
            ping: args.iter().any(|arg| arg == "--ping"),
            summary: args.iter().any(|arg| arg == "--summary"),
            seed: number("--seed", 0.0) as u64,
        }
    }
}

pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let settings = Settings::from_args(&args);
    if let Ok(number) = env::var("FLEET_NODE") {
        return node::run(number.parse().expect("a number"), &settings);
    }
    let Some(mut server) = Server::start() else {
        println!("SKIPPED: this example needs `redis-server`, which is not installed");
        return;
    };
    // Gives the processes time to start.
    let start = unix_micros() + 500_000;
    let (send, rows) = mpsc::channel();
    let mut children: Vec<Child> = Vec::new();
    for number in 0..SHARES.len() {
        let mut child = Command::new(&args[0])
            .args(&args[1..])
            .env("FLEET_NODE", number.to_string())
            .env("FLEET_START", start.to_string())
            .env("FLEET_URL", server.url())
            .env("FLEET_FILE", server.file(&format!("node{number}")))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example can start itself");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let send = send.clone();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = send.send((number, line));
            }
        });
        children.push(child);
    }
    drop(send);
    let printer = {
        let settings = settings.clone();
        thread::spawn(move || report::print_rows(&settings, &rows))
    };
    let at = |share: f64| {
        let due = start + (settings.seconds * share * 1e6) as u64;
        thread::sleep(Duration::from_micros(due.saturating_sub(unix_micros())));
    };
    match settings.outage.as_str() {
        "kill" => {
            at(0.4);
            server.kill();
            at(0.7);
            server.restart();
        }
        "stop" => {
            at(0.4);
            server.signal("STOP");
            at(0.7);
            server.signal("CONT");
        }
        "flush" => {
            at(0.4);
            server.command(&["FLUSHALL"]);
            server.command(&["SCRIPT", "FLUSH"]);
        }
        "empty" => {
            at(0.4);
            server.kill();
            server.restart();
        }
        _ => {}
    }
    for mut child in children {
        let status = child.wait().expect("a child");
        assert!(status.success(), "a process failed");
    }
    let totals = printer.join().expect("no panic");
    let report = Report::read(
        &settings,
        start,
        (0..SHARES.len()).map(|number| server.file(&format!("node{number}"))),
    );
    report.print(&settings, totals);
}
