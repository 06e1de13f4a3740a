//! A dependency that dies and comes back, and a breaker in front of it. Virtual time, so it runs at
//! once:
//!
//! ```sh
//! cargo run --example circuit_breaker
//! ```

use std::cell::Cell;
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::{Backoff, CircuitBreaker, Clock, ConfigError, Error, ManualClock, Policy};
use futures::future::select;
use futures::pin_mut;

/// The dependency is down between these seconds.
const DOWN: std::ops::Range<u64> = 10..40;

#[derive(Debug)]
struct Refused;

fn seconds(clock: &ManualClock) -> f64 {
    Duration::from_nanos(clock.now().as_nanos()).as_secs_f64()
}

fn main() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .name("billing")
        .trip_on(
            Trip::failure_rate(0.5)
                .within(Duration::from_secs(10))
                .min_calls(5),
        )
        .break_for(Backoff::exponential(Duration::from_secs(5)).max(Duration::from_secs(10)))
        .half_open(HalfOpen::successes(2).of(3))
        .ramp_up(Duration::from_secs(5))
        .seed(7)
        .clock(clock.clone())
        .build()?;

    let billing = || async {
        clock.sleep(Duration::from_millis(20)).await;
        match DOWN.contains(&(seconds(&clock) as u64)) {
            true => Err(Refused),
            false => Ok(()),
        }
    };
    let (good, failed, refused) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let add = |counter: &Cell<u32>| counter.set(counter.get() + 1);

    clock.block_on(async {
        let mut transitions = breaker.subscribe();
        let print = async {
            while let Some(change) = transitions.next().await {
                println!("{:>6.2} s  {change}", seconds(&clock));
            }
        };
        // A call every quarter of a second, for a minute.
        let work = async {
            for _ in 0..240 {
                match breaker.call(billing).await {
                    Ok(()) => add(&good),
                    Err(Error::Operation(Refused)) => add(&failed),
                    Err(_) => add(&refused),
                }
                clock.sleep(Duration::from_millis(250)).await;
            }
        };
        pin_mut!(print, work);
        select(print, work).await;
    });

    let (good, failed, refused) = (good.get(), failed.get(), refused.get());
    println!("{good} good, {failed} failed, {refused} refused at once");
    Ok(())
}
