//! The results of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::heard::Heard;
use super::server::Counts;
use super::{ATTEMPT, TOTAL};

/// One call: whether the answer was good, whether the call began during the outage, how long it took, and which
/// rejection or timeout ended it.
pub(crate) struct Call {
    pub(crate) good: bool,
    pub(crate) outage: bool,
    pub(crate) took: Duration,
    pub(crate) failed: Option<&'static str>,
}

/// The calls of one run, and the requests they caused.
pub(crate) struct Run {
    calls: Vec<Call>,
    requests: Counts,
}

impl Run {
    pub(crate) fn new(mut calls: Vec<Call>, requests: Counts) -> Self {
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

    /// Returns the median of good answers outside the outage. An error that is returned at once is not a fast answer.
    fn usual_ms(&self) -> f64 {
        let good = self.calls.iter().filter(|call| call.good && !call.outage);
        let took: Vec<_> = good.map(|call| call.took).collect();
        let middle = took.get(took.len() / 2).copied();
        middle.unwrap_or_default().as_secs_f64() * 1e3
    }

    fn sent_per_call(&self) -> f64 {
        self.requests.total() as f64 / self.calls.len() as f64
    }

    /// Returns the requests outside the outage, including those of calls that began in it, per call that began outside.
    fn sent_per_call_outside_the_outage(&self) -> f64 {
        let calls = self.calls.iter().filter(|call| !call.outage).count();
        (self.requests.total() - self.requests.down) as f64 / calls as f64
    }

    fn failed(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for reason in self.calls.iter().filter_map(|call| call.failed) {
            *counts.entry(reason).or_default() += 1;
        }
        counts
    }

    fn json(&self) -> Value {
        json!({
            "good": self.good(),
            "p50_ms": self.quantile_ms(0.5),
            "p50_ms_of_good_answers_outside_the_outage": self.usual_ms(),
            "p99_ms": self.quantile_ms(0.99),
            "sent_per_call": self.sent_per_call(),
            "sent_per_call_outside_the_outage": self.sent_per_call_outside_the_outage(),
            "calls": self.calls.len(),
        })
    }
}

/// Returns the targets that the run under backstop has missed.
pub(crate) fn missed(bare: &Run, backstop: &Run) -> Vec<&'static str> {
    let slower = backstop.usual_ms() - bare.usual_ms();
    let targets = [
        ("99 % good answers", backstop.good() >= 0.99),
        (
            "1.3 requests per call outside the outage",
            backstop.sent_per_call_outside_the_outage() <= 1.3,
        ),
        ("a p50 within 1 ms of the bare one", slower <= 1.0),
    ];
    let missed = targets.into_iter().filter(|(_, holds)| !holds);
    missed.map(|(target, _)| target).collect()
}

/// Returns one JSON object with both runs.
pub(crate) fn json(bare: &Run, backstop: &Run) -> Value {
    let mut with_failed = backstop.json();
    with_failed["failed"] = json!(backstop.failed());
    json!({ "bare": bare.json(), "backstop": with_failed, "missed": missed(bare, backstop) })
}

/// Returns a table of both runs.
pub(crate) fn table(bare: &Run, backstop: &Run) -> String {
    let mut text = format!("{:>28} {:>10} {:>10}\n", "", "bare", "backstop");
    type Cell = fn(&Run) -> String;
    let rows: [(&str, Cell); 6] = [
        ("calls", |run| run.calls.len().to_string()),
        ("good answers", |run| format!("{:.1} %", run.good() * 100.0)),
        ("p50 of good answers*", |run| {
            format!("{:.1} ms", run.usual_ms())
        }),
        ("p99", |run| format!("{:.0} ms", run.quantile_ms(0.99))),
        ("requests per call", |run| {
            format!("{:.2}", run.sent_per_call())
        }),
        ("requests per call*", |run| {
            format!("{:.2}", run.sent_per_call_outside_the_outage())
        }),
    ];
    for (label, cell) in rows {
        text += &format!("{label:>28} {:>10} {:>10}\n", cell(bare), cell(backstop));
    }
    text += &format!("{:>28}\n", "* without the outage");
    for (reason, count) in backstop.failed() {
        let label = format!("failed: {reason}");
        text += &format!("{label:>28} {:>10} {count:>10}\n", "-");
    }
    text
}

/// Returns what the server did, and what each policy did about it, one line each.
pub(crate) fn story(backstop: &Run, heard: &Heard) -> String {
    let sent = &backstop.requests;
    let lines = [
        (
            format!("{} answers took 0.5 to 1.5 s", sent.slow),
            format!(
                "attempt timeout: cut {} attempts after {ATTEMPT:?}",
                heard.attempts_cut.get()
            ),
        ),
        (
            format!("{} connections reset", sent.reset),
            format!(
                "retry: repeated {} failed attempts; calls given up: {}",
                heard.repeated.get(),
                heard.given_up.get()
            ),
        ),
        (
            format!("{} answers 503, Retry-After: 1", sent.busy),
            format!(
                "retry: repeated {} of them, a second later",
                heard.waited_as_told.get()
            ),
        ),
        (
            format!("{} answers 502 in an outage of 0.3 s", sent.down),
            format!(
                "breaker: opened {} times, kept {} attempts away, which came back {} times",
                heard.opened.get(),
                heard.kept_away.get(),
                heard.waited_for_circuit.get()
            ),
        ),
        (
            format!("{} good answers within 20 ms", sent.good),
            format!(
                "total timeout: cut {} calls after {TOTAL:?}; limiter: rejected {}",
                heard.calls_cut.get(),
                heard.limited.get()
            ),
        ),
    ];
    let mut text = format!(
        "{:>40}   {}\n",
        "what the server did", "what backstop did about it"
    );
    for (server, policy) in lines {
        text += &format!("{server:>40}   {policy}\n");
    }
    text
}
