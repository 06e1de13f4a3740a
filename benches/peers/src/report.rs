//! Runs a row, judges it, and prints it.

use std::iter;

use serde_json::{Value, json};

use crate::measure::{Candidate, Effort, Measured, Spread, allocations, interleave};
use crate::rows::{Contest, Floor, Row, Target};

/// A row with its figures.
pub struct Line {
    pub row: String,
    pub threads: usize,
    pub unit: &'static str,
    pub target: Target,
    pub ours: Entry,
    pub peers: Vec<Entry>,
    /// The index of the peer to beat.
    pub rival: usize,
    pub ratio: Spread,
}

/// One candidate's figures.
pub struct Entry {
    pub name: String,
    pub figure: Spread,
    /// Allocations per operation, if counted.
    pub allocations: Option<f64>,
}

impl Line {
    /// Measures a row.
    pub fn of(row: Row, effort: Effort) -> Self {
        match row.contest {
            Contest::Time { ours, peers, floor } => {
                let head = Head {
                    row: row.name,
                    threads: row.threads,
                    target: row.target,
                };
                race(head, &ours, &peers, &floor, row.rival, effort)
            }
            Contest::Allocations { ours, peers } => {
                let count = |candidate: &Candidate| {
                    let figure = Spread::exact(allocations(candidate));
                    Entry::new(&candidate.name, figure, None)
                };
                let peers = peers.iter().map(count).collect();
                Self::exact(row.name, "allocations", row.target, count(&ours), peers)
            }
            Contest::Known { unit, ours, peers } => {
                let entry =
                    |(name, figure): (String, f64)| Entry::new(&name, Spread::exact(figure), None);
                let ours = entry(("ours".to_owned(), ours));
                let peers = peers.into_iter().map(entry).collect();
                Self::exact(row.name, unit, row.target, ours, peers)
            }
        }
    }

    fn exact(
        row: String,
        unit: &'static str,
        target: Target,
        ours: Entry,
        peers: Vec<Entry>,
    ) -> Self {
        let rival = fastest(&peers);
        let ratio = match target {
            Target::Ratio(_) => ours.figure.median / peers[rival].figure.median,
            Target::AtMost(_) => ours.figure.median,
        };
        Self {
            row,
            threads: 1,
            unit,
            target,
            ours,
            peers,
            rival,
            ratio: Spread::exact(ratio),
        }
    }

    /// Returns the largest ratio that meets the target.
    pub fn limit(&self) -> f64 {
        match self.target {
            Target::Ratio(limit) | Target::AtMost(limit) => limit,
        }
    }

    /// Returns whether the target is met.
    pub fn ok(&self) -> bool {
        self.ratio.median <= self.limit()
    }

    /// Returns whether the target is missed by more than the spread: in three rounds of four.
    pub fn missed(&self) -> bool {
        self.ratio.low > self.limit()
    }

    /// Prints the row of the table.
    pub fn print(&self, verbose: bool) {
        let rival = &self.peers[self.rival];
        println!(
            "{:<68} {:>2}  {:>9} {:>11}  {:<17} {:>9} {:>7.3} ({:.3}-{:.3}) {:>6}  {}",
            self.row,
            self.threads,
            number(self.ours.figure.median),
            self.unit,
            rival.name,
            number(rival.figure.median),
            self.ratio.median,
            self.ratio.low,
            self.ratio.high,
            self.limit(),
            if self.ok() { '✓' } else { '✗' },
        );
        if verbose {
            for entry in iter::once(&self.ours).chain(&self.peers) {
                entry.print();
            }
        }
    }

    /// Prints the column headings of [`print`](Self::print).
    pub fn print_head() {
        println!(
            "{:<68} {:>2}  {:>9} {:>11}  {:<17} {:>9} {:>7} {:<13} {:>6}",
            "row", "th", "ours", "", "best peer", "", "ratio", "(quartiles)", "target"
        );
    }

    /// Returns the row as JSON. `ours_ns` and `peer_ns` are nanoseconds unless `unit` says otherwise.
    pub fn json(&self) -> Value {
        let rival = &self.peers[self.rival];
        json!({
            "row": self.row,
            "threads": self.threads,
            "ours_ns": self.ours.figure.median,
            "peer": rival.name,
            "peer_ns": rival.figure.median,
            "ratio": self.ratio.median,
            "target": self.limit(),
            "ok": self.ok(),
            "unit": self.unit,
        })
    }
}

impl Entry {
    fn new(name: &str, figure: Spread, allocations: Option<f64>) -> Self {
        Self {
            name: name.to_owned(),
            figure,
            allocations,
        }
    }

    fn print(&self) {
        let Spread { low, median, high } = self.figure;
        print!(
            "    {:<24} {:>9} ({}-{})",
            self.name,
            number(median),
            number(low),
            number(high)
        );
        match self.allocations {
            Some(allocations) => println!("  {allocations} allocations"),
            None => println!(),
        }
    }
}

struct Head {
    row: String,
    threads: usize,
    target: Target,
}

