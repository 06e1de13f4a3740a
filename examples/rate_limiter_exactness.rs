//! Two threads hammer a token bucket for a second of real time. The number of admitted calls is compared with the exact
//! one: rate × time + burst, never more, and at least 0.995 of it.
//!
//! ```sh
//! cargo run --release --example rate_limiter_exactness
//! ```
//!
//! Fails if that does not hold, even on a busy machine. The time runs from the first decision to the last, and each of
//! the two is only known to lie between two readings of the clock. So the admitted calls are compared twice: with the
//! most that the longest time allows, and with the least that the shortest time earns.

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use backstop::{BlockingClock, Clock, Instant, Quota, RateLimiter};

const THREADS: usize = 2;
const TIME: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    println!(
        "{:>11} {:>9} {:>8} {:>10} {:>13} {:>9} {:>9}",
        "rate", "burst", "stripes", "admitted", "rate*t+burst", "of most", "of least"
    );
    let mut exact = true;
    for (rate, stripes) in [(1_000_000, 1), (1_000_000, 2), (10_000, 1), (10_000, 2)] {
        // A second's worth, so that preemption by other programs costs no tokens.
        let burst = rate;
        let limiter = RateLimiter::builder()
            .quota(Quota::per_second(rate).burst(burst))
            .stripes(stripes)
            .clock(BlockingClock)
            .build()?;
        let run = hammer(&limiter)?;
        let due = |time: Duration| rate as f64 * time.as_secs_f64() + burst as f64;
        let (most, least) = (due(run.at_most), due(run.at_least));
        let (of_most, of_least) = (run.admitted as f64 / most, run.admitted as f64 / least);
        println!(
            "{:>11} {burst:>9} {stripes:>8} {:>10} {most:>13.1} {of_most:>9.6} {of_least:>9.6}",
            format!("{rate}/s"),
            run.admitted,
        );
        if of_most > 1.0 {
            eprintln!("more than 1.000: tokens were invented");
            exact = false;
        }
        if of_least < 0.995 {
            eprintln!("less than 0.995: tokens were lost");
            exact = false;
        }
    }
    Ok(match exact {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The number of admitted calls, and the bounds of the time from the first to the last.
struct Run {
    admitted: u64,
    at_most: Duration,
    at_least: Duration,
}

/// A call of the limiter between two readings of the clock.
struct Call {
    before: Instant,
    after: Instant,
    admitted: bool,
}

fn call(limiter: &RateLimiter) -> Call {
    Call {
        before: BlockingClock.now(),
        admitted: limiter.try_acquire().is_ok(),
        after: BlockingClock.now(),
    }
}

fn hammer(limiter: &RateLimiter) -> Result<Run, Box<dyn Error>> {
    let work = || {
        let first = call(limiter);
        let mut admitted = u64::from(first.admitted);
        while BlockingClock.now() < first.after + TIME {
            admitted += u64::from(limiter.try_acquire().is_ok());
        }
        (first, admitted)
    };
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join())
            .collect::<Result<Vec<_>, _>>()
    });
    let done = done.map_err(|_| "a thread panicked")?;
    let mut admitted = done.iter().map(|(_, admitted)| admitted).sum();
    // If other programs preempt a thread, some tokens are left at the end. The last call is the first one that finds
    // none.
    let last = loop {
        let last = call(limiter);
        if !last.admitted {
            break last;
        }
        admitted += 1;
    };
    let firsts = || done.iter().map(|(first, _)| first);
    let earliest = firsts().map(|first| first.before).min();
    // An unused stripe is full and earns nothing, so the rate starts with its first call.
    let latest = firsts().map(|first| first.after).max();
    let (earliest, latest) = earliest.zip(latest).ok_or("there are no threads")?;
    Ok(Run {
        admitted,
        at_most: last.after.saturating_duration_since(earliest),
        at_least: last.before.saturating_duration_since(latest),
    })
}
