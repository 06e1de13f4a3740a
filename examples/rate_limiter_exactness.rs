//! Two threads hammer a token bucket for a second of real time, and what got through is compared
//! with what should have: rate × time + burst.
//!
//! ```sh
//! cargo run --release --example rate_limiter_exactness
//! ```
//!
//! Never more than that, or it ends with an error; and hardly less, at least 0.995, as long as the
//! machine does not hold the threads up for longer than the burst lasts.

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use backstop::{BlockingClock, Clock, Quota, RateLimiter};

const THREADS: usize = 2;
const TIME: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    println!(
        "{:>11} {:>9} {:>8} {:>10} {:>13} {:>9}",
        "rate", "burst", "stripes", "admitted", "rate*t+burst", "ratio"
    );
    let mut invented = false;
    for (rate, stripes) in [(1_000_000, 1), (1_000_000, 2), (10_000, 1), (10_000, 2)] {
        // A second's worth, so that being held up by other programs costs no tokens.
        let burst = rate;
        let (admitted, due) = hammer(rate, burst, stripes)?;
        let ratio = admitted as f64 / due;
        println!(
            "{:>11} {burst:>9} {stripes:>8} {admitted:>10} {due:>13.1} {ratio:>9.6}",
            format!("{rate}/s"),
        );
        invented |= ratio > 1.0;
        if ratio < 0.995 {
            eprintln!("less than 0.995: is the machine busy with something else?");
        }
    }
    if invented {
        eprintln!("more than 1.000: tokens were invented");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// How many got through, and how many should have.
fn hammer(rate: u64, burst: u64, stripes: usize) -> Result<(u64, f64), Box<dyn Error>> {
    let clock = BlockingClock;
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(rate).burst(burst))
        .stripes(stripes)
        .clock(clock)
        .build()?;
    let start = clock.now();
    let admitted = thread::scope(|scope| {
        let work = |_| {
            scope.spawn(|| {
                let mut admitted = 0;
                while clock.now() < start + TIME {
                    admitted += u64::from(limiter.try_acquire().is_ok());
                }
                admitted
            })
        };
        let threads: Vec<_> = (0..THREADS).map(work).collect();
        threads
            .into_iter()
            .map(|thread| thread.join())
            .sum::<Result<u64, _>>()
    });
    let mut admitted = admitted.map_err(|_| "a thread panicked")?;
    // Where other programs hold a thread up, there is something left at the end.
    while limiter.try_acquire().is_ok() {
        admitted += 1;
    }
    let time = clock.now().saturating_duration_since(start);
    Ok((admitted, rate as f64 * time.as_secs_f64() + burst as f64))
}
