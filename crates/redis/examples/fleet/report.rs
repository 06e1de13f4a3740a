//! The results of the fleet, row by row and at the end.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use crate::{REPORT_EVERY, SHARES, Settings};

/// Prints a row for each half second, once all processes have reported. Returns the slowest call and
/// the slowest `PING` in microseconds, and the trips of all processes.
pub(crate) fn print_rows(settings: &Settings, rows: &Receiver<(usize, String)>) -> (u64, u64, u64) {
    let mut reports: HashMap<usize, Vec<(usize, Vec<u64>)>> = HashMap::new();
    let mut counts = [0; SHARES.len()];
    let (mut slowest, mut ping, mut all_trips) = (0, 0, 0);
    if !settings.summary {
        println!(
            "    time  store  admitted/s by process       fleet/s                           trips/s  slowest"
        );
    }
    for (node, line) in rows {
        let numbers: Vec<u64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        if numbers.len() != 6 {
            continue;
        }
        slowest = slowest.max(numbers[4]);
        ping = ping.max(numbers[5]);
        all_trips += numbers[2];
        let row = counts[node];
        counts[node] += 1;
        let all = reports.entry(row).or_default();
        all.push((node, numbers));
        if all.len() < SHARES.len() || settings.summary {
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
    (slowest, ping, all_trips)
}

/// The times at which calls arrived and were admitted.
pub(crate) struct Report {
    start: u64,
    arrived: Vec<u64>,
    admitted: Vec<u64>,
    by_node: Vec<usize>,
}

impl Report {
    pub(crate) fn read(_: &Settings, start: u64, files: impl Iterator<Item = PathBuf>) -> Self {
        let (mut arrived, mut admitted, mut by_node) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            let bytes = fs::read(file).expect("a process has written it");
            let mut words = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
            let mut list = || -> Vec<u64> {
                let len = words.next().unwrap_or(0) as usize;
                words.by_ref().take(len).collect()
            };
            arrived.extend(list());
            let own = list();
            by_node.push(own.len());
            admitted.extend(own);
        }
        arrived.sort_unstable();
        admitted.sort_unstable();
        Self {
            start,
            arrived,
            admitted,
            by_node,
        }
    }

    /// Returns the number of calls that one central token bucket would have admitted.
    fn central(&self, settings: &Settings) -> u64 {
        let (mut tokens, mut at, mut admitted) = (settings.burst as f64, self.start, 0);
        for &call in &self.arrived {
            let earned = call.saturating_sub(at) as f64 / 1e6 * settings.rate as f64;
            tokens = (tokens + earned).min(settings.burst as f64);
            at = at.max(call);
            if tokens >= 1.0 {
                tokens -= 1.0;
                admitted += 1;
            }
        }
        admitted
    }

    /// Returns the smallest burst that explains the admitted calls of every window.
    fn explained(&self, settings: &Settings) -> f64 {
        let (mut used, mut at, mut most) = (0.0_f64, self.start, 0.0_f64);
        for &call in &self.admitted {
            let passed = call.saturating_sub(at) as f64 / 1e6;
            used = (used - passed * settings.rate as f64).max(0.0) + 1.0;
            at = at.max(call);
            most = most.max(used);
        }
        most
    }

    fn admitted_between(&self, from: f64, to: f64) -> usize {
        let at = |seconds: f64| self.start + (seconds * 1e6) as u64;
        let count = |until| self.admitted.partition_point(|time| *time < until);
        count(at(to)) - count(at(from))
    }

    pub(crate) fn print(&self, settings: &Settings, (slowest, ping, trips): (u64, u64, u64)) {
        let central = self.central(settings);
        let admitted = self.admitted.len() as u64;
        let most = self.by_node.iter().max().copied().unwrap_or(0) as f64;
        let least = self.by_node.iter().min().copied().unwrap_or(1).max(1) as f64;
        let limit = settings.rate as f64 * settings.seconds + settings.burst as f64;
        print!(
            "rate {} burst {} load {} {}: asked {} admitted {admitted} central {central} ({:+}) used {:.4} of rate*t+burst {:.4} \
             burst explained {:.0} ({:.3}) most/least {:.2} trips/s and process {:.1} slowest {:.1} ms",
            settings.rate,
            settings.burst,
            settings.load,
            settings.outage,
            self.arrived.len(),
            admitted as i64 - central as i64,
            admitted as f64 / central as f64,
            admitted as f64 / limit,
            self.explained(settings),
            self.explained(settings) / settings.burst as f64,
            most / least,
            trips as f64 / settings.seconds / SHARES.len() as f64,
            slowest as f64 / 1e3,
        );
        if settings.ping {
            print!(" slowest PING {:.1} ms", ping as f64 / 1e3);
        }
        if matches!(settings.outage.as_str(), "kill" | "stop") {
            let (from, to) = (settings.seconds * 0.4, settings.seconds * 0.7);
            let during = self.admitted_between(from, to) as f64 / (to - from);
            let after = self.admitted_between(to, to + 1.5) as f64 / 1.5;
            print!(
                " outage {:.3} of the rate, 1.5 s after it {:.3}",
                during / settings.rate as f64,
                after / settings.rate as f64,
            );
        }
        println!();
    }
}
