//! One run of the fleet: starts the processes, injects the fault, and reads their reports.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::report::{self, Report};
use crate::server::Server;
use crate::{SHARES, Settings, unix_micros};

/// When a fault begins and ends, as parts of the run.
pub(crate) const FAULT: (f64, f64) = (0.4, 0.7);

pub(crate) fn run(server: &mut Server, settings: &Settings) -> Report {
    server.command(&["FLUSHALL"]);
    // Gives the processes time to start.
    let start = unix_micros() + 500_000;
    let (send, rows) = mpsc::channel();
    let mut children: Vec<Child> = Vec::new();
    for number in 0..SHARES.len() {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(settings.args())
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
    let returned = inject(server, settings, start);
    for mut child in children {
        let status = child.wait().expect("a child");
        assert!(status.success(), "a process failed");
    }
    printer.join().expect("no panic");
    let files = (0..SHARES.len()).map(|number| server.file(&format!("node{number}")));
    Report::read(start, returned, files)
}

/// Injects the fault. Returns when the store returned.
fn inject(server: &mut Server, settings: &Settings, start: u64) -> Option<u64> {
    let at = |part: f64| {
        let due = start + (settings.seconds * part * 1e6) as u64;
        thread::sleep(Duration::from_micros(due.saturating_sub(unix_micros())));
    };
    at(FAULT.0);
    match settings.outage.as_str() {
        "kill" => {
            server.kill();
            at(FAULT.1);
            server.restart();
            Some(unix_micros())
        }
        "stop" => {
            server.signal("STOP");
            at(FAULT.1);
            server.signal("CONT");
            Some(unix_micros())
        }
        "flush" => {
            server.command(&["FLUSHALL"]);
            server.command(&["SCRIPT", "FLUSH"]);
            None
        }
        "empty" => {
            server.kill();
            server.restart();
            Some(unix_micros())
        }
        // `clock` is a fault of a process.
        _ => None,
    }
}
