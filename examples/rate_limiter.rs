//! Limits per customer, by tier, in front of a backend that runs one job at a time.
//!
//! ```sh
//! cargo run --release --example rate_limiter
//! ```
//!
//! Three things can happen to a call that comes too early, and each has an example here:
//!
//! * **dropped**: a free customer's call is rejected at once, with the time after which to retry;
//! * **queued**: a paying customer's call waits for its turn, but only for a limited time;
//! * **shaped**: admitted calls go to the backend one at a time, without bursts.
//!
//! Ten seconds of traffic in virtual time: the output is the same on every machine.

use std::sync::Mutex;
use std::time::Duration;

use backstop::{Clock, ConfigError, Instant, KeyedRateLimiter, ManualClock, Quota, RateLimiter};
use futures::future::join_all;

/// The tier of a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Free,
    Pro,
    Enterprise,
}

impl Tier {
    fn quota(self) -> Quota {
        match self {
            Self::Free => Quota::per_second(2).burst(4),
            Self::Pro => Quota::per_second(8).burst(8),
            Self::Enterprise => Quota::per_second(30).burst(60),
        }
    }

    /// Returns how long a call that comes too early waits for its turn.
    fn patience(self) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::Pro => Duration::from_millis(500),
            Self::Enterprise => Duration::from_secs(2),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

struct Customer {
    name: &'static str,
    tier: Tier,
    /// The traffic: groups of calls, one after another.
    traffic: &'static [Traffic],
}

/// Calls, the milliseconds between them, and the milliseconds before the first.
type Traffic = (u64, u64, u64);

const CUSTOMERS: &[Customer] = &[
    Customer {
        name: "ann",
        tier: Tier::Free,
        traffic: &[(14, 700, 100)],
    },
    Customer {
        name: "bob",
        tier: Tier::Free,
        traffic: &[(30, 10, 1000), (30, 10, 6000)],
    },
    Customer {
        name: "cyd",
        tier: Tier::Pro,
        traffic: &[(60, 160, 50)],
    },
    Customer {
        name: "dee",
        tier: Tier::Pro,
        traffic: &[(100, 95, 20)],
    },
    Customer {
        name: "eve",
        tier: Tier::Enterprise,
        traffic: &[(100, 100, 0), (120, 5, 3000)],
    },
];

/// The result of one call.
struct Call {
    customer: usize,
    came: Instant,
    fate: Fate,
}

enum Fate {
    /// Admitted, and sent to the backend at this time.
    Sent {
        admitted: Instant,
        sent: Instant,
    },
    Dropped {
        retry_after: Option<Duration>,
    },
}

fn main() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let tier_of = |name: &str| CUSTOMERS.iter().find(|c| c.name == name).map(|c| c.tier);
    let per_customer = KeyedRateLimiter::<String>::builder()
        // Unknown customers have the free tier.
        .quota(Tier::Free.quota())
        .quota_for(move |name| tier_of(name).map(Tier::quota))
        .clock(clock.clone())
        .build()?;
    let backend = RateLimiter::builder()
        .quota(Quota::per_second(40).leaky_bucket(200))
        .clock(clock.clone())
        .build()?;

    let start = clock.now();
    let calls = Mutex::new(Vec::new());
    let one = |customer: usize, came: Instant| {
        let (clock, per_customer, backend, calls) = (&clock, &per_customer, &backend, &calls);
        async move {
            clock.sleep(came.saturating_duration_since(start)).await;
            let Customer { name, tier, .. } = CUSTOMERS[customer];
            let turn = match per_customer.acquire_within(name, 1, tier.patience()).await {
                Ok(()) => {
                    let admitted = clock.now();
                    backend.acquire().await.map(|()| admitted)
                }
                Err(rejected) => Err(rejected),
            };
            let fate = match turn {
                Ok(admitted) => Fate::Sent {
                    admitted,
                    sent: clock.now(),
                },
                Err(rejected) => Fate::Dropped {
                    retry_after: rejected.retry_after(),
                },
            };
            let mut calls = calls
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            calls.push(Call {
                customer,
                came,
                fate,
            });
        }
    };
    let arrivals = CUSTOMERS.iter().enumerate().flat_map(|(number, customer)| {
        customer
            .traffic
            .iter()
            .flat_map(move |(count, every, from)| {
                (0..*count).map(move |call| (number, start + millis(from + call * every)))
            })
    });
    clock.block_on(join_all(
        arrivals.map(|(customer, came)| one(customer, came)),
    ));
    let calls = calls
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());

    print_customers(&calls);
    print_traffic(start, &calls);
    // Calls evict idle keys over time.
    per_customer.evict_idle();
    println!(
        "\nCustomers that the limiter still tracks, because their buckets are not full again:"
    );
    let mut entries = Vec::new();
    per_customer.for_each(|customer, decision| entries.push((customer.clone(), decision)));
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (customer, decision) in entries {
        println!(
            "  {customer:4} {:>2} of {:>2} tokens, full in {}",
            decision.remaining,
            decision.limit,
            seconds(decision.reset_after),
        );
    }
    Ok(())
}

