//! A dependency that fails and recovers, seen through a circuit breaker.
//!
//! ```text
//! cargo run --example circuit_breaker
//! ```
//!
//! Simulates a minute in virtual time, so it ends at once and always prints the same output.

use std::cell::Cell;
use std::error::Error;
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Transition, Transitions, Trip};
use backstop::{Backoff, CircuitBreaker, Clock, Error as CallError, Jitter, ManualClock, Policy};
use futures::future::{Either, join, select};
use futures::pin_mut;

const SECOND: Duration = Duration::from_secs(1);

/// When the dependency is down, in seconds from the start.
const OUTAGE: std::ops::Range<u64> = 10..40;
const END: u64 = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .name("inventory")
        .trip_on(Trip::failure_rate(0.5).within(10 * SECOND).min_calls(10))
        .break_for(Backoff::exponential(5 * SECOND).jitter(Jitter::None))
        .half_open(HalfOpen::successes(2).of(3))
        .clock(clock.clone())
        .build()?;

    println!(
        "The dependency is down from second {} to {}.\n",
        OUTAGE.start, OUTAGE.end
    );
    let transitions = breaker.subscribe();
    let counts = CallCounts::default();
    clock.block_on(async {
        let traffic = traffic(&clock, &breaker, &counts);
        pin_mut!(traffic);
        let watch = watch(&clock, transitions, &counts);
        pin_mut!(watch);
        // The traffic always ends first: the stream ends with the breaker, which outlives this block.
        if let Either::Right(_) = select(traffic, watch).await {
            unreachable!("the breaker exists");
        }
    });
    counts.print(&clock);

    assert_eq!(breaker.state(), State::Closed);
    Ok(())
}

/// Four calls a second, until the end.
async fn traffic(clock: &ManualClock, breaker: &CircuitBreaker, counts: &CallCounts) {
    while seconds(clock) < END {
        let call = breaker.call(|| dependency(clock));
        // A call is shorter than the interval.
        let (result, ()) = join(call, clock.sleep(SECOND / 4)).await;
        counts.count(&result);
    }
}

/// Succeeds after 20 ms while it is up, and fails after 200 ms while it is down.
async fn dependency(clock: &ManualClock) -> Result<(), &'static str> {
    if OUTAGE.contains(&seconds(clock)) {
        clock.sleep(SECOND / 5).await;
        Err("connection reset")
    } else {
        clock.sleep(SECOND / 50).await;
        Ok(())
    }
}

/// Prints the transitions.
async fn watch(clock: &ManualClock, mut transitions: Transitions, counts: &CallCounts) {
    println!(
        "{:>8}  {:<9} {:<16} {:>9} {:>7} {:>8}",
        "", "state", "why", "succeeded", "failed", "rejected"
    );
    while let Some(change) = transitions.next().await {
        counts.print(clock);
        let Transition {
            to,
            cause,
            break_for,
            ..
        } = change;
        let length = break_for.map_or(String::new(), |length| format!("for {length:?}"));
        let line = format!("{:>8}  {to:<9} {cause:<16} {length}", time(clock));
        println!("{}", line.trim_end());
    }
}

/// Results of the calls since the last print.
#[derive(Default)]
struct CallCounts {
    succeeded: Cell<u32>,
    failed: Cell<u32>,
    rejected: Cell<u32>,
}

impl CallCounts {
    fn count(&self, result: &Result<(), CallError<&str>>) {
        let count = match result {
            Ok(()) => &self.succeeded,
            Err(error) if error.is_rejected() => &self.rejected,
            Err(_) => &self.failed,
        };
        count.set(count.get() + 1);
    }

    fn print(&self, clock: &ManualClock) {
        let [succeeded, failed, rejected] =
            [&self.succeeded, &self.failed, &self.rejected].map(Cell::take);
        println!(
            "{:>8}  {:<26} {succeeded:>9} {failed:>7} {rejected:>8}",
            time(clock),
            "calls until then:",
        );
    }
}

fn seconds(clock: &ManualClock) -> u64 {
    clock.now().as_nanos() / 1_000_000_000
}

fn time(clock: &ManualClock) -> String {
    format!("{:.2} s", clock.now().as_nanos() as f64 / 1e9)
}
