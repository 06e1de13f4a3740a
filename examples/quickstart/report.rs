//! What a run of calls looked like, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// One call: whether the answer was good, how long it took, and who refused it.
pub(crate) struct Call {
    pub(crate) good: bool,
    pub(crate) took: Duration,
    pub(crate) refused: Option<&'static str>,
}

/// The calls of one run, and the requests they caused.
pub(crate) struct Run {
    calls: Vec<Call>,
    requests: u64,
}

impl Run {
    pub(crate) fn new(mut calls: Vec<Call>, requests: u64) -> Self {
        calls.sort_by_key(|call| call.took);
        Self { calls, requests }
    }

    fn good(&self) -> f64 {
        self.calls.iter().filter(|call| call.good).count() as f64 / self.calls.len() as f64
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        let last = self.calls.len() - 1;
        self.calls[(last as f64 * quantile) as usize]
            .took
            .as_secs_f64()
            * 1e3
    }

    fn sent_per_call(&self) -> f64 {
        self.requests as f64 / self.calls.len() as f64
    }

    fn refused(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for reason in self.calls.iter().filter_map(|call| call.refused) {
            *counts.entry(reason).or_default() += 1;
        }
        counts
    }

    fn json(&self) -> Value {
        json!({
            "good": self.good(),
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "sent_per_call": self.sent_per_call(),
            "calls": self.calls.len(),
        })
    }
}

/// One JSON object with both runs.
pub(crate) fn json(bare: &Run, backstop: &Run) -> Value {
    let mut with_refused = backstop.json();
    with_refused["refused"] = json!(backstop.refused());
    json!({ "bare": bare.json(), "backstop": with_refused })
}

/// A table that can be read at a glance.
pub(crate) fn table(bare: &Run, backstop: &Run) -> String {
    let mut text = format!("{:>28} {:>10} {:>10}\n", "", "bare", "backstop");
    type Cell = fn(&Run) -> String;
    let rows: [(&str, Cell); 5] = [
        ("calls", |run| run.calls.len().to_string()),
        ("good answers", |run| format!("{:.1} %", run.good() * 100.0)),
        ("p50", |run| format!("{:.0} ms", run.quantile_ms(0.5))),
        ("p99", |run| format!("{:.0} ms", run.quantile_ms(0.99))),
        ("requests sent per call", |run| {
            format!("{:.2}", run.sent_per_call())
        }),
    ];
    for (label, cell) in rows {
        text += &format!("{label:>28} {:>10} {:>10}\n", cell(bare), cell(backstop));
    }
    for (reason, count) in backstop.refused() {
        text += &format!(
            "{:>28} {:>10} {count:>10}\n",
            format!("refused: {reason}"),
            "-"
        );
    }
    text
}
