//! A chaos experiment: baseline, hypothesis, injection, findings.
//!
//! ```sh
//! cargo run --release --example chaos --features chaos
//! ```
//!
//! A shop shows prices, which come from another service. The hypothesis is that its pages survive a bad day of that
//! service. Faults are injected next to the operation, into a capped share of the calls, and changed while calls run.
//! Two clients are tested: one with only a retry, and backstop's `Standard`. Everything runs in virtual time, and gives
//! the same results each time.

mod shop;

use std::error::Error;
use std::time::Duration;

use backstop::chaos::{Fault, Switch};

use self::shop::{Client, Day};

/// The conditions that must hold on every day.
struct Hypothesis {
    good: f64,
    p99: Duration,
    requests: f64,
}

const HYPOTHESIS: Hypothesis = Hypothesis {
    good: 0.99,
    p99: Duration::from_millis(500),
    requests: 1.3,
};

impl Hypothesis {
    fn broken(&self, day: &Day) -> Vec<String> {
        let mut broken = Vec::new();
        if day.good() < self.good {
            broken.push(format!("{:.1} % good answers", day.good() * 100.0));
        }
        if day.quantile(0.99) > self.p99 {
            broken.push(format!("p99 of {:.0?}", day.quantile(0.99)));
        }
        if day.requests_per_call() > self.requests {
            broken.push(format!("{:.2} requests per call", day.requests_per_call()));
        }
        broken
    }
}

/// A fault, and how the switch turns it on.
type Injection = (
    &'static str,
    fn(&Switch) -> Result<(), backstop::ConfigError>,
);

const INJECTIONS: [Injection; 4] = [
    ("no fault: the baseline", |_| Ok(())),
    ("5 % of calls fail", |switch| {
        switch.set_rate(Fault::Error, 0.05)
    }),
    ("10 % of calls are 2 s late", |switch| {
        switch.set_latency(Duration::from_secs(2))?;
        switch.set_rate(Fault::Latency, 0.1)
    }),
    ("everything fails", |switch| {
        switch.set_rate(Fault::Error, 1.0)
    }),
];

fn main() -> Result<(), Box<dyn Error>> {
    let Hypothesis {
        good,
        p99,
        requests,
    } = HYPOTHESIS;
    println!(
        "hypothesis: at least {:.0} % good answers, p99 up to {p99:?}, up to {requests} requests per call\n",
        good * 100.0
    );
    println!(
        "{:<28} {:<10} {:>7} {:>8} {:>9}  finding",
        "injection", "client", "good", "p99", "req/call"
    );
    for (name, inject) in INJECTIONS {
        for client in [Client::Retry, Client::Standard] {
            let day = shop::day(client, inject)?;
            let broken = HYPOTHESIS.broken(&day);
            let finding = match broken.is_empty() {
                true => "holds".to_owned(),
                false => format!("broken: {}", broken.join(", ")),
            };
            println!(
                "{name:<28} {:<10} {:>5.1} % {:>8} {:>9.2}  {finding}",
                client.name(),
                day.good() * 100.0,
                format!("{:.0?}", day.quantile(0.99)),
                day.requests_per_call(),
            );
        }
    }
    println!("\nfindings:");
    println!(
        "* Without an attempt timeout the late calls determine the p99: the retry never sees them."
    );
    println!(
        "* When everything fails no client has good answers, but the retry alone triples the load;"
    );
    println!(
        "  under Standard the circuit opens, and the service gets less load than on a good day."
    );
    println!("* The next experiment: a fallback outside, for pages with the last known price.");
    Ok(())
}
