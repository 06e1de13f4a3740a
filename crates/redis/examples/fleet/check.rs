//! Runs of the fleet with all loads and faults, compared with the bounds that a shared limit has to keep.

use std::process::ExitCode;

use crate::Settings;
use crate::report::Report;
use crate::run;
use crate::server::Server;

const LOADS: [f64; 5] = [0.5, 1.0, 1.5, 5.0, 10.0];

/// Returns the runs that `word` stands for, if any.
pub(crate) fn cells(word: &str, settings: &Settings) -> Option<Vec<Settings>> {
    let cell = |rate, burst, load, outage: &str| Settings {
        rate,
        burst,
        load,
        outage: outage.to_owned(),
        rows: false,
        ..settings.clone()
    };
    let all_loads = |quotas: &[(u64, u64)]| -> Vec<Settings> {
        let quotas = quotas.iter().copied();
        let cells =
            quotas.flat_map(|(rate, burst)| LOADS.map(|load| cell(rate, burst, load, "none")));
        cells.collect()
    };
    match word {
        "grid" => Some(all_loads(&[
            (1000, 1000),
            (1000, 100),
            (10_000, 10_000),
            (10_000, 1000),
        ])),
        "small" => Some(all_loads(&[
            (1000, 32),
            (1000, 10),
            (10_000, 100),
            (10_000, 10),
        ])),
        "faults" => {
            let mut cells = Vec::new();
            for fault in ["kill", "stop", "flush", "empty", "clock"] {
                cells.push(cell(1000, 1000, 1.5, fault));
                cells.push(cell(10_000, 1000, 5.0, fault));
            }
            Some(cells)
        }
        _ => None,
    }
}

/// A figure of a run, and whether it keeps its bound.
struct Figure {
    text: String,
    holds: bool,
}

fn figure(text: String, holds: bool) -> Figure {
    Figure { text, holds }
}

const COLUMNS: [&str; 12] = [
    "fault",
    "rate",
    "burst",
    "load",
    "used",
    "false (net)",
    "explained",
    "trips/s",
    "spread",
    "call, PING ms",
    "in outage",
    "back s",
];

pub(crate) fn run(server: &mut Server, cells: &[Settings]) -> ExitCode {
    println!(
        "used: admitted by the fleet / by one central limiter, >= 0.985 at all loads\n\
         false: rejected calls that the central limiter admits, none at loads up to 1; net: less those that only it rejects\n\
         explained: the smallest burst that explains the admitted calls of every window, <= 1.01 of the burst, 2.01 with a fault\n\
         trips/s: of the process with the most, <= 25 if the burst is a tenth of the rate or more\n\
         spread: admitted by the first / by the last process, <= 1.4 at loads of 5 and more\n\
         call: the slowest one, <= 5 ms, 35 with a fault; beside it the slowest PING of the same processes\n\
         in outage: admitted / rate, 0.9 to 1.15; back: when the last process has the store again, <= 1.5 s\n\
         ! marks a figure that misses its bound\n"
    );
    let widths = COLUMNS.map(|name| name.len().max(9));
    let row = |texts: [String; 12]| {
        let cells = texts.iter().zip(widths);
        let cells = cells.map(|(text, width)| format!("{text:>width$}"));
        println!("{}", cells.collect::<Vec<_>>().join(" "));
    };
    row(COLUMNS.map(str::to_owned));
    let mut misses = 0;
    for settings in cells {
        let figures = figures(&run::run(server, settings), settings);
        misses += figures.iter().filter(|figure| !figure.holds).count();
        row(figures.map(|figure| match figure.holds {
            true => figure.text,
            false => format!("{}!", figure.text),
        }));
    }
    println!("\n{misses} figures miss their bounds");
    ExitCode::from(u8::from(misses > 0))
}

fn figures(report: &Report, settings: &Settings) -> [Figure; 12] {
    let fault = settings.outage.as_str();
    let is_faulty = fault != "none";
    let is_outage = matches!(fault, "kill" | "stop");
    let given = |text: String| figure(text, true);
    let central = report.central(settings);
    let used = report.used(&central);
    let falsely = central.falsely_rejected;
    let net = report.rejected() as i64 - central.rejected as i64;
    let explained = report.explained(settings) / settings.burst as f64;
    let trips = report.most_trips(settings);
    let spread = report.spread();
    let (slowest, ping) = (report.slowest, report.ping);
    let during = report.during(settings);
    let back = report.shared_again();
    let none = || given("-".to_owned());
    [
        given(fault.to_owned()),
        given(settings.rate.to_string()),
        given(settings.burst.to_string()),
        given(settings.load.to_string()),
        match is_faulty {
            true => given(format!("{used:.4}")),
            false => figure(format!("{used:.4}"), used >= 0.985),
        },
        match settings.load {
            load if load <= 1.0 => figure(format!("{falsely} ({net})"), falsely == 0),
            _ => given(format!("({net})")),
        },
        figure(
            format!("{explained:.3}"),
            explained <= if is_faulty { 2.01 } else { 1.01 },
        ),
        figure(
            format!("{trips:.1}"),
            trips <= 25.0 || is_faulty || settings.burst * 10 < settings.rate,
        ),
        match settings.load {
            load if load >= 5.0 => figure(format!("{spread:.2}"), spread <= 1.4 || is_faulty),
            _ => none(),
        },
        figure(
            format!("{slowest:.1}, {ping:.1}"),
            slowest <= if is_faulty { 35.0 } else { 5.0 },
        ),
        match is_outage {
            true => figure(format!("{during:.3}"), (0.9..=1.15).contains(&during)),
            false => none(),
        },
        match (is_outage, back) {
            (true, Some(back)) => figure(format!("{back:.2}"), back <= 1.5),
            (true, None) => figure("never".to_owned(), false),
            (false, Some(back)) => given(format!("{back:.2}")),
            (false, None) => none(),
        },
    ]
}