fn print_customers(calls: &[Call]) {
    println!(
        "{:8} {:10} {:>9} {:>9} {:>6} {:>9} {:>7} {:>13} {:>8} {:>14}",
        "customer",
        "tier",
        "quota",
        "patience",
        "calls",
        "at once",
        "queued",
        "longest wait",
        "dropped",
        "first told to",
    );
    for (number, customer) in CUSTOMERS.iter().enumerate() {
        let mine = || calls.iter().filter(|call| call.customer == number);
        let waits = || {
            mine().filter_map(|call| match call.fate {
                Fate::Sent { admitted, .. } => Some(admitted.saturating_duration_since(call.came)),
                Fate::Dropped { .. } => None,
            })
        };
        let mut dropped = mine().filter_map(|call| match call.fate {
            Fate::Dropped { retry_after } => Some(retry_after),
            Fate::Sent { .. } => None,
        });
        let quota = customer.tier.quota();
        let (longest, count) = (waits().max().unwrap_or_default(), dropped.clone().count());
        println!(
            "{:8} {:10} {:>9} {:>9} {:>6} {:>9} {:>7} {:>13} {:>8} {:>14}",
            customer.name,
            customer.tier.name(),
            format!("{}/s +{}", quota.tokens(), quota.limit()),
            seconds(customer.tier.patience()),
            mine().count(),
            waits().filter(Duration::is_zero).count(),
            waits().filter(|wait| !wait.is_zero()).count(),
            seconds(longest),
            count,
            match dropped.next().flatten() {
                Some(after) => format!("wait {}", seconds(after)),
                None => "-".into(),
            },
        );
    }
}

/// Prints the calls per quarter of a second: as they arrived, as they were admitted, as they were sent.
fn print_traffic(start: Instant, calls: &[Call]) {
    const SLICES: usize = 44;
    const SLICE: u64 = 250;

    let slices = |times: &mut dyn Iterator<Item = Instant>| {
        let mut slices = [0_u32; SLICES];
        for time in times {
            let after = time.saturating_duration_since(start).as_millis() as u64;
            slices[((after / SLICE) as usize).min(SLICES - 1)] += 1;
        }
        slices
    };
    let sent = |pick: fn(&Call) -> Option<Instant>| calls.iter().filter_map(pick);
    let came = slices(&mut calls.iter().map(|call| call.came));
    let admitted = slices(&mut sent(|call| match call.fate {
        Fate::Sent { admitted, .. } => Some(admitted),
        Fate::Dropped { .. } => None,
    }));
    let shaped = slices(&mut sent(|call| match call.fate {
        Fate::Sent { sent, .. } => Some(sent),
        Fate::Dropped { .. } => None,
    }));
    let highest = came.iter().copied().max().unwrap_or(1).max(1);
    println!(
        "\nCalls per quarter of a second, over {} s:",
        SLICES as u64 * SLICE / 1000
    );
    for (name, slices) in [
        ("arrived", came),
        ("admitted", admitted),
        ("sent, shaped", shaped),
    ] {
        let bars: String = slices.iter().map(|count| bar(*count, highest)).collect();
        let most = slices.iter().max().copied().unwrap_or(0);
        println!("  {name:12} {bars}  at most {most}");
    }
}

fn bar(count: u32, highest: u32) -> char {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    BARS[(count * 8).div_ceil(highest) as usize]
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(duration: Duration) -> String {
    match duration {
        Duration::ZERO => "none".into(),
        duration => format!("{:.2} s", duration.as_secs_f64()),
    }
}