fn race(
    head: Head,
    ours: &Candidate,
    peers: &[Candidate],
    floor: &Floor,
    rival: Option<&str>,
    effort: Effort,
) -> Line {
    let mut candidates: Vec<Candidate> = iter::once(ours).chain(peers).cloned().collect();
    if let Floor::Ours(floor) | Floor::Both(floor) = floor {
        candidates.push(floor.clone());
    }
    let mut measured = interleave(&candidates, head.threads, effort);
    // Compared round by round: a lasting disturbance affects both sides of a ratio.
    if !matches!(floor, Floor::None) {
        let under = measured.pop().expect("the floor was measured");
        let reduced = match floor {
            Floor::Both(_) => measured.len(),
            _ => 1,
        };
        for measured in &mut measured[..reduced] {
            take_off(measured, &under);
        }
    }
    let entries: Vec<Entry> = iter::zip(&candidates, &measured)
        .map(|(candidate, measured)| {
            let figure = Spread::of(measured.rounds.iter().copied());
            Entry::new(&candidate.name, figure, Some(allocations(candidate)))
        })
        .collect();
    let mut entries = entries.into_iter();
    let ours = entries.next().expect("ours was measured");
    let peers: Vec<Entry> = entries.collect();
    let rival = match rival {
        Some(name) => peers
            .iter()
            .position(|peer| peer.name == name)
            .unwrap_or_else(|| panic!("{}: no peer is called {name}", head.row)),
        None => fastest(&peers),
    };
    let rounds = iter::zip(&measured[0].rounds, &measured[1 + rival].rounds);
    let ratios = rounds.map(|(ours, peer)| match head.target {
        Target::Ratio(_) => ours / peer,
        Target::AtMost(_) => *ours,
    });
    Line {
        row: head.row,
        threads: head.threads,
        unit: "ns",
        target: head.target,
        ratio: Spread::of(ratios),
        ours,
        peers,
        rival,
    }
}

/// Subtracts the floor from each round. The remainder is at least a hundredth of a nanosecond, about the
/// resolution, so that a ratio of two near-zero figures stays finite.
fn take_off(measured: &mut Measured, floor: &Measured) {
    for (figure, floor) in iter::zip(&mut measured.rounds, &floor.rounds) {
        *figure = (*figure - floor).max(0.01);
    }
}

fn fastest(peers: &[Entry]) -> usize {
    let by_median = |a: &usize, b: &usize| {
        let median = |place: usize| peers[place].figure.median;
        median(*a).total_cmp(&median(*b))
    };
    (0..peers.len())
        .min_by(by_median)
        .expect("a row has at least one peer")
}

/// Formats about three significant digits.
fn number(figure: f64) -> String {
    match figure {
        f if f == f.trunc() => format!("{f}"),
        f if f < 10.0 => format!("{f:.2}"),
        f if f < 100.0 => format!("{f:.1}"),
        f => format!("{f:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(target: Target, ours: f64, peers: &[(&str, f64)]) -> Line {
        let row = Row::known("row", "bytes", target, ours, peers.iter().copied());
        Line::of(row, Effort::QUICK)
    }

    #[test]
    fn the_best_peer_is_the_one_to_beat() {
        let line = counted(Target::Ratio(0.5), 10.0, &[("slow", 40.0), ("fast", 20.0)]);
        assert_eq!(line.peers[line.rival].name, "fast");
        assert_eq!(line.ratio.median, 0.5);
        assert!(line.ok() && !line.missed());
    }

    #[test]
    fn an_absolute_target_ignores_the_peers() {
        let line = counted(Target::AtMost(20.0), 21.0, &[("peer", 100.0)]);
        assert_eq!(line.ratio.median, 21.0);
        assert!(!line.ok() && line.missed());
    }

    #[test]
    fn an_absolute_target_of_times_is_compared_with_our_time() {
        let spin = |name, turns: u64| {
            crate::measure::Candidate::new(name, move |operations| {
                for turn in 0..operations * turns {
                    std::hint::black_box(turn);
                }
            })
        };
        let contest = Contest::Time {
            ours: spin("ours", 1000),
            peers: vec![spin("peer", 100_000)],
            floor: Floor::None,
        };
        let row = Row {
            name: "row".to_owned(),
            threads: 1,
            target: Target::AtMost(1.0),
            contest,
            rival: None,
        };
        // Faster than the peer, and a thousand turns take more than a nanosecond.
        let line = Line::of(row, Effort::QUICK);
        assert_eq!(line.ratio.median, line.ours.figure.median);
        assert!(line.missed());
    }

    #[test]
    fn a_miss_within_the_scatter_is_not_ok_and_not_fatal() {
        let mut line = counted(Target::Ratio(1.0), 11.0, &[("peer", 10.0)]);
        line.ratio = Spread {
            low: 0.95,
            median: 1.1,
            high: 1.2,
        };
        assert!(!line.ok() && !line.missed());
    }

    #[test]
    fn json_has_the_keys_that_readers_rely_on() {
        let line = counted(Target::Ratio(0.5), 10.0, &[("peer", 20.0)]);
        let expected = json!({
            "row": "row", "threads": 1, "ours_ns": 10.0, "peer": "peer", "peer_ns": 20.0,
            "ratio": 0.5, "target": 0.5, "ok": true, "unit": "bytes",
        });
        assert_eq!(line.json(), expected);
    }

    #[test]
    fn a_floor_is_taken_off_round_by_round() {
        let mut measured = Measured {
            rounds: vec![5.0, 6.0, 1.0],
        };
        let floor = Measured {
            rounds: vec![1.0, 3.0, 2.0],
        };
        take_off(&mut measured, &floor);
        assert_eq!(measured.rounds, [4.0, 3.0, 0.01]);
    }
}
