//! The results of the fleet, row by row and at the end.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use crate::run::FAULT;
use crate::{REPORT_EVERY, SHARES, Settings};

/// Prints a row for each half second, once all processes have reported.
pub(crate) fn print_rows(settings: &Settings, rows: &Receiver<(usize, String)>) {
    let mut reports: HashMap<usize, Vec<(usize, Vec<u64>)>> = HashMap::new();
    let mut counts = [0; SHARES.len()];
    if settings.rows {
        println!(
            "    time  store  admitted/s by process       fleet/s                           trips/s  slowest"
        );
    }
    for (node, line) in rows {
        let numbers: Vec<u64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        if numbers.len() != 5 {
            continue;
        }
        let row = counts[node];
        counts[node] += 1;
        let all = reports.entry(row).or_default();
        all.push((node, numbers));
        if all.len() < SHARES.len() || !settings.rows {
            continue;
        }
        let mut all = reports.remove(&row).unwrap_or_default();
        all.sort();
        let second = 1.0 / REPORT_EVERY.as_secs_f64();
        let each = all.iter().map(|(_, numbers)| numbers[0] as f64 * second);
        let each: Vec<f64> = each.collect();
        let sum: f64 = each.iter().sum();
        let trips: f64 = all
            .iter()
            .map(|(_, numbers)| numbers[2] as f64 * second)
            .sum();
        let up = all.iter().filter(|(_, numbers)| numbers[3] == 1).count();
        let slow = all.iter().map(|(_, numbers)| numbers[4]).max().unwrap_or(0);
        let bar = "█".repeat((sum / settings.rate as f64 * 20.0).round().min(60.0) as usize);
        let each: Vec<String> = each.iter().map(|rate| format!("{rate:6.0}")).collect();
        println!(
            "{:6.1} s  {}  {}  {sum:7.0} {bar:<26}|{trips:7.0}  {:5.1} ms",
            (row + 1) as f64 / second,
            match up {
                0 => "lost ",
                n if n == SHARES.len() => "up   ",
                _ => "partly",
            },
            each.join(" "),
            slow as f64 / 1e3,
        );
    }
}

/// The calls of a run. Times are in microseconds since 1970.
#[derive(Default)]
pub(crate) struct Report {
    start: u64,
    /// When the store returned, if it was lost.
    returned: Option<u64>,
    /// When calls arrived, and whether they were rejected.
    arrived: Vec<(u64, bool)>,
    admitted: Vec<u64>,
    admitted_by: Vec<usize>,
    /// When the processes noticed that the store was back.
    back: Vec<Vec<u64>>,
    pub(crate) trips: Vec<u64>,
    /// The slowest call and the slowest `PING`, in milliseconds.
    pub(crate) slowest: f64,
    pub(crate) ping: f64,
}

/// The decisions of one central limiter about the same calls.
#[derive(Default)]
pub(crate) struct Central {
    pub(crate) admitted: usize,
    pub(crate) rejected: usize,
    /// Calls that it admits and the fleet rejected.
    pub(crate) falsely_rejected: usize,
}

impl Report {
    pub(crate) fn read(
        start: u64,
        returned: Option<u64>,
        files: impl Iterator<Item = PathBuf>,
    ) -> Self {
        let mut report = Self {
            start,
            returned,
            ..Self::default()
        };
        for file in files {
            let bytes = fs::read(file).expect("a process has written it");
            let mut words = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
            let mut list = || -> Vec<u64> {
                let len = words.next().unwrap_or(0) as usize;
                words.by_ref().take(len).collect()
            };
            let arrived = list();
            report
                .arrived
                .extend(arrived.iter().map(|call| (call / 2, call % 2 == 1)));
            let admitted = list();
            report.admitted_by.push(admitted.len());
            report.admitted.extend(admitted);
            report.back.push(list());
            let totals = list();
            report.trips.push(totals[0]);
            report.slowest = report.slowest.max(totals[1] as f64 / 1e3);
            report.ping = report.ping.max(totals[2] as f64 / 1e3);
        }
        report.arrived.sort_unstable();
        report.admitted.sort_unstable();
        report
    }

    /// Returns what one central token bucket would have decided.
    pub(crate) fn central(&self, settings: &Settings) -> Central {
        let (mut tokens, mut at) = (settings.burst as f64, self.start);
        let mut central = Central::default();
        for &(call, rejected) in &self.arrived {
            let earned = call.saturating_sub(at) as f64 / 1e6 * settings.rate as f64;
            tokens = (tokens + earned).min(settings.burst as f64);
            at = at.max(call);
            if tokens >= 1.0 {
                tokens -= 1.0;
                central.admitted += 1;
                central.falsely_rejected += usize::from(rejected);
            } else {
                central.rejected += 1;
            }
        }
        central
    }

    pub(crate) fn rejected(&self) -> usize {
        self.arrived.iter().filter(|call| call.1).count()
    }

    /// Returns the calls that the fleet admitted, as a share of what a central limiter would have.
    pub(crate) fn used(&self, central: &Central) -> f64 {
        self.admitted.len() as f64 / central.admitted as f64
    }

    /// Returns the smallest burst that explains the admitted calls of every window.
    pub(crate) fn explained(&self, settings: &Settings) -> f64 {
        let (mut used, mut at, mut most) = (0.0_f64, self.start, 0.0_f64);
        for &call in &self.admitted {
            let passed = call.saturating_sub(at) as f64 / 1e6;
            used = (used - passed * settings.rate as f64).max(0.0) + 1.0;
            at = at.max(call);
            most = most.max(used);
        }
        most
    }

    /// Returns the trips a second of the process that made the most.
    pub(crate) fn most_trips(&self, settings: &Settings) -> f64 {
        self.trips.iter().max().copied().unwrap_or(0) as f64 / settings.seconds
    }

    /// Returns the calls admitted by the first process, by those of the last.
    pub(crate) fn spread(&self) -> f64 {
        let most = self.admitted_by.iter().max().copied().unwrap_or(0) as f64;
        most / self.admitted_by.iter().min().copied().unwrap_or(1).max(1) as f64
    }

    /// Returns how long after its return the last process noticed that the store was back, in seconds.
    pub(crate) fn shared_again(&self) -> Option<f64> {
        let returned = self.returned?;
        let noticed = self
            .back
            .iter()
            .map(|times| times.iter().find(|time| **time >= returned));
        let last = noticed.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some((last - returned) as f64 / 1e6)
    }

    /// Returns the rate of admitted calls during the fault, by the configured rate.
    pub(crate) fn during(&self, settings: &Settings) -> f64 {
        let at = |part: f64| self.start + (settings.seconds * part * 1e6) as u64;
        let count = |until| self.admitted.partition_point(|time| *time < until);
        let admitted = count(at(FAULT.1)) - count(at(FAULT.0));
        admitted as f64 / (settings.seconds * (FAULT.1 - FAULT.0)) / settings.rate as f64
    }

    pub(crate) fn print(&self, settings: &Settings) {
        let central = self.central(settings);
        println!(
            "asked for {} admitted {}, one central limiter {}, {:.2} of the rate during the fault",
            self.arrived.len(),
            self.admitted.len(),
            central.admitted,
            self.during(settings),
        );
        println!(
            "burst {}, smallest that explains all admitted calls {:.0}; most trips a second of a process {:.1}; \
             slowest call {:.1} ms, slowest PING {:.1} ms",
            settings.burst,
            self.explained(settings),
            self.most_trips(settings),
            self.slowest,
            self.ping,
        );
    }
}
